"""QMP: QEMU's control protocol, through the qemu.qmp library, with our errors.

Commands and events are QEMU's, see qemu-qmp-ref(7).
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from qemu.qmp import ExecuteError, QMPClient, QMPError

from vmm.errors import VmmError

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # QEMU's end is ours to report

DEFAULT_TIMEOUT_S = 20.0


class Qmp:
    """A QMP session with one QEMU."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Run one command and return its result.

        Raises:
            VmmError: QMP_REFUSED with QEMU's words, or QEMU_GONE if the session broke or hangs.
        """
        try:
            with anyio.fail_after(timeout_s):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise VmmError("QMP_REFUSED", f"QEMU refused {command}: {error}") from error
        except TimeoutError as error:
            message = f"QEMU did not answer {command} within {timeout_s:g} s"
            raise VmmError("QEMU_GONE", message) from error
        except QMPError as error:
            raise VmmError("QEMU_GONE", f"QEMU went away during {command}") from error

    async def version(self) -> str:
        """QEMU's own version: `10.0.2`."""
        version: dict[str, int] = (await self.execute("query-version"))["qemu"]
        return "{major}.{minor}.{micro}".format(**version)

    async def give_descriptor(self, name: str, descriptor: int) -> None:
        """Let QEMU know a descriptor by this name; ours stays ours.

        Raises:
            VmmError: QMP_REFUSED, QEMU_GONE.
        """
        try:
            self._client.send_fd_scm(descriptor)
        except (QMPError, OSError) as error:
            raise VmmError("QEMU_GONE", "QEMU takes no descriptor") from error
        await self.execute("getfd", {"fdname": name})

    @contextlib.contextmanager
    def events(self, *names: str) -> Any:
        """Collect the named events from here on; yields an async iterator of messages."""
        with self._client.listener(names) as listener:
            yield listener


@asynccontextmanager
async def qmp_session(connected: socket.socket) -> AsyncGenerator[Qmp]:
    """Greet QEMU on a connected socket; leaving the block ends the session.

    Raises:
        VmmError: QEMU_START_FAILED if QEMU hangs up instead of greeting.
    """
    client = QMPClient("machinen")
    connected.setblocking(False)
    try:
        await client.connect(connected)
    except QMPError as error:
        raise VmmError("QEMU_START_FAILED", "QEMU ended before it could be spoken to") from error
    try:
        yield Qmp(client)
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(QMPError, EOFError, OSError):
            with anyio.move_on_after(2):
                await client.disconnect()
