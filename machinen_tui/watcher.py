"""Keeps the roster true: finds sandboxes as they come and go, follows their events, keeps their
terminals connected."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from machinen_runtime.errors import MachinenError
from machinen_tui import attention
from machinen_tui.journal import Journal
from machinen_tui.pace import Pace, seconds_covered
from machinen_tui.roster import Roster, SandboxView

if TYPE_CHECKING:
    from anyio import CancelScope

    from machinen_tui.drain import Drain
    from machinen_tui.gateway import Gateway, Sandbox
    from machinen_tui.session import PaneSession
    from vmm.requests import StatsEvent, VmEvent


class Watched(Protocol):
    """What the watcher tells the application."""

    def start_task(self, work: Callable[[], Awaitable[None]], name: str) -> None: ...
    async def sandboxes_came(self, views: list[SandboxView]) -> None: ...
    def sandboxes_changed(self) -> None: ...


PAGE_BYTES = 4096


def figures_of(event: StatsEvent) -> dict[str, float]:
    """One second's figures by the history's names."""
    return {
        "cpu": event.cpu_percent,
        "rss": event.rss_bytes,
        "private": event.private_bytes,
        "shared": event.shared_bytes,
        "balloon": event.balloon_bytes,
        "lazy": event.lazy_pages_pending * PAGE_BYTES,
    }


class Watcher:
    """Owns which views have a handle, a subscription and a connected session."""

    def __init__(self, app: Watched, gateway: Gateway, roster: Roster, drain: Drain) -> None:
        self._app = app
        self._gateway = gateway
        self._roster = roster
        self._drain = drain
        self.journal = Journal()
        self._following: set[str] = set()
        self._listening: dict[str, tuple[int, CancelScope]] = {}
        """The pace of each subscription, and what ends it."""
        self.pace = Pace()
        self._connecting: set[str] = set()

    async def poll(self) -> None:
        """Look once; called every second and after each operation. Cheap if nothing changed."""
        if self._gateway.changed():
            await self._read_registry()
        for view in self._roster.live():
            if view.key not in self._following:
                self._following.add(view.key)
                self._app.start_task(partial(self._follow, view), f"follow-{view.key}")
            elif view.handle is not None:
                self._connect(view)

    def look_at(self, keys: Iterable[str]) -> None:
        """Called every second with those whose figures are on the screen: they get more often
        what is seen, less often what is not."""
        now = time.monotonic()
        self.pace.see(keys, now)
        for key, (pace_ms, scope) in self._listening.items():
            if pace_ms != self.pace.of(key, now):
                scope.cancel()

    def disconnected(self) -> list[SandboxView]:
        """Those that run but whose terminal is not connected."""
        return [v for v in self._roster.live() if v.session is None or not v.session.connected]

    async def _read_registry(self) -> None:
        came, went = self._roster.update(self._gateway.entries())
        self._roster.snapshots = self._gateway.snapshots()
        if came:
            self._welcome(came)
            await self._app.sandboxes_came(came)
        for view in went:
            if view.session is not None:
                view.exit_code = view.session.exit_code
            self.journal.add("lifecycle", view.name, view.shown_state)
        self._app.sandboxes_changed()

    def _welcome(self, came: list[SandboxView]) -> None:
        from machinen_tui.session import PaneSession  # not before there is one: it takes a while

        for view in came:
            source = f", a fork of {view.source_name}" if view.source_name else ""
            self.journal.add("lifecycle", view.name, f"seen first, pid {view.pid}{source}")
            view.session = PaneSession(self._drain.wake)

    async def _follow(self, view: SandboxView) -> None:
        """Attach to one sandbox and take in its events until it is gone."""
        try:
            view.handle = await self._gateway.attach(view.pid)
            while await self._listen(view, view.handle):
                continue
        except MachinenError:
            pass  # it went away while we came; the registry says so
        finally:
            self._following.discard(view.key)
            self.pace.forget(view.key)
            view.handle = None
        await self._read_registry()

    async def _listen(self, view: SandboxView, handle: Sandbox) -> bool:
        """Take in events at one pace; whether it goes on at another."""
        from anyio import CancelScope  # there is nothing to follow at the first paint

        pace_ms = self.pace.of(view.key, time.monotonic())
        with CancelScope() as scope:
            self._listening[view.key] = pace_ms, scope
            try:
                async with handle.events(pace_ms) as events:
                    self._take_state(view, (await handle.status()).state)
                    async for event in events:
                        self._take(view, event)
            finally:
                del self._listening[view.key]
        return scope.cancelled_caught

    def _take_state(self, view: SandboxView, state: str) -> None:
        """What it says of itself when one subscribes: changes before that were told to nobody."""
        if view.state != state:
            attention.entered(view, state)
            self._connect(view)
            self._app.sandboxes_changed()

    def _take(self, view: SandboxView, event: VmEvent) -> None:
        from vmm.requests import StateEvent, StatsEvent

        if isinstance(event, StatsEvent):
            before = view.samples[-1].time_ms if view.samples else None
            view.samples.extend([event] * seconds_covered(before, event.time_ms))
            view.history.add(event.time_ms / 1000, **figures_of(event))
        elif isinstance(event, StateEvent):
            attention.entered(view, event.state)
            self.journal.add("lifecycle", view.name, f"{event.state} {event.detail}".rstrip())
            self._app.sandboxes_changed()
        else:
            phases = ", ".join(f"{name} {ms:.0f} ms" for name, ms in event.phases.items())
            text = f"{event.kind} {event.total_ms:.0f} ms: {phases}"
            self.journal.add("phases", view.name, text)

    def _connect(self, view: SandboxView) -> None:
        """Connect the terminal unless it is, or has ended, or its guest cannot answer now."""
        session = view.session
        answers = view.state in ("running", "booting", "restoring")
        if session is None or session.exit_code is not None or not answers:
            return
        if view.key not in self._connecting:
            self._connecting.add(view.key)
            self._app.start_task(
                partial(self._stay_connected, view, session), f"session-{view.key}"
            )

    async def _stay_connected(self, view: SandboxView, session: PaneSession) -> None:
        try:
            if view.handle is not None:
                await session.run(view.handle)
        except MachinenError:
            pass  # not ready, or gone: the next poll tries again or sees that it went
        finally:
            self._connecting.discard(view.key)
            self._app.sandboxes_changed()
