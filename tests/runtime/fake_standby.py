"""A standby without a machine: reads its spec, can be taken, says it is ready and lives on.

FAKE_STANDBY says what it does wrong. Run as the monitor's program, with `-` as its argument.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
from typing import Any, NoReturn

from vmm.claim import CLAIM_SOCKET, GREETING, Claim, ClaimReader
from vmm.spec import VmSpec, parse_spec
from vmm.standby_slot import give_up_slot


def say(claim: Claim, **message: Any) -> None:
    os.write(claim.descriptors["status"], json.dumps(message).encode() + b"\n")


def leave(spec: VmSpec, status: int) -> NoReturn:
    for directory in (spec.run_dir, spec.state_dir):
        shutil.rmtree(directory, ignore_errors=True)
    if spec.standby is not None:
        give_up_slot(spec.standby)
    os._exit(status)


def receive(listener: socket.socket) -> Claim:
    while True:
        connected, _ = listener.accept()
        with connected:
            connected.sendall(GREETING)
            reader = ClaimReader(connected)
            try:
                while (claim := reader.read()) is None:
                    pass
            except Exception:
                reader.close()
                continue
            return claim


def main(mode: str) -> None:
    spec = parse_spec(sys.stdin.buffer.read())
    assert spec.standby is not None

    def on_term(*_: object) -> None:
        leave(spec, 0)

    signal.signal(signal.SIGTERM, on_term)
    for directory in (spec.run_dir, spec.state_dir):
        os.mkdir(directory, 0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{spec.run_dir}/new.sock")
    listener.listen()
    os.rename(f"{spec.run_dir}/new.sock", f"{spec.run_dir}/{CLAIM_SOCKET}")
    if mode == "deaf":
        signal.pause()
    claim = receive(listener)
    give_up_slot(spec.standby)

    def end(*_: object) -> None:
        if mode != "says no status":
            say(claim, event="ended", status=143)
        leave(spec, 143)

    signal.signal(signal.SIGTERM, end)
    if mode == "dies":
        leave(spec, 1)
    say(claim, event="started", pid=os.getpid(), name=claim.spec.name)
    if mode == "fails":
        error = {"code": "QEMU_DIED", "message": "QEMU ended unexpectedly", "retryable": False}
        say(claim, event="failed", error=error, console="", qemu="")
        leave(spec, 1)
    say(claim, event="agent")
    say(claim, event="ready", phases={"standby": 1.5})
    if os.read(claim.descriptors["lifeline"], 1) == b"D":
        signal.pause()
    end()


if __name__ == "__main__":
    main(os.environ.get("FAKE_STANDBY", ""))
