"""Ends a test that outlived its own timeout.

pytest-timeout raises in whatever Python runs when its alarm comes. An event loop's callback or a
`finally` that waits can swallow that; and if it ends an async test, the fixtures of that test wait
for ever, since anyio's runner still holds its coroutine. The run would hang without a word. This
second clock needs neither the interpreter nor the test: it prints what every thread does and ends
the worker, whose loss pytest-xdist reports under the test's name before it starts another.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from _pytest.capture import CaptureManager

GRACE_S = 60.0  # for the test's `finally`s, after pytest-timeout's alarm
LOST = "MACHINEN_LOST_TESTS"  # a file of the run's tests that a worker was lost over, for workers


class SecondClock:
    def __init__(self, stderr_fd: int) -> None:
        self._stderr_fd = stderr_fd

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._start(item)
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self._start(item)  # again: pytest stops the clock when it reports a failure

    def _start(self, item: pytest.Item) -> None:
        faulthandler.dump_traceback_later(
            _timeout_s(item) + GRACE_S, exit=True, file=self._stderr_fd
        )


class LostTests:
    """Where tests are given out by file, pytest-xdist gives one that cost a worker to the next."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str) -> None:
        with self._path.open("a") as file:
            file.write(f"{crashitem}\n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        lost = self._path.stat().st_size and item.nodeid in self._path.read_text().splitlines()
        return True if lost else None  # True: it was run; its failure is reported already


def watch_for_stuck_tests(config: pytest.Config) -> None:
    """Registers the clock; it writes to the stderr that pytest has not captured."""
    capture = config.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    with capture.global_and_fixture_disabled():
        stderr_fd = os.dup(2)
    config.add_cleanup(lambda: os.close(stderr_fd))
    config.pluginmanager.register(SecondClock(stderr_fd))
    if not hasattr(config, "workerinput"):
        descriptor, os.environ[LOST] = tempfile.mkstemp(prefix="machinen-lost-tests-")
        os.close(descriptor)
        config.add_cleanup(Path(os.environ[LOST]).unlink)
    config.pluginmanager.register(LostTests(Path(os.environ[LOST])))


def _timeout_s(item: pytest.Item) -> float:
    """The test's own timeout in seconds: its mark's, else the suite's."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0] if mark is not None else item.config.getini("timeout"))
