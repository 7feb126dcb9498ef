"""Sockets are for one user: another one is hung up on, and is not spoken with."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from machinen_runtime import exec_pump
from machinen_runtime.errors import BootError, ErrorCode, ExecError
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.unix_stream import connect_unix
from tests.vmm.fake_guest import greeted, settled
from vmm.control import ControlServer, EventBus
from vmm.frames import FrameType
from vmm.guest_streams import GuestStreams
from vmm.peers import peer_uid
from vmm.vsock_server import HangupWatch, serve_vsock

NOBODY = 65534
CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(30)
    client.connect(sys.argv[1])
    try:
        client.sendall(sys.argv[3].encode() + b"\\n")
        sys.stdout.buffer.write(client.recv(4096))
    except (BrokenPipeError, ConnectionResetError):
        pass  # hung up on
"""
LISTEN = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("listening", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else too")


@pytest.fixture
def open_directory() -> Generator[Path]:
    """A directory that somebody opened to everybody: the sockets' own lock is all there is."""
    path = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def say(path: Path, uid: int, line: str) -> bytes:
    """What this user hears on the socket; it is open to everybody too."""
    path.chmod(0o666)
    argv = [sys.executable, "-c", CONNECT, str(path), str(uid), line]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60).stdout


@contextmanager
def listening(path: Path, uid: int) -> Generator[None]:
    argv = [sys.executable, "-c", LISTEN, str(path), str(uid)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        yield
        assert server.stdin is not None
        server.stdin.close()


async def test_control_answers_its_own_user_alone(open_directory: Path) -> None:
    async def feed(_interval_ms: int, _sink: object) -> None: ...

    path, notes = open_directory / "control.sock", list[str]()
    server = ControlServer({}, EventBus(), feed, notes.append)
    request = json.dumps({"id": 1, "method": "none"})
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve, str(path))
        assert b"METHOD_UNKNOWN" in await to_thread.run_sync(say, path, 0, request)
        assert notes == []
        assert await to_thread.run_sync(say, path, NOBODY, request) == b""
        assert notes == ["a client of user id 65534 was refused"]
        tasks.cancel_scope.cancel()


async def test_a_guests_services_are_its_own_users_alone(open_directory: Path) -> None:
    path, notes, watch = open_directory / "vsock.sock", list[str](), HangupWatch()
    async with greeted(open_directory) as (mux, _), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await tasks.start(serve_vsock, str(path), mux, watch, notes.append)
        assert await to_thread.run_sync(say, path, NOBODY, "CONNECT 1978") == b""
        assert notes == ["a client of user id 65534 was refused"]
        await settled()
        tasks.cancel_scope.cancel()


async def test_a_guest_reaches_no_other_users_server(open_directory: Path) -> None:
    watch = HangupWatch()
    async with greeted(open_directory) as (mux, guest), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        mux.on_guest_stream = GuestStreams(str(open_directory / "vsock.sock"), watch).serve
        with listening(open_directory / "vsock.sock_5000", NOBODY):
            await guest.send(FrameType.OPEN, 2, (5000).to_bytes(4, "little"))
            frame = await guest.next()
        assert (frame.type, frame.stream) == (FrameType.RESET, 2)
        assert int.from_bytes(frame.payload[:4], "little") == errno.ECONNREFUSED
        await settled()
        tasks.cancel_scope.cancel()


def test_a_client_speaks_with_nobody_elses_server(open_directory: Path) -> None:
    path = open_directory / "any.sock"
    with listening(path, NOBODY), pytest.raises(PermissionError, match="user id 65534"):
        connect_unix(path)


async def test_a_false_monitor_hears_no_request(open_directory: Path) -> None:
    with listening(open_directory / "control.sock", NOBODY):
        with pytest.raises(BootError, match="not yours to speak with") as caught:
            await MonitorClient(open_directory).status()
        assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
        with pytest.raises(BootError, match="not yours to speak with"):
            async with MonitorClient(open_directory).events():
                pass


def test_exec_speaks_with_nobody_elses_server(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_pump, "CONNECT_TIMEOUT_S", 0.1)
    path = open_directory / "vsock.sock"
    with (
        listening(path, NOBODY),
        pytest.raises(ExecError, match="user id 65534"),
        exec_pump._connected(str(path)),  # pyright: ignore[reportPrivateUsage]
    ):
        pass


def test_the_other_end_is_who_connected() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == os.geteuid()
