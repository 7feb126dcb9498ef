"""What a benchmark reports: medians, worst values, verdicts; and what its command line takes."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from bench.__main__ import BEGIN, END, PERFORMANCE_PAGE, parse_arguments
from bench.curves_svg import curves_svg
from bench.figures import (
    Figure,
    Goal,
    Peer,
    format_value,
    markdown_table,
    median_phases,
    print_table,
)
from bench.growth import Curve
from bench.leftovers import Places, find_leftovers, open_descriptors
from bench.live_mount import BEGIN as LIVE_BEGIN
from bench.live_mount import END as LIVE_END
from bench.live_mount import Rates, figures_of
from bench.soak import parse_arguments as parse_soak_arguments
from bench.tui_latency import BEGIN as TUI_BEGIN
from bench.tui_latency import END as TUI_END
from bench.tui_stage import full_repaint, letter_of
from bench.tui_terminal import running
from machinen_runtime.pids import child_pids


def test_an_absolute_goal_holds_for_the_worst_value() -> None:
    goal = Goal(limit=250)
    assert Figure(title="pause", unit="ms", values=[60, 249], goal=goal).met is True
    assert Figure(title="pause", unit="ms", values=[60, 61, 251], goal=goal).met is False


def test_a_goal_of_at_least_holds_for_the_smallest_value() -> None:
    goal = Goal(limit=30, at_least=True)
    assert Figure(title="boots", unit="", values=[30], goal=goal).met is True
    assert Figure(title="boots", unit="", values=[29], goal=goal).met is False


def test_a_goal_of_the_median_does_not_ask_for_the_worst() -> None:
    goal = Goal(limit=60, of="median")
    assert Figure(title="start", unit="ms", values=[50, 55, 900], goal=goal).met is True
    assert Figure(title="start", unit="ms", values=[50, 61, 61], goal=goal).met is False


def test_p95_leaves_out_one_of_twenty() -> None:
    values = [float(value) for value in range(1, 21)]
    assert Figure(title="fork", unit="ms", values=values).p95 == 19
    assert Figure(title="stream", unit="MB/s", values=values).p95 == 2
    assert Figure(title="once", unit="ms", values=[7]).p95 == 7


def test_curves_are_drawn_to_scale() -> None:
    curve = Curve(title="memory <touched>", x_title="MiB", unit="ms")
    for mib in (128, 4096):
        curve.add("fork", mib, mib / 4)
    svg = ElementTree.fromstring(curves_svg([curve, curve, curve]))
    lines = [each for each in svg.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 3
    first, last = (point.split(",") for point in lines[0].attrib["points"].split())
    assert float(first[0]) < float(last[0])
    assert float(first[1]) > float(last[1])  # larger is higher up
    assert any(each.text == "memory <touched> (ms)" for each in svg.iter())


def test_a_ratio_is_of_medians() -> None:
    peer = Peer(title="python", values=[10, 20, 900])
    goal = Goal(limit=4, of="ratio")
    figure = Figure(title="ls", unit="ms", values=[40, 60, 5000], peer=peer, goal=goal)
    assert figure.ratio == pytest.approx(3)  # pyright: ignore[reportUnknownMemberType]
    assert figure.met is True


def test_without_a_goal_there_is_no_verdict() -> None:
    assert Figure(title="size", unit="MiB", values=[1]).met is None


def test_the_worst_rate_is_the_smallest() -> None:
    assert Figure(title="stream", unit="MB/s", values=[90, 70, 80]).worst == 70


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (78.4, "ms", "78.4 ms"),
        (250, "ms", "250 ms"),
        (1240, "ms", "1.24 s"),
        (30, "", "30"),
        (123.4, "MiB", "123 MiB"),
        (0.6, "%", "0.6 %"),
    ],
)
def test_values_are_shown_with_three_digits(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_a_missed_goal_stands_out_in_both_tables() -> None:
    missed = Figure(
        title="fork",
        unit="ms",
        values=[1500.0],
        goal=Goal(limit=1000),
        phases={"spawn": 10.0, "tiny": 0.001},
    )
    screen = io.StringIO()
    print_table([missed], Console(file=screen, width=120))
    assert "MISSED" in screen.getvalue()
    page = markdown_table([missed])
    assert "| fork | 1.5 s | 1.5 s | 1.5 s |  |  | ≤ 1 s | MISSED |" in page
    assert "- fork: spawn 10\n" in page


def test_phases_are_medians_and_a_missing_one_counts_as_zero() -> None:
    runs = [{"spawn": 1.0, "agent": 5.0}, {"spawn": 3.0}, {"spawn": 2.0, "agent": 7.0}]
    assert median_phases(runs) == {"spawn": 2.0, "agent": 5.0}


def test_repeat_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--repeat", "0"])
    assert "at least 1" in capsys.readouterr().err


def test_the_page_has_the_marks_between_which_a_run_is_written() -> None:
    page = PERFORMANCE_PAGE.read_text(encoding="utf-8")
    assert page.count(BEGIN) == page.count(END) == 1
    assert page.index(BEGIN) < page.index(END)


def _places(root: Path) -> Places:
    places = Places(
        registry=root / "vms", machines=root / "m", sockets=root / "t" / "r", temporary=root / "t"
    )
    for path in (places.registry / "names", places.machines, places.sockets):
        path.mkdir(parents=True)
    return places


def test_nothing_left_is_clean(tmp_path: Path) -> None:
    children = child_pids(os.getpid())  # the guard of VM tests that ran here before
    left = find_leftovers(_places(tmp_path), open_descriptors(), children)
    assert left.clean, left


def test_every_kind_of_leftover_is_found(tmp_path: Path) -> None:
    places = _places(tmp_path)
    before = open_descriptors()
    (places.registry / "4711").mkdir()
    (places.registry / "names" / "web").write_text("4711")
    (places.machines / "disk").touch()
    (places.temporary / "bundle").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(places.sockets / "s"))
        left = find_leftovers(places, before)
    assert len(left.entries) == 2
    assert {Path(path).name for path in left.files} == {"disk", "bundle", "s"}
    assert len(left.sockets) == 1
    assert any("socket:" in item for item in left.descriptors)
    assert not left.clean


def test_a_process_that_was_told_of_our_places_is_found(tmp_path: Path) -> None:
    places = _places(tmp_path)
    before = open_descriptors()
    environment = {"WHERE": str(places.machines), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, env=environment) as process:
        left = find_leftovers(places, before)
        assert any(item.startswith(f"{process.pid} ") for item in left.processes)


def test_a_soak_lasts_some_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_soak_arguments(["--minutes", "0"])
    assert "more than 0" in capsys.readouterr().err


def test_a_live_mount_is_judged_by_its_worst_run_beside_sshfs() -> None:
    ours = [Rates(70, 61, 510), Rates(80, 59, 700)]
    peers = [Rates(20, 30, 100), Rates(20, 30, 100)]
    write, read, files, floor = figures_of(ours, peers, [900, 800])
    assert (write.met, read.met, files.met, floor.met) == (True, False, True, None)
    assert [figure.ratio for figure in (write, read, files)] == [3.75, 2.0, 6.05]


def test_the_page_has_a_place_for_every_benchmark() -> None:
    page = PERFORMANCE_PAGE.read_text()
    for begin, end in ((BEGIN, END), (LIVE_BEGIN, LIVE_END), (TUI_BEGIN, TUI_END)):
        assert page.count(begin) == page.count(end) == 1
        assert page.index(begin) < page.index(end)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the application is another process's
async def test_a_terminal_sees_each_frame_of_the_application_and_says_when(tmp_path: Path) -> None:
    environment = {"MACHINEN_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    async with running(["bench.tui_stage", "full", "2"], environment, (120, 40)) as terminal:
        for number in range(2):
            await terminal.shown(letter_of(number))
        before = terminal.frames
        await terminal.until(lambda: terminal.frames > before + 5, "more frames")
        assert await terminal.type_and_time(b"?", b"keys and commands") > 0
        assert terminal.process.is_running()
    assert not terminal.process.is_running()


def test_a_staged_terminal_draws_every_row_another_way_each_time() -> None:
    first, second = (full_repaint("A", count, 42, 3).decode() for count in (0, 1))
    assert first.count("\n") == second.count("\n") == 2
    assert first.count("A") == 1
    assert first != second
