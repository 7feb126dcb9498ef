"""Two forks beside each other: their terminals, and what differs in files, processes, environment
and memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from machinen_runtime.errors import MachinenError
from machinen_tui import theme
from machinen_tui.compare_rows import BOTH, ONLY_A, ONLY_B, SECTIONS, rows_of, since, titles
from machinen_tui.figures import clip, count
from machinen_tui.keys import ESCAPE_KEY
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.dialogs import Dialog, KeyHint
from machinen_tui.widgets.tab_bar import TabBar, TabItem
from machinen_tui.widgets.twin_terminals import TwinTerminals

if TYPE_CHECKING:
    from machinen_runtime.compare import VmDifference

Compare = Callable[[], Awaitable["VmDifference"]]
CompareFile = Callable[[bytes], Awaitable[None]]
SendKey = Callable[[SandboxView, events.Event], None]


@dataclass(frozen=True, slots=True)
class Comparing:
    """What the screen can ask for."""

    compare: Compare
    """Asks both guests."""
    show_file: CompareFile
    """Opens a screen with how one file differs."""
    send: SendKey
    """Hands a key or a paste to one."""


class CompareScreen(Dialog[None]):
    """The terminals of `a` and `b`, or what differs elsewhere."""

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        *[Binding(str(number + 1), f"section({number})", show=False)
          for number in range(len(SECTIONS))],
        Binding("right,l", "next_section(1)", show=False),
        Binding("left,h", "next_section(-1)", show=False),
        Binding("i,enter", "type", show=False),
        Binding("r", "again", show=False),
        *[Binding(keys, f"scroll({pages})", show=False)
          for keys, pages in (("pageup", 0.5), ("pagedown", -0.5))],
        *[Binding(keys, f"scroll_rows({rows})", show=False)
          for keys, rows in (("up,k", 1), ("down,j", -1))],
        Binding("question_mark", "help", show=False),
        Binding("q,D", "dismiss(None)", show=False),
    ]  # fmt: skip

    def __init__(self, a: SandboxView, b: SandboxView, doors: Comparing) -> None:
        super().__init__()
        self._twins = TwinTerminals(a, b)
        self._doors = doors
        self._found: VmDifference | None = None
        self._section = 0
        self._said = "asking both guests …"

    def title_text(self) -> str:
        a, b = (view.name for view in self._twins.views)
        return f"< {a}   > {b}".replace("[", "\\[")

    def keys(self) -> Sequence[KeyHint]:
        return (("1", "1-5 sections"), ("i", "i type into both"), ("enter", "enter opens a file"),
                ("r", "r again"), ("question_mark", "? help"),
                ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield TabBar("sections")
        yield self._twins
        yield OptionList(id="differences", compact=True)

    def on_mount(self) -> None:
        self._show_section()
        self.set_interval(0.5, self._say)
        self.action_again()

    def on_unmount(self) -> None:
        self._twins.typing = False

    # -- what differs -----------------------------------------------------------------------------

    def action_again(self) -> None:
        """Ask both guests."""
        self._said = "asking both guests …"
        self.run_worker(self._ask(), exclusive=True, exit_on_error=False)

    async def _ask(self) -> None:
        try:
            self._found = await self._doors.compare()
            self._said = since(self._found)
        except MachinenError as error:
            self._said = f"{error.code}: {error}"
        self._show_section()

    def _show_section(self) -> None:
        items = [TabItem(str(at), title, str(at + 1))
                 for at, title in enumerate(titles(self._found))]  # fmt: skip
        self.query_one("#sections", TabBar).show(items, self._section)
        rows, on_screens = self.query_one("#differences", OptionList), self._section == 0
        self._twins.display, rows.display = on_screens, not on_screens
        (self._twins if on_screens else rows).focus()
        if not on_screens:
            self._draw_rows(rows)
        self._say()

    def _draw_rows(self, rows: OptionList) -> None:
        at = rows.highlighted or 0
        rows.clear_options()
        if self._found is None:
            return
        look = theme.look()
        colors = {ONLY_A: look.private, ONLY_B: look.snapshot, BOTH: look.balloon}
        width = max(self.size.width * 96 // 100 - 8, 20)
        for each in rows_of(self._found, SECTIONS[self._section]):
            text = Text(f" {each.sign} ", colors.get(each.sign, ""), no_wrap=True)
            text.append(clip(each.text, width))
            rows.add_option(Option(text))
        rows.highlighted = min(at, rows.option_count - 1)

    def _say(self) -> None:
        if self._twins.typing:
            self.say("typing into both · Ctrl-] leaves", wrong=True)
            return
        differing = self._twins.differing
        differ = "row differs" if differing == 1 else "rows differ"
        shown = f"{differing} {differ} · " if self._section == 0 else ""
        back = f"↑ {count(self._twins.back, 'row')} back · " if self._twins.back else ""
        self.say(shown + back + self._said)

    def action_section(self, number: int) -> None:
        """Show another section."""
        self._section = number
        self._show_section()

    def action_help(self) -> None:
        """What the keys do here."""
        from machinen_tui.widgets.dialogs import NoteDialog

        cast("App[object]", self.app).push_screen(  # pyright: ignore[reportUnknownMemberType]
            NoteDialog("keys of the comparison", HELP)
        )

    def action_next_section(self, by: int) -> None:
        """Show the next section."""
        self.action_section((self._section + by) % len(SECTIONS))

    @on(TabBar.Chosen)
    def _chosen(self, event: TabBar.Chosen) -> None:
        event.stop()
        self.action_section(int(event.key))

    @on(OptionList.OptionSelected, "#differences")
    def _opened(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._found is None or SECTIONS[self._section] != "files":
            return
        at = event.option_index - (1 if self._found.files_problem else 0)
        if 0 <= at < len(self._found.files):
            name = self._found.files[at].name
            self.run_worker(self._show_file(name), exclusive=True, exit_on_error=False)

    async def _show_file(self, name: bytes) -> None:
        self._said = "reading it in both …"
        self._say()
        try:
            await self._doors.show_file(name)
            self._said = since(self._found) if self._found is not None else ""
        except MachinenError as error:
            self._said = f"{error.code}: {error}"
        self._say()

    # -- both at once -----------------------------------------------------------------------------

    def action_scroll(self, pages: float) -> None:
        """Scroll both."""
        self._twins.scroll(round(self._twins.size.height * pages))

    def action_scroll_rows(self, rows: int) -> None:
        """Scroll both by rows; in a list move the cursor."""
        if self._section == 0:
            self._twins.scroll(rows)
        else:
            differences = self.query_one("#differences", OptionList)
            differences.action_cursor_up() if rows > 0 else differences.action_cursor_down()

    def action_type(self) -> None:
        """Every key goes to both from now on."""
        self.action_section(0)
        self._twins.scroll(-self._twins.back)
        self._twins.typing = True
        self._say()

    def grab_key(self, event: events.Event) -> bool:
        """Take a key or a paste before anybody else does, while typing (the application)."""
        if not self._twins.typing or not isinstance(event, events.Key | events.Paste):
            return False
        if isinstance(event, events.Key) and event.key == ESCAPE_KEY:
            self._twins.typing = False
            self._say()
            return True
        for view in self._twins.views:
            self._doors.send(view, event)
        return True


HELP = """1 screens · 2 files · 3 processes · 4 environment · 5 memory
left right  the section beside it
i  every key goes to both, until Ctrl-]
pageup pagedown, up down, wheel  scroll both
enter  on a file: how it differs, line by line
r  ask both guests again

<  only the left one has it, >  only the right one, !  both, but not the same.
Files are those that changed in either since the two were one.
The environment is that of the login shell, as it was started."""
