"""A test that outlives its timeout is ended, and named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

STUCK = """
import time

import anyio
import pytest

@pytest.mark.timeout(0.2)
def test_swallows_its_timeout():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue

@pytest.fixture
async def something():
    yield

@pytest.mark.anyio
@pytest.mark.timeout(0.2)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_leaves_its_fixture_waiting(something):
    await anyio.sleep_forever()

def test_comes_after_them():
    pass
"""
NEEDED = [f"-p{plugin}" for plugin in ("xdist", "pytest_timeout", "anyio", "no:cacheprovider")]
CONFTEST = """
from tests import stuck

stuck.GRACE_S = 0.2
pytest_configure = stuck.watch_for_stuck_tests
"""


def test_tests_that_outlive_their_timeout_are_ended_and_named(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 300\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(STUCK)
    project = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n1", "--dist=loadfile", *NEEDED, str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": str(project),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lost = re.findall(r"crashed while running 'test_it.py::(\w+)", run.stdout)
    assert lost == ["test_swallows_its_timeout", "test_leaves_its_fixture_waiting"]  # each once
    assert "in test_swallows_its_timeout" in run.stderr  # what the thread did
    assert " 1 passed" in run.stdout
