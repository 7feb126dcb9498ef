"""What the centre shows while there is no sandbox: what to press."""

from __future__ import annotations

from textual.widgets import Static

TEXT = """\
[$accent b]machinen[/]

small Linux VMs that boot in a blink
and fork while they run


[$accent b]n[/]   boot a sandbox
[$accent b]r[/]   restore a snapshot
[$accent b]/[/]   type a command
[$accent b]?[/]   all keys
[$accent b]q[/]   leave


[$muted]sandboxes started elsewhere appear here by themselves[/]"""


class Welcome(Static):
    """Says what to do first."""

    def __init__(self) -> None:
        super().__init__(TEXT, id="welcome")
