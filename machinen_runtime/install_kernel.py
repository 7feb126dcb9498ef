"""Debian's kernel as QEMU boots it fastest, and the modules the initramfs needs.

- amd64: the ELF `vmlinux` out of the compressed bzImage, entered through PVH. Where the payload
  lies: Documentation/arch/x86/boot.rst, `payload_offset` and `payload_length`, version 2.08 and up.
- arm64: the raw `Image`, out of gzip or an EFI zboot wrapper if Debian ships one
  (drivers/firmware/efi/libstub/zboot-header.S).
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.machines import confinement_wanted
from vmm.confined_tool import Confines, complaint_of, run_confined

INITRAMFS_MODULES = ("virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng")
"""What a VM needs to reach its root, in loading order; dependencies are found by themselves."""
MOUNT_MODULES = ("squashfs", "overlay")
"""What a VM with a `mount` needs besides."""

_PVH_ENTRY_NOTE = 18  # XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h


def extract_kernel(vmlinuz: bytes, arch: str) -> bytes:
    """The uncompressed kernel inside Debian's `vmlinuz`: ELF for amd64, Image for arm64.

    Raises:
        ProvisionError: PROVISION_KERNEL_NOT_FOUND if there is none in it that we can boot.
    """
    if arch == "amd64":
        kernel = decompress_payload(_bzimage_payload(vmlinuz), size_word=True)
        if not _has_pvh_entry(kernel):
            raise _unusable("it has no PVH entry point (CONFIG_PVH)")
        return kernel
    kernel = vmlinuz
    if kernel[4:8] == b"zimg":
        offset, size = struct.unpack_from("<II", kernel, 8)
        kernel = decompress_payload(kernel[offset : offset + size], size_word=False)
    elif kernel[:2] == b"\x1f\x8b":
        kernel = decompress_payload(kernel, size_word=False)
    if kernel[56:60] != b"ARM\x64":
        raise _unusable("it is no arm64 Image")
    return kernel


def _bzimage_payload(vmlinuz: bytes) -> bytes:
    if vmlinuz[0x202:0x206] != b"HdrS" or struct.unpack_from("<H", vmlinuz, 0x206)[0] < 0x208:
        raise _unusable("it has no x86 setup header of version 2.08 or later")
    setup_sectors = vmlinuz[0x1F1] or 4
    offset, size = struct.unpack_from("<II", vmlinuz, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    if size < 8 or start + size > len(vmlinuz):
        raise _unusable("its payload lies outside the file")
    return vmlinuz[start : start + size]


def decompress_payload(payload: bytes, *, size_word: bool) -> bytes:
    """Unpack `payload`, whose compression its first bytes tell.

    Args:
        size_word: four bytes with the unpacked size follow the compressed data, as the x86
            build appends them for all formats that do not carry it themselves.
    """
    unpack = next(
        (unpack for magic, unpack in _UNPACKERS.items() if payload.startswith(magic)), None
    )
    if unpack is None:
        raise _unusable(f"its payload begins with {payload[:4].hex()}, no compression we know")
    body = payload[:-4] if size_word else payload
    try:
        return unpack(payload if unpack is _gunzip else body)
    except (zlib.error, lzma.LZMAError, OSError) as error:
        raise _unusable(f"its payload does not unpack: {error}") from error


def _gunzip(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data)


def _unzstd(data: bytes) -> bytes:
    return _decompress_with(["zstd", "-dc"], data)


def _unlz4(data: bytes) -> bytes:
    return _decompress_with(["lz4", "-dc"], data)


_UNPACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ": lzma.decompress,
    b"\x5d\0\0": lzma.decompress,
    b"BZh": bz2.decompress,
    b"\x28\xb5\x2f\xfd": _unzstd,
    b"\x02\x21\x4c\x18": _unlz4,
}


def _decompress_with(command: list[str], data: bytes) -> bytes:
    try:
        return run_confined(command, Confines(wanted=confinement_wanted()), data=data).stdout
    except FileNotFoundError as error:
        raise _unusable(
            f"{command[0]} is needed to unpack it: install the package {command[0]}"
        ) from error
    except subprocess.CalledProcessError as error:
        raise _unusable(f"{command[0]} failed: {complaint_of(error)}") from error


def _has_pvh_entry(kernel: bytes) -> bool:
    """Whether a 64-bit ELF file has the note that tells QEMU's loader the 32-bit entry point."""
    if kernel[:5] != b"\x7fELF\x02":
        return False
    table, entry_size, count = (
        struct.unpack_from("<Q", kernel, 32)[0],
        *struct.unpack_from("<HH", kernel, 54),
    )
    for index in range(count):
        kind, _, offset, _, _, size = struct.unpack_from(
            "<IIQQQQ", kernel, table + index * entry_size
        )
        if kind == 4 and _note_types(kernel[offset : offset + size]) & {_PVH_ENTRY_NOTE}:
            return True
    return False


def _note_types(notes: bytes) -> set[int]:
    types: set[int] = set()
    position = 0
    while position + 12 <= len(notes):
        name_size, data_size, kind = struct.unpack_from("<III", notes, position)
        name = notes[position + 12 : position + 12 + name_size]
        if name == b"Xen\0":
            types.add(kind)
        position += 12 + (name_size + 3 & ~3) + (data_size + 3 & ~3)
    return types


def collect_modules(
    module_tree: Path, wanted: tuple[str, ...] = INITRAMFS_MODULES
) -> dict[str, bytes]:
    """The wanted modules and their dependencies, unpacked: name → ELF, in an order that loads.

    Args:
        module_tree: the `…/lib/modules/<version>` directory of an unpacked kernel package.

    A wanted module that is built into the kernel is left out.
    """
    files = {_module_name(path): path for path in module_tree.rglob("*.ko*")}
    builtin = {
        _module_name(Path(line))
        for line in (module_tree / "modules.builtin").read_text(encoding="utf-8").splitlines()
    }
    ordered: dict[str, bytes] = {}
    for name in wanted:
        _add_module(name, files, builtin, ordered)
    return ordered


def _add_module(
    name: str, files: Mapping[str, Path], builtin: set[str], ordered: dict[str, bytes]
) -> None:
    if name in ordered or name in builtin:
        return
    if name not in files:
        raise _unusable(f"it has no module {name}")
    data = _read_module(files[name])
    for dependency in module_dependencies(data):
        _add_module(dependency, files, builtin, ordered)
    ordered[name] = data


def _module_name(path: Path) -> str:
    """A module's name as modinfo spells it: dashes and underscores are the same to the kernel."""
    return path.name.split(".ko")[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    return decompress_payload(data, size_word=False)


def module_dependencies(module: bytes) -> list[str]:
    """The names after `depends=` in .modinfo, which holds NUL-terminated `key=value` records."""
    for record in _elf_section(module, b".modinfo").split(b"\0"):
        key, _, value = record.partition(b"=")
        if key == b"depends" and value:
            return [name.decode().replace("-", "_") for name in value.split(b",")]
    return []


def _elf_section(elf: bytes, wanted: bytes) -> bytes:
    """The contents of a 64-bit ELF section; see elf(5)."""
    if elf[:5] != b"\x7fELF\x02":
        raise _unusable("one of its modules is no 64-bit ELF file")
    table = struct.unpack_from("<Q", elf, 40)[0]
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry_size) for i in range(count)]
    names_offset = headers[names_index][4]
    for name, _, _, _, offset, size in headers:
        start = names_offset + name
        if elf[start : elf.index(b"\0", start)] == wanted:
            return elf[offset : offset + size]
    return b""


def _unusable(why: str) -> ProvisionError:
    return ProvisionError(
        ErrorCode.PROVISION_KERNEL_NOT_FOUND, f"Debian's kernel package cannot be used: {why}"
    )
