"""Asks guests what their monitors cannot see: often the one in view, the others now and then."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from machinen_runtime.errors import MachinenError
from machinen_tui.probe import Counters, counters_in, rates

if TYPE_CHECKING:
    from machinen_tui.config import Config
    from machinen_tui.gateway import Gateway, Sandbox
    from machinen_tui.roster import SandboxView


class Host(Protocol):
    """What the prober needs of the application."""

    def start_task(self, work: Callable[[], Awaitable[None]], name: str) -> None: ...


@dataclass(slots=True)
class _Asked:
    due_s: float = 0.0
    under_way: bool = False
    before: Counters | None = None
    at_s: float = 0.0


class Prober:
    """Keeps at most one question under way per sandbox."""

    def __init__(self, host: Host, gateway: Gateway) -> None:
        self._host, self._gateway = host, gateway
        self._asked: dict[str, _Asked] = {}

    def poll(self, views: list[SandboxView], in_view: str | None, config: Config) -> None:
        """Start what is due; called every second with the sandboxes that run."""
        now = time.monotonic()
        if self._asked.keys() != (keys := {view.key for view in views}):
            self._asked = {key: self._asked.get(key) or _Asked() for key in keys}
        for view in views:
            asked = self._asked[view.key]
            every = config.probe_s if view.key == in_view else config.idle_probe_s
            if view.key == in_view:
                asked.due_s = min(asked.due_s, now + every)
            ready = every and not asked.under_way and now >= asked.due_s
            if ready and view.handle is not None and view.state == "running":
                asked.under_way, asked.due_s = True, now + every
                work = partial(self._ask, view, view.handle, asked)
                self._host.start_task(work, f"probe-{view.key}")

    async def _ask(self, view: SandboxView, handle: Sandbox, asked: _Asked) -> None:
        started, wall_ms = time.monotonic(), time.time() * 1000
        try:
            now = counters_in(await self._gateway.probe(handle))
        except MachinenError:
            asked.before = None  # it does not answer now; nothing is known rather than zero
            return
        finally:
            asked.under_way = False
            view.probed_ms = (wall_ms, time.time() * 1000)
        ended = time.monotonic()
        figures = {"exec_ms": (ended - started) * 1000}
        if asked.before is not None:
            figures |= rates(asked.before, now, ended - asked.at_s)
        asked.before, asked.at_s = now, ended
        view.history.add(time.time(), **figures)
