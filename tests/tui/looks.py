"""A window that looks the same each time: no clock runs, no program, no machine's paths or pids.

The sandboxes behind it are those of a small story: a build, two forks of it, a web server, one that
is paused, one that ended, and a snapshot with a restore of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from machinen_runtime.channel_sessions import Output, Resized
from machinen_runtime.option_types import PortForward
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui import app as app_module
from machinen_tui import attention
from machinen_tui.app import MachinenApp
from machinen_tui.console_tail import ConsoleTail
from machinen_tui.gateway import SnapshotInfo
from machinen_tui.pace import Pace
from machinen_tui.prober import Prober
from machinen_tui.widgets.terminal_pane import TerminalPane
from tests.tui.fake_sandboxes import MIB, FakeSandbox, FakeTerminal, FakeWorld
from vmm.requests import StatsEvent

NOW = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC."""
SECONDS = 90
"""So long everybody is measured."""
SNAPSHOTS = Path("/srv/snapshots")

BUILD = (
    "\x1b[1mroot@build:~/app#\x1b[0m make -j2\r\n"
    + "".join(f"\x1b[36m[{n:2}/12]\x1b[0m cc -O2 -c part_{n:02}.c\r\n" for n in range(1, 8))
    + "\x1b[33mpart_07.c:41: warning:\x1b[0m unused variable left\r\n"
    + "\x1b[36m[ 8/12]\x1b[0m cc -O2 -c part_08.c\r\n"
)
TESTS = (
    "\x1b[1mroot@{name}:~/app#\x1b[0m pytest -q\r\n"
    "\x1b[32m........................\x1b[31mF\x1b[32m......\x1b[0m\r\n"
    "\x1b[31mFAILED\x1b[0m test_parse.py::test_{name} - assert 3 == 4\r\n"
    "\x1b[31m1 failed\x1b[0m, \x1b[32m30 passed\x1b[0m in 2.14s\r\n"
    "\x1b[1mroot@{name}:~/app#\x1b[0m "
)
WEB = "Serving HTTP on 0.0.0.0 port 80 ...\r\n" + "".join(
    f'10.0.2.2 - - "GET /{page} HTTP/1.1" \x1b[{color}m{code}\x1b[0m -\r\n'
    for page, code, color in (("", 200, 32), ("app.js", 200, 32), ("favicon.ico", 404, 31))
)
SHELL = "\x1b[1mroot@{name}:~#\x1b[0m "
AFRESH = b"\x1b[m\x1b[H\x1b[2J\x1b[3J"
"""Nothing on the screen, nothing above it."""


class ScriptedTerminal(FakeTerminal):
    """A terminal that shows what is fed to it: no program runs.

    It tells everything anew at each size, so a pane shows the same whichever sizes it went through
    while the window was laid out.
    """

    def __init__(self, said: str, size: tuple[int, int]) -> None:
        self.size = size
        self.ring = bytearray(said.encode())
        self.clients = []
        self.exit_code = None
        self.bytes_typed = b""
        self.refusals = 0

    def resize(self, cols: int, rows: int) -> None:
        self.size = (cols, rows)
        self._tell(Resized(cols, rows))
        self._tell(Output(AFRESH + bytes(self.ring), replay=True))

    def type(self, data: bytes) -> None:
        self.bytes_typed += data

    def close(self) -> None:
        self.exit_code = 0

    @property
    def was_heard(self) -> bool:
        """Nobody has still to take what was told."""
        return not any(client.statistics().current_buffer_used for client in self.clients)


class FrozenWorld(FakeWorld):
    """Sandboxes of a fixed age with fixed pids and figures."""

    def __init__(self) -> None:
        super().__init__(SNAPSHOTS)
        self.opened: list[ConsoleTail] = []
        self.terminals: list[ScriptedTerminal] = []

    def show(
        self,
        name: str,
        said: str = SHELL,
        *,
        age_s: float = 100,
        source: FakeSandbox | None = None,
        forked_from: Path | None = None,
        ports: Sequence[PortForward] = (),
        memory_mib: int = 512,
    ) -> FakeSandbox:
        """A sandbox that shows `said`."""
        self._next_pid += 1
        entry = RegistryEntry(
            pid=self._next_pid,
            socket_path="",
            started_at=(NOW - age_s) * 1000,
            name=name,
            memory_ceiling_mib=memory_mib,
            port_forward=tuple(ports),
            forked_from_name=source.name if source else None,
            forked_from_pid=source.pid if source else None,
            forked_from=str(forked_from) if forked_from else None,
        )
        terminal = ScriptedTerminal(said.replace("{name}", name), (80, 24))
        self.terminals.append(terminal)
        sandbox = FakeSandbox(self, entry, terminal)
        self.sandboxes[entry.pid] = sandbox
        self._changed = True
        return sandbox

    def keep(self, source: FakeSandbox, stem: str, *, age_s: float) -> Path:
        """A snapshot of `source`."""
        path = SNAPSHOTS / stem
        taken = (NOW - age_s) * 1000
        self.snapshot_list.append(
            SnapshotInfo(path=path, name=source.name or "", taken_at_ms=taken,
                         source_pid=source.pid, source_started_at=source.entry.started_at,
                         machine="512 MiB · 1 vCPU · kvm", qemu_version="10.0")
        )  # fmt: skip
        self._changed = True
        return path


def measure(sandbox: FakeSandbox, *, busy: float, private_mib: int, shared_mib: int = 40) -> None:
    """Figures of a while: a wave, so that graphs have a shape."""
    for second in range(SECONDS):
        wave = 0.5 + 0.5 * math.sin(second / 9 + sandbox.pid)
        private = int(private_mib * (0.6 + 0.4 * second / SECONDS))
        event = StatsEvent(
            time_ms=int((NOW - SECONDS + second) * 1000),
            cpu_percent=round(busy * wave, 1),
            rss_bytes=(private + shared_mib) * MIB,
            pss_bytes=private * MIB,
            private_bytes=private * MIB,
            shared_bytes=shared_mib * MIB,
            balloon_bytes=16 * MIB,
            ceiling_mib=512,
            lazy_pages_pending=512,
            last_output_ms=0,
        )
        sandbox.tell(event)


def story(world: FrozenWorld) -> None:
    """The sandboxes most pictures show."""
    build = world.show("build", BUILD, age_s=3725)
    world.show("fix-parser", TESTS, age_s=610, source=build)
    second = world.show("fix-lexer", TESTS, age_s=605, source=build)
    world.show("web", WEB, age_s=300, ports=[PortForward(host_port=8080, guest_port=80)])
    bundle = world.keep(second, "fix-lexer-20251231-235500", age_s=300)
    world.show("again", SHELL, age_s=120, forked_from=bundle)


def figures(world: FrozenWorld) -> None:
    """What the sandboxes of the story measured."""
    for at, sandbox in enumerate(world.sandboxes.values()):
        measure(sandbox, busy=(95, 40, 20, 3, 0)[at % 5], private_mib=(180, 90, 70, 48, 30)[at % 5])


def nothing(*_: object, **__: object) -> None:
    """Stands for what looks at a clock."""


def one_pace(*_: object) -> int:
    """Everybody is measured once a second, in view or not."""
    return 1000


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock runs, wherever it hangs: nobody polls, is asked anything, or has waited for long."""
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(app_module, "POLL_S", 3600.0)
    monkeypatch.setattr(attention, "check", nothing)
    monkeypatch.setattr(attention, "spoke", nothing)
    monkeypatch.setattr(Prober, "poll", nothing)
    monkeypatch.setattr(Pace, "of", one_pace)  # who listens anew at another misses figures
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def settled(app: MachinenApp, world: FrozenWorld) -> bool:
    """Every sandbox is connected, its figures are there, its text is told at its pane's size."""
    views = app.roster.live()
    return (
        len(views) == len(world.sandboxes)
        and all(view.handle is not None and view.session is not None for view in views)
        and all(view.session.connected for view in views if view.session)
        and all(app.grid.pane(view.key) is not None for view in views)
        and all(has_its_size(pane) for pane in app.grid.panes())
        and all(sandbox.listeners for sandbox in world.sandboxes.values())
        and all(terminal.was_heard for terminal in world.terminals)
        and not any(view.session.has_output for view in views if view.session)
    )


def has_its_size(pane: TerminalPane) -> bool:
    """Its terminal is as large as it is, if one sees it."""
    return (
        pane.model is None
        or not (pane.display and pane.size)
        or ((pane.model.columns, pane.model.lines) == tuple(pane.size))
    )
