"""`python -m bench.terminal_fuzz`: a million random sequences into one terminal.

None may raise, none may put its payload on the screen, the screen stays whole, and memory does not
grow. Pieces are cut anywhere. The seed is printed: the same one makes the same sequences.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Iterator

import psutil

from machinen_tui.terminal_model import TerminalModel

PAYLOAD = "\u00b6"
"""Stands in payloads only: on the screen it is a failure."""
TEXTS = (
    "a",
    "word",
    "0123456789" * 9,
    "日本語",
    "e\u0301",
    "👩\u200d💻",
    "❤\ufe0f",
    "🇩🇪",
    "\u202e",
)
CONTROLS = "\r\n\b\t\a\x0b\x0c\x0e\x0f\x18\x1a\x7f\x00"
SGR_PARTS = ("1", "4:3", "38:2::9:9:9", "48;5", "58;2;1;2", "0", "7", ":", "38")
STRING_STARTS = ("0;", "2;", "4;1;", "7;file://", "8;;", "52;c;", "133;D;", "$q", "+q", "")
DRAWN_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
GROWTH_BYTES = 16 * 1024 * 1024
"""What the process may grow by between a fifth of the way and its end."""


def sequences(chooser: random.Random) -> Iterator[bytes]:
    """Random output, for ever: text, controls, CSI, escapes, strings, resets, broken UTF-8."""
    makers = (_text, _control, _csi, _csi, _csi, _sgr, _escape, _string, _lines, _bytes, _long)
    while True:
        yield chooser.choice(makers)(chooser)


def _text(chooser: random.Random) -> bytes:
    return chooser.choice(TEXTS).encode()


def _control(chooser: random.Random) -> bytes:
    return chooser.choice(CONTROLS).encode()


def _csi(chooser: random.Random) -> bytes:
    prefix = chooser.choice(("", "", "", "?", ">", "=", "<"))
    count = chooser.choice((0, 1, 1, 2, 3, 6, 40))
    parameters = ";".join(str(_parameter(chooser)) for _ in range(count))
    middle = chooser.choice(("", "", "", "", " ", "!", "$", "'", "*", '"'))
    return f"\x1b[{prefix}{parameters}{middle}{chr(chooser.randint(0x40, 0x7E))}".encode()


def _parameter(chooser: random.Random) -> int | str:
    return chooser.choice(
        (
            "",
            chooser.randint(0, 12),
            chooser.randint(0, 110),
            1047,
            1049,
            2026,
            69,
            99_999_999_999,
            6,
            7,
        )
    )


def _sgr(chooser: random.Random) -> bytes:
    parts = chooser.choices(SGR_PARTS, k=4)
    red, blue = chooser.randint(0, 255), chooser.randint(0, 255)
    return f"\x1b[{';'.join(parts)};38;2;{red};0;{blue}m".encode()


def _escape(chooser: random.Random) -> bytes:
    middle = chooser.choice(("", "", "(", ")", "*", "#", "%", " "))
    return f"\x1b{middle}{chr(chooser.randint(0x30, 0x7E))}".encode()


def _string(chooser: random.Random) -> bytes:
    kind = chooser.choice("]]]]PPX^_")
    start = chooser.choice(STRING_STARTS)
    payload = PAYLOAD * chooser.choice((0, 1, 20, 5000))
    end = chooser.choice(("\x07", "\x1b\\", "\x1b\\", "\x1b\\"))
    return f"\x1b{kind}{start}{payload}{end}\x1b\\".encode()


def _long(chooser: random.Random) -> bytes:
    """More parameters than any sequence has, seldom the same twice."""
    count, final = chooser.choice((100, 130, 2000)), chooser.choice("mHhJtr")
    return f"\x1b[{'1;' * count}{chooser.randint(0, 1 << 30)}{final}".encode()


def _lines(chooser: random.Random) -> bytes:
    return (chooser.choice(TEXTS) + "\r\n").encode() * chooser.choice((1, 3, 200))


def _bytes(chooser: random.Random) -> bytes:
    """Any bytes, but none that could end a string or be cut out of one."""
    return bytes(byte for byte in chooser.randbytes(6) if byte not in b"\xb6")


def fuzz(chooser: random.Random, count: int) -> Iterator[TerminalModel]:
    """Feed `count` sequences in pieces cut anywhere; yields the terminal after each piece.

    Raises:
        AssertionError: a payload is on the screen, or the screen is not whole.
    """
    model = TerminalModel(40, 10, on_reply=lambda _: None, history_bytes=200_000)
    made = sequences(chooser)
    waiting = b""
    for number in range(count):
        waiting += next(made)
        if chooser.random() < 0.3:
            continue
        cut = len(waiting) if chooser.random() < 0.5 else chooser.randint(0, len(waiting))
        model.feed(waiting[:cut])
        waiting = waiting[cut:]
        if number % 50 == 0:
            model.resize(chooser.randint(1, 60), chooser.randint(1, 15))
        check(model)
        yield model


def check(model: TerminalModel) -> None:
    """The screen is whole and shows no payload."""
    terminal = model.terminal
    assert len(terminal.buffer) == terminal.lines
    assert all(len(row) == terminal.columns for row in terminal.buffer)
    assert 0 <= terminal.cursor.y < terminal.lines
    assert 0 <= terminal.cursor.x <= terminal.columns
    text = "".join(terminal.display)
    assert PAYLOAD not in text, "a payload was drawn"
    assert DRAWN_CONTROL.search(text) is None, "a control was drawn"


def main() -> int:
    """Fuzz and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m bench.terminal_fuzz")
    parser.add_argument("--sequences", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments = parser.parse_args()
    print(f"fuzz: seed {arguments.seed}, {arguments.sequences} sequences", flush=True)
    process = psutil.Process()
    early, fed, started = 0, 0, time.monotonic()
    for fed, _ in enumerate(fuzz(random.Random(arguments.seed), arguments.sequences)):
        if fed == arguments.sequences // 10:
            early = process.memory_info().rss
    grown = process.memory_info().rss - early
    print(
        f"fuzz: {fed} pieces in {time.monotonic() - started:.0f} s, grown by {grown / 1e6:.1f} MB"
    )
    return int(grown > GROWTH_BYTES)


if __name__ == "__main__":
    sys.exit(main())
