"""Accept clients of a socket, and go on when there is no descriptor for the next one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream

from vmm.peers import is_trusted, peer_uid

ACCEPT_RETRY_S = 0.1
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ECONNABORTED})
"""What accept(2) fails with although the next try may succeed."""


async def serve_patiently(
    listener: SocketListener,
    serve_client: Callable[[SocketStream], Coroutine[Any, Any, None]],
    log: Callable[[str], None] | None = None,
) -> NoReturn:
    """Serve every client in a task of its own, until cancelled; `log` hears of shortages."""
    async with anyio.create_task_group() as tasks:
        while True:
            tasks.start_soon(serve_client, await accept_patiently(listener, log))
    raise AssertionError("only a cancellation ends the loop")


async def serve_own_user(
    listener: SocketListener,
    serve_client: Callable[[SocketStream], Coroutine[Any, Any, None]],
    log: Callable[[str], None] | None = None,
) -> NoReturn:
    """Serve every client of a Unix socket who is our own user or root; the others are hung up on.

    Each of those is logged.
    """

    async def serve_if_trusted(client: SocketStream) -> None:
        connected = client.extra(SocketAttribute.raw_socket)
        if is_trusted(connected):
            await serve_client(client)
            return
        if log is not None:
            log(f"a client of user id {peer_uid(connected)} was refused")
        await client.aclose()

    await serve_patiently(listener, serve_if_trusted, log)


async def accept_patiently(
    listener: SocketListener, log: Callable[[str], None] | None = None
) -> SocketStream:
    """The next client. Without descriptors to spare we try again: the VM shall not end of it.

    Nothing tells when a descriptor is free again. One shortage is logged once.
    """
    is_logged = False
    while True:
        try:
            client = await listener.accept()
        except (OSError, anyio.BrokenResourceError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in _PASSING:
                raise
            if log is not None and not is_logged:
                log(f"a client has to wait: {cause.strerror}")
                is_logged = True
            await anyio.sleep(ACCEPT_RETRY_S)
        else:
            return client
