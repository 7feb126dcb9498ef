"""What widgets tell the application."""

from __future__ import annotations

from textual.message import Message


class PaneClicked(Message):
    """Somebody clicked into a pane: select its sandbox, or attach if it was selected."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key


class TitleDoubleClicked(Message):
    """The title of a pane was clicked twice; each click was told as `PaneClicked`, too."""


class PasteWanted(Message):
    """The middle button went down on the pane that has the keys."""


class TextTaken(Message):
    """Text of a pane was selected with the mouse."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class NodeChosen(Message):
    """A row of the list was clicked; with `open` a second time (attach, restore)."""

    def __init__(self, key: str, *, open: bool = False) -> None:
        super().__init__()
        self.key = key
        self.open = open


class CommandEntered(Message):
    """A line was entered after `/`."""

    def __init__(self, line: str) -> None:
        super().__init__()
        self.line = line


class CommandClosed(Message):
    """The command line was left without entering anything."""


class KeyChosen(Message):
    """A key was clicked in the line that names keys."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
