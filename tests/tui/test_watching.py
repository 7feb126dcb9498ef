"""Figures over time, probes, columns, tiles, thresholds, the journal: without an application."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui import alerts, history
from machinen_tui.chart import chart_rows, milliseconds, summary
from machinen_tui.columns import COLUMNS, arranged
from machinen_tui.config import COLUMNS as COLUMN_NAMES
from machinen_tui.config import SORTS, Config
from machinen_tui.history import BUCKET_S, BUCKETS, History, Ring
from machinen_tui.journal import MAX_EVENTS, Journal, JournalTail
from machinen_tui.probe import Counters, counters_in, rates
from machinen_tui.roster import SandboxView
from machinen_tui.tiles import tiling
from vmm.requests import StatsEvent

MIB = 1 << 20


def view(name: str, cpu: float = 1.0, rss_mib: int = 100) -> SandboxView:
    entry = RegistryEntry(pid=len(name), socket_path="", started_at=0.0, name=name,
                          memory_ceiling_mib=512)  # fmt: skip
    made = SandboxView.from_entry(entry)
    made.samples.append(
        StatsEvent(time_ms=0, cpu_percent=cpu, rss_bytes=rss_mib * MIB, pss_bytes=0,
                   private_bytes=rss_mib * MIB, shared_bytes=0, balloon_bytes=0, ceiling_mib=512,
                   lazy_pages_pending=0, last_output_ms=0)
    )  # fmt: skip
    return made


# -- history --------------------------------------------------------------------------------------


def test_a_bucket_is_the_mean_of_what_came_in_it_and_gaps_are_unknown() -> None:
    ring = Ring()
    for at, value in ((1000, 2.0), (1002, 4.0), (1010, 9.0), (900, 77.0)):
        ring.add(at, value)
    assert ring.values(1014, 20, 4) == [None, 3.0, None, 9.0]
    assert ring.last == 9.0
    assert ring.values(1014 + 3600, 20, 4) == [None] * 4


def test_an_hour_is_kept_and_no_more() -> None:
    ring = Ring()
    for bucket in range(3 * BUCKETS):
        ring.add(bucket * BUCKET_S, bucket)
    now = (3 * BUCKETS - 1) * BUCKET_S
    assert ring.values(now, 3600, BUCKETS) == [float(b) for b in range(2 * BUCKETS, 3 * BUCKETS)]
    assert ring.values(now, 7 * 3600, BUCKETS) == ring.values(now, 3600, BUCKETS)
    assert set(History().rings) == set(history.SERIES)


@given(st.lists(st.tuples(st.integers(0, 20_000), st.floats(0, 1e6)), max_size=60),
       st.integers(0, 20_000), st.integers(1, 7200), st.integers(1, 300))  # fmt: skip
def test_values_are_of_what_was_put_in(
    put: list[tuple[int, float]], now: int, span: int, points: int
) -> None:
    ring = Ring()
    for at, value in put:
        ring.add(at, value)
    values = ring.values(now, span, points)
    assert len(values) == points
    highest = max((value for _, value in put), default=nan)
    assert all(value is None or 0 <= value <= highest * 1.001 + 1e-6 for value in values)


# -- probes ---------------------------------------------------------------------------------------

SAID = b"""\
 254       0 vda 100 0 2000 5 10 0 4000 5 0 0 0
 254       1 vda1 9 0 9999 5 10 0 9999 5 0 0 0
   7       0 loop0 9 0 9999 5 10 0 9999 5 0 0 0
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo: 500 1 0 0 0 0 0 0 500 1 0 0 0 0 0 0
  eth0: 700 1 0 0 0 0 0 0 300 1 0 0 0 0 0 0
"""


def test_whole_disks_and_real_cards_are_summed() -> None:
    assert counters_in(SAID) == Counters(2000 * 512, 4000 * 512, 700, 300)


def test_rates_are_per_second_and_unknown_after_another_life() -> None:
    before, now = Counters(0, 0, 100, 0), Counters(1000, 500, 300, 50)
    assert rates(before, now, 2) == {"disk_read": 500, "disk_write": 250, "net_in": 100,
                                     "net_out": 25}  # fmt: skip
    assert rates(now, before, 2) == {}
    assert rates(before, now, 0) == {}


@given(
    st.binary(max_size=500) | st.lists(st.sampled_from(SAID.split()), max_size=60).map(b" ".join)
)
def test_no_guest_makes_counters_fail(said: bytes) -> None:
    found = counters_in(said)
    assert min(found.disk_read, found.disk_write, found.net_in, found.net_out) >= 0


# -- the table ------------------------------------------------------------------------------------


def test_every_column_and_order_of_the_settings_is_there() -> None:
    assert set(COLUMNS) == set(COLUMN_NAMES)
    assert set(SORTS) <= {*COLUMNS, "lineage", "name"}
    for column in COLUMNS.values():
        assert isinstance(column.text(view("a")), str)


def test_rows_are_sorted_filtered_and_otherwise_stay_in_place() -> None:
    b, a, c = view("b", 5, 300), view("a", 50, 100), view("c", 5, 200)
    c.state = "paused"
    views = [b, a, c]
    assert arranged(views, "lineage") == [b, a, c]
    assert arranged(views, "name") == [a, b, c]
    assert arranged(views, "cpu") == [a, b, c]
    assert arranged(views, "memory") == [b, c, a]
    assert arranged(views, "memory", reverse=True) == [a, c, b]
    assert arranged(views, "latency") == [b, a, c]
    a.history.add(10, exec_ms=7, disk_read=1, disk_write=2)
    assert arranged(views, "latency") == [a, b, c]
    assert COLUMNS["disk"].key(a) == 3
    assert arranged(views, "name", needle="PAU c") == [c]
    assert arranged(views, "name", needle="nothing") == []


# -- charts and tiles -----------------------------------------------------------------------------


def test_a_chart_rises_with_its_values_and_leaves_the_unknown_blank() -> None:
    assert chart_rows([None, 0, 4, 8, 16], 2, 8) == ["   ██", " ▁███"]
    assert chart_rows([1.0], 1, 0) == ["▁"]
    assert summary([None], milliseconds) == "nothing is known yet"
    assert summary([None, 2, 4], milliseconds) == "now 4 ms · mean 3 ms · most 4 ms"
    assert summary([None, 2, 4], milliseconds, 20) == "now 4 ms · most 4 ms"


@pytest.mark.parametrize("size", [(72, 18), (112, 34), (228, 62)])
def test_fifty_tiles_fit_in_every_window(size: tuple[int, int]) -> None:
    tiles = tiling(50, *size)
    assert tiles.columns * tiles.rows >= 50
    assert tiles.width * tiles.columns <= size[0]
    assert tiles.at(size[0] - 1, 0) == tiles.columns - 1


@given(st.integers(1, 500), st.integers(1, 300), st.integers(1, 100))
def test_tiles_never_leave_the_window(count: int, width: int, height: int) -> None:
    tiles = tiling(count, width, height)
    assert tiles.columns >= 1
    assert 1 <= tiles.width <= width
    assert tiles.rows * tiles.height <= max(height, tiles.height)


# -- alerts ---------------------------------------------------------------------------------------


def test_an_alert_waits_is_said_once_and_ends_well_below_its_threshold() -> None:
    config = Config(alert_cpu=80, alert_memory=0, alert_hold_s=10)
    busy = view("web", cpu=90)
    assert alerts.check(busy, busy.alerts, config, 0) == []
    assert alerts.check(busy, busy.alerts, config, 9) == []
    (said,) = alerts.check(busy, busy.alerts, config, 10)
    assert (said.text, said.over) == ("web: cpu 90% ≥ 80%", False)
    assert alerts.check(busy, busy.alerts, config, 60) == []
    busy.samples.append(view("web", cpu=75).samples[0])
    assert alerts.check(busy, busy.alerts, config, 70) == []
    busy.samples.append(view("web", cpu=10).samples[0])
    (said,) = alerts.check(busy, busy.alerts, config, 71)
    assert (said.text, said.over) == ("web: cpu is back", True)
    assert not busy.alerts.active


def test_memory_and_latency_have_thresholds_too_and_zero_means_none() -> None:
    full = view("db", rss_mib=500)
    full.history.add(5, exec_ms=900)
    config = Config(alert_memory=95, alert_latency=800, alert_hold_s=0)
    texts = [alert.text for alert in alerts.check(full, full.alerts, config, 0)]
    assert texts == ["db: memory 98% of 512M ≥ 95%", "db: exec 900 ms ≥ 800 ms"]
    off = alerts.check(full, full.alerts, Config(alert_memory=0, alert_hold_s=0), 1)
    assert [alert.over for alert in off] == [True, True]
    assert alerts.check(full, full.alerts, Config(alert_memory=0, alert_hold_s=0), 2) == []


def test_a_full_disk_is_said_once_at_once_and_when_it_is_over() -> None:
    stuck, config = view("web"), Config()
    stuck.state = "disk-full"
    (said,) = alerts.check(stuck, stuck.alerts, config, 0)
    assert (said.text, said.over) == (f"web: {alerts.NO_ROOM}", False)
    assert alerts.check(stuck, stuck.alerts, config, 1) == []
    stuck.state = "snapshotting"
    assert alerts.check(stuck, stuck.alerts, config, 2) == []
    stuck.state = "running"
    (said,) = alerts.check(stuck, stuck.alerts, config, 3)
    assert (said.text, said.over) == ("web: running, the disk has room", True)
    assert not stuck.alerts.active


# -- the journal ----------------------------------------------------------------------------------


def test_a_tail_gives_each_line_once_and_the_journal_is_bounded() -> None:
    journal = Journal()
    every, one = JournalTail(journal), JournalTail(journal, "b")
    journal.add("phases", "a", "boot 8 ms")
    journal.add("lifecycle", "b", "paused")
    assert every.read().count(b"\n") == 2
    assert b"lifecycle  b" in one.read()
    assert every.read() == b""
    for number in range(MAX_EVENTS + 10):
        journal.add("alert", "a", str(number))
    assert every.read().count(b"\n") == MAX_EVENTS
