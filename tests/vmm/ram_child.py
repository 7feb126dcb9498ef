"""A process that holds guest RAM as QEMU does: a private map of a file, or anonymous memory.

Run as a script it is that process; imported it starts one. Guest RAM lies between pages nobody may
touch, like QEMU's, so that the kernel does not join it to a neighbour.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager

PAGE = 4096
_MAP_FIXED = 0x10


@contextmanager
def ram_child(
    size_bytes: int,
    writes: Mapping[int, bytes],
    image: str | None = None,
    reads: str = "",
    env: Mapping[str, str] | None = None,
) -> Generator[subprocess.Popen[bytes]]:
    """A process with `size_bytes` of RAM that wrote `writes` (page number → bytes) into it.

    `reads`: pages it only looked at, as numbers with commas. `env` comes on top of ours.
    """
    argv = [sys.executable, "-I", __file__, str(size_bytes), image or "", reads]
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            write(child, writes)
            yield child
        finally:
            child.kill()


def write(
    child: subprocess.Popen[bytes], writes: Mapping[int, bytes], drops: Collection[int] = ()
) -> None:
    """Have it write on, or give pages back as QEMU does what its guest has freed."""
    assert child.stdin is not None
    assert child.stdout is not None
    items = [f"{page}:{data.hex()}" for page, data in writes.items()]
    child.stdin.write(",".join([*items, *(f"{page}:drop" for page in drops)]).encode() + b"\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"ready\n"


def _main(size_bytes: int, image: str, reads: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    room = libc.mmap(None, size_bytes + 2 * PAGE, 0, anonymous, -1, 0)
    flags = mmap.MAP_PRIVATE | _MAP_FIXED | (0 if image else mmap.MAP_ANONYMOUS)
    descriptor = os.open(image, os.O_RDONLY) if image else -1
    access = mmap.PROT_READ | mmap.PROT_WRITE
    start = libc.mmap(room + PAGE, size_bytes, access, flags, descriptor, 0)
    assert start == room + PAGE, ctypes.get_errno()
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in sys.stdin:
        for item in filter(None, line.strip().split(",")):
            page, _, data = item.partition(":")
            place = start + int(page) * PAGE
            if data == "drop":
                assert libc.madvise(place, PAGE, mmap.MADV_DONTNEED) == 0
            else:
                contents = bytes.fromhex(data)
                ctypes.memmove(place, contents, len(contents))
        for page in filter(None, reads.split(",")):
            ctypes.string_at(start + int(page) * PAGE, 1)
        print("ready", flush=True)  # noqa: T201 - how this process speaks with its test


if __name__ == "__main__":
    _main(int(sys.argv[1]), *sys.argv[2:4])
