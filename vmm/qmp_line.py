"""QMP from a plain thread, for the moment in which the guest stands still.

Between `stop` and `cont` each turn of an event loop is time the guest loses: whatever else the
monitor has to do comes first there, and each command takes several turns of the qemu.qmp library.
Here a command is one write and one read, and the next one follows at once.

QEMU reads QMP byte by byte, five system calls each: commands are as short as JSON allows.
"""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from threading import Lock
from typing import Any, cast

from vmm.errors import VmmError

TIMEOUT_S = 20.0
MAX_LINE_BYTES = 1 << 20
"""Of one answer; QEMU may be its guest's by then (docs/security.md)."""
_READ_BYTES = 65536


class QmpLine:
    """A QMP session of its own on a connected socket, which stays its owner's. Not for two threads
    at once, but for `drop_events`.

    It begins with `begin`: before that QEMU tells it nothing, and keeps nothing for it.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = bytearray()
        self._answers = select.poll()
        self._in_use = Lock()
        """Held from a command to its answer, which is no event to be dropped."""
        self._begun = False
        self._number = 0
        """Of the last command: the answer to one that took too long may still come."""

    def begin(self) -> None:
        """Greet QEMU; nothing if that was done.

        Raises:
            VmmError: QEMU_GONE, QMP_REFUSED.
        """
        if self._begun:
            return
        self._socket.setblocking(False)
        self._answers.register(self._socket, select.POLLIN)
        with self._in_use:
            self._read()  # the greeting
            self._begun = True
        self.execute("qmp_capabilities")

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Have QEMU do something, and wait until it is done.

        Raises:
            VmmError: QMP_REFUSED with QEMU's words; QEMU_GONE.
        """
        self.send(command, arguments)
        self.wait(command)

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        """Tell QEMU what to do; `wait` must follow before the next one.

        Raises:
            VmmError: QEMU_GONE.
        """
        self._number += 1
        request: dict[str, Any] = {"execute": command, "id": self._number}
        if arguments:
            request["arguments"] = arguments
        self._in_use.acquire()
        try:
            self._socket.sendall(json.dumps(request, separators=(",", ":")).encode())
        except OSError as error:
            self._in_use.release()
            raise _gone(f"during {command}") from error

    def wait(self, command: str) -> None:
        """Wait until QEMU has done what was sent last.

        Raises:
            VmmError: QMP_REFUSED with QEMU's words; QEMU_GONE.
        """
        try:
            while (answer := self._read()).get("id") != self._number:
                pass  # an event, or an answer nobody waited for
        finally:
            self._in_use.release()
        if "error" in answer:
            error: object = answer["error"]
            words = cast("dict[str, Any]", error).get("desc") if isinstance(error, dict) else error
            raise VmmError("QMP_REFUSED", f"QEMU refused {command}: {words}")

    def drop_events(self) -> None:
        """Forget what QEMU tells everybody: it would keep it for us. Never waits."""
        if not self._begun or not self._in_use.acquire(blocking=False):
            return
        try:
            with suppress(OSError):  # nothing is there, or QEMU has gone
                while data := self._socket.recv(_READ_BYTES):
                    self._received += data
            del self._received[: self._received.rfind(b"\n") + 1]
        finally:
            self._in_use.release()

    def _read(self) -> dict[str, Any]:
        """The next thing QEMU says."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > MAX_LINE_BYTES:
                raise _gone("and says what is no QMP")
            try:
                if not self._answers.poll(TIMEOUT_S * 1000):
                    raise _gone(f"or hangs: no answer within {TIMEOUT_S:g} s")
                data = self._socket.recv(_READ_BYTES)
            except OSError as error:
                raise _gone("while it was spoken to") from error
            if not data:
                raise _gone("while it was spoken to")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        try:
            said = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _gone("and says what is no QMP") from error
        if not isinstance(said, dict):
            raise _gone("and says what is no QMP")
        return cast("dict[str, Any]", said)


def _gone(why: str) -> VmmError:
    return VmmError("QEMU_GONE", f"QEMU went away {why}")
