"""A monitor command that fails where a test says: run as `fake_vmm.py [--detached] -`.

FAKE_VMM names the step, see `main`. What it does not do wrong it does as vmm/__main__.py does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

Spec = dict[str, Any]


def say(spec: Spec, **message: object) -> None:
    os.write(spec["status_fd"], json.dumps(message).encode() + b"\n")


def fail(spec: Spec, code: str = "PORT_IN_USE") -> NoReturn:
    error = {"code": code, "message": "cannot listen on port 80", "retryable": False}
    console = "\n".join(f"console line {number}" for number in range(40))
    say(spec, event="failed", error=error, console=console, qemu="qemu: no such device")
    leave(spec, 122)


def leave(spec: Spec, status: int) -> NoReturn:
    for directory in (spec["run_dir"], spec["state_dir"]):
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(status)


def hang() -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1000)


def end_on_term(spec: Spec) -> None:
    """As a monitor does from its first word on: TERM is status 143 and leaves no directory."""

    def on_term(*_: object) -> None:
        leave(spec, 143)

    signal.signal(signal.SIGTERM, on_term)


def live(spec: Spec) -> NoReturn:
    """Until the lifeline ends, or after LET_GO until TERM."""

    end_on_term(spec)
    if os.read(spec["lifeline_fd"], 1) == b"D":
        signal.pause()
    leave(spec, 143)


def late(spec: Spec) -> NoReturn:
    """Nobody wants it any more when it comes to its first word."""
    lives = os.environ["FAKE_VMM_LIVES"]
    os.close(os.open(lives, os.O_CREAT | os.O_WRONLY))
    os.read(spec["lifeline_fd"], 1)
    os.makedirs(spec["state_dir"])
    with suppress(BrokenPipeError):
        say(spec, event="started", pid=os.getpid(), name=spec["name"])
    time.sleep(0.2)  # as the interpreter's end takes on a busy machine
    os.unlink(lives)
    leave(spec, 0)


def main(mode: str) -> NoReturn:
    if mode == "exit":
        os._exit(1)
    if "--detached" in sys.argv and os.fork():
        os._exit(0)
    spec: Spec = json.loads(sys.stdin.buffer.read() or b"{}")
    if not spec:
        os._exit(0)
    match mode:
        case "silent":
            leave(spec, 1)
        case "garbage":
            os.write(spec["status_fd"], b"Segmentation fault\n")
            live(spec)
        case "no pid":
            say(spec, event="started", name=None)
            live(spec)
        case "endless":
            while True:
                os.write(spec["status_fd"], b"x" * 65536)
        case "failed":
            fail(spec)
        case "hang":
            hang()
        case "late":
            late(spec)
        case _:
            end_on_term(spec)
            name = spec["name"] and spec["name"].replace("{pid}", str(os.getpid()))
            say(spec, event="started", pid=os.getpid(), name=name)
    match mode:
        case "started, then silent":
            leave(spec, 1)
        case "started, then killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "started, then failed":
            fail(spec)
        case _ if mode.startswith("started, then code "):
            fail(spec, mode.split()[-1])
        case _ if mode.startswith("agent, then code "):
            say(spec, event="agent")
            fail(spec, mode.split()[-1])
        case "started, then hang":
            hang()
        case _:
            say(spec, event="serving")
            say(spec, event="ready", phases={"agent": 12.5})
            live(spec)
    os._exit(1)


if __name__ == "__main__":
    main(os.environ["FAKE_VMM"])
