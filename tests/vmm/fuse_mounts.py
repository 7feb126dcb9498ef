"""Live mounts on this very kernel, for tests: see tests/vmm/fuse_server.py."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.vmm.fuse_server import unmount

REPOSITORY = Path(__file__).parents[2]


class LiveMount:
    """A mounted directory: `host` is shared, `guest` is where the kernel shows it."""

    def __init__(self, host: Path, guest: Path, server: subprocess.Popen[str]) -> None:
        self.host, self.guest = host, guest
        self._server = server

    def ask(self, command: str) -> Any:
        """One command to the server, and its answer."""
        assert self._server.stdin is not None
        self._server.stdin.write(command + "\n")
        self._server.stdin.flush()
        return self.hear()

    def hear(self) -> Any:
        """The next line of the server."""
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            assert self._server.stderr is not None
            raise AssertionError(f"the server is gone: {self._server.stderr.read()}")
        return json.loads(line)


@contextmanager
def live_mount(directory: Path, *, mode: str = "rw") -> Generator[LiveMount]:
    """Share `directory`/host at `directory`/guest; leaving the block unmounts."""
    host, guest = directory / "host", directory / "guest"
    host.mkdir(exist_ok=True)
    guest.mkdir(exist_ok=True)
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.vmm.fuse_server", str(host), str(guest), mode],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server:
        try:
            mount = LiveMount(host, guest, server)
            assert mount.hear() == "mounted"
            yield mount
            assert server.stdin is not None
            server.stdin.close()
            server.wait(timeout=30)
        finally:
            unmount(str(guest))
            server.kill()
    assert server.stderr is not None
