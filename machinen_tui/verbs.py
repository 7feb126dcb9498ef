"""What keys, commands and the palette do, in one place: each verb finds its sandbox, asks what it
must, and starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_tui.family_verbs import FamilyVerbs
from machinen_tui.habit_verbs import HabitVerbs
from machinen_tui.text_verbs import TextVerbs
from machinen_tui.typing_verbs import TypingVerbs
from machinen_tui.wanted import NewSandbox, WantedFork, WantedRestore, WantedSnapshot
from machinen_tui.watch_verbs import WatchVerbs

if TYPE_CHECKING:
    from machinen_tui.app import MachinenApp
    from machinen_tui.gateway import SnapshotInfo
    from machinen_tui.roster import SandboxView


class Verbs(FamilyVerbs, HabitVerbs, WatchVerbs, TypingVerbs, TextVerbs):
    """The verbs of one application; `layout_verbs` arranges, `screen_verbs` opens screens,
    `typing_verbs` guards what is typed, `text_verbs` copies and searches, `family_verbs` is about
    lineage, `habit_verbs` about the application, `watch_verbs` only looks."""

    def __init__(self, app: MachinenApp) -> None:
        super().__init__(app)
        self.leaving = False

    # -- on a sandbox that is named ---------------------------------------------------------------

    def find(self, name: str | None) -> SandboxView | None:
        """The live sandbox of that name, or the selected one."""
        return self._app.roster.by_name(name) if name else self._app.selected_view

    def attach_to(self, view: SandboxView) -> None:
        self._app.attachment.attach(view)

    def new(self, name: str, command: str) -> None:
        cmd = ("/bin/sh", "-c", command) if command else ()
        self._app.operations.boot(NewSandbox(name=name, cmd=cmd))

    def fork(self, view: SandboxView, count: int, name: str) -> None:
        self._app.operations.fork(view, WantedFork(count=count, name=name))

    def snapshot(self, view: SandboxView) -> None:
        self._app.operations.snapshot(view, WantedSnapshot())

    def restore(self, info: SnapshotInfo, name: str) -> None:
        self._app.operations.restore(WantedRestore(bundle=info.path, name=name))

    def pause_or_resume(self, view: SandboxView) -> None:
        self._app.operations.pause_or_resume(view)

    def ask_to_stop(self, view: SandboxView) -> None:
        """Power off after a yes; what has ended is dismissed without asking."""
        from machinen_tui.widgets.dialogs import ConfirmDialog

        if view.gone:
            self._app.roster.dismiss(view.key)
            self._app.sandboxes_changed()
            return
        text = f"{view.name} powers off; what it holds in memory is lost.\n(s saves it first)"
        dialog = ConfirmDialog(f"stop {view.name}?", text)
        self._app.push_screen(dialog, lambda yes: self._app.operations.stop(view) if yes else None)

    def toggle_mark(self, view: SandboxView) -> None:
        view.marked = not view.marked and not view.gone
        self._app.sandboxes_changed()

    # -- on the selection -------------------------------------------------------------------------

    def fork_one(self) -> None:
        if (view := self.selected_live()) is not None:
            self.fork(view, 1, "")

    def snapshot_selected(self) -> None:
        if (view := self.selected_live()) is not None:
            self.snapshot(view)

    def restore_selected(self) -> None:
        """A snapshot node is restored; a sandbox offers its snapshots."""
        node = self._app.selected_node
        if node is not None and node.snapshot is not None:
            self.restore(node.snapshot, "")
            return
        self.choose_snapshot()

    def choose_snapshot(self) -> None:
        from machinen_tui.widgets.dialogs import SnapshotDialog

        roster, view = self._app.roster, self._app.selected_view
        offered = (roster.snapshots_of(view) if view else []) or list(reversed(roster.snapshots))
        if not offered:
            self._app.say("there is no snapshot yet; s makes one", "warning")
            return

        def accepted(info: SnapshotInfo | None) -> None:
            if info is not None:
                self.restore(info, "")

        self._app.push_screen(SnapshotDialog(offered), accepted)

    def pause_selected(self) -> None:
        if (view := self.selected_live()) is not None:
            self.pause_or_resume(view)

    def stop_selected(self) -> None:
        if (view := self.selected_any()) is not None:
            self.ask_to_stop(view)

    def dismiss_ended(self) -> None:
        """Forget every sandbox that ended."""
        for key in list(self._app.roster.sandboxes):
            self._app.roster.dismiss(key)
        self._app.sandboxes_changed()

    def mark_selected(self) -> None:
        if (view := self.selected_live()) is not None:
            self.toggle_mark(view)

    def broadcast(self) -> None:
        """Attach to the selected or first marked sandbox and type into all marked ones."""
        marked = self._app.attachment.members()
        if not marked:
            self._app.say("mark sandboxes with space first", "warning")
            return
        selected = self._app.selected_view
        self._app.attachment.attach(selected if selected in marked else marked[0], broadcast=True)

    # -- on the application -----------------------------------------------------------------------

    def show_list(self) -> None:
        self._app.grid.zoomed = False
        self._app.sandboxes_changed()

    def zoom(self) -> None:
        self._app.grid.zoomed = not self._app.grid.zoomed
        self._app.sandboxes_changed()

    def grid(self) -> None:
        self._app.grid.single = not self._app.grid.single
        self._app.sandboxes_changed()

    def leave(self) -> None:
        """Quit; sandboxes are detached and run on. What is under way is finished first, unless
        asked twice."""
        under_way = self._app.operations.summary()
        if under_way and not self.leaving:
            self.leaving = True
            self._app.say(f"leaving after: {under_way}  (q again leaves now)", "warning")
            return
        ending = self._app.operations.ending_with_us
        names = [view.name for view in self._app.roster.live() if view.pid not in ending]
        message = (
            f"still running: {', '.join(names)}  (machinen ls, machinen stop NAME)"
            if names
            else None
        )
        self._app.exit(message=message)

    def finish_leaving(self) -> None:
        """Quit if that was asked for and nothing is under way any more."""
        if self.leaving and not self._app.operations.running:
            self.leave()
