"""The agent as a process on the host, at the end of a socket pair."""

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.guest.frame_client import FrameClient


class Agent:
    """A running agent and the first connection to it."""

    def __init__(self, binary: Path, root: Path, prefix: Sequence[str] = ()) -> None:
        ours, theirs = socket.socketpair()
        (root / "etc").mkdir()
        self.root = root
        self.log = (root / "agent.log").open("w+b")
        self.process = subprocess.Popen(
            [
                *prefix,
                binary,
                "--port-fd",
                str(theirs.fileno()),
                "--sandboxed-host",
                "--root",
                root,
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            env=os.environ
            | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        )
        theirs.close()
        self.socket = ours
        self.client = FrameClient(ours)

    def stop(self) -> str:
        """Close the port and wait for a clean end; returns what the agent printed."""
        self.socket.close()
        try:
            status = self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.seek(0)
            text = self.log.read().decode(errors="replace")
            self.log.close()
        assert status == 0, text
        assert "Sanitizer" not in text, text
        assert "runtime error" not in text, text
        return text
