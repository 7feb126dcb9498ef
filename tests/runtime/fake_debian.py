"""A Debian for install tests: apt and mmdebstrap as scripts that serve a tiny kernel and root.

The kernel is a real ELF file with a PVH note in a real bzImage layout, its modules are real ELF
objects with a .modinfo; only their code does nothing.
"""

from __future__ import annotations

import lzma
import struct
import subprocess
from pathlib import Path

KERNEL_VERSION = "6.99.1-cloud-test"

MODULES = {
    "drivers/block/virtio_blk": "",
    "drivers/net/virtio_net": "net_failover",
    "drivers/net/net_failover": "failover",
    "net/core/failover": "",
    "drivers/virtio/virtio_balloon": "",
    "drivers/char/hw_random/virtio-rng": "",
    "fs/squashfs/squashfs": "",
    "fs/overlayfs/overlay": "",
}
"""Path below kernel/ → what `depends=` says."""

_SCRIPTS = {
    "apt-config": "exit 0",
    "apt-get": """
        case "$*" in
            *" update "*) exit 0 ;;
            *" download "*) cp "$FAKE/kernel.deb" ./linux-image-test.deb ;;
        esac""",
    "apt-cache": """
        case "$*" in
            *linux-image-cloud-*) echo "Depends: linux-image-6.99.1-cloud-test (= 6.99.1-1)" ;;
            *) echo "Size: $(stat -c %s "$FAKE/kernel.deb")" ;;
        esac""",
    "mmdebstrap": """
        [ ! -e "$FAKE/fail-root" ] || { echo "E: the mirror is on fire" >&2; exit 1; }
        echo "I: downloading packages with apt..." >&2
        while [ $# -gt 2 ]; do shift; done
        mkdir -p "$TMPDIR/root/etc"
        echo 13 >"$TMPDIR/root/etc/debian_version"
        mkdir -p "$TMPDIR/root/usr/lib"
        cp -r "$FAKE/package/usr/lib/modules" "$TMPDIR/root/usr/lib/"
        tar -czf "$1" -C "$TMPDIR/root" .""",
}


class FakeDebian:
    """The scripts' directory, to be put first in PATH, and a log of every call."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin_dir = directory / "bin"
        self._log = directory / "calls"
        self.bin_dir.mkdir(parents=True)
        self._log.touch()
        for name, body in _SCRIPTS.items():
            script = self.bin_dir / name
            script.write_text(f'#!/bin/sh\nFAKE={directory}\necho {name} >>"$FAKE/calls"\n{body}\n')
            script.chmod(0o755)
        build_kernel_package(directory / "kernel.deb", directory / "package")

    def calls(self) -> list[str]:
        """The names of the commands called so far, in order."""
        return self._log.read_text().split()

    def forget_calls(self) -> None:
        """Start the log afresh."""
        self._log.write_text("")

    def fail_root(self, fail: bool) -> None:
        """Let mmdebstrap fail from now on, or not."""
        flag = self.directory / "fail-root"
        flag.touch() if fail else flag.unlink()


def build_kernel_package(deb: Path, tree: Path) -> None:
    """A .deb with the layout of Debian's kernel packages."""
    modules = tree / "usr/lib/modules" / KERNEL_VERSION
    for path, depends in MODULES.items():
        target = modules / "kernel" / f"{path}.ko.xz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(lzma.compress(build_module(depends, tree.parent)))
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{KERNEL_VERSION}").write_bytes(
        build_bzimage(build_vmlinux(tree.parent))
    )
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir()
    control.write_text(
        "Package: linux-image-test\nVersion: 1\nArchitecture: all\n"
        "Maintainer: nobody\nDescription: a kernel that does nothing\n"
    )
    subprocess.run(["dpkg-deb", "--build", str(tree), str(deb)], check=True, capture_output=True)


def build_module(depends: str, work_dir: Path) -> bytes:
    """An ELF object whose .modinfo says it depends on `depends` (comma-separated)."""
    source = (
        'static const char a[] __attribute__((used, section(".modinfo"))) = "license=GPL";\n'
        'static const char b[] __attribute__((used, section(".modinfo"))) = "depends=%s";\n'
    )
    return _compile(source % depends, work_dir, "-c")


def build_vmlinux(work_dir: Path, *, note_type: int = 18) -> bytes:
    """A static ELF file with a Xen note of the given type; 18 is the PVH entry point."""
    source = (
        'asm(".section .note.Xen, \\"a\\", @note\\n"\n'
        '".long 4, 4, %d\\n.asciz \\"Xen\\"\\n.long 0\\n");\n'
        "void _start(void) {}\n"
    )
    return _compile(source % note_type, work_dir, "-static", "-nostdlib", "-no-pie")


def build_bzimage(vmlinux: bytes, *, setup_sectors: int = 2, compression: str = "zstd") -> bytes:
    """A bzImage around `vmlinux`, with the fields of the x86 boot protocol that say where it is."""
    packed = subprocess.run([compression, "-c"], input=vmlinux, check=True, capture_output=True)
    payload = packed.stdout
    if compression != "gzip":
        payload += struct.pack("<I", len(vmlinux))
    header = bytearray((setup_sectors + 1) * 512)
    header[0x1F1] = setup_sectors
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", header, 0x206, 0x20F)
    struct.pack_into("<II", header, 0x248, 64, len(payload))
    return bytes(header) + bytes(64) + payload + bytes(100)


def _compile(source: str, work_dir: Path, *options: str) -> bytes:
    output = work_dir / "compiled"
    subprocess.run(
        ["gcc", "-x", "c", *options, "-o", str(output), "-"],
        input=source.encode(),
        check=True,
        capture_output=True,
    )
    return output.read_bytes()
