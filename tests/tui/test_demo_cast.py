"""The recorded demo: the file that is shipped, and what records and draws it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench.cast_svg import Frame, animated_svg, frame_of
from bench.demo_cast import MAX_PAUSE_S, SIZE, Recorder
from machinen_tui.asciicast import read_cast
from machinen_tui.terminal_model import TerminalModel

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_shipped_recording_plays_and_shows_forks() -> None:
    cast = read_cast(DOCS / "demo.cast")
    model = TerminalModel(cast.width, cast.height)
    screens: list[str] = []
    for event in cast.events:
        model.feed(event.data.encode(), live=False)
        screens.append(model.screen_text())
    assert any("on one-2" in screen and "on one" in screen for screen in screens)
    assert any("on one-2-3" in screen for screen in screens)
    assert cast.length_s < 60


def test_the_shipped_picture_fetches_nothing() -> None:
    text = (DOCS / "demo.svg").read_text()
    ElementTree.fromstring(text)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text


def test_a_recording_is_what_was_shown_without_long_pauses(tmp_path: Path) -> None:
    recorder = Recorder()
    start = recorder._last  # pyright: ignore[reportPrivateUsage]
    recorder.take("é".encode()[:1], start + 0.25)
    recorder.take("é".encode()[1:] + b"\x1b[1mx", start + 0.5)
    recorder.pace = 0.1
    recorder.take(b"y", start + 1.5)
    recorder.pace = 1.0
    recorder.take(b"z", start + 100)
    (tmp_path / "a.cast").write_text(recorder.cast())
    cast = read_cast(tmp_path / "a.cast")
    assert (cast.width, cast.height) == SIZE
    assert [event.data for event in cast.events] == ["é\x1b[1mx", "y", "z"]
    times = [event.at_s for event in cast.events]
    assert times == pytest.approx([0.5, 0.6, 0.6 + MAX_PAUSE_S])  # pyright: ignore[reportUnknownMemberType]


def test_a_picture_holds_text_colours_and_no_markup_of_guests() -> None:
    model = TerminalModel(20, 3)
    model.feed(b"\x1b[31m<b>&\x1b[0m  plain\r\n\x1b[7mturned\x1b[0m", live=False)
    text = animated_svg([frame_of(model, "one & <two>"), Frame((), 20, "three")])
    root = ElementTree.fromstring(text)
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[:1] == ["<b>&"]
    assert {"turned", "one & <two>", "three"} <= set(words)
    assert 'fill="#f7768e"' in text
    assert text.count('class="f"') == 2
