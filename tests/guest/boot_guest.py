"""A guest in QEMU with nothing of ours around it: the tests are its host."""

import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path

from machinen_runtime.assets import resolve_base_disk, resolve_base_kernel, resolve_modules_dir
from machinen_runtime.cpio import build_cpio
from machinen_runtime.initramfs import initramfs_entries, read_modules
from tests.guest.frame_client import FrameClient
from vmm.arch import arch_for
from vmm.machine import COMMAND_LINE

DISK_GIB = 6
"""Larger than the base image, so that the guest has something to grow into."""


class BootedGuest:
    """One VM under TCG, on the host's own architecture. `client` is there after greet()."""

    client: FrameClient

    def __init__(
        self, directory: Path, init: bytes, agent: bytes, *, with_disk: bool = True
    ) -> None:
        arch = arch_for(platform.machine())
        modules = read_modules(resolve_modules_dir())
        (directory / "initrd").write_bytes(build_cpio(initramfs_entries(init, agent, modules)))
        self.disk = directory / "disk.qcow2"
        self.channel = Path("/tmp") / f"mg-{id(self):x}.sock"  # short: sockets have 107 bytes
        self.console_log = directory / "console.log"
        self.nonce = 0
        argv = [
            *(arch.qemu_binary, "-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none", "-machine", arch.machine_type, "-cpu", arch.tcg_cpu),
            *("-accel", "tcg,tb-size=128", "-m", "512M"),
            *("-serial", "stdio", "-kernel", str(resolve_base_kernel())),
            *("-initrd", str(directory / "initrd")),
            *("-append", f"console={arch.console_device} {COMMAND_LINE}"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=c0,path={self.channel},server=on,wait=off"),
            *("-device", "virtserialport,chardev=c0,name=machinen.0"),
            *("-netdev", "hubport,id=n0,hubid=0", "-device", "virtio-net-pci,netdev=n0,romfile="),
        ]
        if with_disk:
            self._make_disk()
            argv += ["-drive", f"if=none,id=d0,file={self.disk},format=qcow2"]
            argv += ["-device", "virtio-blk-pci,drive=d0"]
        with self.console_log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _make_disk(self) -> None:
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", resolve_base_disk(),
             self.disk, f"{DISK_GIB}G"],
            check=True,
        )  # fmt: skip

    def connect(self) -> FrameClient:
        """Open the host's end of the port; QEMU takes one at a time."""
        deadline = time.monotonic() + 60
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.channel))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # until QEMU has made its socket
        self.client = FrameClient(connection)
        return self.client

    def greet(self, flags: int = 0, hostname: str = "", name: str = "") -> None:
        """HELLO until the agent answers; a boot under TCG on a busy machine takes a while."""
        self.nonce += 1
        self.client.hello_until_answered(self.nonce, 120, flags=flags, hostname=hostname, name=name)

    def run(self, command: str) -> str:
        """The output of a shell command that must succeed."""
        reply = self.client.execute(b"EXEC2 %d\n" % len(command.encode()) + command.encode())
        assert reply.code == 0, reply
        return reply.stdout.decode()

    def console(self) -> str:
        return self.console_log.read_text(errors="replace")

    def close(self) -> None:
        """Kill QEMU if it still runs, and remove its socket."""
        self.process.kill()
        self.process.wait()
        if hasattr(self, "client"):
            self.client.socket.close()
        self.channel.unlink(missing_ok=True)


def read_file_of_disk(guest: BootedGuest, path: str) -> bytes:
    """A file on the disk of a guest that is off, after a check that its file system is clean."""
    raw = guest.disk.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", guest.disk, raw], check=True)
    checked = subprocess.run(
        [shutil.which("e2fsck") or "/sbin/e2fsck", "-f", "-n", raw], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    debugfs = shutil.which("debugfs") or "/sbin/debugfs"
    done = subprocess.run([debugfs, "-R", f"cat {path}", raw], capture_output=True, check=True)
    raw.unlink()
    return done.stdout
