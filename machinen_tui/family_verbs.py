"""Verbs about families: the tree of forks and snapshots, and what is done to its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from machinen_runtime.errors import MachinenError
from machinen_tui.forms import Field, Form
from machinen_tui.screen_verbs import ScreenVerbs

if TYPE_CHECKING:
    from machinen_tui.gateway import SnapshotInfo
    from machinen_tui.lineage_rows import Member
    from machinen_tui.roster import SandboxView


class FamilyVerbs(ScreenVerbs):
    """The part of `Verbs` about who comes from whom."""

    def lineage(self) -> None:
        """The tree of every sandbox and snapshot."""
        from machinen_tui.widgets.lineage_screen import LineageScreen

        node = self._app.selected_node
        chosen = node.key if node is not None else None
        if node is not None and node.snapshot is not None:
            from machinen_runtime.lineage import snapshot_key

            chosen = snapshot_key(node.snapshot.path)
        self._app.push_screen(LineageScreen(self, chosen))

    # -- what the screen calls --------------------------------------------------------------------

    def family(self) -> list[Member]:
        """Everybody, depth first."""
        from machinen_runtime.lineage import family_tree

        entries = [view.entry for view in self._app.roster.sandboxes.values() if not view.gone]
        return family_tree(entries, self._app.roster.snapshots)

    def view_of(self, node: Member) -> SandboxView | None:
        """The sandbox that a member is, if it runs."""
        return self._app.roster.sandboxes.get(node.key) if node.kind == "running" else None

    def open_member(self, node: Member) -> None:
        """Go to the pane of a sandbox; restore a snapshot."""
        if node.snapshot is not None:
            self.restore_with_options(node.snapshot)
        elif (view := self.view_of(node)) is not None:
            self._app.screen.dismiss(None)
            self._app.select(view.key)

    def show_members(self, node: Member, members: Sequence[Member]) -> None:
        """The panes of those who run, on a tab of their own."""
        views = [view for each in members if (view := self.view_of(each)) is not None]
        grid = self._app.grid
        if not views:
            self._app.say("nobody below it runs", "warning")
        elif not grid.workspace.break_out(views[0].key, node.name):
            self._app.say("there are too many tabs; T closes one", "warning")
        else:
            for view in views[1:]:
                grid.workspace.join(view.key, grid.workspace.active, grid.area)
            self._app.screen.dismiss(None)
            self._app.select(views[0].key)

    def act_on_member(self, verb: str, node: Member) -> None:
        """One of the screen's keys."""
        if node.snapshot is not None:
            self._act_on_snapshot(verb, node.snapshot)
        elif (view := self.view_of(node)) is not None:
            self._act_on_sandbox(verb, view)
        else:
            self._app.say(f"{node.name} runs no more; its snapshots can be restored", "warning")

    # -- inside -----------------------------------------------------------------------------------

    def _act_on_snapshot(self, verb: str, info: SnapshotInfo) -> None:
        match verb:
            case "fork" | "restore":
                self.restore_with_options(info)
            case "describe":
                self.ask(describe_form(info), lambda said, _: self._note(info, **said))
            case "pin":
                self._note(info, pinned=not info.notes.pinned)
            case "remove":
                self.ask_to_delete(info)
            case _:
                self._app.say("that is for a sandbox that runs", "warning")

    def _act_on_sandbox(self, verb: str, view: SandboxView) -> None:
        self._app.select(view.key)
        match verb:
            case "fork":
                self.fork_dialog()
            case "restore":
                self._app.say("choose one of its snapshots; s in the list makes one", "warning")
            case "rename":
                self.rename()
            case "mark":
                view.marked = not view.marked
                self._app.sandboxes_changed()
            case "remove":
                self._ask_to_stop(view)
            case _:
                self._app.say("that is for a snapshot", "warning")

    def _ask_to_stop(self, view: SandboxView) -> None:
        from machinen_tui.widgets.dialogs import ConfirmDialog

        text = f"{view.name} powers off; what it holds in memory is lost."
        dialog = ConfirmDialog(f"stop {view.name}?", text)
        self._app.push_screen(dialog, lambda yes: self._app.operations.stop(view) if yes else None)

    def _note(self, info: SnapshotInfo, **changes: object) -> None:
        try:
            self._app.gateway.change_notes(info.path, **changes)
        except MachinenError as error:
            self._app.say(f"{error.code}: {error}", "error", seconds=12)
        self._app.roster.snapshots = self._app.gateway.snapshots()


def describe_form(info: SnapshotInfo) -> Form[dict[str, str]]:
    """A label and a note for a snapshot."""
    from machinen_runtime.bundle_notes import BundleNotes

    fields = (
        Field(name="label", label="label", value=info.notes.label, placeholder="a few words",
              hint="stands in place of the directory's name",
              check=lambda text: BundleNotes(label=text)),
        Field(name="note", label="note", value=info.notes.note, placeholder="one line",
              hint="both lie in the snapshot and travel with it",
              check=lambda text: BundleNotes(note=text)),
    )  # fmt: skip
    return Form(
        title=f"label {info.path.name}",
        accept="keep",
        fields=fields,
        build=lambda values: {**values},
    )
