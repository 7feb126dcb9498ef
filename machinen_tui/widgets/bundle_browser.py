"""The bundles one has: which, how big, whether they can be restored here; restore and delete."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from machinen_runtime.errors import MachinenError
from machinen_tui.details import bundle_rows
from machinen_tui.figures import clip, mib
from machinen_tui.form_fields import host_path
from machinen_tui.gateway import SnapshotInfo
from machinen_tui.widgets.details_screen import table_of
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain, when

GOOD = "can be restored here"


class BundleVerbs(Protocol):
    """What the browser calls."""

    def list_bundles(self) -> list[SnapshotInfo]: ...
    def add_place(self, path: Path) -> None: ...
    def bundle_size(self, bundle: Path) -> int: ...
    def check_bundle(self, bundle: Path, *, read_all: bool) -> None: ...
    def restore_with_options(self, info: SnapshotInfo) -> None: ...
    def ask_to_delete(self, info: SnapshotInfo) -> None: ...


class BundleBrowser(Dialog[None]):
    """Rows of bundles above, the facts of the chosen one below."""

    SHAPE = "dialog -full"
    TITLE_TEXT = "snapshots"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("delete,x", "delete", show=False),
        Binding("o", "open_place", show=False),
        Binding("v", "verify", show=False),
        Binding("q,B", "dismiss(None)", show=False),
    ]

    def __init__(self, verbs: BundleVerbs) -> None:
        super().__init__()
        self._verbs = verbs
        self._shown: list[SnapshotInfo] = []
        self._sizes: dict[Path, int] = {}
        self._verdicts: dict[Path, str] = {}
        self._to_read: set[Path] = set()

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter restore"), ("v", "v check again"), ("x", "x delete"),
                ("o", "o other place"), ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield Static(_row("source", "taken", "engine", "on disk", "check"), id="head")
        yield OptionList(id="bundles", compact=True)
        yield Static("", id="facts")
        yield Input(placeholder="a bundle, or a directory with bundles", id="place", compact=True)

    def on_mount(self) -> None:
        self.query_one("#place").display = False
        self.show_bundles()
        self.query_one(OptionList).focus()

    def show_bundles(self) -> None:
        """Read the directories again; the newest comes first, the cursor stays on its bundle."""
        chosen = self._chosen()
        self._shown = list(reversed(self._verbs.list_bundles()))
        paths = [info.path for info in self._shown]
        self._draw_rows()
        if self._shown:
            at = paths.index(chosen.path) if chosen and chosen.path in paths else 0
            self.query_one(OptionList).highlighted = at
        self._draw_facts()
        self.run_worker(self._measure(), exclusive=True, exit_on_error=False)

    async def _measure(self) -> None:
        """Sizes and verdicts of those that have none, one after the other, beside the screen."""
        for info in list(self._shown):
            if info.path not in self._verdicts:
                size, verdict = await asyncio.to_thread(self._look_at, info.path)
                self._sizes[info.path], self._verdicts[info.path] = size, verdict
                self._to_read.discard(info.path)
                self._draw_rows()
                self._draw_facts()

    def _look_at(self, path: Path) -> tuple[int, str]:
        size = self._verbs.bundle_size(path)
        try:
            self._verbs.check_bundle(path, read_all=path in self._to_read)
        except MachinenError as error:
            return size, f"{error.code}: {error}"
        return size, GOOD

    def _draw_rows(self) -> None:
        rows = self.query_one(OptionList)
        at = rows.highlighted
        rows.clear_options()
        for info in self._shown:
            verdict = self._verdicts.get(info.path, "")
            size = self._sizes.get(info.path)
            text = _row(
                info.name,
                when(info.taken_at_ms),
                info.engine,
                "…" if size is None else mib(size),
                "…" if not verdict else "good" if verdict == GOOD else "bad",
            )
            rows.add_option(Option(plain(text)))
        if not self._shown:
            rows.add_option(Option("no snapshot yet: s or S makes one, o adds a place",
                                   disabled=True))  # fmt: skip
        elif at is not None:
            rows.highlighted = min(at, len(self._shown) - 1)

    @on(OptionList.OptionHighlighted)
    def _draw_facts(self) -> None:
        info = self._chosen()
        facts = self.query_one("#facts", Static)
        if info is None:
            facts.update("")
            return
        size, verdict = self._sizes.get(info.path), self._verdicts.get(info.path, "")
        facts.update(table_of(bundle_rows(info, size, verdict)))

    def _chosen(self) -> SnapshotInfo | None:
        at = self.query_one(OptionList).highlighted
        return self._shown[at] if at is not None and at < len(self._shown) else None

    @on(OptionList.OptionSelected)
    def _restore(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if (info := self._chosen()) is not None:
            self._verbs.restore_with_options(info)

    def action_delete(self) -> None:
        if (info := self._chosen()) is not None:
            self._verbs.ask_to_delete(info)

    def action_verify(self) -> None:
        if (info := self._chosen()) is not None:
            self._verdicts.pop(info.path, None)
            self._to_read.add(info.path)
            self.show_bundles()

    def action_open_place(self) -> None:
        place = self.query_one("#place", Input)
        place.display = True
        place.focus()

    @on(Input.Submitted, "#place")
    def _add_place(self, event: Input.Submitted) -> None:
        event.stop()
        try:
            path = host_path(event.value.strip()).absolute()
        except ValueError as error:
            self.say(str(error), wrong=True)
            return
        if event.value.strip() and not path.is_dir():
            self.say(f"there is no directory {path}", wrong=True)
            return
        if event.value.strip():
            before = len(self._shown)
            self._verbs.add_place(path)
            self.show_bundles()
            found = len(self._shown) - before
            self.say(f"{found} more: {path} is looked into from now on")
        event.input.value, event.input.display = "", False
        self.query_one(OptionList).focus()


def _row(name: str, taken: str, engine: str, size: str, verdict: str) -> str:
    return f" {clip(name, 22):<22}  {taken:<15}  {engine:<8}  {size:>7}  {verdict:<5}"
