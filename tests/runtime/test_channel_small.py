"""Secrets and window sizes through their channels."""

from __future__ import annotations

from pathlib import Path

import pytest

from machinen_runtime.channel_secrets import SECRETS_PORT, VsockSecrets
from machinen_runtime.channel_winsize import WINSIZE_PORT, VsockWinsize
from machinen_runtime.errors import ErrorCode, ExecError, SecretsError, WinsizeError
from tests.fakes import Peer, fake_agent


@pytest.fixture
def vsock(tmp_path: Path) -> Path:
    return tmp_path / "vsock.sock"


async def test_secrets_are_sent_and_confirmed(vsock: Path) -> None:
    received: list[bytes] = []

    async def service(peer: Peer) -> None:
        received.append(await peer.rest())
        await peer.send(b"ok 2\n")

    async with fake_agent(vsock, {SECRETS_PORT: service}):
        count = await VsockSecrets.send(vsock, {"TOKEN": "a=b", "OTHER": ""})
    assert (count, received) == (2, [b"TOKEN=a=b\nOTHER=\n"])


@pytest.mark.parametrize("answer", [b"", b"err disk full\n", b"ok many\n", b"hello\n"])
@pytest.mark.provokes(ErrorCode.SECRETS_AGENT_UNAVAILABLE)
async def test_secrets_that_are_not_confirmed_are_an_error(vsock: Path, answer: bytes) -> None:
    async def service(peer: Peer) -> None:
        await peer.rest()
        await peer.send(answer)

    async with fake_agent(vsock, {SECRETS_PORT: service}):
        with pytest.raises(SecretsError) as caught:
            await VsockSecrets.send(vsock, {"TOKEN": "hunter2"})
    assert caught.value.code is ErrorCode.SECRETS_AGENT_UNAVAILABLE
    assert caught.value.retryable is not answer.startswith(b"err")


@pytest.mark.parametrize(("key", "value"), [("A", "x\ny"), ("A", "x\r"), ("A\nB", "x"), ("A=", "")])
@pytest.mark.provokes(ErrorCode.SECRETS_VALUE_INVALID)
async def test_a_secret_of_two_lines_is_refused_and_not_shown(
    vsock: Path, key: str, value: str
) -> None:
    with pytest.raises(SecretsError) as caught:
        await VsockSecrets.send(vsock, {"FIRST": "hunter2", key: value})
    assert caught.value.code is ErrorCode.SECRETS_VALUE_INVALID
    assert "hunter2" not in str(caught.value)


async def test_no_agent_for_secrets_is_a_retryable_error(vsock: Path) -> None:
    with pytest.raises(SecretsError) as caught:
        await VsockSecrets.send(vsock, {}, timeout_ms=30, retry_ms=5)
    assert caught.value.retryable


async def test_sizes_are_sent_once_each(vsock: Path) -> None:
    sizes: list[bytes] = []

    async def service(peer: Peer) -> None:
        while True:
            sizes.append(await peer.line())
            await peer.send(b"ok " + sizes[-1] + b"\n")

    async with fake_agent(vsock, {WINSIZE_PORT: service}):
        async with await VsockWinsize.connect(vsock) as winsize:
            for size in ((80, 24), (80, 24), (120, 40), (80, 24)):
                await winsize.send(*size)
            with pytest.raises(ExecError):
                await winsize.send(0, 24)
        await winsize.send(1, 1)
        winsize.close()
    assert sizes == [b"80 24", b"120 40", b"80 24"]


async def test_a_refused_size_is_an_error(vsock: Path) -> None:
    async def service(peer: Peer) -> None:
        await peer.line()
        await peer.send(b"err no session\n")

    async with (
        fake_agent(vsock, {WINSIZE_PORT: service}),
        await VsockWinsize.connect(vsock) as winsize,
    ):
        with pytest.raises(WinsizeError) as caught:
            await winsize.send(80, 24)
        assert not caught.value.retryable
        with pytest.raises(WinsizeError) as caught:
            await winsize.send(80, 24)
        assert caught.value.retryable


async def test_no_agent_for_sizes_is_a_retryable_error(vsock: Path) -> None:
    with pytest.raises(WinsizeError) as caught:
        await VsockWinsize.connect(vsock, timeout_ms=30, retry_ms=5)
    assert caught.value.retryable
