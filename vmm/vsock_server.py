"""`vsock.sock`: one Unix socket through which clients reach every service of the guest.

The handshake is the hybrid-vsock one of Firecracker and cloud-hypervisor: `CONNECT <port>\n` in,
`OK <n>\n` out, then the socket is the stream. A client that goes away ends its stream in the guest,
even while neither side sends.
"""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus

from vmm.accepting import serve_own_user
from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.mux_stream import BATCH_BYTES, MuxStream, StreamResetError
from vmm.workload import EXEC_PORT, is_plain_command

HANDSHAKE_TIMEOUT_S = 5.0
MAX_HANDSHAKE_BYTES = 32
DRAIN_TIMEOUT_S = 2.0
FILES_PORT = 1976
WIDE_WINDOW_BYTES = 1 << 20
"""Copies and output never wait for a credit on its way. A terminal does: who presses Ctrl-C shall
not be shown all that was on its way first."""
GONE_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class HangupWatch:
    """Tells when the other end of a socket is closed for good; a half-closed one does not count.

    An epoll that is asked for no event still reports EPOLLHUP, epoll_ctl(2); its own descriptor is
    readable then.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, anyio.Event] = {}

    async def run(self) -> None:
        """Deliver hang-ups; runs as long as the monitor."""
        with self._epoll:
            while True:
                await anyio.wait_readable(self._epoll.fileno())
                for descriptor, _ in self._epoll.poll(0):
                    with suppress(OSError):
                        self._epoll.unregister(descriptor)
                    if event := self._waiting.pop(descriptor, None):
                        event.set()

    @asynccontextmanager
    async def watching(self, client: SocketStream) -> AsyncGenerator[anyio.Event]:
        """An event that is set when the other end of `client` has been closed entirely.

        The event loop may close a broken connection's descriptor at any time by itself, and the
        number may be another client's by then: only what is still ours is let go.
        """
        descriptor = client.extra(SocketAttribute.raw_socket).fileno()
        event = anyio.Event()
        try:
            self._epoll.register(descriptor, 0)
        except (OSError, ValueError):  # -1 or closed: it has gone already
            event.set()
        else:
            self._waiting[descriptor] = event
        try:
            yield event
        finally:
            if self._waiting.get(descriptor) is event:
                del self._waiting[descriptor]
                with suppress(OSError, ValueError):
                    self._epoll.unregister(descriptor)


async def serve_vsock(
    path: str,
    mux: ChannelMux,
    watch: HangupWatch,
    log: Callable[[str], None] | None = None,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `vsock.sock` until cancelled. The socket is for its owner alone (mode 0600, and
    vmm/peers.py)."""

    async def serve_client(client: SocketStream) -> None:
        with suppress(*GONE_ERRORS, anyio.EndOfStream, TimeoutError, VmmError, StreamResetError):
            async with client:
                await _serve_client(client, mux, watch)

    listener = await anyio.create_unix_listener(path, mode=0o600, backlog=256)
    async with listener:
        task_status.started()
        await serve_own_user(listener, serve_client, log)


async def _serve_client(client: SocketStream, mux: ChannelMux, watch: HangupWatch) -> None:
    with anyio.fail_after(HANDSHAKE_TIMEOUT_S):
        port, rest = await read_connect(client)
    ended = bool(rest) and _has_ended(client)
    async with watch.watching(client) as gone, mux.open_stream(port, gone) as stream:
        if port == FILES_PORT:
            stream.widen(WIDE_WINDOW_BYTES)
        elif port == EXEC_PORT and is_plain_command(rest):
            stream.widen(WIDE_WINDOW_BYTES, once_it_flows=True)
        # Not with the OPEN: a client that was not answered in time may say the same again, and what
        # the guest had by then would be done twice.
        await client.send(b"OK %d\n" % stream.id)
        if rest:
            await stream.send(rest)
        if ended:
            stream.send_eof()  # in the same turn: the guest wakes once for both
        await pump(client, stream, gone)


def _has_ended(client: SocketStream) -> bool:
    """Whether the client has said all it will say, and we have read it."""
    try:
        return not client.extra(SocketAttribute.raw_socket).recv(1, socket.MSG_PEEK)
    except OSError:  # BlockingIOError: it may go on
        return False


async def read_connect(client: SocketStream) -> tuple[int, bytes]:
    """The port of a `CONNECT <port>` line, and what came behind the line.

    Raises:
        VmmError: HANDSHAKE_INVALID.
    """
    data = b""
    while b"\n" not in data:
        if len(data) > MAX_HANDSHAKE_BYTES:
            raise VmmError("HANDSHAKE_INVALID", "no CONNECT line")
        data += await client.receive(4096)
    line, _, rest = data.partition(b"\n")
    verb, _, port = line.rstrip(b"\r").partition(b" ")
    if verb != b"CONNECT" or not port.isdigit() or int(port) > 0xFFFFFFFF:
        raise VmmError("HANDSHAKE_INVALID", "expected CONNECT and a port")
    return int(port), rest


async def pump(client: SocketStream, stream: MuxStream, gone: anyio.Event) -> bool:
    """Copy both ways until both ends have finished, or either is gone (`gone`: the client).

    True if both finished by themselves: neither aborted.
    """
    sent = anyio.Event()
    finished = False

    async with anyio.create_task_group() as tasks:

        async def up() -> None:
            with suppress(anyio.EndOfStream, StreamResetError, *GONE_ERRORS):
                while True:
                    await stream.send(await client.receive(BATCH_BYTES))
            stream.send_eof()
            sent.set()

        async def give_up_on_hangup() -> None:
            await gone.wait()
            with anyio.move_on_after(DRAIN_TIMEOUT_S):
                await sent.wait()  # a client may write and leave: what it wrote still counts
            stream.reset()

        tasks.start_soon(up)
        tasks.start_soon(give_up_on_hangup)
        try:
            while data := await stream.receive_batch():
                await client.send(data)
            await client.send_eof()
            await sent.wait()
            finished = not stream.was_reset
        except (StreamResetError, *GONE_ERRORS):
            stream.reset()
        tasks.cancel_scope.cancel()
    return finished
