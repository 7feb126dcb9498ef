"""The ports of one sandbox: add, remove, copy the address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Protocol

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from machinen_runtime.errors import MachinenError
from machinen_runtime.option_types import PortForward
from machinen_tui.form_fields import address_of, wanted_port
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain

LOOK_S = 0.5


class PortVerbs(Protocol):
    """What the screen calls."""

    async def add_port(self, view: SandboxView, wanted: PortForward | int) -> PortForward: ...
    async def remove_port(self, view: SandboxView, forward: PortForward) -> None: ...
    def copy_text(self, text: str) -> None: ...


class PortsScreen(Dialog[None]):
    """A list of what listens, and a line for the next one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("delete,x", "remove", show=False),
        Binding("c", "copy", show=False),
        Binding("down", "to_list", show=False),
    ]

    def __init__(self, view: SandboxView, verbs: PortVerbs) -> None:
        super().__init__()
        self._view, self._verbs = view, verbs
        self._shown: tuple[PortForward, ...] | None = None
        self._busy = False

    def title_text(self) -> str:
        return plain(f"ports of {self._view.name}")

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter add"), ("tab", "tab list"), ("c", "c copy"),
                ("x", "x remove"), ("escape", "esc close"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield OptionList(id="ports", compact=True)
        yield Input(placeholder="add HOST:GUEST, or :GUEST for any free port", id="port",
                    compact=True)  # fmt: skip

    def on_mount(self) -> None:
        self._show()
        self.query_one("#port").focus()
        self.set_interval(LOOK_S, self._show)

    def _show(self) -> None:
        """Draw the forwards anew if they changed, the cursor where it was."""
        if self._view.ports == self._shown:
            return
        self._shown = self._view.ports
        rows = self.query_one(OptionList)
        at = rows.highlighted
        rows.clear_options()
        for forward in self._shown:
            rows.add_option(Option(plain(_row(forward))))
        if not self._shown:
            rows.add_option(Option("no port leads into it yet", disabled=True))
        elif at is not None:
            rows.highlighted = min(at, len(self._shown) - 1)

    @on(Input.Changed, "#port")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if not event.value.strip():
            return  # emptied after it was added; what was said about that stays
        try:
            wanted_port(event.value.strip())
            self.say("")
        except (ValueError, MachinenError) as error:
            self.say(str(error), wrong=True)

    @on(Input.Submitted, "#port")
    def _add(self, event: Input.Submitted) -> None:
        event.stop()
        try:
            wanted = wanted_port(event.value.strip())
        except (ValueError, MachinenError) as error:
            self.say(str(error), wrong=True)
            return

        async def work() -> str:
            forward = await self._verbs.add_port(self._view, wanted)
            self.query_one("#port", Input).value = ""
            return f"{address_of(forward)} leads to port {forward.guest_port}"

        self._run(work)

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_copy()

    def action_copy(self) -> None:
        """The address of the highlighted forward goes to the clipboard of the terminal."""
        forward = self._highlighted()
        if forward is not None:
            self._verbs.copy_text(address_of(forward))
            self.say(f"{address_of(forward)} is on the clipboard, if the terminal takes OSC 52")

    def action_remove(self) -> None:
        forward = self._highlighted()
        if forward is None:
            return

        async def work() -> str:
            await self._verbs.remove_port(self._view, forward)
            return f"{address_of(forward)} is closed"

        self._run(work)

    def action_to_list(self) -> None:
        self.query_one(OptionList).focus()

    def _highlighted(self) -> PortForward | None:
        rows, ports = self.query_one(OptionList), self._shown or ()
        if not ports:
            return None
        if rows.highlighted is None and len(ports) > 1:
            self.say("choose one in the list first (tab)", wrong=True)
            return None
        return ports[min(rows.highlighted or 0, len(ports) - 1)]

    def _run(self, work: Callable[[], Awaitable[str]]) -> None:
        """One request at a time; what the runtime says stands at the bottom."""
        if self._busy:
            return
        self._busy = True

        async def guarded() -> None:
            try:
                text, wrong = await work(), False
            except MachinenError as error:
                text, wrong = f"{error.code}: {error}", True
            finally:
                self._busy = False
            if self.is_attached:
                self._show()
                self.say(text, wrong=wrong)

        self.say("…")
        self.run_worker(guarded(), exit_on_error=False)


def _row(forward: PortForward) -> str:
    listens = f"{forward.host_addr}:{forward.host_port}"
    return f"{listens:<24} leads to port {forward.guest_port}"
