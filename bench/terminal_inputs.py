"""What guests write, made from a fixed seed: logs, coloured logs, full-screen programs, Unicode.

The full-screen stream holds the kinds of output of htop (fields placed by CUP, coloured), vim
(scroll regions, whole coloured lines) and a TUI redrawing frames of box drawing, each in turn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle

LOG_TEXT = """
    alpha beta gamma delta worker request handler connection timeout retry kernel memory balloon
    snapshot fork restore vcpu virtio block device queue descriptor page fault dirty bitmap
"""
UNICODE_TEXT = """
    héllo naïve Ελληνικά Привет мир 你好世界 日本語テキスト 한국어 🚀 👩\u200d👩\u200d👧\u200d👦 🇺🇸
    👍🏽 é नमस्ते │├── █▓▒░ → ✓ ascii word 🏳️\u200d🌈 ❤️
"""
WORDS, UNICODE_WORDS = LOG_TEXT.split(), UNICODE_TEXT.split()
SGR_STYLES = (
    "31", "1;92", "38;5;208", "38;2;90;160;250", "4;48;5;17", "0", "2", "7", "27", "1;33",
    "38;5;45", "3",
)  # fmt: skip


def inputs(megabytes: float, columns: int = 80, lines: int = 24) -> dict[str, bytes]:
    """Title → about `megabytes` of output for a terminal of that size."""
    makers: dict[str, Callable[[random.Random], Iterator[str]]] = {
        "ASCII logs": _log_lines,
        "SGR logs": _sgr_lines,
        "full screen": partial(_full_screen, columns=columns, lines=lines),
        "Unicode": _unicode_lines,
    }
    return {title: _filled(make(random.Random(7)), megabytes) for title, make in makers.items()}


def _filled(pieces: Iterator[str], megabytes: float) -> bytes:
    size, taken = 0, list[bytes]()
    while size < megabytes * 1e6:
        taken.append(next(pieces).encode())
        size += len(taken[-1])
    return b"".join(taken)


def _log_lines(random: random.Random) -> Iterator[str]:
    for number in cycle(range(86_400_000)):
        words = " ".join(random.choices(WORDS, k=random.randint(3, 12)))
        yield (
            f"2026-11-22T10:{number // 60 % 60:02d}:{number % 60:02d}Z INFO  "
            f"[worker-{number % 37}] {words} took={random.randint(1, 9999)}us\r\n"
        )


def _sgr_lines(random: random.Random) -> Iterator[str]:
    while True:
        words = random.choices(WORDS, k=random.randint(4, 12))
        styled = "".join(f"\x1b[{random.choice(SGR_STYLES)}m{word} " for word in words)
        yield f"{styled}\x1b[0m\r\n"


def _unicode_lines(random: random.Random) -> Iterator[str]:
    while True:
        yield " ".join(random.choices(UNICODE_WORDS, k=random.randint(4, 12))) + "\r\n"


def _full_screen(random: random.Random, columns: int, lines: int) -> Iterator[str]:
    yield "\x1b[?1049h\x1b[H\x1b[2J"
    for kind in cycle((_monitor_frame, _editor_scroll, _boxes_frame)):
        for _ in range(8):
            yield kind(random, columns, lines)


def _monitor_frame(random: random.Random, columns: int, lines: int) -> str:
    """What ncurses sends for htop: only fields that changed."""
    parts = ["\x1b[?25l"]
    for row in range(2, lines):
        for column in (1, 14, 32, 40, 50):
            if random.random() < 0.6:
                color = random.choice((30, 31, 32, 34, 36, 39))
                parts.append(f"\x1b[{row};{column}H\x1b[{color}m{random.randint(0, 9999):>5}\x1b[m")
        if random.random() < 0.3:
            parts.append(f"\x1b[{row};58H\x1b[1m{random.choice(WORDS)}\x1b[m\x1b[K")
    return "".join(parts) + "\x1b[?25h"


def _editor_scroll(random: random.Random, columns: int, lines: int) -> str:
    """What vim sends when it scrolls by one line and draws the new one with syntax colours."""
    words = " ".join(
        f"\x1b[38;5;{random.randint(1, 250)}m{word}\x1b[m" for word in random.choices(WORDS, k=7)
    )
    return (
        f"\x1b[?25l\x1b[1;{lines - 1}r\x1b[{lines - 1};1H\r\n\x1b[1;{lines}r"
        f"\x1b[{lines - 1};1H{words}\x1b[K\x1b[{lines};{columns - 17}H"
        f"{random.randint(1, 9999)},1\x1b[8C{random.randint(1, 99)}%\x1b[{lines - 2};5H\x1b[?25h"
    )


def _boxes_frame(random: random.Random, columns: int, lines: int) -> str:
    """A whole frame as btop or a Textual program draws it: every row, 24-bit colours, boxes."""
    parts = ["\x1b[H"]
    for _ in range(lines - 1):
        room, cells = columns - 2, list[str]()
        while room > 12:
            word = random.choice(WORDS)[:10]
            step = random.randint(0, 100)  # btop's gradients have that many colours
            cells.append(f"\x1b[38;2;{80 + step};{220 - step};120m{word} ")
            room -= len(word) + 1
        parts.append(f"\x1b[38;2;90;90;90m│{''.join(cells)}{'▁' * room}\x1b[38;2;90;90;90m│\r\n")
    return "".join(parts)
