"""Garbage is looked for in quiet moments, and not left for good."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Generator

import pytest

from machinen_tui import garbage
from machinen_tui.garbage import LATEST_S, SWEEP_S, Sweeper


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Generator[list[float]]:
    """The sweeper's clock, to be set; Python looks for nothing meanwhile."""
    now = [1000.0]
    monkeypatch.setattr(garbage.time, "monotonic", lambda: now[0])
    gc.disable()
    try:
        yield now
    finally:
        gc.enable()


def test_a_quiet_moment_frees_cycles_once_it_is_time(clock: list[float]) -> None:
    sweeper, knot = Sweeper(), weakref.ref(Knot())
    clock[0] += SWEEP_S - 1
    assert not sweeper.tick(0)
    assert knot() is not None
    clock[0] += 1
    assert not sweeper.tick(7)  # output was shown within the last second
    assert knot() is not None
    assert sweeper.tick(7)
    assert knot() is None
    assert not sweeper.tick(7)  # just done


def test_an_endless_flood_does_not_keep_it_away(clock: list[float]) -> None:
    sweeper, knot = Sweeper(), weakref.ref(Knot())
    clock[0] += LATEST_S
    assert sweeper.tick(1)
    assert knot() is None


def test_only_the_young_are_looked_at_unasked() -> None:
    before = gc.get_threshold()
    try:
        garbage.collect_seldom()
        assert gc.get_threshold() == garbage.YOUNG
    finally:
        gc.set_threshold(*before)
