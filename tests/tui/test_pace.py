"""How often figures are asked for: every second where somebody sees them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from machinen_tui.pace import LINGER_S, SEEN_MS, UNSEEN_MS, Pace, seconds_covered
from tests.tui.stage import stage


def test_seen_lately_is_asked_often() -> None:
    pace = Pace()
    assert pace.of("a", 5.0) == UNSEEN_MS
    pace.see(["a"], 5.0)
    assert pace.of("a", 5.0 + LINGER_S - 1) == SEEN_MS
    assert pace.of("a", 5.0 + LINGER_S) == UNSEEN_MS
    pace.see(["a"], 20.0)
    pace.forget("a")
    assert pace.of("a", 20.0) == UNSEEN_MS


@given(st.none() | st.floats(0, 2e12), st.floats(0, 2e12))
def test_a_sample_tells_of_one_second_to_the_longest_pace(before: float | None, at: float) -> None:
    assert 1 <= seconds_covered(before, at) <= UNSEEN_MS // SEEN_MS
    assert seconds_covered(at, at + 3100) == 3


NAMES = tuple(f"vm-{number:02}" for number in range(16))


async def test_who_is_scrolled_away_is_asked_seldom_and_at_once_again() -> None:
    async with stage(*NAMES, size=(120, 30)) as s:
        await s.until(lambda: all(one.paces for one in s.world.sandboxes.values()))
        views = {view.name: view for view in s.app.roster.live()}
        first, last = (s.world.sandboxes[views[name].pid] for name in (NAMES[0], NAMES[-1]))
        assert views[NAMES[0]].key in s.app.list.keys_in_view()
        assert views[NAMES[-1]].key not in s.app.list.keys_in_view()
        await s.until(lambda: first.paces[-1] == SEEN_MS)
        assert last.paces == [UNSEEN_MS]
        last.state = "paused"  # nobody is told of it
        s.app.select(views[NAMES[-1]].key)
        await s.app.poll()
        await s.until(lambda: last.paces == [UNSEEN_MS, SEEN_MS])
        await s.until(lambda: views[NAMES[-1]].state == "paused")
        s.app.select(views[NAMES[0]].key)
        s.app.watcher.pace.forget(views[NAMES[-1]].key)  # as if long ago
        await s.app.poll()
        await s.until(lambda: last.paces == [UNSEEN_MS, SEEN_MS, UNSEEN_MS])


async def test_a_table_shows_all_so_all_are_asked_often() -> None:
    async with stage(*NAMES, size=(120, 30)) as s:
        everybody = s.world.sandboxes.values()
        await s.until(lambda: any(one.paces == [UNSEEN_MS] for one in everybody))
        await s.press("w")
        await s.until(lambda: len(s.app.screen_stack) > 1)
        await s.until(lambda: NAMES[0] in s.text())
        await s.app.poll()
        await s.until(lambda: all(one.paces[-1:] == [SEEN_MS] for one in everybody))


async def test_figures_that_come_seldom_stand_for_all_the_seconds_they_tell_of() -> None:
    async with stage("a") as s:
        await s.until(lambda: s.world.sandboxes and next(iter(s.world.sandboxes.values())).paces)
        one, (view,) = next(iter(s.world.sandboxes.values())), s.app.roster.live()
        await s.until(lambda: one.listeners)
        one.sample(10.0, at_ms=1_000_000)
        one.sample(20.0, at_ms=1_005_000)
        await s.until(lambda: len(view.samples) == 6)
        assert [sample.cpu_percent for sample in view.samples] == [10.0] + [20.0] * 5
