"""A program for guests with several processors that are copied while all of them write memory.

Each processor has a process of its own that writes pages with their checksums, and all of them
count together under one lock. `scribblers.py` runs for ever; on SIGUSR1 it stands still, looks at
everything, and writes what it found as JSON to /run/found-<signal's count>.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import random
import signal
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    Total: TypeAlias = Synchronized[int]

PAGE = mmap.PAGESIZE
PAGES = 2048
"""8 MiB for each processor."""


def write_page(memory: mmap.mmap, number: int, round_: int) -> None:
    """A page that says who it is, when it was written, and whether it is whole."""
    body = random.Random(number << 32 | round_).randbytes(PAGE - 20)
    body = number.to_bytes(8, "little") + round_.to_bytes(8, "little") + body
    memory[number * PAGE : (number + 1) * PAGE] = zlib.crc32(body).to_bytes(4, "little") + body


def scribble(
    processor: int, memory: mmap.mmap, counts: mmap.mmap, total: Synchronized[int]
) -> None:
    """Write page after page on one processor; the last word of `counts` says to stand still."""
    os.sched_setaffinity(0, {processor})
    round_ = 0
    while True:
        for number in range(PAGES):
            write_page(memory, number, round_)
            with total.get_lock():
                total.value += 1
                add(counts, processor)
            if counts[-1]:
                add(counts, 100 + processor)
                while counts[-1]:
                    time.sleep(0.001)
        round_ += 1


def add(counts: mmap.mmap, index: int) -> None:
    counts[index * 8 : index * 8 + 8] = (read(counts, index) + 1).to_bytes(8, "little")


def read(counts: mmap.mmap, index: int) -> int:
    return int.from_bytes(counts[index * 8 : index * 8 + 8], "little")


def look(memory: mmap.mmap) -> dict[str, int]:
    """What is wrong with the pages of one processor, and how many rounds they know of."""
    torn, rounds = 0, set[int]()
    for number in range(PAGES):
        page = memory[number * PAGE : (number + 1) * PAGE]
        torn += page[:4] != zlib.crc32(page[4:]).to_bytes(4, "little")
        torn += int.from_bytes(page[4:12], "little") != number
        rounds.add(int.from_bytes(page[12:20], "little"))
    return {"torn": torn, "rounds": max(rounds) - min(rounds)}


def main() -> None:
    processors = sorted(os.sched_getaffinity(0))
    memories = [mmap.mmap(-1, PAGES * PAGE) for _ in processors]
    counts = mmap.mmap(-1, PAGE)
    total: Any = multiprocessing.Value("q", 0)
    for memory in memories:
        for number in range(PAGES):
            write_page(memory, number, 0)
    for processor, memory in zip(processors, memories, strict=True):
        if os.fork() == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            scribble(processor, memory, counts, total)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    Path("/run/scribbling").touch()
    asked = 0
    while True:
        signal.sigwait({signal.SIGUSR1})
        asked += 1
        before = [read(counts, 100 + each) for each in processors]
        counts[-1] = 1
        while any(read(counts, 100 + p) == b for p, b in zip(processors, before, strict=True)):
            time.sleep(0.001)
        found = {
            "pages": [look(memory) for memory in memories],
            "total": total.value,
            "counts": [read(counts, each) for each in processors],
        }
        counts[-1] = 0
        Path("/run/found").write_text(json.dumps(found))
        Path("/run/found").rename(f"/run/found-{asked}")


if __name__ == "__main__":
    main()
