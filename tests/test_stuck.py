"""A test that swallows its timeout is ended, and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUCK = """
import time
import pytest

@pytest.mark.timeout(0.2)
def test_swallows_its_timeout():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue

def test_comes_after_it():
    pass
"""
CONFTEST = """
from tests import stuck

stuck.GRACE_S = 0.2
pytest_configure = stuck.watch_for_stuck_tests
"""


def test_a_test_that_swallows_its_timeout_is_ended_and_named(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 300\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(STUCK)
    project = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(project)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "crashed while running 'test_it.py::test_swallows_its_timeout'" in run.stdout
    assert "in test_swallows_its_timeout" in run.stderr  # what the thread did
    assert "1 failed, 1 passed" in run.stdout
