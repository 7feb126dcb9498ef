"""What the application does before its first paint, and what it leaves for after it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio

from machinen_tui.frame_driver import HUNG_UP
from tests.screen import on_terminal

SCRIPT = """
import gc, json, sys
from machinen_tui.app import MachinenApp
from machinen_tui.__main__ import main

restyled = []

class Watched(MachinenApp):
    def refresh_css(self, animate=True):
        restyled.append(self.theme)
        super().refresh_css(animate)

    async def _start(self):
        print(json.dumps({
            "modules": sorted(sys.modules), "restyled": restyled, "theme": self.theme,
            "background": self.screen.styles.background.hex, "collects": gc.isenabled(),
            "frozen": gc.get_freeze_count(), "painted": "NAVIGATE" in self.shown(),
        }), file=sys.__stdout__)
        self.exit()

    def shown(self):
        return "".join(strip.text for strip in self.screen._compositor.render_strips())

import machinen_tui.app
machinen_tui.app.MachinenApp = Watched
sys.exit(main([]))
"""

LATE = {
    "anyio", "machinen_runtime.handle", "machinen_runtime.lineage",
    "machinen_tui.asciicast", "machinen_tui.commands", "machinen_tui.copy_mode",
    "machinen_tui.forms", "machinen_tui.pane_search", "machinen_tui.serve", "machinen_tui.session",
    "machinen_tui.terminal_model", "machinen_tui.verbs", "machinen_tui.wanted",
    "machinen_tui.widgets.dialogs", "machinen_tui.widgets.help_screen",
    "machinen_tui.widgets.terminal_pane", "psutil", "pyte", "tomllib", "wcwidth",
}  # fmt: skip
"""Each takes milliseconds, and nothing of it is in the first frame."""


def first_paint(directory: Path, settings: str = "") -> dict[str, Any]:
    """Starts the application without a terminal; what it says right after its first paint."""
    (directory / "config/machinen").mkdir(parents=True)
    if settings:
        (directory / "config/machinen/tui.toml").write_text(settings)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120,
        env={**os.environ, "TEXTUAL_DRIVER": "textual.drivers.headless_driver:HeadlessDriver",
             "XDG_CONFIG_HOME": str(directory / "config"), "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_the_first_paint_does_not_need_is_imported_after_it(machinen_home: Path) -> None:
    seen = first_paint(machinen_home)
    assert seen["painted"]
    assert LATE & set(seen["modules"]) == set()
    assert "machinen_tui.app" in seen["modules"]


def test_garbage_is_looked_for_again_but_not_in_what_was_imported(machinen_home: Path) -> None:
    seen = first_paint(machinen_home)
    assert seen["collects"]
    assert seen["frozen"] > 10_000


def test_the_first_paint_has_the_theme_of_the_settings_without_styling_twice(
    machinen_home: Path,
) -> None:
    seen = first_paint(machinen_home, '[look]\ntheme = "light"')
    assert (seen["theme"], seen["background"], seen["restyled"]) == (
        "machinen-light",
        "#FAFBFD",
        [],
    )


async def test_term_gives_the_terminal_back(machinen_home: Path) -> None:
    async with on_terminal(sys.executable, "-m", "machinen_tui") as screen:
        await screen.until(b"\x1b[?1049h")  # the alternate screen
        await screen.until(b"NAVIGATE")
        os.kill(screen.handle.pid, signal.SIGTERM)
        assert await screen.ended() == 128 + signal.SIGTERM
    for back in (b"\x1b[?1049l", b"\x1b[?1000l", b"\x1b[?25h"):
        assert back in screen.shown


async def test_without_its_terminal_it_ends(machinen_home: Path) -> None:
    """Which is not its controlling one: no signal says that it is gone."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "machinen_tui"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    try:
        os.close(theirs)
        with anyio.fail_after(60):
            shown = b""
            while b"NAVIGATE" not in shown:
                await anyio.wait_readable(ours)
                shown += os.read(ours, 1 << 16)
            os.close(ours)
            assert await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True) == HUNG_UP
    finally:
        process.kill()
        process.wait()


async def test_who_redirects_what_it_draws_on_is_told(machinen_home: Path) -> None:
    command = f"{sys.executable} -m machinen_tui 2>{machinen_home}/log"
    async with on_terminal("sh", "-c", command) as screen:
        await screen.until(b"do not redirect it")
        assert await screen.ended() == 2
    assert (machinen_home / "log").read_text() == "machinen-tui: standard error is no terminal\n"
