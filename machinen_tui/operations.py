"""Boot, fork, snapshot, restore, pause, stop: each in a worker of its own, with progress and a
message if it fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from machinen_runtime.errors import MachinenError

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView
    from machinen_tui.runtime_gateway import Gateway, NewSandbox, Report, Sandbox

Severity = Literal["information", "warning", "error"]
ERROR_SHOWN_S = 12.0


class Host(Protocol):
    """What operations need of the application."""

    def start_task(self, work: Callable[[], Awaitable[None]], name: str) -> None: ...
    def say(
        self, text: str, severity: Severity = "information", *, seconds: float = 4.0
    ) -> None: ...
    def progress_changed(self) -> None: ...
    async def operation_ended(self, select_pid: int | None) -> None: ...


@dataclass(eq=False)
class Operation:
    """One thing under way."""

    title: str
    phase: str = ""
    started: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        """`forking a · snapshot · 0.4 s`."""
        parts = (self.title, self.phase, f"{self.elapsed_s:.1f} s")
        return " · ".join(part for part in parts if part)

    @property
    def elapsed_s(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started


class Operations:
    """Starts operations and knows which are under way."""

    def __init__(self, host: Host, gateway: Gateway) -> None:
        self._host = host
        self._gateway = gateway
        self.running: list[Operation] = []

    def boot(self, wanted: NewSandbox) -> None:
        """Start a new sandbox."""

        async def work(report: Report) -> tuple[str, int | None]:
            sandbox = await self._gateway.boot(wanted, report)
            return f"{label(sandbox)} is up", sandbox.pid

        self._start(f"booting {wanted.name or 'a sandbox'}", work)

    def boot_in_turn(self, all_wanted: Sequence[NewSandbox]) -> None:
        """Start several, one after the other: each is up sooner than if all came together."""

        async def work(report: Report) -> tuple[str, int | None]:
            for wanted in all_wanted:
                report(wanted.name)
                await self._gateway.boot(wanted, lambda phase: None)
                await self._host.operation_ended(None)
            return f"{len(all_wanted)} sandboxes are up", None

        if all_wanted:
            self._start("booting", work)

    def summary(self) -> str:
        """What is under way, in one line; empty if nothing is."""
        if len(self.running) < 2:
            return "".join(operation.text() for operation in self.running)
        longest = max(operation.elapsed_s for operation in self.running)
        titles = ", ".join(operation.title for operation in self.running)
        return f"{titles} · {longest:.1f} s"

    def fork(self, view: SandboxView, count: int = 1, name: str = "") -> None:
        """Start `count` siblings that go on from where `view` is."""

        async def work(report: Report) -> tuple[str, int | None]:
            siblings = await self._gateway.fork(_handle(view), count, name, report)
            names = ", ".join(label(sibling) for sibling in siblings)
            return f"{view.name} forked: {names}", siblings[0].pid if siblings else None

        many = f" into {count}" if count > 1 else ""
        self._start(f"forking {view.name}{many}", work, view)

    def snapshot(self, view: SandboxView) -> None:
        """Save `view` and let it run on."""

        async def work(report: Report) -> tuple[str, int | None]:
            path = await self._gateway.snapshot(_handle(view), report)
            return f"{view.name} saved: {path}", None

        self._start(f"saving {view.name}", work, view)

    def restore(self, snapshot: Path, name: str = "") -> None:
        """Start a sandbox from a snapshot."""

        async def work(report: Report) -> tuple[str, int | None]:
            sandbox = await self._gateway.restore(snapshot, name, report)
            return f"{label(sandbox)} goes on from {snapshot.name}", sandbox.pid

        self._start(f"restoring {snapshot.name}", work)

    def pause_or_resume(self, view: SandboxView) -> None:
        """Stop the processors of `view`, or let them run on."""
        paused = view.state == "paused"

        async def work(report: Report) -> tuple[str, int | None]:
            handle = _handle(view)
            await (handle.resume() if paused else handle.pause())
            return "", None

        self._start(f"{'resuming' if paused else 'pausing'} {view.name}", work, view)

    def stop(self, view: SandboxView) -> None:
        """Power `view` off."""

        async def work(report: Report) -> tuple[str, int | None]:
            await _handle(view).stop()
            view.dismissed = True
            return f"{view.name} is off", None

        self._start(f"stopping {view.name}", work, view)

    def _start(
        self,
        title: str,
        work: Callable[[Report], Awaitable[tuple[str, int | None]]],
        view: SandboxView | None = None,
    ) -> None:
        if view is not None and view.handle is None:
            self._host.say(f"{view.name} cannot be reached; it is {view.shown_state}", "warning")
            return
        operation = Operation(title)
        self.running.append(operation)
        self._host.progress_changed()
        self._host.start_task(partial(self._run, operation, work), title)

    async def _run(
        self,
        operation: Operation,
        work: Callable[[Report], Awaitable[tuple[str, int | None]]],
    ) -> None:
        pid: int | None = None

        def report(phase: str) -> None:
            operation.phase = phase
            self._host.progress_changed()

        try:
            message, pid = await work(report)
            if message:
                told = operation.phase if operation.phase.startswith("paused") else ""
                self._host.say(f"{message} · {told}" if told else message)
        except MachinenError as error:
            self._host.say(f"{error.code}: {error}", "error", seconds=ERROR_SHOWN_S)
        finally:
            self.running.remove(operation)
            self._host.progress_changed()
        await self._host.operation_ended(pid)


def _handle(view: SandboxView) -> Sandbox:
    assert view.handle is not None
    return view.handle


def label(sandbox: Sandbox) -> str:
    """Its name, or its pid if it has none."""
    return sandbox.name or str(sandbox.pid)
