"""A QEMU for monitors: answers QMP on the inherited descriptor and plays the guest's agent.

FAKE_QEMU says what goes wrong, see `main`. Run as a program; QEMU's options are read as given.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from vmm.frames import HEADER, MAGIC, FrameType, encode

MODE = os.environ.get("FAKE_QEMU", "")
OPTIONS = " ".join(sys.argv[1:])


def inherited(chardev: str) -> socket.socket:
    """The socket that a chardev is to use."""
    found = re.search(rf"id={chardev},fd=(\d+)", OPTIONS)
    assert found is not None
    return socket.socket(fileno=int(found[1]))


def end(status: int = 0) -> NoReturn:
    os._exit(status)


# -- QMP ------------------------------------------------------------------------------------------


def objects(qmp: socket.socket) -> Iterator[dict[str, Any]]:
    """The monitor's commands: JSON objects, one after the other, without any separator."""
    text, decoder = "", json.JSONDecoder()
    while data := qmp.recv(65536):
        text += data.decode()
        while text := text.lstrip():
            try:
                request, end_of_it = decoder.raw_decode(text)
            except ValueError:
                break  # not all there yet
            text = text[end_of_it:]
            yield request


def serve_qmp(qmp: socket.socket) -> None:
    """Answer commands until the monitor hangs up."""

    def say(message: dict[str, Any]) -> None:
        qmp.sendall(json.dumps(message).encode() + b"\r\n")

    version = {"qemu": {"major": 10, "minor": 0, "micro": 7}, "package": ""}
    say({"QMP": {"version": version, "capabilities": []}})
    for request in objects(qmp):
        command = request["execute"]
        result: dict[str, Any] = {}
        if command == "query-version":
            result = version
        say({"return": result, "id": request.get("id")})
        if command == "migrate-incoming":
            status = "failed" if MODE == "bad state" else "completed"
            stamp = {"seconds": 1, "microseconds": 0}
            say({"event": "MIGRATION", "data": {"status": status}, "timestamp": stamp})
    end()


# -- the guest ------------------------------------------------------------------------------------


class Agent:
    """One connection to the channel."""

    def __init__(self, port: socket.socket, console: socket.socket) -> None:
        self.port, self.console = port, console

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.port.recv(size - len(data))
            if not got:
                raise EOFError
            data += got
        return data

    def send(self, kind: FrameType, stream: int = 0, payload: bytes = b"") -> None:
        self.port.sendall(encode(kind, stream, payload))

    def serve(self) -> None:
        while True:
            head = self.read(HEADER.size)
            if head == MAGIC[: HEADER.size]:
                self.read(len(MAGIC) - HEADER.size)
                continue
            length, stream, kind, _ = HEADER.unpack(head)
            self.take(FrameType(kind), stream, self.read(length))

    def take(self, kind: FrameType, stream: int, payload: bytes) -> None:
        match kind:
            case FrameType.HELLO if MODE != "mute":
                nonce, asked = struct.unpack_from("<QI", payload, 4)
                self.console.sendall(b"HELLO with flags %d\n" % asked)
                flags = 1 if "-incoming" in sys.argv and MODE != "template" else 0
                hello = struct.pack("<IQI", 1, nonce, flags)
                self.port.sendall(MAGIC + encode(FrameType.HELLO, 0, hello))
                if MODE == "hostile":
                    self.port.sendall(b"\xff" * 64)
                if MODE == "hostile later":
                    self.send(FrameType.PING)
            case FrameType.PONG:  # so the host has read our HELLO
                self.port.sendall(b"\xff" * 64)
            case FrameType.OPEN:
                self.send(FrameType.ACCEPT, stream)
            case FrameType.DATA if payload.startswith((b"EXEC ", b"PTY ")):
                self.send(FrameType.DATA, stream, b"X 0\n")
                self.send(FrameType.EOF, stream)
            case FrameType.DATA:
                self.start_workload(stream)
            case FrameType.POWEROFF:
                end()
            case _:
                pass

    def start_workload(self, stream: int) -> None:
        if MODE == "silent workload":
            return
        if MODE == "bad workload":
            reason = b"SPAWN_FAILED no such program"
            self.send(FrameType.DATA, stream, b"F %d\n%b" % (len(reason), reason))
            return
        self.send(FrameType.DATA, stream, b"S 80 24\n")
        if MODE.startswith("exit "):
            code, by_signal = map(int, MODE.split()[1:])
            self.send(FrameType.WORKLOAD_EXIT, 0, bytes([code, by_signal]))
            end()


def serve_channel(console: socket.socket) -> None:
    """Listen where the monitor was told to connect."""
    found = re.search(r"path=(\S+?),server=on", OPTIONS)
    assert found is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(found[1])
        listener.listen()
        while True:
            port, _ = listener.accept()
            if MODE == "panic":
                console.sendall(b"Kernel panic - not syncing\n")
                end()
            try:
                Agent(port, console).serve()
            except (EOFError, ConnectionError):
                port.close()


def main() -> None:
    """Be QEMU."""
    if MODE == "broken":
        print("qemu: unsupported machine type", file=sys.stderr, flush=True)  # noqa: T201
        end(1)
    console = inherited("console0")
    console.sendall(b"Linux version 6.12\n")
    threading.Thread(target=serve_channel, args=[console], daemon=True).start()

    def power_off(*_: object) -> None:
        end()

    def flood(*_: object) -> None:
        console.sendall(b"a line\n" * 400_000)

    signal.signal(signal.SIGUSR1, power_off)  # a guest that ends by itself
    signal.signal(signal.SIGUSR2, flood)  # a guest that fills its console
    threading.Thread(target=serve_qmp, args=[inherited("qmp0")], daemon=True).start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
