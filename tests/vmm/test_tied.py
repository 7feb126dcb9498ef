"""A program tied to its starter: it runs, keeps its words and pid, and ends with the starter."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from vmm.tied import tied

ROOT = Path(__file__).parents[2]
STARTER = """
import subprocess, sys
from vmm.tied import tied

subprocess.Popen(tied("sh", "-c", "echo $$; exec sleep 600", signal=sys.argv[1])).wait()
"""


def test_it_runs_with_the_words_it_was_given() -> None:
    words = ["", "a b", "$HOME", "'", "--", "-c", "*"]
    done = subprocess.run(tied("printf", "%s\\n", *words), stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines() == words


def test_its_pid_is_the_started_one_and_its_status_reaches_the_starter() -> None:
    with subprocess.Popen(tied("sh", "-c", "echo $$; exit 7"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid
    assert process.returncode == 7


def test_it_goes_with_a_killed_starter() -> None:
    argv = [sys.executable, "-c", STARTER, "TERM"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        program = psutil.Process(int(starter.stdout.readline()))
        os.kill(starter.pid, signal.SIGKILL)
    program.wait(60)


def test_it_does_not_run_for_a_starter_that_has_ended_already(tmp_path: Path) -> None:
    # As at a starter killed between fork and prctl: the parent is not who built the line.
    started = tmp_path / "started"
    line = shlex.join(tied("touch", str(started)))
    done = subprocess.run(["sh", "-c", f"{line}; exit $?"], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")
    assert not started.exists()
