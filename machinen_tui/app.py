"""MachinenApp: the screen, the keys, and who does what; the rest lives in files of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from textual import events
from textual.app import ComposeResult, SystemCommand
from textual.containers import Horizontal, Vertical
from textual.dom import DOMNode
from textual.reactive import Initialize, Reactive
from textual.screen import ModalScreen, Screen
from textual.theme import Theme
from textual.timer import Timer
from textual.widgets import Static

from machinen_tui import attention, theme
from machinen_tui.attachment import Attachment
from machinen_tui.clipboard import Clipboard
from machinen_tui.copying import Copying
from machinen_tui.feed import Feed
from machinen_tui.frame_driver import in_whole_frames
from machinen_tui.gateway import Gateway, Sandbox
from machinen_tui.habits import Habits
from machinen_tui.hints import hints_for, subject_for
from machinen_tui.layout import sidebar_width, size_classes
from machinen_tui.messages import (
    CommandClosed,
    CommandEntered,
    KeyChosen,
    NodeChosen,
    PaneClicked,
    PasteWanted,
    TextTaken,
    TitleDoubleClicked,
)
from machinen_tui.mouse_grip import MouseGrip
from machinen_tui.operations import Operations, Severity
from machinen_tui.prober import Prober
from machinen_tui.resume import Resume
from machinen_tui.roster import Node, Roster, SandboxView
from machinen_tui.theme import DARK_DEFAULTS, LIGHT_DEFAULTS
from machinen_tui.tour import Tour
from machinen_tui.watcher import Watcher
from machinen_tui.widgets.memory_graph import MemoryGraph
from machinen_tui.widgets.pane_grid import PaneGrid
from machinen_tui.widgets.row_widget import show_or_hide
from machinen_tui.widgets.sandbox_list import SandboxList
from machinen_tui.widgets.status_line import KeyLine, StatusLine
from machinen_tui.widgets.tour_bar import TourBar
from machinen_tui.widgets.welcome import Welcome

if TYPE_CHECKING:
    from machinen_tui.verbs import Verbs
    from machinen_tui.wanted import NewSandbox

TourWish = Literal["never", "offered", "given"]
POLL_S = 1.0
PROGRESS_S = 0.125
OVER_DIALOG_S = 4.0


def _theme_of(app: DOMNode) -> str:
    assert isinstance(app, MachinenApp)
    return app.habits.theme_name


class MachinenApp(MouseGrip):
    """The multiplexer. `demo`: sandboxes to boot; `tour`: offered to who never had it, or given."""

    CSS_PATH = Path(__file__).with_name("app.tcss")
    TITLE = "machinen"
    theme: Reactive[str] = Reactive(Initialize(_theme_of))
    """From the first on what the settings say: another later would be all the styles once more."""

    def __init__(
        self,
        gateway: Gateway,
        demo: Iterable[NewSandbox] = (),
        habits: Habits | None = None,
        tour: TourWish = "never",
    ) -> None:
        self.habits = habits or Habits()  # first: the theme is one of them
        ansi = True if self.habits.colorless else None
        super().__init__(in_whole_frames(self.get_driver_class()), ansi_color=ansi)
        self.gateway = gateway
        self.roster = Roster()
        self.list = SandboxList(self.roster)
        self.grid = PaneGrid()
        self.status, self.graph, self.key_line = StatusLine(), MemoryGraph(), KeyLine()
        self.feed = Feed(self)
        self.operations = Operations(self, gateway)
        self.watcher = Watcher(self, gateway, self.roster, self.feed.drain)
        self.prober = Prober(self, gateway)
        self.resume, self.attachment = Resume(self), Attachment(self)
        self.copying = Copying(self)
        self.clipboard_door = Clipboard(self)
        self.tour = Tour(self)
        self._demo, self._tour_wish, self._ticks = list(demo), tour, 0
        self._progress_timer: Timer | None = None

    # -- the screen -------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[Any]:
        """With its classes from the first on: each that changes later styles all of it anew."""
        classes = [name for name, holds in size_classes(*self.size).items() if holds]
        return Screen(id="_default", classes=" ".join(classes))

    def compose(self) -> ComposeResult:
        with Horizontal(id="main"):
            with Vertical(id="sidebar"):
                yield self.list
                yield self.graph
            with Vertical(id="centre"):
                yield Welcome()
                yield self.grid
        yield from (TourBar(), self.status, self.key_line)
        yield Static("make the window at least 60 x 15", id="too-small")

    @property
    def available_themes(self) -> dict[str, Theme]:
        """Textual's and ours."""
        return {**super().available_themes, **theme.THEMES}

    def get_theme(self, theme_name: str) -> Theme | None:
        """The theme of that name; Textual asks for it with every colour."""
        return theme.THEMES.get(theme_name) or super().get_theme(theme_name)

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Values for our own CSS variables under themes that lack them."""
        own = DARK_DEFAULTS if self.current_theme.dark else LIGHT_DEFAULTS
        return {**theme.ANSI_DEFAULTS, **own}

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()  # without a handler the terminal stays as it is
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit, None, 128 + number)
        self.habits.dress(self)
        self.list.focus()
        for each in (self.list, self.graph):
            each.paint_rows = self.feed.painter.add
        self._progress_timer = self.set_interval(PROGRESS_S, self._tick_progress, pause=True)
        self.set_interval(POLL_S, self.poll)
        self.call_after_refresh(self._start)

    def on_unmount(self) -> None:
        self.feed.drain.stop()
        for view in self.roster.sandboxes.values():
            if view.session is not None and view.session.tap is not None:
                view.session.tap.close()

    async def _start(self) -> None:
        """After the first paint: look for sandboxes, then boot what a demo wants and lacks."""
        await self.poll()
        self.resume.begin()
        self.verbs.tell_problems()
        missing = [wanted for wanted in self._demo if not self.roster.by_name(wanted.name)]
        self.operations.boot_in_turn(missing)
        if self._tour_wish != "never":
            (self.tour.begin if self._tour_wish == "given" else self.tour.offer)()

    def on_resize(self, event: events.Resize) -> None:
        self.screen_stack[0].update_classes(size_classes(*event.size))
        self.query_one("#sidebar").styles.width = sidebar_width(event.size.width)

    # -- what others tell us ----------------------------------------------------------------------

    async def poll(self) -> None:
        """Once a second: the registry, the figures, the clocks."""
        await self.watcher.poll()
        self.verbs.watch()
        self.resume.keep()
        if self.list.is_attached:  # else the app was left meanwhile
            self.feed.look_around()
            self.list.update_list()
            self.show_selected()
            self.tour.look()

    async def sandboxes_came(self, views: list[SandboxView]) -> None:
        """Give each a pane (the watcher)."""
        from machinen_tui.widgets.terminal_pane import TerminalPane

        for view in views:
            self.clipboard_door.serve(view)
            if self.grid.is_attached:
                await self.grid.mount(
                    TerminalPane(view, self.attachment.type_into, self.feed.painter)
                )

    def sandboxes_changed(self) -> None:
        """States, names or lineage changed (the watcher)."""
        if not self.list.is_attached:  # the app was left meanwhile
            return
        self.list.update_list()
        if self.attachment.view is None:
            self.attachment.leave()
        self._show_panes()
        self.show_selected()

    def start_task(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `work` beside everything else. What nobody foresaw becomes a message, not the end."""
        self.run_worker(partial(self._guarded, work), name=name, group=name)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self.log.error("a task failed", error)
            self.say(f"{type(error).__name__}: {error}", "error", seconds=12)

    def say(self, text: str, severity: Severity = "information", *, seconds: float = 4.0) -> None:
        """Good news in the status line, the rest as a message, brief over a dialog."""
        if severity == "information":
            self.status.show_notice(text, seconds)
        else:
            if self.screen_stack and isinstance(self.screen, ModalScreen):
                seconds = min(seconds, OVER_DIALOG_S)
            self.notify(text, severity=severity, timeout=seconds, markup=False)

    def note(self, kind: str, text: str) -> None:
        """A line of the journal (operations)."""
        self.watcher.journal.add(kind, "", text)

    async def operation_ended(self, select_pid: int | None) -> None:
        """Show what it made at once (operations)."""
        await self.poll()
        for view in self.roster.live():
            if view.pid == select_pid and self.attachment.key is None:
                self.select(view.key)
        self.verbs.finish_leaving()

    async def take_over(self, old: SandboxView, new: Sandbox) -> None:
        """`new` runs in the place of `old`, which is about to end: its pane, marks and keys."""
        await self.poll()
        view = next((each for each in self.roster.live() if each.pid == new.pid), None)
        if view is None or not self.grid.is_attached:
            return
        attached, selected = self.attachment.key == old.key, self.list.selected == old.key
        for name in ("marked", "own_title", "read_only", "locked"):
            setattr(view, name, getattr(old, name))
        self.grid.workspace.succeed(old.key, view.key)
        old.dismissed, old.marked = True, False
        self.sandboxes_changed()
        if attached:
            self.attachment.attach(view)
        elif selected:
            self.select(view.key)

    def progress_changed(self) -> None:
        if (timer := self._progress_timer) is not None:
            (timer.resume if self.operations.running else timer.pause)()
        self._tick_progress()

    def _tick_progress(self) -> None:
        self._ticks += 1
        text = self.operations.summary()
        self.status.show_progress(text, self._ticks if text else 0)

    # -- selection --------------------------------------------------------------------------------

    @property
    def selected_view(self) -> SandboxView | None:
        """The selected sandbox, if the selection is on one."""
        return self.roster.sandboxes.get(self.list.selected or "")

    @property
    def selected_node(self) -> Node | None:
        return self.list.selected_node

    def select(self, key: str | None) -> None:
        """Select a sandbox or snapshot; its pane comes to the front."""
        self.list.select(key)
        if (view := self.selected_view) is not None:
            attention.looked_at(view)
        self._show_panes()
        self.show_selected()

    def _show_panes(self) -> None:
        order = self.roster.shown()
        known = {view.key for view in order}
        for pane in self.grid.panes():
            if pane.view.key not in known:
                pane.remove()
        selected = self.list.selected
        current = selected if selected in known else self.attachment.key or self.grid.current
        self.grid.arrange_panes(order, current)
        self.attachment.frame_members()
        show_or_hide(self.grid, bool(order))
        show_or_hide(self.query_one(Welcome), not order)
        show_or_hide(self.query_one("#sidebar"), not (self.grid.zoomed and order))

    def show_selected(self) -> None:
        """Draw what depends on the selection and on the mode."""
        if not self.list.is_attached:  # the app was left meanwhile
            return
        view, mode = self.attachment.view or self.selected_view, self.mode
        self.graph.show(view)
        subject = self.copying.says or subject_for(self.roster, self.selected_node, mode)
        self.status.show(mode, subject)
        self.key_line.show(hints_for(mode, self.selected_node, self.habits.keymap))
        self.feed.painter.flush()

    @property
    def mode(self) -> str:
        """`navigate`, `attached`, `broadcast` or `copy`."""
        return "copy" if self.copying.mode is not None else self.attachment.mode

    async def on_event(self, event: events.Event) -> None:
        """An attached pane gets its keys here, in order and before everything else."""
        taken = self.copying.take(event) or self.attachment.take(event) or self._grab(event)
        if not taken and not await self._act_on(event):
            await super().on_event(event)
        if isinstance(event, events.InputEvent):
            self.tour.look()

    def _grab(self, event: events.Event) -> bool:
        """Let a screen that wants every key have it."""
        grab = getattr(self.screen_stack[-1], "grab_key", None) if self.screen_stack else None
        return grab is not None and grab(event)

    async def _act_on(self, event: events.Event) -> bool:
        """Do what a key means while navigating. Whether it means anything."""
        if not isinstance(event, events.Key) or event.is_forwarded or not self._navigating():
            return False
        if event.key == "escape" and self.tour.at is not None:
            self.tour.skip()
            return True
        action = self.habits.keymap.action_for(event.key)
        return action is not None and await self.run_action(action.run)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Our keys work unless somebody is attached, or a dialog or the command line is open."""
        return self._navigating()

    def _navigating(self) -> bool:
        return self.mode == "navigate" and len(self.screen_stack) < 2 and not self.query("#command")

    # -- keys -------------------------------------------------------------------------------------

    @cached_property
    def verbs(self) -> Verbs:
        """What keys and commands do, imported after the first paint."""
        from machinen_tui.verbs import Verbs

        return Verbs(self)

    def action_verb(self, name: str, *arguments: str | int) -> None:
        getattr(self.verbs, name)(*arguments)

    async def action_quit(self) -> None:
        """Textual's own key for leaving does what ours does."""
        self.verbs.leave()

    def action_step(self, by: int) -> None:
        self.select(self.list.step(by))

    def action_beside(self, direction: str) -> None:
        self.select(self.grid.neighbour_of(self.list.selected, direction) or self.list.selected)

    def action_cycle(self, by: int) -> None:
        keys = [view.key for view in self.roster.shown()]
        if keys:
            at = keys.index(self.list.selected) if self.list.selected in keys else -by
            self.select(keys[(at + by) % len(keys)])

    def action_open(self) -> None:
        node = self.selected_node
        if node is not None and node.sandbox is not None:
            self.attachment.attach(node.sandbox)
        elif node is not None and node.snapshot is not None:
            self.verbs.restore(node.snapshot, "")

    def action_scroll_pane(self, pages: int) -> None:
        if pane := self.grid.pane(self.list.selected):
            pane.scroll_back(pages * pane.size.height // 2)

    async def action_command(self) -> None:
        from machinen_tui.widgets.command_line import CommandLine

        if not self.query(CommandLine):
            line = CommandLine(self.roster)
            await self.mount(line, before="#status")
            line.take_keys()  # at once: the next key may be here already

    async def close_command(self) -> None:
        await self.query("#command").remove()
        self.list.focus()

    # -- messages ---------------------------------------------------------------------------------

    async def on_command_closed(self, message: CommandClosed) -> None:
        await self.close_command()

    async def on_command_entered(self, message: CommandEntered) -> None:
        await self.close_command()
        self._run(message.line)

    def on_text_taken(self, message: TextTaken) -> None:
        self.copying.copy_text(message.text)

    def on_paste_wanted(self, message: PasteWanted) -> None:
        self.clipboard_door.paste()

    def on_pane_clicked(self, message: PaneClicked) -> None:
        view = self.roster.sandboxes.get(message.key)
        if view is not None and (self.list.selected == message.key or self.attachment.key):
            self.attachment.attach(view)
        else:
            self.select(message.key)

    def on_title_double_clicked(self, message: TitleDoubleClicked) -> None:
        self.verbs.zoom()

    def on_key_chosen(self, message: KeyChosen) -> None:
        if self.attachment.key is None or self.copying.key is not None:
            self.simulate_key(message.key)
        elif message.key != "Shift-PgUp":
            self.attachment.leave()

    def on_node_chosen(self, message: NodeChosen) -> None:
        self.copying.leave()
        self.attachment.leave()
        self.select(message.key)
        if message.open:
            self.action_open()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: our commands, on the selected sandbox."""
        from machinen_tui.commands import COMMANDS

        for command in COMMANDS:
            yield SystemCommand(command.name, command.help, lambda c=command: self._choose(c.name))

    def _choose(self, command: str) -> None:
        self.tour.noticed("chosen")
        self._run(command)

    def _run(self, line: str) -> None:
        """Do what a line of the command line says."""
        from machinen_tui.commands import CommandError, run_line

        try:
            run_line(self.verbs, line)
        except CommandError as error:
            self.say(str(error), "warning")
