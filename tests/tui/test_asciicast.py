"""Recordings: what is written is what is read; what is read may be anything; played in the app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_tui import asciicast
from machinen_tui.asciicast import CastError, CastEvent, Recorder, read_cast
from machinen_tui.terminal_model import TerminalModel
from machinen_tui.widgets.replay_screen import ReplayScreen
from machinen_tui.widgets.terminal_pane import TerminalPane
from tests.tui.stage import Stage, stage
from tests.tui.test_screens import closed, entered, opened


def recorded(path: Path, *pieces: bytes) -> Path:
    clock = iter(float(second) for second in range(100))
    recorder = Recorder(path, "web", (80, 24), "# \n", lambda: next(clock))
    for piece in pieces:
        recorder.output(piece)
    recorder.resized(100, 30)
    recorder.close()
    return path


def test_a_recording_reads_back_and_torn_characters_are_joined(tmp_path: Path) -> None:
    path = recorded(tmp_path / "a.cast", "ä".encode()[:1], "ä".encode()[1:], b"\x1b[1mx")
    assert path.stat().st_mode & 0o777 == 0o600
    cast = read_cast(path)
    assert (cast.width, cast.height, cast.title) == (80, 24, "web")
    assert [event.data for event in cast.events] == ["\x1b[2J\x1b[H# ", "ä", "\x1b[1mx", "100x30"]
    assert cast.events[-1].size == (100, 30)
    assert [event.at_s for event in cast.events] == sorted(event.at_s for event in cast.events)


def test_what_stood_there_is_played_with_the_cursor_where_it_was(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.cast", "web", (80, 24), "one\n$", cursor=(2, 1))
    recorder.output(b"ls")
    recorder.close()
    model = TerminalModel(80, 24)
    for event in read_cast(tmp_path / "a.cast").events:
        model.feed(event.data.encode())
    assert model.screen_text() == "one\n$ ls"


def test_nothing_is_overwritten_and_a_flood_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(tmp_path / "a.cast")
    with pytest.raises(CastError, match="File exists"):
        Recorder(tmp_path / "a.cast", "web", (80, 24), "")
    monkeypatch.setattr(asciicast, "MAX_RECORDED_BYTES", 500)
    flooded = Recorder(tmp_path / "b.cast", "web", (80, 24), "")
    for _ in range(100):
        flooded.output(b"y" * 50)
    assert flooded.closed
    assert (tmp_path / "b.cast").stat().st_size < 700
    read_cast(tmp_path / "b.cast")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no asciicast"), ("[]", "no asciicast"), ('{"version": 1}', "no asciicast"),
        ('{"version": 2, "width": 0, "height": 9}', "no size"),
        ('{"version": 2, "width": 80, "height": 99999}', "no size"),
    ],
)  # fmt: skip
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(CastError, match=said):
        read_cast(tmp_path / "x")
    with pytest.raises(CastError, match="No such file"):
        read_cast(tmp_path / "y")


HEADER = json.dumps({"version": 2, "width": 80, "height": 24}).encode() + b"\n"


@given(st.binary(max_size=200) | st.lists(st.sampled_from(
    [b'[1, "o", "x"]', b'[NaN, "o", "x"]', b'[1e999, "o", 3]', b'[-1, "r", "x"]', b"[",
     b'[2, "r", "axb"]']
), max_size=8).map(b"\n".join))  # fmt: skip
def test_any_lines_after_the_header_are_read(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.cast"
    path.write_bytes(HEADER + data)
    cast = read_cast(path)
    assert all(isinstance(event, CastEvent) and event.at_s >= 0 for event in cast.events)


def played(s: Stage) -> str:
    screen = s.app.screen
    if not isinstance(screen, ReplayScreen):
        return ""
    model = screen.query_one(TerminalPane).model
    return model.screen_text() if model else ""


async def test_a_terminal_is_recorded_and_played_from_where_it_stood(tmp_path: Path) -> None:
    async with stage("a") as s:
        s.world.recorded_in = tmp_path
        await entered(s, "replay")
        await s.until(lambda: "there is no recording yet" in "".join(s.notices()))
        await s.press("V")
        await s.until(lambda: "recording" in (s.pane("a") or s.app).border_subtitle)  # type: ignore[union-attr]
        await s.press("enter")
        await s.type("echo $((6*7))\n")
        await s.until(lambda: "\n42" in s.screen_of("a"))
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
        await s.press("V")
        await s.until(lambda: "a is recorded" in s.text())
        assert s.app.roster.live()[0].session.tap is None  # type: ignore[union-attr]
        await entered(s, "replay")
        await opened(s, "recording of a")
        await s.until(lambda: "\n42" in played(s), "the output")
        await s.press("home")
        await s.press("space")
        await opened(s, "paused")
        await s.press("escape")
        await closed(s)


async def test_leaving_ends_the_file(tmp_path: Path) -> None:
    async with stage("a") as s:
        s.world.recorded_in = tmp_path
        await s.press("V")
        view = s.app.roster.live()[0]
        await s.until(lambda: view.session is not None and view.session.tap is not None)
        assert view.session is not None
        recorder = view.session.tap
    assert recorder is not None
    assert recorder.closed
