"""Frames reach the terminal in one piece; what is no part of one goes out at once."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any, cast

from textual.drivers._writer_thread import WriterThread
from textual.drivers.headless_driver import HeadlessDriver
from textual.drivers.linux_driver import LinuxDriver

from machinen_tui.app import MachinenApp
from machinen_tui.frame_driver import Counted, FrameDriver, in_whole_frames, lags
from tests.tui.fake_sandboxes import FakeWorld

BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"


class Written:
    """Stands for the thread that writes."""

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def write(self, text: str) -> None:
        self.pieces.append(text)


def made_driver() -> FrameDriver:
    """One that writes nowhere; drivers want a running loop."""
    driver = FrameDriver(MachinenApp(FakeWorld()), size=(80, 24))
    driver._writer_thread = cast(WriterThread, Written())
    return driver


def pieces(driver: FrameDriver) -> list[str]:
    return cast(Written, driver._writer_thread).pieces


async def test_a_frame_is_one_piece() -> None:
    driver = made_driver()
    for data in (BEGIN, "rows", "cursor", END, "bell", BEGIN, "more", END):
        driver.write(data)
    assert pieces(driver) == [f"{BEGIN}rowscursor{END}", "bell", f"{BEGIN}more{END}"]


async def test_without_marks_nothing_is_held_back() -> None:
    driver = made_driver()
    driver.write("rows")
    driver.write("title")
    assert pieces(driver) == ["rows", "title"]


async def test_an_application_that_paints_writes_whole_frames() -> None:
    """Through Textual's own way of painting: its marks are those the driver knows."""
    driver = made_driver()
    app = driver._app
    app._driver, app._sync_available = driver, True
    app._begin_update()
    driver.write("between")
    assert pieces(driver) == []
    app._end_update()
    assert [re.sub(r"\x1b\[\?2026.", "|", each) for each in pieces(driver)] == ["|between|"]


async def test_a_terminal_that_takes_its_time_is_known() -> None:
    driver = made_driver()
    ours, theirs = os.pipe()
    with open(theirs, "w", buffering=1, closefd=True) as slow:
        driver._counted = Counted(slow)
        driver._writer_thread = thread = WriterThread(cast("Any", driver._counted))
        thread.start()
        assert not lags(driver)
        driver.write("x" * (1 << 20))  # more than a pipe holds
        driver.write("frame")
        assert lags(driver)
        os.set_blocking(ours, False)
        while lags(driver):
            with suppress(BlockingIOError):
                os.read(ours, 1 << 16)
        thread.stop()
        driver._writer_thread = None  # the application has ended
        assert not lags(driver)
    os.close(ours)


async def test_of_other_drivers_nothing_is_known() -> None:
    assert not lags(HeadlessDriver(MachinenApp(FakeWorld())))
    assert not lags(None)


def test_only_the_driver_of_terminals_is_replaced() -> None:
    assert in_whole_frames(LinuxDriver) is FrameDriver
    assert in_whole_frames(HeadlessDriver) is HeadlessDriver


def test_what_is_for_a_terminal_that_is_gone_keeps_nobody_waiting() -> None:
    ours, theirs = os.openpty()
    os.close(ours)
    with suppress(OSError), open(theirs, "w") as gone:
        counted = Counted(gone)
        thread = WriterThread(cast("Any", counted))
        thread.start()
        for _ in range(100):  # three times what may wait
            thread.write("frame")
        thread.stop()
        assert counted.gone
        assert counted.taken == 100
