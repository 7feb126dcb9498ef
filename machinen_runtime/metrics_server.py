"""serve_metrics(): OpenMetrics over HTTP on a Unix socket, for agents that scrape.

HTTP as far as a scrape needs it (RFC 9112): one request per connection, GET or HEAD of `/metrics`.
The socket is its owner's alone. A client that says nonsense, or nothing, loses its connection.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from machinen_runtime.errors import ErrorCode, MetricsError
from machinen_runtime.metrics import metrics_text
from machinen_runtime.open_metrics import CONTENT_TYPE
from machinen_runtime.paths import MAX_SOCKET_PATH_BYTES
from machinen_runtime.unix_stream import UnixStream

MAX_HEAD_BYTES = 16384
HEAD_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0
CLIENTS_AT_ONCE = 32
BACKLOG = 64
ACCEPT_RETRY_S = 0.1
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


async def serve_metrics(
    path: str | os.PathLike[str], *, task_status: TaskStatus[None] | None = None
) -> None:
    """Serve the figures of all sandboxes at `path` until cancelled; then the socket is removed.

    A socket there that nobody listens on is replaced. `task_status` hears when it listens, for
    `TaskGroup.start`.

    Raises:
        MetricsError: METRICS_SOCKET_INVALID if there is something else, no directory, or the path
            is too long; METRICS_SOCKET_IN_USE if somebody listens there.
    """
    slots = anyio.Semaphore(CLIENTS_AT_ONCE)

    async def serve(client: UnixStream) -> None:
        try:
            async with client:
                with suppress(*GONE, TimeoutError):
                    await _serve_client(client)
        finally:
            slots.release()

    with listening(Path(path)) as listener:
        async with anyio.create_task_group() as tasks:
            if task_status is not None:
                task_status.started()
            while True:
                await slots.acquire()
                tasks.start_soon(serve, await _accept(listener))


async def _accept(listener: socket.socket) -> UnixStream:
    """The next client. Nothing tells when a descriptor is free again: then we try later."""
    while True:
        await anyio.wait_readable(listener)
        try:
            return UnixStream(listener.accept()[0])
        except BlockingIOError:
            continue
        except OSError:
            await anyio.sleep(ACCEPT_RETRY_S)


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """A listening socket at `path`, mode 0600, for the length of the block."""
    _make_room(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
        listener.setblocking(False)
        previous = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise _invalid(path, f"cannot be made: {error.strerror}") from error
        finally:
            os.umask(previous)
        made = path.lstat()
        try:
            listener.listen(BACKLOG)
            yield listener
        finally:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), made):  # else somebody has replaced it
                    path.unlink()


def _make_room(path: Path) -> None:
    """Remove a socket nobody listens on; refuse whatever else is there."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise _invalid(path, f"is longer than the {MAX_SOCKET_PATH_BYTES} bytes a socket may have")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _invalid(path, "is there and is no socket; choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.setblocking(False)
            probe.connect(os.fspath(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass  # it listens, and is busy
    except (OSError, ValueError) as error:
        raise _invalid(path, f"cannot be used: {error}") from error
    message = f"somebody serves {path} already; stop that, or choose another path"
    raise MetricsError(ErrorCode.METRICS_SOCKET_IN_USE, message)


def _invalid(path: Path, why: str) -> MetricsError:
    return MetricsError(ErrorCode.METRICS_SOCKET_INVALID, f"{path} {why}")


async def _serve_client(client: UnixStream) -> None:
    with anyio.fail_after(HEAD_TIMEOUT_S):
        head = await _read_head(client)
    status, body = await _answer(head)
    kind = CONTENT_TYPE if status == "200 OK" else "text/plain; charset=utf-8"
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    if status.startswith("405"):
        lines.append("Allow: GET, HEAD")
    reply = "\r\n".join([*lines, "Connection: close", "\r\n"]).encode()
    with anyio.fail_after(SEND_TIMEOUT_S):
        await client.send(reply if head.startswith(b"HEAD ") else reply + body)
    await client.send_eof()


async def _read_head(client: UnixStream) -> bytes:
    """The request up to its empty line; b"" if it has none within the limit."""
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        head += await client.receive(4096)
        if len(head) > MAX_HEAD_BYTES:
            return b""
    return head


async def _answer(head: bytes) -> tuple[str, bytes]:
    """Status and body for a request."""
    match head.partition(b"\n")[0].split():
        case [method, target, version] if version.startswith(b"HTTP/1."):
            if method not in (b"GET", b"HEAD"):
                return "405 Method Not Allowed", b"only GET and HEAD\n"
            if target.partition(b"?")[0] not in (b"/metrics", b"/"):
                return "404 Not Found", b"the figures are at /metrics\n"
            return "200 OK", (await metrics_text()).encode()
        case _:
            return "400 Bad Request", b"not a request\n"
