"""One build of an image: its log as it comes, how far it is, and a way to give it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from machinen_tui.image_log import ImageBuild
from machinen_tui.widgets.dialogs import Dialog, KeyHint, clickable, plain
from machinen_tui.widgets.log_view import LogView

LOOK_S = 0.15


class BuildScreen(Dialog[str]):
    """Answers `boot` or `again`; closed otherwise, the build goes on."""

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "cancel", show=False),
        Binding("n", "boot", show=False),
        Binding("i", "again", show=False),
        Binding("q", "dismiss(None)", show=False),
    ]

    def __init__(self, build: ImageBuild) -> None:
        super().__init__()
        self._build = build
        self._drawn = (-1, "")

    def title_text(self) -> str:
        return plain(f"building {self._build.wanted.out}")

    def keys(self) -> Sequence[KeyHint]:
        match self._build.state:
            case "running":
                return (("x", "x cancels"), ("escape", "esc leaves it running"))
            case "done":
                return (("n", "n boots it"), ("i", "i another"), ("escape", "esc closes"))
            case _:
                return (("i", "i again"), ("escape", "esc closes"))

    def fields(self) -> ComposeResult:
        yield LogView(self._build.lines)
        yield Static("", id="where", markup=False)

    def on_mount(self) -> None:
        self.query_one(LogView).focus()
        self.set_interval(LOOK_S, self._look)
        self.call_after_refresh(self._look)

    def _look(self) -> None:
        """Draw what changed."""
        build = self._build
        if (build.revision, build.state) == self._drawn:
            return
        self._drawn = (build.revision, build.state)
        self.query_one(LogView).show_lines()
        self.query_one("#where", Static).update(build.stage if build.state == "running" else "")
        self.query_one(".dialog").border_subtitle = clickable(self.keys())
        self.say(build.outcome, wrong=build.state == "failed")

    def action_cancel(self) -> None:
        if self._build.state == "running":
            self._build.cancel()

    def action_boot(self) -> None:
        if self._build.state == "done":
            self.dismiss("boot")

    def action_again(self) -> None:
        if self._build.state != "running":
            self.dismiss("again")
