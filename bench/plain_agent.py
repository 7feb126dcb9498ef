"""An agent spoken to by hand: one connection, one command at a time, no monitor in between.

What `qemu` and a few lines of script would do. Formats: docs/protocol.md.
"""

from __future__ import annotations

import os
import socket
import time

from machinen_runtime.channel_format import RunRequest
from vmm.frames import (
    HELLO_NEW_EPOCH,
    HELLO_SET_TIME,
    Frame,
    FrameDecoder,
    FrameType,
    GuestHello,
    Hello,
    encode,
)
from vmm.mux import HELLO_RETRY_S

EXEC_PORT = 1978
READ_BYTES = 65536


class PlainAgent:
    """The agent behind QEMU's channel socket; closes it at the end of the block."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []
        self._next_stream = 1

    def __enter__(self) -> PlainAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def meet(self, timeout_s: float) -> None:
        """Greet until the agent answers: QEMU drops what is written while its port is closed.

        Raises:
            TimeoutError: it did not answer.
            ConnectionError: QEMU ended.
        """
        nonce = int.from_bytes(os.urandom(8), "little")
        deadline = time.monotonic() + timeout_s
        self._socket.settimeout(HELLO_RETRY_S)
        while time.monotonic() < deadline:
            hello = Hello(
                nonce=nonce,
                realtime_ns=time.time_ns(),
                entropy=os.urandom(32),
                hostname="plain",
                name="plain",
                flags=HELLO_SET_TIME | HELLO_NEW_EPOCH,
            )
            self._socket.sendall(hello.encode())
            try:
                while True:
                    frame = self._next()
                    if frame.type is not FrameType.HELLO:
                        continue
                    if GuestHello.decode(frame.payload).nonce == nonce:
                        self._socket.settimeout(timeout_s)
                        return
            except TimeoutError:
                continue
        raise TimeoutError(f"the agent did not answer within {timeout_s:g} s")

    def run(self, *argv: str) -> None:
        """Run one command to its end.

        Raises:
            RuntimeError: it did not exit with 0.
        """
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        request = RunRequest(cmd=list(argv)).to_bytes()
        opened = encode(FrameType.OPEN, stream, EXEC_PORT.to_bytes(4, "little"))
        self._socket.sendall(opened + encode(FrameType.DATA, stream, request))
        replies = b""
        while True:
            frame = self._next()
            if frame.stream != stream:
                continue
            if frame.type is FrameType.DATA:
                replies += frame.payload
            elif frame.type in (FrameType.EOF, FrameType.RESET):
                break
        self._socket.sendall(encode(FrameType.EOF, stream))
        if not replies.endswith(b"X 0\n"):
            raise RuntimeError(f"{argv[0]} answered {replies[-80:]!r}")

    def _next(self) -> Frame:
        while not self._frames:
            data = self._socket.recv(READ_BYTES)
            if not data:
                raise ConnectionError("QEMU closed the channel")
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)
