"""Verbs about families: the tree of forks and snapshots, and what is done to its members."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from machinen_runtime.errors import MachinenError
from machinen_tui.fork_verbs import ForkVerbs
from machinen_tui.forms import Field, Form
from machinen_tui.lineage_rows import moment as when

if TYPE_CHECKING:
    from machinen_tui.gateway import SnapshotInfo
    from machinen_tui.lineage_rows import Member
    from machinen_tui.roster import SandboxView


class FamilyVerbs(ForkVerbs):
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

    # -- rewinding --------------------------------------------------------------------------------

    def rewind_dialog(self) -> None:
        """Which of its family's snapshots shall take the place of the selected sandbox."""
        from machinen_tui.widgets.pick_dialog import Choice, PickDialog

        if (view := self.selected_live()) is None:
            return
        infos = list(reversed(self._snapshots_for(view)))
        if not infos:
            self._app.say(f"{view.name} has no snapshot yet; s makes one", "warning")
            return
        choices = [Choice(str(info.path), f"{when(info.taken_at_ms)}  {described(info)}")
                   for info in infos]  # fmt: skip

        def accepted(path: str | None) -> None:
            if path is not None:
                self._app.operations.rewind(view, Path(path))

        self._app.push_screen(PickDialog(f"rewind {view.name} to", choices, "rewinds"), accepted)

    def rewind_back(self) -> None:
        """Undo the last rewind of the selected sandbox."""
        if (view := self.selected_live()) is not None:
            self._app.operations.rewind(view, None)

    def rewind_to(self, view: SandboxView, snapshot: str) -> None:
        """The same without a dialog; no name: back."""
        if not snapshot:
            self._app.operations.rewind(view, None)
        elif (info := self.find_snapshot(snapshot)) is not None:
            self._app.operations.rewind(view, info.path)
        else:
            self._app.say(f"no snapshot is named {snapshot}", "warning")

    def find_snapshot(self, name: str) -> SnapshotInfo | None:
        """The snapshot in the directory of that name, or of that label."""
        infos = self._app.roster.snapshots
        found = [i for i in infos if i.path.name == name] or [i for i in infos
                                                              if i.notes.label == name]  # fmt: skip
        return found[-1] if found else None

    def _snapshots_for(self, view: SandboxView) -> list[SnapshotInfo]:
        """Snapshots of a sandbox and of its family, oldest first."""
        from machinen_runtime.lineage import entry_key, root_key, vm_key

        def root_of(info: SnapshotInfo) -> str:
            first = info.ancestry[0] if info.ancestry else None
            if first is not None:
                return vm_key(first.pid, first.started_at)
            return vm_key(info.source_pid or 0, info.source_started_at or 0)

        roots = {root_key(view.entry), entry_key(view.entry)}
        return [info for info in self._app.roster.snapshots
                if root_of(info) in roots or info.name == view.name]  # fmt: skip

    def _rewind_source_to(self, info: SnapshotInfo) -> None:
        """Put a snapshot in the place of the sandbox of its source's name, after a yes."""
        from machinen_tui.widgets.dialogs import ConfirmDialog

        view = self._app.roster.by_name(info.name)
        if view is None:
            self._app.say(f"{info.name} does not run; r restores the snapshot", "warning")
            return
        text = (f"{view.name} goes on from {when(info.taken_at_ms)}, {described(info)}.\n"
                "What runs now is kept as a snapshot; U goes back to it.")  # fmt: skip
        dialog = ConfirmDialog(f"rewind {view.name}?", text)

        def answered(yes: bool | None) -> None:
            if yes:
                self._app.operations.rewind(view, info.path)

        self._app.push_screen(dialog, answered)

    # -- inside -----------------------------------------------------------------------------------

    def _act_on_snapshot(self, verb: str, info: SnapshotInfo) -> None:
        match verb:
            case "fork" | "restore":
                self.restore_with_options(info)
            case "describe" | "rename":
                self.ask(describe_form(info), lambda said, _: self._note(info, **said))
            case "pin":
                self._note(info, pinned=not info.notes.pinned)
            case "rewind":
                self._rewind_source_to(info)
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
            case "rewind":
                self.rewind_dialog()
            case "rename":
                self.rename()
            case "promote":
                self.promote()
            case "compare":
                self.compare()
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


def described(info: SnapshotInfo) -> str:
    """A snapshot in few words: its label, or the name of its directory."""
    pin = " · pinned" if info.notes.pinned else ""
    return (info.notes.label or info.path.name) + pin


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
