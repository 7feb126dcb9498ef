"""Ends the VMs of a test session whose process was killed: its fixtures tear nothing down any more.

`python -m tests.vm.guard HOME_FD`: started by `vm_home`. Its standard input is a pipe that only the
session holds; at its end of file every VM in the session's own registry (`vms` in the directory on
descriptor HOME_FD) goes, and the directory with it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio

from machinen_runtime.pids import signal_process, wait_process_gone
from machinen_runtime.registry import live_entries

TERM_TIMEOUT_MS = 20_000
ROOT = Path(__file__).parents[2]


@contextmanager
def guarded(home: Path) -> Generator[None]:
    """While this process lives the block does as it likes; if it is killed, `home` is cleared.

    The directory goes by descriptor: its path in an argument would make the guard look like one of
    the session's own leftovers.
    """
    home_fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        guard = subprocess.Popen(
            [sys.executable, "-m", "tests.vm.guard", str(home_fd)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            env={**os.environ, "MACHINEN_REGISTRY_DIR": str(home / "vms")},  # never another's
            pass_fds=[home_fd],
            start_new_session=True,  # what is sent to the session's group shall not reach it
        )
    finally:
        os.close(home_fd)
    with guard:  # closes the pipe and waits
        yield


async def end_all() -> None:
    """End every VM of the registry, by force if it takes too long."""
    for entry in live_entries():
        signal_process(entry.pid, entry, signal.SIGTERM)
    for entry in live_entries():
        if not await wait_process_gone(entry.pid, entry, timeout_ms=TERM_TIMEOUT_MS):
            signal_process(entry.pid, entry, signal.SIGKILL)


def main() -> None:
    """Wait for the end of the session, then clear up."""
    home = Path(os.readlink(f"/proc/self/fd/{sys.argv[1]}"))
    sys.stdin.buffer.read()
    anyio.run(end_all)
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
