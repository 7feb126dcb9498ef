"""Two or three rows above the status line: what the tour asks for, and how to be rid of it."""

from __future__ import annotations

from textual.widgets import Static


class TourBar(Static):
    """Shows one step; not there while there is none."""

    def __init__(self) -> None:
        super().__init__("", id="tour")
        self._said = ("", "")
        self.display = False

    def show(self, head: str, text: str) -> None:
        """Say `text` under `head`; nothing is drawn if both are said already."""
        from machinen_tui.widgets.dialogs import plain

        self.display = True
        if (head, text) != self._said:
            self._said = (head, text)
            skip = "[@click=app.verb('skip_tour')][bold $accent]esc[/] skips it[/]"
            self.update(f"[bold $accent]{plain(head)}[/]  [$muted]{skip}[/]\n{plain(text)}")

    def hide(self) -> None:
        """Take no room."""
        self.display = False
