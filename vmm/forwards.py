"""Port forwards: a TCP port of the host leads to one on the guest's loopback, over the channel."""

from __future__ import annotations

import errno
from contextlib import suppress

import anyio
from anyio.abc import SocketStream, TaskStatus

from vmm.errors import VmmError
from vmm.frames import TCP_PORT_BASE
from vmm.mux import ChannelMux
from vmm.spec import ForwardSpec
from vmm.vsock_server import HangupWatch, pump


async def serve_forward(
    forward: ForwardSpec,
    mux: ChannelMux,
    watch: HangupWatch,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled; reports started once the port is bound.

    Raises:
        VmmError: PORT_IN_USE, or PORT_FORBIDDEN, naming address and port.
    """
    try:
        listener = await anyio.create_tcp_listener(
            local_host=forward.host_addr, local_port=forward.host_port
        )
    except OSError as error:
        code = "PORT_IN_USE" if error.errno == errno.EADDRINUSE else "PORT_FORBIDDEN"
        where = f"{forward.host_addr}:{forward.host_port}"
        raise VmmError(code, f"cannot listen on {where}: {error.strerror or error}") from error

    port = TCP_PORT_BASE + forward.guest_port

    async def serve_client(client: SocketStream) -> None:
        with suppress(VmmError, OSError):
            async with (
                client,
                watch.watching(client) as gone,
                mux.open_stream(port, gone) as stream,
            ):
                await pump(client, stream, gone)

    async with listener:
        task_status.started()
        await listener.serve(serve_client)
