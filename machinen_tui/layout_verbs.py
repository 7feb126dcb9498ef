"""Verbs about where panes are: tabs, splits, arrangements, floating panes, layouts by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_tui import layout_store
from machinen_tui.screen_verbs import ScreenVerbs

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView
    from machinen_tui.workspace import Workspace

LAYOUTS_KEY = "layouts"
"""Where layouts are kept, see `remembered`."""
A_FORK = "a fork"
RESIZE_CELLS = {"left": 4, "right": 4, "up": 2, "down": 2}


class LayoutVerbs(ScreenVerbs):
    """The part of `Verbs` that arranges."""

    @property
    def _space(self) -> Workspace:
        return self._app.grid.workspace

    # -- splits -----------------------------------------------------------------------------------

    def split_right(self) -> None:
        self._ask_what_beside(across=True)

    def split_below(self) -> None:
        self._ask_what_beside(across=False)

    def _ask_what_beside(self, *, across: bool) -> None:
        """Another sandbox beside the selected one, or a fork of it that is yet to be made."""
        from machinen_tui.widgets.pick_dialog import Choice, PickDialog

        if (view := self.selected_any()) is None:
            return
        others = [each for each in self._app.roster.shown() if each.key != view.key]
        choices = [] if view.gone else [Choice(A_FORK, f"a new fork of {view.name}")]
        choices += [Choice(each.key, each.name) for each in others]
        if not choices:
            self._app.say("there is nothing to put beside it", "warning")
            return
        where = "right of" if across else "below"

        def answered(key: str | None) -> None:
            if key is not None:
                self.split(view, key, across=across)

        self._app.push_screen(PickDialog(f"{where} {view.name}", choices, "put it there"), answered)

    def split(self, view: SandboxView, key: str, *, across: bool) -> None:
        """Put the sandbox of `key` beside `view`, or a new fork once it is there."""
        from machinen_tui.wanted import WantedFork

        if key == A_FORK:
            self._space.expected[view.key] = across
            self._app.operations.fork(view, WantedFork())
        elif self._space.split(view.key, key, across=across, area=self._app.grid.area):
            self._app.select(view.key)
        else:
            self._app.say("a floating pane has nothing beside it; O puts it back", "warning")

    # -- the shown tab ----------------------------------------------------------------------------

    def arrange_next(self) -> None:
        """Grid, columns, rows, one large, stacked."""
        self._app.say(f"arranged as {self._space.next_arrangement()}")
        self._app.grid.single = False
        self._app.grid.show_workspace()

    def arrange_as(self, arrangement: str) -> None:
        """One of them by name."""
        self._space.arrange(arrangement)
        self._app.grid.single = False
        self._app.grid.show_workspace()

    def even_out(self) -> None:
        """Every split shared equally."""
        from machinen_tui.layout_tree import evened

        if self._space.tab.root is not None:
            self._space.tab.root = evened(self._space.tab.root)
            self._app.grid.show_workspace()

    def float_selected(self) -> None:
        if (view := self.selected_any()) is not None:
            self._space.float(view.key, self._app.grid.area)
            self._app.grid.show_workspace()

    def swap(self, direction: str) -> None:
        """Change places with the pane in that direction; a floating pane moves."""
        view, grid = self._app.selected_view, self._app.grid
        if view is None:
            return
        floating = self._space.tab.floating
        if (place := floating.get(view.key)) is not None:
            step = {"left": (-4, 0), "right": (4, 0), "up": (0, -4), "down": (0, 4)}[direction]
            floating[view.key] = place.moved(*step)
        else:
            self._space.swap(view.key, grid.neighbour_of(view.key, direction) or view.key)
        grid.show_workspace()

    def resize(self, direction: str) -> None:
        """Move the border of the selected pane in that direction."""
        view, grid = self._app.selected_view, self._app.grid
        if view is not None and not (grid.single or grid.zoomed):
            self._space.resize(view.key, direction, RESIZE_CELLS[direction], grid.area)
            grid.show_workspace()

    # -- tabs -------------------------------------------------------------------------------------

    def new_tab(self, name: str = "") -> None:
        """A tab of its own for the selected sandbox."""
        view = self.selected_any()
        if view is not None and self._space.break_out(view.key, name[: layout_store.MAX_NAME]):
            self._app.select(view.key)

    def close_tab(self) -> None:
        """Its panes go to the tab before it; no sandbox ends."""
        if not self._space.close_tab(self._app.grid.area):
            self._app.say("this is the only tab", "warning")
        self._app.grid.show_workspace()

    def name_tab(self, name: str) -> None:
        self._space.tab.name = name[: layout_store.MAX_NAME]
        self._app.grid.show_workspace()

    def go_to_tab(self, index: int) -> None:
        """Show tab `index` (from 0)."""
        if self._space.go_to(index):
            self._select_on_tab()

    def step_tab(self, by: int) -> None:
        self._space.step(by)
        self._select_on_tab()

    def move_to_tab(self, index: int) -> None:
        """Move the selected sandbox to tab `index` (from 0)."""
        view = self.selected_any()
        if view is None:
            return
        if not self._space.join(view.key, index, self._app.grid.area):
            self._app.say(f"there is no tab {index + 1}", "warning")
        self._app.select(view.key)

    def _select_on_tab(self) -> None:
        tab = self._space.tab
        if tab.keys:
            self._app.select(tab.current if tab.current in tab.keys else tab.keys[0])

    # -- layouts by name --------------------------------------------------------------------------

    def layout_names(self) -> list[str]:
        """Of the layouts that are kept."""
        return sorted(self._layouts())

    def save_layout(self, name: str) -> None:
        """Keep tabs, splits and floating panes under a name."""
        kept, name = self._layouts(), name.strip()[: layout_store.MAX_NAME]
        if not name:
            self._app.say("a layout needs a name", "warning")
            return
        if name not in kept and len(kept) >= layout_store.MAX_LAYOUTS:
            self._app.say(f"{len(kept)} layouts are kept; delete one first", "warning")
            return
        names = {view.key: view.name for view in self._app.roster.live()}
        self._remember(LAYOUTS_KEY, {**kept, name: layout_store.spell(self._space, names)})
        self._app.say(f"layout {name} is kept")

    def load_layout(self, name: str) -> None:
        """Put the panes where the layout had sandboxes of the same names."""
        spec = self._layouts().get(name)
        if spec is None:
            self._app.say(f"no layout is called {name}", "warning")
            return
        grid = self._app.grid
        live = {view.name: view.key for view in self._app.roster.live()}
        order = [view.key for view in self._app.roster.shown()]
        grid.workspace = layout_store.read(spec, live, order, grid.area)
        grid.single = grid.zoomed = False
        self._select_on_tab()

    def delete_layout(self, name: str) -> None:
        kept = self._layouts()
        if kept.pop(name, None) is None:
            self._app.say(f"no layout is called {name}", "warning")
        else:
            self._remember(LAYOUTS_KEY, kept)
            self._app.say(f"layout {name} is forgotten")

    def choose_layout(self) -> None:
        """Restore a layout that is kept, or keep this one."""
        from machinen_tui.widgets.pick_dialog import Choice, PickDialog

        choices = [Choice(f"load {name}", name) for name in self.layout_names()]
        choices.append(Choice("save", "+ keep this layout under a name"))
        choices += [Choice(f"delete {name}", f"- forget {name}") for name in self.layout_names()]

        def answered(answer: str | None) -> None:
            verb, _, name = (answer or "").partition(" ")
            if verb == "save":
                self._ask_layout_name()
            elif verb:
                (self.load_layout if verb == "load" else self.delete_layout)(name)

        self._app.push_screen(PickDialog("layouts", choices, "take it"), answered)

    def _ask_layout_name(self) -> None:
        from machinen_tui.forms import Field, Form

        def check(text: str) -> str:
            if not text.strip():
                raise ValueError("type a name; one that is kept already is replaced")
            return text

        field = Field(name="name", label="name", check=check)
        form = Form(
            title="keep this layout", accept="keep it", fields=(field,),
            build=lambda values: values["name"],
        )  # fmt: skip
        self.ask(form, lambda name, _: self.save_layout(name))

    def _layouts(self) -> dict[str, object]:
        return layout_store.layouts(self._app.gateway.recall().get(LAYOUTS_KEY))
