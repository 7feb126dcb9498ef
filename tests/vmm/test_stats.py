"""The stats file's layout, and figures read from real processes."""

from __future__ import annotations

import math
import os
import struct
from contextlib import closing
from pathlib import Path

import pytest

from tests.vmm.ram_child import PAGE, ram_child
from vmm import stats
from vmm.stats import StatsFile, anonymous_bytes, cpu_seconds, memory_figures

SIZE = 4 << 20
NO_PROCESS = 1 << 22  # above every pid


def test_the_file_is_five_little_endian_u64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts = iter([5 << 20, 2 << 20, 4 << 20, 1 << 20, 1 << 20])

    def next_amount(pid: int) -> int:
        return next(amounts)

    monkeypatch.setattr(stats, "anonymous_bytes", next_amount)
    with closing(StatsFile(tmp_path / "stats")) as file:
        for _ in range(4):
            file.sample(1, balloon_bytes=7)
        file.show_state("paused")
        file.sample(1, balloon_bytes=7)
    # Two falls, 3 MiB each; what grew back in between does not count.
    content = (tmp_path / "stats").read_bytes()
    assert content[:24] == struct.pack("<QQQ", 6 << 20, 7, 0)
    assert content[32:] == struct.pack("<Q", 4)  # the fourth of STATES
    assert (tmp_path / "stats").stat().st_mode & 0o777 == 0o600


def test_a_reader_sees_each_sample_at_once(tmp_path: Path) -> None:
    with closing(StatsFile(tmp_path / "stats")) as file:
        assert (tmp_path / "stats").read_bytes() == bytes(40)
        file.sample(os.getpid(), balloon_bytes=9)
        assert struct.unpack("<QQQQQ", (tmp_path / "stats").read_bytes())[1] == 9


def test_a_process_that_ended_gave_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amounts = {1: 5 << 20, 2: 0}
    monkeypatch.setattr(stats, "anonymous_bytes", amounts.get)
    with closing(StatsFile(tmp_path / "stats")) as file:
        file.sample(1)
        file.sample(2)
        assert file.bytes_reported == 0


def test_the_cpu_of_an_interval_is_in_thousandths_of_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, used, own = iter([10.0, 10.5, 10.5]), iter([1.0, 1.2, 1.2]), iter([0.1, 0.15, 0.15])

    def next_seconds(pid: int) -> float:
        return next(used)

    monkeypatch.setattr(stats, "cpu_seconds", next_seconds)
    monkeypatch.setattr(stats.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(stats.time, "process_time", lambda: next(own))
    seen: list[int] = []
    with closing(StatsFile(tmp_path / "stats")) as file:
        for _ in range(3):
            file.sample(os.getpid())
            seen.append(struct.unpack("<QQQQQ", (tmp_path / "stats").read_bytes())[3])
    assert seen == [0, 500, 0]


def test_who_does_little_is_looked_at_seldom_and_who_stands_still_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = used = 0.0

    def used_seconds(pid: int) -> float:
        return used

    monkeypatch.setattr(stats, "cpu_seconds", used_seconds)
    monkeypatch.setattr(stats.time, "monotonic", lambda: now)
    monkeypatch.setattr(stats.time, "process_time", lambda: 0.0)
    with closing(StatsFile(tmp_path / "stats")) as file:
        paces = list[float]()

        def live(percent: float, times: int) -> None:
            nonlocal now, used
            for _ in range(times):
                now, used = now + 1, used + percent / 100
                file.sample(1)
                paces.append(file.interval_s)

        file.show_state("running")
        live(1, times=4)
        live(30, times=1)
        live(0, times=2)
        assert paces == [1, 2, 2, 2, 0.5, 1, 2], "idle, then busy, then idle"
        paces.clear()
        file.show_state("paused")
        live(0.5, times=2)
        live(0, times=2)
        file.show_state("running")
        live(0, times=1)
        assert paces == [1, 2, math.inf, math.inf, 1], "its last work is shown before"


def test_a_process_that_is_gone_costs_nothing() -> None:
    assert anonymous_bytes(NO_PROCESS) == 0
    assert cpu_seconds(NO_PROCESS) == 0
    figures = memory_figures(NO_PROCESS, SIZE, None)
    assert (figures.rss, figures.pss, figures.private, figures.shared) == (0, 0, 0, 0)


def test_our_own_costs_are_counted() -> None:
    assert anonymous_bytes(os.getpid()) > 1 << 20
    assert cpu_seconds(os.getpid()) > 0


def test_a_cold_guests_memory_is_all_its_own() -> None:
    with ram_child(SIZE, {0: b"a", 9: b"b"}) as child:
        figures = memory_figures(child.pid, SIZE, None)
    assert (figures.private, figures.shared) == (2 * PAGE, 0)
    assert figures.rss >= figures.pss > figures.private


def test_a_forks_memory_is_shared_until_it_writes(tmp_path: Path) -> None:
    image = tmp_path / "ram.img"
    image.write_bytes(b"x" * SIZE)
    with ram_child(SIZE, {3: b"own"}, str(image), reads="100,200") as child:
        figures = memory_figures(child.pid, SIZE, str(image))
    assert figures.private == PAGE
    assert figures.shared >= 2 * PAGE
