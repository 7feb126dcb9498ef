"""The shim of a copy's QEMU: an image that others map is read, whatever QEMU asks for."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.specs import make_spec, restored
from vmm import ram_shim
from vmm.build_shim import compile_shim
from vmm.errors import VmmError
from vmm.machine import Endpoints, qemu_argv, small_device_args
from vmm.ram_shim import check_image_is_safe, shim_environment, usable_shim, why_not

VMM = Path(ram_shim.__file__).parent
MIB = 1 << 20
CONTENT = bytes(range(256)) * (MIB // 256)
PROGRAM = """
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
image, other, new = sys.argv[1:]
found = {}

def attempt(name, call):
    try:
        found[name] = call()
    except OSError as error:
        found[name] = errno.errorcode[error.errno]

def punch(fd):
    whole = (ctypes.c_long(0), ctypes.c_long(4096))
    failed = libc.fallocate(fd, 3, *whole)
    return os.strerror(ctypes.get_errno()) if failed else "done"

def mode_of(fd):
    import fcntl
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE

for name, path in (("image", image), ("other", other)):
    fd = os.open(path, os.O_RDWR)
    found[name] = {"mode": mode_of(fd), "punch": punch(fd)}
    attempt(name + " written", lambda: os.pwrite(fd, b"x", 0))
    attempt(name + " allocated", lambda: os.posix_fallocate(fd, 0, 4096))
    ram = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE)
    was = ram[8192]
    ram[8192] = was ^ 1
    ram.madvise(mmap.MADV_DONTNEED)
    found[name]["reads again"] = ram[8192] == was
    for symbol in ("open", "open64", "__open_2", "__open64_2"):
        found[name][symbol] = mode_of(getattr(libc, symbol)(path.encode(), os.O_RDWR))
    for symbol in ("openat", "openat64", "__openat_2", "__openat64_2"):
        opened = getattr(libc, symbol)(-100, path.encode(), os.O_WRONLY)
        found[name][symbol] = mode_of(opened)
attempt("image truncated", lambda: os.ftruncate(os.open(image, os.O_RDWR | os.O_TRUNC), 0))
os.umask(0)
for symbol in ("open", "openat"):
    directory = () if symbol == "open" else (-100,)
    made = new + symbol
    getattr(libc, symbol)(*directory, made.encode(), os.O_CREAT | os.O_RDWR, 0o751)
    found["made by " + symbol] = os.stat(made).st_mode & 0o777
unnamed = lambda: os.fstat(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)).st_mode & 0o777
attempt("unnamed file", unnamed)
attempt("nowhere", lambda: os.open(image + "-", os.O_RDWR))
print(json.dumps(found))
"""
READ_ONLY, READ_AND_WRITE = os.O_RDONLY, os.O_RDWR


@pytest.fixture(scope="module")
def shim() -> Path:
    return compile_shim(VMM)


class Files:
    """An image, another file, and what a program with the shim could do to them."""

    def __init__(self, directory: Path, shim: Path) -> None:
        self.directory, self._shim = directory, shim
        self.image, self.other = directory / "ram.img", directory / "other"
        for path in (self.image, self.other):
            path.write_bytes(CONTENT)

    def run(self, **variables: str) -> dict[str, Any]:
        environment = shim_environment(str(self._shim), str(self.image), None) | variables
        names = map(str, (self.image, self.other, self.directory / "new-"))
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROGRAM, *names],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)


@pytest.fixture
def files(tmp_path: Path, shim: Path) -> Files:
    return Files(tmp_path, shim)


def test_the_image_is_read_whatever_is_asked_for_and_never_changes(files: Files) -> None:
    before = files.image.stat()
    found = files.run()
    assert set(found["image"].values()) == {READ_ONLY, "done", True}
    assert found["image"]["punch"] == "done"
    assert found["image"]["reads again"] is True
    assert found["image written"] == "EBADF"
    assert found["image allocated"] == "EBADF"
    assert found["image truncated"] == "EINVAL"
    after = files.image.stat()
    assert files.image.read_bytes() == CONTENT
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    assert after.st_blocks == before.st_blocks


def test_all_other_files_are_as_ever(files: Files) -> None:
    found = files.run()
    assert found["other"]["mode"] == READ_AND_WRITE
    assert found["other written"] == 1
    assert found["other allocated"] is None
    assert {found["other"][each] for each in ("open", "__open_2", "__open64_2")} == {os.O_RDWR}
    assert {found["other"][each] for each in ("openat", "__openat64_2")} == {os.O_WRONLY}
    assert files.other.read_bytes()[1:4096] == bytes(4095), "a hole was punched, as asked"
    assert (found["made by open"], found["made by openat"]) == (0o751, 0o751)
    assert found["unnamed file"] in (0o640, "EOPNOTSUPP")
    assert found["nowhere"] == "ENOENT"


@pytest.mark.parametrize("name", ["", "12", "12:", ":12", "x:y", "1:2:3"])
def test_without_the_name_of_an_image_nothing_is_different(files: Files, name: str) -> None:
    found = files.run(PRIVATE_RAM_FILE=name)
    assert found["image"]["mode"] == READ_AND_WRITE
    assert files.image.read_bytes() != CONTENT


def test_a_library_the_user_wants_loaded_is_loaded_too(files: Files, shim: Path) -> None:
    variables = shim_environment(str(shim), str(files.image), "/opt/theirs.so")
    status = files.image.stat()
    assert variables == {
        "LD_PRELOAD": f"{shim}:/opt/theirs.so",
        "PRIVATE_RAM_FILE": f"{status.st_dev}:{status.st_ino}",
    }


# -- where it can be loaded -----------------------------------------------------------------------


def program(path: Path, *, machine: int = 0, kinds: tuple[int, ...] = (1, 3)) -> Path:
    """The head of a program, elf(5)."""
    native = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
    head = struct.pack("<4sBB10xHHI3QI3H", b"\x7fELF", 2, 1, 3, machine or native, 1,
                       0, 64, 0, 0, 64, 56, len(kinds))  # fmt: skip
    table = b"".join(struct.pack("<I52x", kind) for kind in kinds)
    path.write_bytes(head.ljust(64, b"\0") + table)
    return path


def test_it_is_loaded_into_programs_with_a_dynamic_linker(tmp_path: Path, shim: Path) -> None:
    binary = program(tmp_path / "qemu")
    assert why_not(str(binary), shim) is None
    assert usable_shim(str(binary)) == str(shim)


def wrong_programs(path: Path) -> dict[str, Callable[[], object]]:
    """How to make a QEMU that nothing can be loaded into."""
    whole = program(path).read_bytes()
    path.unlink()
    return {
        "linked statically": lambda: program(path, kinds=(1, 2)),
        "another processor": lambda: program(path, machine=8),
        "is a script": lambda: path.write_text("#!/bin/sh\n"),
        "cannot be read: unpack": lambda: path.write_bytes(b"\x7fELF"),
        "program headers": lambda: path.write_bytes(whole[:70]),
        "setuid": lambda: program(path).chmod(0o4755),
        "cannot be read: [Errno 21]": path.mkdir,
        "cannot be read: [Errno 2]": lambda: None,
    }


def test_why_it_is_not_loaded_is_said(tmp_path: Path, shim: Path) -> None:
    for number, why in enumerate(wrong_programs(tmp_path / "unused")):
        path = tmp_path / f"qemu-{number}"
        wrong_programs(path)[why]()
        assert why in (why_not(str(path), shim) or "")
        assert usable_shim(str(path)) is None


def test_a_library_that_is_missing_or_cannot_be_named_is_not_loaded(
    tmp_path: Path, shim: Path
) -> None:
    binary = str(program(tmp_path / "qemu"))
    assert "is missing" in (why_not(binary, tmp_path / "none.so") or "")
    spaced = tmp_path / "a b"
    spaced.mkdir()
    shutil.copy(shim, spaced / "shim.so")
    assert "space" in (why_not(binary, spaced / "shim.so") or "")


def test_a_copy_of_a_qemu_without_it_opens_the_image_read_only(tmp_path: Path) -> None:
    spec = restored(make_spec(tmp_path), tmp_path)
    endpoints = Endpoints(qmp_fd=3, line_fd=5, console_fd=4, channel_path="c", layers=["base"])
    without = f"mem-path={tmp_path}/ram.img,share=off,readonly=on,rom=off"
    assert without in " ".join(qemu_argv(spec, endpoints))
    endpoints = Endpoints(
        qmp_fd=3,
        line_fd=5,
        console_fd=4,
        channel_path="c",
        layers=["base"],
        ram_shim="/lib/shim.so",
    )
    ram = next(each for each in qemu_argv(spec, endpoints) if "memory-backend-file" in each)
    assert ram == f"memory-backend-file,id=ram,size=4M,mem-path={tmp_path}/ram.img,share=off"


def test_a_guest_that_counts_on_zeros_is_told_that_nobody_promises_them() -> None:
    balloon = next(each for each in small_device_args() if "balloon" in each)
    assert balloon.endswith(",free-page-reporting=on,page-poison=off")


# -- what the monitor looks after ------------------------------------------------------------------

HOLD = "import os, sys; os.open(sys.argv[1], int(sys.argv[2])); print(flush=True); input()"


@pytest.mark.parametrize("mode", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
def test_a_qemu_that_could_write_to_the_image_is_not_let_run(tmp_path: Path, mode: int) -> None:
    image = tmp_path / "ram.img"
    image.write_bytes(CONTENT)
    argv = [sys.executable, "-I", "-c", HOLD, str(image), str(mode)]
    ours = os.open(image, os.O_RDONLY)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            if mode == os.O_RDONLY:
                check_image_is_safe(holder.pid, ours)
            else:
                with pytest.raises(VmmError, match="MACHINEN_GIVE_BACK=off") as caught:
                    check_image_is_safe(holder.pid, ours)
                assert caught.value.code == "QEMU_START_FAILED"
            check_image_is_safe(holder.pid, None)
        finally:
            holder.kill()
            os.close(ours)


def test_a_dropped_page_of_a_private_map_reads_as_the_file(tmp_path: Path) -> None:
    """What all of this rests on: the kernel's word about MADV_DONTNEED, madvise(2)."""
    image = tmp_path / "ram.img"
    image.write_bytes(CONTENT)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(image, os.O_RDONLY)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(MIB)
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE,
                        descriptor, ctypes.c_long(0))  # fmt: skip
    try:
        ctypes.memset(address, 0xFF, MIB)
        assert libc.madvise(ctypes.c_void_p(address), size, mmap.MADV_DONTNEED) == 0
        assert ctypes.string_at(address, MIB) == CONTENT
    finally:
        libc.munmap(ctypes.c_void_p(address), size)
        os.close(descriptor)
