"""A program for guests that draws random numbers from the kernel as fast as it can.

`drawer.py KIND MARK`: 16 bytes at a time by system call (`call`) or by vDSO (`vdso`), into memory
that begins with MARK and the count of those that are complete. At the end the draws are in
/run/drawn-KIND.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from pathlib import Path

KINDS = ("call", "vdso")
DRAWS = 1 << 16
MARK_BYTES = 32
HEAD_BYTES = 64
SIZE = 16
UP_AT = 2000
"""From there on there is something to be found, and the rest is still to come."""


def main(kind: str, mark: str) -> None:
    memory = mmap.mmap(-1, HEAD_BYTES + DRAWS * SIZE)
    memory[:MARK_BYTES] = bytes.fromhex(mark)
    count = ctypes.c_uint64.from_buffer(memory, MARK_BYTES)
    libc = ctypes.CDLL(None)  # whose getrandom() is the vDSO's from glibc 2.41 on
    for number in range(DRAWS):
        into = (ctypes.c_char * SIZE).from_buffer(memory, HEAD_BYTES + number * SIZE)
        if kind == "vdso":
            libc.getrandom(into, SIZE, 0)
        else:
            into.raw = os.getrandom(SIZE)
        count.value = number + 1
        if number == UP_AT:
            Path(f"/run/drawing-{kind}").touch()
    Path("/run/.drawn-" + kind).write_bytes(memory[HEAD_BYTES:])
    Path("/run/.drawn-" + kind).rename(f"/run/drawn-{kind}")


if __name__ == "__main__":
    main(*sys.argv[1:])
