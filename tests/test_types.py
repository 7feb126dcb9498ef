"""The type checker, strict, over all there is: here, since it keeps one core busy for a minute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.busy
@pytest.mark.timeout(900)
def test_the_type_checker_has_nothing_to_say() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyright"],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
