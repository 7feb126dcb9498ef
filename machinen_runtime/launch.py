"""Checked options → VmSpec → a live monitor and its registry entry.

A launch that fails or is cancelled at any moment leaves nothing behind: the monitor hangs on a
lifeline pipe and removes its own directories; what it could not remove is removed here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio

from machinen_runtime import paths
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.gc import run_gc
from machinen_runtime.monitor_client import translate
from machinen_runtime.option_types import PortForward
from machinen_runtime.overlay_template import ensure_overlay_template
from machinen_runtime.pids import signal_process, wait_process_gone
from machinen_runtime.registry import claim_name, register, release_name, transfer_name, unregister
from machinen_runtime.registry_entry import RegistryEntry
from vmm.errors import VmmError
from vmm.requests import VSOCK_SOCKET
from vmm.spec import (
    DiskSpec,
    ForwardSpec,
    MachineSpec,
    RestoreSpec,
    VmSpec,
    WorkloadSpec,
    write_spec,
)
from vmm.stats import STATS_FILE
from vmm.status import LET_GO

KILL_AFTER_MS = 2000
MAX_STATUS_BYTES = 1 << 20
CONSOLE_LINES_SHOWN = 15
STDIO_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One VM to start: what the machine is, what it starts from, who it shall be.

    `{pid}` in `name` becomes the monitor's pid. `disk_layers` are frozen overlays on `base_disk`,
    oldest first.
    """

    machine: MachineSpec
    qemu_binary: str
    passt_binary: str | None
    name: str | None
    base_disk: Path
    disk_layers: Sequence[Path] = ()
    kernel: Path | None = None
    initrd: Path | None = None
    restore: RestoreSpec | None = None
    workload: WorkloadSpec | None = None
    port_forward: Sequence[PortForward] = ()
    detached: bool = False
    with_stdio: bool = False
    """Connect the starter to session `main` and to the console."""
    vmm_command: Sequence[str] = ()
    vmm_env: Mapping[str, str] = field(default_factory=dict[str, str])
    image_path: str | None = None
    forked_from: str | None = None
    forked_from_name: str | None = None
    forked_from_pid: int | None = None


@dataclass(slots=True)
class Launched:
    """A monitor that said it is ready. Close `lifeline_fd` to end it, or write LET_GO first."""

    entry: RegistryEntry
    phases: dict[str, float]
    process: subprocess.Popen[bytes] | None
    """The monitor, if it is our child."""
    lifeline_fd: int | None = None
    console_fd: int | None = None
    """What the guest's console says, if `with_stdio`."""
    input_fd: int | None = None
    output_fd: int | None = None
    """Input and output of session `main`, if `with_stdio`."""


async def launch(request: LaunchRequest) -> Launched:
    """Start a monitor and wait until its guest answers.

    Raises:
        BootError: with the monitor's reason and the console's last lines.
        RegistryError: REGISTRY_NAME_IN_USE.
    """
    with ExitStack() as undo:
        reserved = _reserve_name(request.name, undo)
        spec = _build_spec(request)
        for directory in (spec.run_dir, spec.state_dir):
            undo.callback(paths.remove_tree, Path(directory))
            paths.ensure_private_dir(Path(directory))
        starting = _Starting(spec, request)
        undo.callback(starting.close_pipes)
        async with _ended_on_failure(starting):
            started = await starting.next_event("started")
            pid = int(started["pid"])
            starting.pid = pid
            name = started["name"]
            if reserved and name:
                transfer_name(name, os.getpid(), pid)
            elif name:
                claim_name(name, pid)
            entry = register(_entry(request, spec, pid, name))
            undo.callback(unregister, pid)
            ready = await starting.next_event("ready")
        undo.pop_all()  # it lives: from here on its own monitor cleans up after it
    return starting.launched(entry, ready["phases"])


async def end_launched(launched: Launched) -> None:
    """End a VM that was launched but shall not be kept, and wait until it is gone."""
    for descriptor in (
        launched.lifeline_fd,
        launched.console_fd,
        launched.input_fd,
        launched.output_fd,
    ):
        if descriptor is not None:
            os.close(descriptor)
    pid = launched.entry.pid
    signal_process(pid, launched.entry, signal.SIGTERM)
    if not await wait_process_gone(pid, launched.entry, timeout_ms=KILL_AFTER_MS):
        signal_process(pid, launched.entry, signal.SIGKILL)
        await wait_process_gone(pid, launched.entry, timeout_ms=KILL_AFTER_MS)
    if launched.process is not None:
        launched.process.wait()
    run_gc(pid=pid)


class _Starting:
    """A monitor that has not said `ready` yet, and our ends of its pipes."""

    def __init__(self, spec: VmSpec, request: LaunchRequest) -> None:
        self._request = request
        self.pid: int | None = None
        self._buffer = b""
        self._pipes = _Pipes(request.with_stdio)
        try:
            path = Path(spec.state_dir, "spec.json")
            write_spec(self._pipes.named_in(spec), path)
            self.process = subprocess.Popen(
                [*_vmm_command(request), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._pipes.theirs.get("console", subprocess.DEVNULL),
                pass_fds=tuple(self._pipes.theirs.values()),
                start_new_session=True,
                env={**os.environ, **request.vmm_env},
            )
        except BaseException:
            self._pipes.close()
            raise
        self._pipes.close_theirs()

    async def next_event(self, wanted: str) -> dict[str, Any]:
        """The monitor's next `wanted` message; BootError if it failed or ended instead."""
        while True:
            line = await self._next_line()
            if line is None:
                raise BootError(
                    ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
                    "the monitor ended without a word; run `machinen doctor`",
                )
            message = json.loads(line)
            if message["event"] == wanted:
                return message
            if message["event"] == "failed":
                raise translate(VmmError.from_json(message["error"]), _last_words(message))

    async def _next_line(self) -> bytes | None:
        status = self._pipes.ours["status"]
        while b"\n" not in self._buffer:
            try:
                data = os.read(status, 65536)
            except BlockingIOError:
                await anyio.wait_readable(status)
                continue
            if not data or len(self._buffer) > MAX_STATUS_BYTES:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def launched(self, entry: RegistryEntry, phases: dict[str, float]) -> Launched:
        """Hand the pipes over; a detached VM is let go at once."""
        if not self._request.detached:
            pipes = self._pipes.hand_over()
            return Launched(
                entry,
                phases,
                self.process,
                lifeline_fd=pipes["lifeline"],
                console_fd=pipes.get("console"),
                input_fd=pipes.get("input"),
                output_fd=pipes.get("output"),
            )
        os.write(self._pipes.ours["lifeline"], LET_GO)
        self._pipes.close()
        self.process.wait()  # the process that became two; the monitor is not our child
        return Launched(entry, phases, None)

    async def end(self) -> None:
        """End the monitor, kindly and then not, and wait until it is gone."""
        self.close_pipes()
        pid = self.process.pid if self.pid is None else self.pid
        if not await wait_process_gone(pid, timeout_ms=KILL_AFTER_MS):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await wait_process_gone(pid, timeout_ms=KILL_AFTER_MS)
        self.process.wait()

    def close_pipes(self) -> None:
        """Close our ends; for a monitor that was not let go this is the order to end."""
        self._pipes.close()


class _Pipes:
    """The pipes between us and one monitor, both ends by name."""

    def __init__(self, with_stdio: bool) -> None:
        self.ours: dict[str, int] = {}
        self.theirs: dict[str, int] = {}
        names = ["status", "lifeline", *(["console", "input", "output"] if with_stdio else [])]
        try:
            for name in names:
                read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
                to_monitor = name in ("lifeline", "input")
                self.ours[name], self.theirs[name] = (
                    (write_fd, read_fd) if to_monitor else (read_fd, write_fd)
                )
                os.set_blocking(self.ours[name], name == "lifeline")
                if name in ("console", "output"):
                    with suppress(OSError):  # more room than the limit allows is a favour
                        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, STDIO_PIPE_BYTES)
        except BaseException:
            self.close()
            raise

    def named_in(self, spec: VmSpec) -> VmSpec:
        """The spec that tells the monitor which descriptors it inherits."""
        return replace(
            spec,
            status_fd=self.theirs["status"],
            lifeline_fd=self.theirs["lifeline"],
            main_input_fd=self.theirs.get("input"),
            main_output_fd=self.theirs.get("output"),
            console_to_stderr="console" in self.theirs,
        )

    def hand_over(self) -> dict[str, int]:
        """Our ends, which are the caller's to close now."""
        os.close(self.ours.pop("status"))
        pipes, self.ours = self.ours, {}
        return pipes

    def close_theirs(self) -> None:
        """The monitor has its ends: close our copies."""
        while self.theirs:
            os.close(self.theirs.popitem()[1])

    def close(self) -> None:
        """Close whatever is still ours."""
        self.close_theirs()
        while self.ours:
            os.close(self.ours.popitem()[1])


@asynccontextmanager
async def _ended_on_failure(starting: _Starting) -> AsyncGenerator[None]:
    """Whatever goes wrong in the block, cancellation included, ends the monitor before it goes on."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await starting.end()
        raise


def _reserve_name(name: str | None, undo: ExitStack) -> bool:
    """Claim a name that is known already before anything is started."""
    if name is None or "{pid}" in name:
        return False
    claim_name(name, os.getpid())
    undo.callback(release_name, name, os.getpid())
    return True


def _vmm_command(request: LaunchRequest) -> list[str]:
    return list(request.vmm_command) or [sys.executable, "-I", "-m", "vmm"]


def _build_spec(request: LaunchRequest) -> VmSpec:
    vm_id = secrets.token_hex(4)
    run_dir = paths.runtime_root() / vm_id
    check_socket_path(run_dir / VSOCK_SOCKET)
    forwards = [
        ForwardSpec(
            host_port=forward.host_port,
            guest_port=forward.guest_port,
            host_addr=forward.host_addr,
        )
        for forward in request.port_forward
    ]
    return VmSpec(
        id=vm_id,
        name=request.name,
        hostname=hostname_for(request.name),
        run_dir=str(run_dir),
        state_dir=str(paths.state_root() / vm_id),
        qemu_binary=request.qemu_binary,
        kernel=str(request.kernel or ""),
        initrd=str(request.initrd or ""),
        machine=request.machine,
        disk=DiskSpec(
            base=str(request.base_disk),
            layers=[str(layer) for layer in request.disk_layers],
            overlay_template=str(ensure_overlay_template(request.base_disk)),
        ),
        workload=request.workload,
        restore=request.restore,
        port_forward=forwards,
        passt_binary=request.passt_binary,
        detached=request.detached,
    )


def _entry(request: LaunchRequest, spec: VmSpec, pid: int, name: str | None) -> RegistryEntry:
    return RegistryEntry(
        pid=pid,
        name=name,
        socket_path=str(Path(spec.run_dir, VSOCK_SOCKET)),
        started_at=time.time_ns() // 1_000_000,
        image_path=request.image_path,
        disk_path=spec.disk.base,
        forked_from=request.forked_from,
        forked_from_name=request.forked_from_name,
        forked_from_pid=request.forked_from_pid,
        cleanup_paths=(spec.run_dir, spec.state_dir),
        vmm_exe=_vmm_command(request)[0],
        port_forward=tuple(request.port_forward),
        memory_ceiling_mib=request.machine.memory_mib,
        stats_path=str(Path(spec.state_dir, STATS_FILE)),
    )


def hostname_for(name: str | None) -> str:
    """The guest's hostname: the VM's name with what a hostname may not have turned into dashes."""
    if name is None:
        return "vm-{pid}"
    cleaned = re.sub(r"[^A-Za-z0-9{}]+", "-", name).strip("-")
    return cleaned[:63] or "vm-{pid}"


def check_socket_path(path: Path) -> None:
    """BOOT_OPTION_INVALID if the kernel would refuse a socket there."""
    if len(os.fsencode(path)) > paths.MAX_SOCKET_PATH_BYTES:
        raise BootError(
            ErrorCode.BOOT_OPTION_INVALID,
            f"the socket path {path} is longer than {paths.MAX_SOCKET_PATH_BYTES} bytes; "
            "set MACHINEN_RUNTIME_DIR to a shorter directory",
        )


def _last_words(message: dict[str, Any]) -> str:
    """The end of the console and of QEMU's complaints, as lines to read below an error."""
    parts: list[str] = []
    for title, text in (("console", message.get("console")), ("QEMU", message.get("qemu"))):
        lines = str(text or "").strip().splitlines()[-CONSOLE_LINES_SHOWN:]
        parts += [f"{title}: {line}" for line in lines]
    return "\n".join(parts)
