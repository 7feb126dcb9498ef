"""The peer of a warm boot: plain QEMU with its own defaults, the same kernel and root, to a login.

No trimmed command line, no trimmed machine: what one gets by typing
`qemu-system-… -kernel … -drive …,if=virtio -append console=ttyS0`. The init is ours, since the root
has none, with agetty in the place of the agent (bench/login.c); a root with systemd takes longer.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from machinen_runtime.assets import (
    resolve_base_disk,
    resolve_base_kernel,
    resolve_guest_binary,
    resolve_modules_dir,
)
from machinen_runtime.cpio import build_cpio
from machinen_runtime.initramfs import initramfs_entries, read_modules
from machinen_runtime.machines import machine_for, resolve_qemu_binary
from machinen_runtime.options import auto_size_memory_mib
from machinen_runtime.overlay_template import ensure_overlay_template
from vmm.disks import create_overlay

SOURCE = Path(__file__).with_name("login.c")
PROMPT = b"login:"
BOOT_TIMEOUT_S = 120


class PlainLogin:
    """Boots to the prompt; its initramfs is made once, in `directory`."""

    def __init__(self, directory: Path) -> None:
        program, self._initrd = directory / "login", directory / "login.cpio"
        argv = ["cc", "-Os", "-static", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile: {done.stderr}")
        init = resolve_guest_binary("init").read_bytes()
        modules = read_modules(resolve_modules_dir())
        entries = initramfs_entries(init, program.read_bytes(), modules)
        self._initrd.write_bytes(build_cpio(entries))

    def boot_ms(self) -> float:
        """Milliseconds from starting QEMU to the prompt on its serial line.

        Raises:
            RuntimeError: QEMU ended without one, with the last of what it said.
        """
        base = resolve_base_disk()
        with tempfile.TemporaryDirectory(prefix="mnb-") as directory:
            overlay = os.path.join(directory, "disk.qcow2")
            create_overlay(str(ensure_overlay_template(base)), overlay)
            argv = self._argv(base, overlay)
            started = time.monotonic()
            with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
                try:
                    _wait_for_prompt(qemu, started + BOOT_TIMEOUT_S)
                    return (time.monotonic() - started) * 1000
                finally:
                    qemu.kill()

    def _argv(self, base: Path, overlay: str) -> list[str]:
        machine = machine_for(memory_mib=auto_size_memory_mib())
        backing = f"backing.driver=raw,backing.file.driver=file,backing.file.filename={base}"
        disk = f"file={overlay},format=qcow2,if=virtio,{backing}"
        return [
            resolve_qemu_binary(),
            *("-machine", machine.machine_type.partition(",")[0]),
            *("-accel", machine.accel, "-cpu", machine.cpu_model),
            *("-m", f"{machine.memory_mib}M", "-display", "none", "-serial", "stdio"),
            *("-kernel", str(resolve_base_kernel()), "-initrd", str(self._initrd)),
            *("-append", "console=ttyS0", "-drive", disk, "-no-reboot"),
        ]


def _wait_for_prompt(qemu: subprocess.Popen[bytes], deadline: float) -> None:
    assert qemu.stdout is not None
    said = b""
    while PROMPT not in said[-4096:]:
        piece = os.read(qemu.stdout.fileno(), 65536)
        said += piece
        if not piece or time.monotonic() > deadline:
            raise RuntimeError(f"no login from plain QEMU: {said[-300:].decode(errors='replace')}")
