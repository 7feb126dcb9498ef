"""Who is fed when somebody types: the pane in front, then the floods behind it; never nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from machinen_tui import drain as module
from machinen_tui.drain import ECHO_S, FRAME_S, LONGEST_WAIT_S, Drain
from tests.tui.stage import sandbox, stage


@dataclass(eq=False)
class Told:
    """A session with so many pieces to be fed."""

    name: str
    pieces: int = 0
    rests_until: float = 0.0

    @property
    def has_output(self) -> bool:
        return self.pieces > 0

    def drain(self) -> bool:
        self.pieces -= 1
        return self.has_output


class Clock:
    """Time that stands still unless it is moved, and the one turn that waits for it."""

    def __init__(self) -> None:
        self.now, self.due, self._turn = 1000.0, 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def get_running_loop(self) -> Clock:
        return self

    def call_later(self, delay: float, turn: Any) -> Clock:
        self.due, self._turn = self.now + delay, turn
        return self

    def cancel(self) -> None:
        self._turn = lambda: None

    def run(self) -> None:
        """The turn that waits, when it is time."""
        self.now, turn = max(self.now, self.due), self._turn
        self._turn = lambda: None
        turn()


class Stand:
    """A drain over one session in front and one behind, and who was fed."""

    def __init__(self) -> None:
        self.front, self.behind = Told("front"), Told("behind")
        self.fed: list[str] = []
        self.frames: list[list[str]] = []
        self.lags = False
        self.drain = Drain(
            lambda: cast("Any", [self.front, self.behind]),
            lambda session: self.fed.append(cast(Told, session).name),
            lambda: self.frames.append(self.fed[:]),
            lambda: self.lags,
        )

    def say(self, session: Told, pieces: int = 1) -> None:
        session.pieces += pieces
        self.drain.wake(cast("Any", session))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "asyncio", clock)
    return clock


def test_behind_waits_for_the_echo_of_a_key_and_goes_on_after_it(clock: Clock) -> None:
    s = Stand()
    s.say(s.behind)
    clock.run()
    s.fed.clear()
    s.drain.give_way()
    s.say(s.behind)
    clock.now += ECHO_S / 2  # it could be fed by now, were it not for the key
    s.say(s.front)
    clock.run()
    assert s.fed == ["front"]
    typed = clock.now
    clock.run()
    assert s.fed == ["front", "behind"]
    assert clock.now - typed < ECHO_S / 4  # at once, not at the end of the wait


def test_without_an_echo_behind_is_fed_soon(clock: Clock) -> None:
    s = Stand()
    s.say(s.behind)
    clock.run()
    s.fed.clear()
    typed = clock.now
    s.drain.give_way()
    s.say(s.behind)
    while not s.fed:
        clock.run()
    assert typed + ECHO_S <= clock.now <= typed + 2 * ECHO_S


def test_a_key_held_down_does_not_starve_those_behind(clock: Clock) -> None:
    s = Stand()
    s.say(s.behind)
    clock.run()
    s.fed.clear()
    started = clock.now
    s.say(s.behind)
    while not s.fed and clock.now < started + 10:
        s.drain.give_way()  # no guest ever answers
        clock.now += 0.01
        if clock.now >= clock.due:
            clock.run()
    assert clock.now - started <= LONGEST_WAIT_S + 2 * ECHO_S


def test_frames_behind_come_by_a_clock_however_late_each_is(clock: Clock) -> None:
    s = Stand()
    began = clock.now
    for _ in range(64):
        s.say(s.behind)
        clock.now = max(clock.now, clock.due) + 0.004  # loops wake late
        clock.run()
    assert s.fed == ["behind"] * 64
    assert clock.now - began <= 1.01


def test_who_speaks_after_a_while_does_not_wait_for_the_clock(clock: Clock) -> None:
    s = Stand()
    s.say(s.behind)
    clock.run()
    clock.now += 1.2345
    spoke = clock.now
    s.say(s.behind)
    clock.run()
    assert (s.fed, clock.now) == (["behind"] * 2, spoke)
    s.say(s.behind)
    clock.run()
    assert clock.now == pytest.approx(spoke + FRAME_S)  # pyright: ignore[reportUnknownMemberType]


def test_while_the_terminal_lags_floods_go_on_and_one_frame_shows_what_came(clock: Clock) -> None:
    s = Stand()
    s.lags = True
    s.say(s.behind, 3)
    s.say(s.front, 2)
    for _ in range(20):
        clock.run()
    assert not s.behind.has_output
    assert not s.front.has_output
    assert (s.fed, s.frames) == ([], [])
    s.lags = False
    clock.run()
    assert sorted(s.fed) == ["behind", "front"]
    assert len(s.frames) == 1
    clock.run()  # nothing is left to be done
    assert len(s.frames) == 1


async def test_a_typed_key_makes_the_others_wait() -> None:
    async with stage("a", "b") as s:
        await s.press("enter")
        await s.until(lambda: s.app.mode == "attached")
        drain, asked = s.app.feed.drain, list[int]()
        give_way = drain.give_way
        drain.give_way = lambda: (asked.append(1), give_way())[1]
        await s.press("x")
        assert asked
        sandbox(s.world, "b").terminal.say(b"after the key")
        await s.until(lambda: "after the key" in s.text())
