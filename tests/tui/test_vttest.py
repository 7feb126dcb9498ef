"""vttest's screens in our terminal, libvterm and tmux: each must be as at least one of them has it.

Where both are known to be wrong the screen itself says what is right, and that is asserted. Left
out: double-size lines, VT52, keyboards and what asks the user to look.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.tui.programs import COLUMNS, LINES, Program, running
from tests.tui.terminal_oracles import Screen, libvterm_screen, tmux_pane

pytestmark = pytest.mark.timeout(180)

PUSH, MENU = b"Push <RETURN>", b"Enter choice number"
MAX_SCREENS = 30


def waits(program: Program) -> int:
    """How often it has asked for a key."""
    return program.written.count(PUSH) + program.written.count(MENU)


def press(program: Program, keys: bytes) -> None:
    """Type, and read until it asks again."""
    before = waits(program)
    program.type(keys)
    while waits(program) == before:
        program.read()


def screens_of(program: Program, choices: list[bytes]) -> Generator[Screen]:
    """What our terminal shows each time one test asks for a key, up to the menu."""
    while not waits(program):
        program.read()
    for choice in choices[:-1]:
        press(program, choice + b"\r")
    press(program, choices[-1] + b"\r")
    for _ in range(MAX_SCREENS):
        if "Enter choice number" in program.model.screen_text():
            return
        yield program.screen()
        press(program, b"\r")
    raise AssertionError("the menu does not come back")


@pytest.mark.parametrize(
    ("choices", "right"),
    [
        ([b"1"], {2: "autowrap", 3: "autowrap"}),
        ([b"2"], {14: "charsets"}),
        ([b"8"], {}),
        ([b"9", b"1"], {}),
        ([b"11", b"6", b"3"], {}),
        ([b"11", b"6", b"4"], {}),
        ([b"11", b"6", b"5"], {}),
        ([b"11", b"7", b"2"], {}),
    ],
    ids=["cursor", "screen", "insert-delete", "bugs", "sgr0", "colors", "bce", "rep"],
)
def test_each_screen_is_as_another_terminal_has_it(
    tmp_path: Path, choices: list[bytes], right: dict[int, str]
) -> None:
    assert shutil.which("vttest"), "vttest is missing; make setup installs it"
    with running(["vttest"], tmp_path) as program, tmux_pane(tmp_path, COLUMNS, LINES) as pane:
        fed = 0
        for number, ours in enumerate(screens_of(program, choices)):
            pane.feed(program.written[fed:])
            fed = len(program.written)
            if number in right:
                CHECKS[right[number]](ours)
                continue
            vterm = libvterm_screen(program.written, COLUMNS, LINES)
            assert ours in (vterm, pane.screen()), f"screen {number}"


def margins_have_letters_in_order(screen: Screen) -> None:
    """tmux takes a pending wrap for a column of its own, libvterm switches to 132 columns."""
    edges = [row[0] + row[COLUMNS - 1] for row in screen.rows[2:20]]
    assert edges == [chr(first) + chr(first + 32) for first in range(ord("I"), ord("Z") + 1)]


def restored_cursors_have_their_character_set(screen: Screen) -> None:
    """Both forget it with DECRC: the second half of each group shows letters there."""
    for row in screen.rows[8:17]:
        for group in row[11:].split("  "):
            assert len(set(group)) <= 1


CHECKS = {
    "autowrap": margins_have_letters_in_order,
    "charsets": restored_cursors_have_their_character_set,
}
