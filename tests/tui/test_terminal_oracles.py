"""The terminal beside libvterm and tmux: random programs must look the same in all.

Left out, because the oracles differ from xterm or among themselves: clusters (both count code
points); tmux has no DECLRMM and no CHT, drops wide characters at the end of rows that do not wrap,
keeps the cursor of 1049 apart from DECSC's, loses a character where an insertion wraps, inserts
lines outside the region, and does nothing at a 1049 that is on already; libvterm's movements,
wrapping and DECSTR mind no margins, it wraps what waits for its wrap when wrapping is switched off,
and its ICH and DCH mind the region. After IL and DL a CR says where the cursor is.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_tui.terminal_model import TerminalModel
from tests.tui.terminal_oracles import Screen, libvterm_screen, tmux_pane

COLUMNS, LINES = 14, 6


def our_screen(data: bytes, columns: int = COLUMNS, lines: int = LINES) -> Screen:
    model = TerminalModel(columns, lines)
    model.feed(data)
    terminal = model.terminal
    return Screen([model.text(y) for y in range(lines)], terminal.column(), terminal.cursor.y)


COMMON = [
    "\r\n", "\r", "\n", "\b", "\t", "\x1bD", "\x1bE", "\x1bM", "\x1b7", "\x1b8", "\x1b[A",
    "\x1b[3B", "\x1b[2C", "\x1b[3D", "\x1b[E", "\x1b[2F", "\x1b[5G", "\x1b[H", "\x1b[2;3H",
    "\x1b[9;9H", "\x1b[3d", "\x1b[J", "\x1b[1J", "\x1b[2J", "\x1b[K", "\x1b[1K", "\x1b[2K",
    "\x1b[@", "\x1b[3@", "\x1b[P", "\x1b[4P", "\x1b[X", "\x1b[5X",
    "\x1b[S", "\x1b[2T", "\x1b[31m",
    "\x1b[0m", "\x1b[?7l\r", "\x1b[?7h", "\x1b[4h", "\x1b[4l",
    "\x1b[Z", "\x1bH", "\x1b[g", "\x1b[99C", "\x1b[99B",
    "\x1b]2;title\x1b\\", "\x1bPq#0~\x1b\\",
]  # fmt: skip
EDITS = [
    "\x1b[4;5H\n", "\x1b[6;6H\x1bD", "\x1b[2;5H\x1bM", "\x1b[2C", "\x1b[H",
    "\x1b[2;3H", "\x1b[9;9H", "\x1b[3d", "\x1b[J", "\x1b[1K", "\x1b[3;6H\x1b[@", "\x1b[3;6H\x1b[3@",
    "\x1b[3;6H\x1b[P", "\x1b[3;6H\x1b[4P", "\x1b[X", "\x1b[L\x1b[3;4H", "\x1b[2M\x1b[H", "\x1b[S",
    "\x1b[2T", "\x1b[r",
]  # fmt: skip
INSERTING = ["\x1b[L\r", "\x1b[2L\r", "\x1b[M\r", "\x1b[2M\r"]
REGIONS = ["\x1b[2;4r", "\x1b[3;6r", "\x1b[r"]
ALTERNATE = ["\x1b[?1049h", "\x1b[?1049hin\x1b[?1049l"]
TEXTS = ["a", "bc", "word ", "0123456789", "é", "e\u0301"]
WIDE_TEXTS = ["日本", "x日"]
MARGINS = [
    "\x1b[3;9s\x1b[3;5H",
    "\x1b[5;12s\x1b[4;6H",
    "\x1b[?6h",
    "\x1b[?6l",
    "\x1b[2;4r",
    "\x1b['}",
    "\x1b[2'~",
]
INSIDE = ["\x1b[2;5Hab", "\x1b[3;5Hcd", "\x1b[5;5He"]
FULL_ROWS = "".join(f"\x1b[{y};1H{chr(96 + y) * COLUMNS}" for y in range(1, LINES + 1))


@pytest.mark.parametrize("control", ["\n", "\x0b", "\x1bD", "\x1bM", "\x1bE", "\b", "\r", "\x1b[K"])
def test_a_control_at_the_end_of_a_full_row_looks_as_in_libvterm(control: str) -> None:
    data = f"\r\n\n{'0' * COLUMNS}{control}a".encode()
    assert our_screen(data) == libvterm_screen(data, COLUMNS, LINES)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(COMMON + INSERTING + TEXTS * 6), max_size=40))
def test_random_programs_look_as_in_libvterm(parts: list[str]) -> None:
    data = "".join(parts).encode()
    assert our_screen(data) == libvterm_screen(data, COLUMNS, LINES)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(EDITS + MARGINS * 3 + INSIDE * 6), max_size=40))
def test_side_margins_and_origin_mode_look_as_in_libvterm(parts: list[str]) -> None:
    """libvterm does not wrap at margins, so text is only put where it ends before them."""
    data = "".join([FULL_ROWS, "\x1b[?69h", *parts]).encode()
    assert our_screen(data) == libvterm_screen(data, COLUMNS, LINES)


def entered_once(parts: list[str]) -> list[str]:
    """Without a 1049 while it is on: xterm clears the screen then, tmux does nothing."""
    enter, leave = "\x1b[?1049h", "\x1b[?1049l"
    on = False
    kept: list[str] = []
    for part in parts:
        kept.append(part.removeprefix(enter) if on else part)
        on = (on or part.startswith(enter)) and not part.endswith(leave)
    return kept


def placed(chooser: random.Random, parts: list[str], texts: list[str]) -> str:
    """The parts, the cursor put somewhere where a control follows text: a wrap may be pending
    there, and tmux takes that for a column of its own."""
    program = ""
    for before, part in zip(["", *parts], parts, strict=False):
        if before in texts and part not in texts:
            program += f"\x1b[{chooser.randint(1, LINES)};{chooser.randint(1, COLUMNS)}H"
        program += part
    return program


@pytest.mark.timeout(120)
def test_random_programs_look_as_in_tmux(tmp_path: Path) -> None:
    chooser = random.Random(11)
    left_out = ("\x1b[?7l\r", "\x1b[4h", "\x1b7", "\x1b8")
    controls = [part for part in COMMON if part not in left_out] + REGIONS + ALTERNATE
    texts = TEXTS + WIDE_TEXTS
    with tmux_pane(tmp_path, COLUMNS, LINES) as pane:
        for number in range(150):
            parts = chooser.choices(controls + texts * 6, k=chooser.randint(1, 30))
            data = placed(chooser, entered_once(parts), texts).encode()
            pane.feed(b"\x1b[?1049l\x1bc" + data)
            assert our_screen(data) == pane.screen(), f"program {number}: {data!r}"


@pytest.mark.parametrize(
    "program",
    [
        "main\x1b[?1049hin\x1b[?1049l\r\nX\r\nY\x1b[?1049lZ",
        "main\x1b[?1049hin\x1b[?1047lX",
        "main\x1b[?1047h\x1b[3;3Hin\x1b[?1047l\x1b[?1049hX",
        "\x1b7main\x1b[?47h\x1b[3;3Hin\x1b[?1047lX",
    ],
)
def test_the_alternate_screens_in_turns_look_as_in_tmux(tmp_path: Path, program: str) -> None:
    with tmux_pane(tmp_path, COLUMNS, LINES) as pane:
        pane.feed(program.encode())
        assert our_screen(program.encode()) == pane.screen()
