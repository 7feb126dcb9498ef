"""Verbs about several forks at once: compare two, run one command in many, promote one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

from machinen_runtime.errors import MachinenError
from machinen_tui.screen_verbs import ScreenVerbs

if TYPE_CHECKING:
    from machinen_runtime.compare import VmDifference
    from machinen_tui.roster import SandboxView


class ForkVerbs(ScreenVerbs):
    """The part of `Verbs` about forks beside each other."""

    # -- two of them ------------------------------------------------------------------------------

    def compare(self) -> None:
        """Two marked sandboxes, or the selected one and one that is chosen."""
        marked = [view for view in self._app.roster.live() if view.marked]
        if len(marked) == 2:
            self.compare_views(marked[0], marked[1])
        elif (view := self.selected_live()) is not None:
            self._choose_other(view)

    def compare_named(self, a: SandboxView, b: SandboxView) -> None:
        """These two (the command line)."""
        self.compare_views(a, b)

    def _choose_other(self, view: SandboxView) -> None:
        from machinen_runtime.lineage import relatives
        from machinen_tui.widgets.pick_dialog import Choice, PickDialog

        others = [each for each in self._app.roster.live() if each is not view]
        family = {each.pid for each in relatives(view.entry, [each.entry for each in others])}
        others.sort(key=lambda each: each.pid not in family)
        if not others:
            self._app.say(f"there is nothing to compare {view.name} with; f forks it", "warning")
            return
        choices = [Choice(each.key, each.name + ("" if each.pid in family else "  (not related)"))
                   for each in others]  # fmt: skip

        def accepted(key: str | None) -> None:
            other = self._app.roster.sandboxes.get(key or "")
            if other is not None:
                self.compare_views(view, other)

        self._app.push_screen(
            PickDialog(f"compare {view.name} with", choices, "compares"), accepted
        )

    def compare_views(self, a: SandboxView, b: SandboxView) -> None:
        """Show two sandboxes beside each other, and what differs."""
        from machinen_tui.compare_rows import text_of
        from machinen_tui.journal import TextTail
        from machinen_tui.widgets.compare_screen import CompareScreen, Comparing
        from machinen_tui.widgets.log_screen import LogScreen

        async def compare() -> VmDifference:
            return await self._app.gateway.compare(a.entry, b.entry)

        def closed(_: None) -> None:
            for view in (a, b):
                self._give_size_back(view)

        async def compare_file(name: bytes) -> None:
            found = await self._app.gateway.compare_file(a.entry, b.entry, name)
            text = TextTail(text_of(found), f"{found.path}   - {a.name}   + {b.name}")
            self._app.push_screen(LogScreen("", text, from_top=True))

        doors = Comparing(compare, compare_file, self._send_to)
        self._app.push_screen(CompareScreen(a, b, doors), closed)

    # -- many of them -----------------------------------------------------------------------------

    def run_in_many(self, command: str = "") -> None:
        """One command in all marked sandboxes, or in the selected one and its family."""
        from machinen_tui.widgets.run_screen import OnOutcome, RunScreen

        views = self._several()
        if not views:
            self._app.say("mark sandboxes with space first", "warning")
            return

        async def run(typed: str, on_done: OnOutcome) -> None:
            await self._app.gateway.run_in_each([view.entry for view in views], typed, on_done)

        names = [view.name for view in views]
        self._app.push_screen(RunScreen(names, run, self._show_report, command))

    def _several(self) -> list[SandboxView]:
        from machinen_runtime.lineage import relatives

        live = self._app.roster.live()
        if marked := [view for view in live if view.marked]:
            return marked
        selected = self._app.selected_view
        if selected is None or selected.gone:
            return []
        family = {each.pid for each in relatives(selected.entry, [view.entry for view in live])}
        return [view for view in live if view is selected or view.pid in family]

    def _show_report(self, title: str, text: str) -> None:
        from machinen_tui.journal import TextTail
        from machinen_tui.widgets.log_screen import LogScreen

        self._app.push_screen(LogScreen(title, TextTail(text)))

    # -- one of them ------------------------------------------------------------------------------

    def promote(self) -> None:
        """Let the selected fork take its family's place, after a yes to what will happen."""
        from machinen_tui.widgets.dialogs import ConfirmDialog

        if (view := self.selected_live()) is None:
            return
        try:
            plan = self._app.gateway.plan_promotion(view.entry)
        except MachinenError as error:
            self._app.say(str(error), "warning", seconds=8)
            return
        steps = "\n".join(f"{at}. {step}" for at, step in enumerate(plan.steps(), 1))
        text = f"{steps or 'nothing changes'}\n\nIf a step fails, what follows it runs on."

        def answered(yes: bool | None) -> None:
            if yes:
                self._app.operations.promote(view, plan, self._app.roster.live())

        self._app.push_screen(ConfirmDialog(f"promote {view.name}?", text), answered)

    def _send_to(self, view: SandboxView, event: events.Event) -> None:
        """A key or a paste, as the modes of the guest want it."""
        pane = self._app.grid.pane(view.key)
        if pane is None or view.session is None or view.read_only or view.gone:
            return
        if isinstance(event, events.Key):
            view.session.type(pane.encoded(event))
        elif isinstance(event, events.Paste):
            view.session.type(pane.encoded_paste(event.text))

    def _give_size_back(self, view: SandboxView) -> None:
        pane = self._app.grid.pane(view.key)
        if pane is not None and pane.size.width and view.session is not None:
            view.session.want_size(pane.size.width, pane.size.height)
