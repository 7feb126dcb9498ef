"""Verbs that open a screen: each asks with a form or shows something, and then calls operations.

Screens are imported when first asked for: the first paint needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from machinen_runtime.errors import MachinenError
from machinen_tui import remembered
from machinen_tui.operations import handle_of

if TYPE_CHECKING:
    from machinen_runtime.option_types import PortForward
    from machinen_tui.app import MachinenApp
    from machinen_tui.forms import Form
    from machinen_tui.gateway import SnapshotInfo
    from machinen_tui.image_log import ImageBuild
    from machinen_tui.roster import SandboxView
    from machinen_tui.wanted import NewSandbox, WantedImage, WantedRestore

Answer = TypeVar("Answer")

BOOT_KEY, IMAGE_KEY, PLACES_KEY = "boot", "image", "bundle_places"
"""What is kept between two runs, see `remembered`."""


class ScreenVerbs:
    """The part of `Verbs` that asks and shows."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self._build: ImageBuild | None = None
        """The last build of an image."""

    # -- forms ------------------------------------------------------------------------------------

    def new_dialog(self) -> None:
        """Boot with every option, the last answers filled in."""
        from machinen_tui.forms import with_values
        from machinen_tui.sandbox_forms import boot_form

        blank = boot_form(self._names())
        form = with_values(blank, self._usable_boot_values())
        self.ask(form, self._boot, blank=blank.defaults())

    def _boot(self, wanted: NewSandbox, values: dict[str, str]) -> None:
        kept = {name: text for name, text in values.items() if name not in remembered.NEVER_KEPT}
        self._remember(BOOT_KEY, kept)
        self._app.operations.boot(wanted)

    def _usable_boot_values(self) -> dict[str, str]:
        """The last answers without ports that a running sandbox has."""
        from machinen_tui import form_fields as read

        values = remembered.texts(self._app.gateway.recall().get(BOOT_KEY))
        used = {each.host_port for view in self._app.roster.live() for each in view.ports}
        try:
            free = [each for each in read.ports(values.get("ports", ""))
                    if each.host_port not in used]  # fmt: skip
        except (ValueError, MachinenError):
            free = []  # the file was edited
        return {**values, "ports": read.spelled_ports(free)}

    def fork_dialog(self) -> None:
        """Siblings of the selected sandbox."""
        from machinen_tui.sandbox_forms import fork_form

        if (view := self.selected_live()) is not None:
            keep = str(self._app.gateway.new_directory(f"{view.name}-fork"))
            form = fork_form(view.name, self._names(), keep)
            self.ask(form, lambda wanted, _: self._app.operations.fork(view, wanted))

    def snapshot_dialog(self) -> None:
        """A bundle of the selected sandbox, with every option."""
        from machinen_tui.sandbox_forms import snapshot_form

        if (view := self.selected_live()) is not None:
            place = str(self._app.gateway.new_directory(view.name))
            form = snapshot_form(view.name, place)
            self.ask(form, lambda wanted, _: self._app.operations.snapshot(view, wanted))

    def restore_with_options(self, info: SnapshotInfo) -> None:
        """A sandbox from a bundle, with another name, ports, mounts."""
        from machinen_tui.sandbox_forms import restore_form
        from machinen_tui.widgets.bundle_browser import BundleBrowser

        form = restore_form(info.path, info.name, self._names(), info.live_mounts)

        def accepted(wanted: WantedRestore, _: dict[str, str]) -> None:
            if isinstance(self._app.screen, BundleBrowser):
                self._app.screen.dismiss(None)
            self._app.operations.restore(wanted)

        self.ask(form, accepted)

    def rename(self) -> None:
        """Another name for the selected sandbox."""
        from machinen_tui.sandbox_forms import rename_form

        if (view := self.selected_live()) is not None:
            form = rename_form(view.name, self._names())
            self.ask(form, lambda name, _: self._app.operations.rename(view, name))

    def rename_to(self, view: SandboxView, name: str) -> None:
        """The same without a dialog; the runtime says what is wrong with the name."""
        self._app.operations.rename(view, name)

    def copy_files(self) -> None:
        """Copy a directory into the selected sandbox or out of it."""
        from machinen_tui.sandbox_forms import copy_form

        if (view := self.selected_live()) is not None:
            self.ask(
                copy_form(view.name), lambda wanted, _: self._app.operations.copy(view, wanted)
            )

    def secrets(self) -> None:
        """Send secrets to the selected sandbox."""
        from machinen_tui.widgets.secrets_dialog import SecretsDialog

        if (view := self.selected_live()) is None:
            return

        def accepted(pairs: dict[str, str] | None) -> None:
            if pairs:
                self._app.operations.send_secrets(view, pairs)

        self._app.push_screen(SecretsDialog(view.name), accepted)

    def ask(
        self,
        form: Form[Answer],
        accepted: Callable[[Answer, dict[str, str]], None],
        blank: dict[str, str] | None = None,
    ) -> None:
        """Show `form`; hand its record and what was typed to `accepted`."""
        from machinen_tui.widgets.form_dialog import FormDialog

        dialog = FormDialog(form, blank)

        def answered(answer: Answer | None) -> None:
            if answer is not None:
                accepted(answer, dialog.answered)

        self._app.push_screen(dialog, answered)

    # -- things to look at ------------------------------------------------------------------------

    def details(self) -> None:
        """Everything about the selected sandbox."""
        from machinen_tui.widgets.details_screen import DetailsScreen

        if (view := self.selected_any()) is not None:
            self._app.push_screen(
                DetailsScreen(view), lambda verb: getattr(self, verb)() if verb else None
            )

    def logs(self) -> None:
        """The console of the selected sandbox, running or ended."""
        from machinen_tui.widgets.log_screen import LogScreen

        if (view := self.selected_any()) is None:
            return
        try:
            console = self._app.gateway.console(view.entry)
        except MachinenError as error:
            self._app.say(str(error), "warning")
            return
        self._app.push_screen(LogScreen(view.name, console))

    def ports(self) -> None:
        """The ports of the selected sandbox."""
        from machinen_tui.widgets.ports_screen import PortsScreen

        if (view := self.selected_live()) is not None:
            if view.handle is None:
                self._app.say(f"{view.name} cannot be reached; it is {view.shown_state}", "warning")
            else:
                self._app.push_screen(PortsScreen(view, self))

    def select(self, view: SandboxView) -> None:
        """Select it: screens are about the selection."""
        self._app.select(view.key)

    def open_port(self, view: SandboxView, text: str) -> None:
        """Lead the port `text` names into `view`, without a screen."""
        from machinen_tui.form_fields import wanted_port

        try:
            wanted = wanted_port(text)
        except (ValueError, MachinenError) as error:
            self._app.say(str(error), "warning")
            return
        self._app.operations.add_port(view, wanted)

    async def add_port(self, view: SandboxView, wanted: PortForward | int) -> PortForward:
        """Lead a port into `view` (the ports screen)."""
        added = await self._app.gateway.add_port(handle_of(view), wanted)
        await self._app.poll()
        return added

    async def remove_port(self, view: SandboxView, forward: PortForward) -> None:
        """Stop a forward of `view` (the ports screen)."""
        await self._app.gateway.remove_port(handle_of(view), forward)
        await self._app.poll()

    def copy_text(self, text: str) -> None:
        """To the clipboard by OSC 52, as the user asked: what guests send never goes there."""
        self._app.copy_to_clipboard(text)

    # -- images -----------------------------------------------------------------------------------

    def build_image(self) -> None:
        """The build that runs, or else the form for one."""
        if self._build is not None and self._build.state == "running":
            self._show_build(self._build)
        else:
            self._ask_for_image()

    def _ask_for_image(self) -> None:
        from machinen_tui.forms import with_values
        from machinen_tui.image_forms import provision_form
        from machinen_tui.image_log import ImageBuild

        def accepted(wanted: WantedImage, values: dict[str, str]) -> None:
            kept = {n: text for n, text in values.items() if n not in remembered.NEVER_KEPT}
            self._remember(IMAGE_KEY, kept)
            self._build = ImageBuild(wanted)
            self._app.operations.build(self._build)
            self._show_build(self._build)

        blank = provision_form(Path.home())
        earlier = remembered.texts(self._app.gateway.recall().get(IMAGE_KEY))
        self.ask(with_values(blank, earlier), accepted, blank=blank.defaults())

    def _show_build(self, build: ImageBuild) -> None:
        from machinen_tui.widgets.build_screen import BuildScreen

        def answered(answer: str | None) -> None:
            if answer == "boot":
                earlier = remembered.texts(self._app.gateway.recall().get(BOOT_KEY))
                values = {**earlier, "image": str(build.wanted.out), "cmd": ""}
                self._remember(BOOT_KEY, values)
                self.new_dialog()
            elif answer == "again":
                self._ask_for_image()

        self._app.push_screen(BuildScreen(build), answered)

    # -- bundles ----------------------------------------------------------------------------------

    def bundles(self) -> None:
        """Every bundle one has."""
        from machinen_tui.widgets.bundle_browser import BundleBrowser

        self._app.push_screen(BundleBrowser(self))

    def list_bundles(self) -> list[SnapshotInfo]:
        """Those in our directory and in the places that were added (the browser)."""
        places = remembered.paths(self._app.gateway.recall().get(PLACES_KEY))
        return self._app.gateway.bundles(places)

    def add_place(self, path: Path) -> None:
        """Look there too, from now on (the browser)."""
        places = remembered.paths(self._app.gateway.recall().get(PLACES_KEY))
        if path not in places:
            self._remember(PLACES_KEY, [str(each) for each in (*places, path)])

    def bundle_size(self, bundle: Path) -> int:
        """Bytes on disk (the browser)."""
        return self._app.gateway.bundle_size(bundle)

    def check_bundle(self, bundle: Path, *, read_all: bool) -> None:
        """MachinenError if it cannot be restored here (the browser)."""
        self._app.gateway.check_bundle(bundle, read_all=read_all)

    def ask_to_delete(self, info: SnapshotInfo) -> None:
        """Remove a bundle after a yes."""
        from machinen_tui.widgets.bundle_browser import BundleBrowser
        from machinen_tui.widgets.dialogs import ConfirmDialog

        pinned = info.notes.pinned
        users = [view.name for view in self._app.roster.live()
                 if view.forked_from == str(info.path)]  # fmt: skip
        text = f"{info.path}\nis removed for good." + ("\nIt is pinned." if pinned else "")
        if users:
            text += f"\n{', '.join(users)} came from it and may still read its memory image."

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                self._app.gateway.delete_bundle(info.path, force=pinned)
                self._app.say(f"{info.path.name} is removed")
            except MachinenError as error:
                self._app.say(f"{error.code}: {error}", "error", seconds=12)
            self._app.roster.snapshots = self._app.gateway.snapshots()
            if isinstance(self._app.screen, BundleBrowser):
                self._app.screen.show_bundles()

        self._app.push_screen(
            ConfirmDialog(f"delete this snapshot of {info.name}?", text), answered
        )

    # -- inside -----------------------------------------------------------------------------------

    def selected_live(self) -> SandboxView | None:
        """The selected sandbox if it runs; says so if there is none."""
        view = self.selected_any()
        if view is not None and view.gone:
            self._app.say(f"{view.name} has ended; x dismisses it", "warning")
            return None
        return view

    def selected_any(self) -> SandboxView | None:
        """The selected sandbox, ended or not; says so if there is none."""
        view = self._app.selected_view
        if view is None:
            self._app.say("select a sandbox first; n boots one", "warning")
        return view

    def _names(self) -> set[str]:
        return {view.name for view in self._app.roster.live()}

    def _remember(self, key: str, value: Any) -> None:
        self._app.gateway.remember({**self._app.gateway.recall(), key: value})
