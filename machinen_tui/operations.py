"""Boot, fork, snapshot, restore, pause, stop: each in a worker of its own, with progress and a
message if it fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from machinen_runtime.errors import MachinenError

if TYPE_CHECKING:
    from pathlib import Path

    from machinen_runtime.option_types import PortForward
    from machinen_runtime.promote import PromotePlan
    from machinen_tui.gateway import Gateway, Report, Sandbox
    from machinen_tui.image_log import ImageBuild
    from machinen_tui.roster import SandboxView
    from machinen_tui.wanted import (
        NewSandbox,
        WantedCopy,
        WantedFork,
        WantedRestore,
        WantedSnapshot,
    )

Severity = Literal["information", "warning", "error"]
ERROR_SHOWN_S = 12.0


class Host(Protocol):
    """What operations need of the application."""

    def start_task(self, work: Callable[[], Awaitable[None]], name: str) -> None: ...
    def say(
        self, text: str, severity: Severity = "information", *, seconds: float = 4.0
    ) -> None: ...
    def note(self, kind: str, text: str) -> None: ...
    def progress_changed(self) -> None: ...
    async def take_over(self, old: SandboxView, new: Sandbox) -> None: ...
    async def operation_ended(self, select_pid: int | None) -> None: ...


@dataclass(eq=False)
class Operation:
    """One thing under way."""

    title: str
    alone: int | None = None
    """The pid of the sandbox that no second one like it may be busy with."""
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
        self.ending_with_us: set[int] = set()
        """Pids of sandboxes that end when the application does."""

    def boot(self, wanted: NewSandbox) -> None:
        """Start a new sandbox."""

        async def work(report: Report) -> tuple[str, int | None]:
            sandbox = await self._gateway.boot(wanted, report)
            if not wanted.stays:
                self.ending_with_us.add(sandbox.pid)
                listen = partial(self._gateway.listen, sandbox)
                self._host.start_task(listen, f"listen-{sandbox.pid}")
            return f"{label(sandbox)} is up", sandbox.pid

        self.start(f"booting {wanted.name or 'a sandbox'}", work)

    def boot_in_turn(self, all_wanted: Sequence[NewSandbox]) -> None:
        """Start several, one after the other: each is up sooner than if all came together."""

        async def work(report: Report) -> tuple[str, int | None]:
            for wanted in all_wanted:
                report(wanted.name)
                await self._gateway.boot(wanted, lambda phase: None)
                await self._host.operation_ended(None)
            return f"{len(all_wanted)} sandboxes are up", None

        if all_wanted:
            self.start("booting", work)

    def summary(self) -> str:
        """What is under way, in one line; empty if nothing is."""
        if len(self.running) < 2:
            return "".join(operation.text() for operation in self.running)
        longest = max(operation.elapsed_s for operation in self.running)
        titles = ", ".join(operation.title for operation in self.running)
        return f"{titles} · {longest:.1f} s"

    def fork(self, view: SandboxView, wanted: WantedFork) -> None:
        """Start siblings that go on from where `view` is."""

        async def work(report: Report) -> tuple[str, int | None]:
            siblings = await self._gateway.fork(handle_of(view), wanted, report)
            names = ", ".join(label(sibling) for sibling in siblings)
            return f"{view.name} forked: {names}", siblings[0].pid if siblings else None

        many = f" into {wanted.count}" if wanted.count > 1 else ""
        self.start(f"forking {view.name}{many}", work, view)

    def snapshot(self, view: SandboxView, wanted: WantedSnapshot) -> None:
        """Save `view`."""

        async def work(report: Report) -> tuple[str, int | None]:
            path = await self._gateway.snapshot(handle_of(view), wanted, report)
            view.dismissed = not wanted.runs_on
            return f"{view.name} saved: {path}", None

        self.start(f"saving {view.name}", work, view)

    def restore(self, wanted: WantedRestore) -> None:
        """Start a sandbox from a snapshot."""

        async def work(report: Report) -> tuple[str, int | None]:
            sandbox = await self._gateway.restore(wanted, report)
            return f"{label(sandbox)} goes on from {wanted.bundle.name}", sandbox.pid

        self.start(f"restoring {wanted.bundle.name}", work)

    def rewind(self, view: SandboxView, bundle: Path | None) -> None:
        """Put a snapshot in the place of `view`, which keeps its name and its pane."""
        name = view.name

        async def work(report: Report) -> tuple[str, int | None]:
            takes_over = partial(self._host.take_over, view)
            sandbox = await self._gateway.rewind(handle_of(view), bundle, report, takes_over)
            what = bundle.name if bundle is not None else "before the last rewind"
            return f"{name} is back at {what}; U undoes that", sandbox.pid

        # Its name is lent to another meanwhile, so the user would not know the sandbox a second
        # rewind could not find.
        self.start(f"rewinding {name}", work, view, alone=view.pid)

    def promote(self, view: SandboxView, plan: PromotePlan, live: Sequence[SandboxView]) -> None:
        """Carry out a promotion; who ends by it need not stay listed."""
        ending = {each.pid for each in plan.others}

        async def work(report: Report) -> tuple[str, int | None]:
            for each in live:
                each.dismissed = each.dismissed or each.pid in ending
            kept = await self._gateway.promote(plan, report)
            many = f"; {len(kept)} kept as snapshots" if kept else ""
            return f"{plan.name} is the one that runs{many}", view.pid

        self.start(f"promoting {view.name}", work, view)

    def rename(self, view: SandboxView, name: str) -> None:
        """Give `view` another name."""
        before = view.name

        async def work(report: Report) -> tuple[str, int | None]:
            await self._gateway.rename(handle_of(view), name)
            return f"{before} is called {name} now", None

        self.start(f"renaming {before}", work, view)

    def add_port(self, view: SandboxView, wanted: PortForward | int) -> None:
        """Lead a host port into `view`."""

        async def work(report: Report) -> tuple[str, int | None]:
            forward = await self._gateway.add_port(handle_of(view), wanted)
            ends = f"{forward.host_addr}:{forward.host_port}"
            return f"{ends} leads to port {forward.guest_port} of {view.name}", None

        self.start(f"opening a port of {view.name}", work, view)

    def send_secrets(self, view: SandboxView, secrets: Mapping[str, str]) -> None:
        """Hand secrets to `view`. Their values are in no message."""

        async def work(report: Report) -> tuple[str, int | None]:
            taken = await self._gateway.send_secrets(handle_of(view), secrets)
            return f"{view.name} took {taken} of {len(secrets)} secrets", None

        self.start(f"secrets for {view.name}", work, view)

    def copy(self, view: SandboxView, wanted: WantedCopy) -> None:
        """Copy files into `view` or out of it."""
        source = wanted.host if wanted.into_guest else f"{view.name}:{wanted.guest}"
        there = f"{view.name}:" if wanted.into_guest else ""

        async def work(report: Report) -> tuple[str, int | None]:
            target = await self._gateway.copy(handle_of(view), wanted, report)
            return f"{source} copied to {there}{target}", None

        self.start(f"copying {source}", work, view)

    def build(self, build: ImageBuild) -> None:
        """Build an image; its own log says the rest."""

        async def work(report: Report) -> tuple[str, int | None]:
            await build.run(self._gateway, report)
            return build.outcome, None

        self.start(f"building {build.wanted.out.name}", work)

    def pause_or_resume(self, view: SandboxView) -> None:
        """Stop the processors of `view`, or let them run on."""
        paused = view.state in ("paused", "disk-full")

        async def work(report: Report) -> tuple[str, int | None]:
            handle = handle_of(view)
            await (handle.resume() if paused else handle.pause())
            return "", None

        self.start(f"{'resuming' if paused else 'pausing'} {view.name}", work, view)

    def stop(self, view: SandboxView) -> None:
        """Power `view` off."""

        async def work(report: Report) -> tuple[str, int | None]:
            await handle_of(view).stop()
            view.dismissed = True
            return f"{view.name} is off", None

        self.start(f"stopping {view.name}", work, view)

    def start(
        self,
        title: str,
        work: Callable[[Report], Awaitable[tuple[str, int | None]]],
        view: SandboxView | None = None,
        *,
        alone: int | None = None,
    ) -> None:
        """Run `work` as the operation `title`; it answers with a message and a pid to select.

        `alone`: the pid of a sandbox that no other operation that wants to be alone is busy with.
        """
        if view is not None and view.handle is None:
            self._host.say(f"{view.name} cannot be reached; it is {view.shown_state}", "warning")
            return
        for other in self.running:
            if alone is not None and other.alone == alone:
                self._host.say(f"{other.title} is under way: wait until that is done", "warning")
                return
        operation = Operation(title, alone)
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
            self._host.note("operation", message or f"{operation.title}: done")
            if message:
                told = operation.phase if operation.phase.startswith("paused") else ""
                self._host.say(f"{message} · {told}" if told else message)
        except MachinenError as error:
            self._host.note("operation", f"{operation.title} failed: {error.code}: {error}")
            self._host.say(f"{error.code}: {error}", "error", seconds=ERROR_SHOWN_S)
        finally:
            self.running.remove(operation)
            self._host.progress_changed()
        await self._host.operation_ended(pid)


def handle_of(view: SandboxView) -> Sandbox:
    """The handle of a sandbox that can be reached: `start` looked."""
    assert view.handle is not None
    return view.handle


def label(sandbox: Sandbox) -> str:
    """Its name, or its pid if it has none."""
    return sandbox.name or str(sandbox.pid)
