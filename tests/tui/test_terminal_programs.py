"""Real programs in a pane: each is typed into, and after every step tmux must show of the same
bytes what our terminal shows: text, cursor, colours."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.tui.programs import beside_tmux

pytestmark = pytest.mark.timeout(180)

SOURCE = "\n".join(
    f"def f{n}(x):  # needle {n}\n    return 'text {n}', x + {n}  {'# long' * (n % 3 * 9)}"
    for n in range(40)
)
PROGRESS = """
import time
from rich.console import Console
from rich.progress import Progress
console = Console(force_terminal=True, width=80)
with Progress(console=console) as progress:
    tasks = [progress.add_task(name, total=40) for name in ("first", "second")]
    for step in range(40):
        for speed, task in enumerate(tasks, 1):
            progress.update(task, advance=speed)
        if step % 10 == 9:
            progress.console.print(f"[bold]step[/] {step} of [green]40[/]")
        time.sleep(0.01)
for step in range(30):
    bar = '\u2588' * step + '\u258c' * (step % 2)
    print(f"\\r\\x1b[K{bar} {step * 100 // 29} %", end="", flush=True)
    time.sleep(0.005)
print("\\ndone")
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A file of code with long lines."""
    path = tmp_path / "code.py"
    path.write_text(SOURCE)
    return str(path)


def installed(name: str) -> str:
    path = shutil.which(name)
    assert path is not None, f"{name} is missing; make setup installs it"
    return path


def test_python_at_its_prompt(tmp_path: Path) -> None:
    with beside_tmux([sys.executable, "-q"], tmp_path) as both:
        both.step(b"", ">>>")
        both.program.type(b"for n in range(40): print(n, 'line' * n)\n\n")
        both.program.until("39 line")
        both.step(b"", "\n>>>")
        both.step(b"'\xe6\x97\xa5\xe6\x9c\xac' + 'x' * 90\x01\x0b'done', 6 * 7\n", "('done', 42)")


def test_a_shell_editing_a_long_line(tmp_path: Path) -> None:
    with beside_tmux([installed("bash"), "--norc", "--noprofile"], tmp_path) as both:
        both.step(b"", "$")
        both.step(b"echo " + b"0123456789 " * 9 + b"\x01\x1bf\x1bfXY\x05 end", "end")
        both.step(b"\x17\x17last", "last")


def test_vim_edits_searches_splits_and_selects(tmp_path: Path, source: str) -> None:
    argv = [installed("vim"), "-u", "NONE", "-i", "NONE", "-N", "-n", source]
    with beside_tmux(argv, tmp_path) as both:
        both.step(b"", "80L")
        both.step(b":syntax on | set nu hlsearch laststatus=2\r", "  1 def")
        both.step(b"/needle\r", "/needle")
        both.step(b":split\rGoadded \xe6\x97\xa5\xe6\x9c\xac\x1b", "added")
        both.step(b"Vkkk", "VISUAL LINE")
        both.step(b"\x1b\x16kll", "VISUAL BLOCK")
        both.step(b"\x1b:%s/text/words/\r", "substitutions")
        both.step(b":vsplit | wincmd w | echo 'now ' . winnr('$')\r", "now 3")
        both.step(b":q!\r:q!\r:echo 'left ' . winnr('$')\r", "left 1")


def test_less_searches_and_scrolls_both_ways(tmp_path: Path, source: str) -> None:
    with beside_tmux([installed("less"), source], tmp_path) as both:
        both.step(b"", "code.py")
        both.step(b"/needle 15\r", "needle 15")
        both.step(b"-S\r", "f20")
        both.step(b"\x1b[C", "ong")
        both.step(b"G", "(END)")
        both.step(b"kkkg", "f0")
        assert both.program.model.terminal.alternate


def test_htop_sorts_and_shows_its_tree(tmp_path: Path) -> None:
    with beside_tmux([installed("htop"), "-d", "600"], tmp_path) as both:
        both.step(b"", "F10")
        both.step(b"\x1b[B\x1b[B", "Load average")
        both.step(b"t", "F5List")
        both.step(b"\x1bOS", "Filter")


def test_top_with_every_processor(tmp_path: Path) -> None:
    with beside_tmux([installed("top"), "-d", "600"], tmp_path) as both:
        both.step(b"", "COMMAND")
        both.step(b"1", "Cpu0")
        both.program.type(b"z")
        both.program.until_coloured()  # `h` in the same read as `z` would be neither
        both.compare()
        both.step(b"h", "Help for Interactive Commands")


def test_mc_with_menus_and_panels(tmp_path: Path, source: str) -> None:
    with beside_tmux([installed("mc"), "-u", str(tmp_path), "/usr"], tmp_path) as both:
        both.step(b"", "10Quit")
        both.step(b"\x1bOB\x1bOB\x1bOB\t\x1bOB", "code.py")
        both.program.type(b"\x1b[20~")
        both.program.read(what="for the menu bar")
        both.step(b"\r", "Quick view")
        both.program.type(b"\x1b\x1b")
        both.program.read(what="for the end of the menu")
        both.compare()


def test_progress_bars(tmp_path: Path) -> None:
    with beside_tmux([sys.executable, "-c", PROGRESS], tmp_path) as both:
        both.step(b"", "first")
        both.step(b"", "step 19")
        both.step(b"", "100 %")
        both.step(b"", "done")


def test_tmux_inside_with_two_panes(tmp_path: Path) -> None:
    socket = f"machinen-inner-{uuid.uuid4().hex[:8]}"
    argv = ["tmux", "-L", socket, "-f", "/dev/null"]
    try:
        start = ["new-session", "-s", "inner", "sh", ";", "set", "-g", "assume-paste-time", "0"]
        with beside_tmux([*argv, *start], tmp_path) as both:
            both.step(b"", "[inner]")
            for keys, shown in (
                (b"\x02%", "\u2502"), (b"seq 50\r", "50"), (b'\x02"', "\u2500"),
                (b"echo third $((1+1))\r", "third 2"),
            ):  # fmt: skip
                both.step(keys, shown)
            assert both.program.model.terminal.alternate
    finally:
        subprocess.run([*argv, "kill-server"], check=False, capture_output=True)
