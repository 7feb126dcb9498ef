"""A VM whose monitor was killed: its sockets are there, and nobody listens."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from machinen_runtime import exec_pump
from machinen_runtime.channel_stream import ChannelUnavailableError, connect_channel, is_abandoned
from machinen_runtime.errors import ErrorCode, ExecError
from vmm.requests import CONTROL_SOCKET, VSOCK_SOCKET


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What is left of one: the path of its vsock.sock."""
    for name in (VSOCK_SOCKET, CONTROL_SOCKET):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    return tmp_path / VSOCK_SOCKET


async def test_whoever_connects_hears_so_at_once(left: Path) -> None:
    with pytest.raises(ChannelUnavailableError, match="monitor was killed"), anyio.fail_after(60):
        await connect_channel(left, 1978, timeout_ms=600_000)


def test_the_command_line_hears_so_at_once(left: Path) -> None:
    connected = exec_pump._connected(str(left))  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ExecError, match="monitor was killed") as caught:
        connected.__enter__()
    assert caught.value.code is ErrorCode.EXEC_AGENT_UNAVAILABLE


def test_one_that_is_only_not_there_yet_is_waited_for(left: Path) -> None:
    left.with_name(CONTROL_SOCKET).unlink()
    assert not is_abandoned(left)
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(left.with_name(CONTROL_SOCKET)))
        alive.listen()
        assert not is_abandoned(left)
