"""Build an image: copy files into the base, run a script or a command in it, keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from machinen_tui.gateway import OnOutput, OnStage
from machinen_tui.wanted import WantedImage

if TYPE_CHECKING:
    from machinen_runtime.handle import VmHandle
    from machinen_runtime.log_events import LogEvent

GUEST_SCRIPT = "/tmp/machinen-install"
"""Below a directory of which an image keeps nothing."""


async def build_image(wanted: WantedImage, output: OnOutput, stage: OnStage) -> Path:
    """Build `wanted`; what the guest says goes to `output`. The path of the tarball.

    Raises:
        MachinenError: Those of provision(); nothing is left then.
    """
    from machinen_runtime.log_events import ChunkLogEvent
    from machinen_runtime.provision import provision

    async def install(vm: VmHandle) -> None:
        await _install(vm, wanted)

    def on_log(event: LogEvent) -> None:
        if isinstance(event, ChunkLogEvent):
            output(event.chunk)

    result = await provision(install=install, on_log=on_log, on_progress=stage, **wanted.options())
    return Path(result.image_path)


async def _install(vm: VmHandle, wanted: WantedImage) -> None:
    from machinen_runtime.guest_copy import copy_into

    for host, guest in wanted.copies:
        await copy_into(vm.vsock_path, host, guest, recursive=True)
    command = list(wanted.command)
    if wanted.script is not None:
        await copy_into(vm.vsock_path, wanted.script, GUEST_SCRIPT)
        await vm.exec(["chmod", "755", GUEST_SCRIPT])
        command = [GUEST_SCRIPT]
    if command:
        await vm.exec(command, env=dict(wanted.env), cwd="/", exec_timeout_ms=None)
