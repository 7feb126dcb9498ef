"""Whether the QEMU of a copy can give freed memory back, and what it needs for that.

A copy's RAM is a private map of an image that its siblings map, too. What its guest frees may be
dropped from the map, and never from the file; QEMU knows only both at once. `private_ram.c`, which
is loaded into it, leaves the second out. The image stays open for reading alone, which
`check_image_is_safe` looks after before the guest runs: nobody has to trust the library.

Where it cannot be loaded QEMU is told to open the image for reading, and gives nothing back.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from vmm.arch import UnsupportedArchError, host_arch
from vmm.errors import VmmError

SHIM_NAME = "private_ram.so"
FILE_VARIABLE = "PRIVATE_RAM_FILE"
"""Which file is the image, as "<device>:<inode>"."""
_SEPARATORS = " :"
"""What ends a path in LD_PRELOAD, ld.so(8)."""
_ELF_HEADER = struct.Struct("<4sBB10xHHI3QI3H")
_PROGRAM_HEADER_BYTES, _INTERPRETER = 56, 3
_MACHINES = {"amd64": 62, "arm64": 183}


def shim_path() -> Path:
    """Where the compiled library is, whether it exists or not.

    Raises:
        UnsupportedArchError: there is none for this processor.
    """
    return Path(__file__).parent / "bin" / host_arch().name / SHIM_NAME


def why_not(qemu_binary: str, shim: Path) -> str | None:
    """Why `shim` would not work in this QEMU, in words; None: it will."""
    if not shim.is_file():
        return f"{shim} is missing: run `make setup` in a checkout, or install the wheel again"
    if any(character in str(shim) for character in _SEPARATORS):
        return f"{shim} has a space or a colon in its path, which LD_PRELOAD cannot name"
    try:
        return _why_not_preloaded(Path(qemu_binary))
    except (OSError, struct.error) as error:
        return f"{qemu_binary} cannot be read: {error}"


def usable_shim(qemu_binary: str) -> str | None:
    """The library to load into this QEMU; None where that would not work."""
    try:
        shim = shim_path()
    except UnsupportedArchError:
        return None
    return None if why_not(qemu_binary, shim) else str(shim)


def _why_not_preloaded(binary: Path) -> str | None:
    """What keeps the dynamic linker from loading a library of ours into a program, elf(5)."""
    status = binary.stat()
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID) or _has_capabilities(binary):
        return f"{binary} runs with rights of its own (setuid, or file capabilities)"
    with binary.open("rb") as file:
        header = file.read(_ELF_HEADER.size)
        if header[:4] != b"\x7fELF":
            return f"{binary} is a script"
        _, bits, order, _, machine, _, _, offset, _, _, _, entry, count = _ELF_HEADER.unpack(header)
        if (bits, order, machine) != (2, 1, _MACHINES[host_arch().name]):
            return f"{binary} is for another processor"
        file.seek(offset)
        table = file.read(entry * count)
    if entry != _PROGRAM_HEADER_BYTES or len(table) < entry * count:
        return f"{binary} has no usable program headers"
    kinds = [struct.unpack_from("<I", table, entry * index)[0] for index in range(count)]
    return None if _INTERPRETER in kinds else f"{binary} is linked statically"


def _has_capabilities(binary: Path) -> bool:
    try:
        return bool(os.getxattr(binary, "security.capability"))
    except OSError:
        return False


def shim_environment(shim: str, image: str | None, inherited: str | None) -> dict[str, str]:
    """The variables that load `shim` into a QEMU whose RAM is a map of `image`, or of no file.

    `inherited` is the LD_PRELOAD it would have had.
    """
    variables = {"LD_PRELOAD": ":".join(filter(None, [shim, inherited]))}
    if image is not None:
        status = os.stat(image)
        variables[FILE_VARIABLE] = f"{status.st_dev}:{status.st_ino}"
    return variables


def check_image_is_safe(qemu_pid: int, image_fd: int | None) -> None:
    """Make sure that QEMU can only read the image it maps; `image_fd` is that image, open.

    Call it when QEMU has made its memory and before the guest runs on: it is then that descriptors
    are open, and only a running guest has QEMU write.

    Raises:
        VmmError: QEMU_START_FAILED.
    """
    if image_fd is None:
        return
    wanted = os.fstat(image_fd)
    for descriptor in os.listdir(f"/proc/{qemu_pid}/fd"):
        try:
            found = os.stat(f"/proc/{qemu_pid}/fd/{descriptor}")
            same = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
            writes = same and _open_flags(qemu_pid, descriptor) & os.O_ACCMODE != os.O_RDONLY
        except FileNotFoundError:  # closed meanwhile
            continue
        if writes:
            message = (
                "QEMU would write to memory that other VMs share; set MACHINEN_GIVE_BACK=off to"
                " start VMs that keep the memory their guests free"
            )
            raise VmmError("QEMU_START_FAILED", message)


def _open_flags(pid: int, descriptor: str) -> int:
    """What the descriptor was opened with, proc_pid_fdinfo(5)."""
    text = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
    return int(text.partition("flags:")[2].split()[0], 8)
