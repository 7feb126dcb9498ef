"""Fixtures for every room: where state lies during a test, and the event loops tests run on."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from machinen_runtime.pids import child_pids
from tests.raised_codes import pytest_runtest_call
from tests.spread import in_turns, workers
from tests.stuck import watch_for_stuck_tests

__all__ = ["pytest_runtest_call"]

# Other work on the machine must not fail a test; what is slow is caught by pytest-timeout.
QUIET: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# The same examples in every run: a test fails for the change that broke it. Others are looked for
# with HYPOTHESIS_PROFILE=explore.
settings.register_profile("shared", derandomize=True, **QUIET)
settings.register_profile("explore", max_examples=2000, **QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared"))

# What tests start runs from bytecode, as what pip installs does: it is compiled once. So are the
# tests themselves: to rewrite their assertions takes each worker ten seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A boot would leave a process that waits for the next one; those that test it say so.
os.environ["MACHINEN_STANDBY"] = "0"

CHILD_END_S = 60.0

# A shell's background job and nohup ignore them, which every program started here would inherit.
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        of_python = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if of_python else signal.SIG_DFL)

# pytest-xdist sets them for its workers; a test that gives a program a terminal means its size.
for variable in ("COLUMNS", "LINES"):
    os.environ.pop(variable, None)


def pytest_configure(config: pytest.Config) -> None:
    watch_for_stuck_tests(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Async tests run on asyncio and on trio; the TUI and tests that boot a guest on asyncio."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    asyncio_only = (
        "tui" in metafunc.definition.path.parts
        or metafunc.definition.get_closest_marker("vm") is not None
    )
    if metafunc.definition.get_closest_marker("parametrize") is None or not any(
        "anyio_backend" in str(mark.args[0])
        for mark in metafunc.definition.iter_markers("parametrize")
    ):
        backends = ["asyncio"] if asyncio_only else ["asyncio", "trio"]
        metafunc.parametrize("anyio_backend", backends, scope="module")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Takes the place of anyio's own fixture, whose parameters could not be chosen per test."""
    return "asyncio"


@pytest.fixture(autouse=True)
def no_child_is_left() -> Generator[None]:
    """A test whose child process goes on living after it fails, not one that runs later."""
    before = child_pids(os.getpid())
    yield
    after = set(child_pids(os.getpid())).difference(before)
    left = [pid for pid in after if not _ends(pid)]
    assert not left, f"left running: {[psutil.Process(pid).cmdline() for pid in left]}"


def _ends(pid: int) -> bool:
    """Whether a child ends within seconds; it is not reaped here, that is its starter's."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], CHILD_END_S)[0])
    finally:
        os.close(pidfd)


@pytest.fixture
def machinen_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for everything we own: registry, state, cache, logs and sockets."""
    home = tmp_path / "home"
    home.mkdir()
    for variable in ("REGISTRY_DIR", "STATE_DIR", "DETACHED_LOG_DIR", "SNAPSHOTS_DIR"):
        monkeypatch.delenv(f"MACHINEN_{variable}", raising=False)
    monkeypatch.setenv("MACHINEN_HOME", str(home))
    monkeypatch.setenv("MACHINEN_CACHE_DIR", str(home / "cache"))
    monkeypatch.setenv("MACHINEN_RUNTIME_DIR", str(home / "run"))
    return home


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """A failure is named at once: a run that is stopped before its end still tells what it saw."""
    if not report.failed:
        return None
    category = "failed" if report.when == "call" else "error"
    return category, f"\n{category}: {report.nodeid}\n", category.upper()


def pytest_collection_finish() -> None:
    """What all tests are made of stays to the end: the collector need not look at it again and
    again. That was a sixth of the time of a test of the TUI.
    """
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = in_turns(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return workers()
