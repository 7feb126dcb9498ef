"""Large files into a guest by PUT, against a guest whose shell and files are this host's."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings

from machinen_runtime.channel_files import FILES_PORT
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.errors import ErrorCode, ExecError, FilesError
from machinen_runtime.guest_copy import copy_into
from machinen_runtime.options import WriteFileOptions
from machinen_runtime.put_file import LEAST_BYTES, put_guest_file
from tests.fakes import Handler, Peer, fake_agent, host_exec
from tests.runtime.test_hostile_bytes import SAID

LARGE = 3 * LEAST_BYTES + 1


@pytest.fixture
def vsock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "vsock.sock"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(LARGE))
    path.chmod(0o640)
    return path


def leftovers(directory: Path) -> list[Path]:
    return list(directory.rglob(".machinen-*"))


async def put_service(peer: Peer) -> None:
    verb, _, path = (await peer.line()).decode().partition(" ")
    assert verb == "PUT"
    with open(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:  # it is there
        file.write(await peer.rest())
    await peer.send(b"OK\n")


async def older(peer: Peer) -> None:
    """An agent that has no PUT."""
    await peer.line()
    await peer.frame(b"ERR", b"the first line is PUSH <path>, PULL <path>, ARCHIVE <path> or \xe2")
    await peer.rest()


async def full(peer: Peer) -> None:
    await peer.line()
    await peer.frame(b"ERR", b"No space left on device\x1b[31m\n")
    await peer.rest()


async def forgetful(peer: Peer) -> None:
    """Says OK and has written less."""
    path = (await peer.line()).decode().partition(" ")[2]
    with open(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write((await peer.rest())[:-1])
    await peer.send(b"OK\n")


async def chatty(peer: Peer) -> None:
    await peer.line()
    await peer.send(b"D 100000000\n" + bytes(100_000))


async def gone(peer: Peer) -> None:
    await peer.line()


async def test_a_large_file_is_put_and_keeps_its_mode(
    vsock: Path, source: Path, tmp_path: Path
) -> None:
    target, counted = tmp_path / "deep" / "it's here", list[int]()
    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: put_service}) as agent:
        await copy_into(vsock, source, str(target), on_bytes=counted.append)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o640
    assert sum(counted) == LARGE
    assert FILES_PORT in agent.connected
    assert not leftovers(tmp_path)


async def test_readers_keep_what_they_had_and_owners_their_file(
    vsock: Path, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    target.chmod(0o600)
    with target.open() as reader, source.open("rb") as file:
        async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: put_service}):
            options = WriteFileOptions()
            put = put_guest_file(vsock, str(target), file.fileno(), options, lambda size: None)
            assert await put
        assert reader.read() == "old"
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size == LARGE


@pytest.mark.parametrize("name", ["plain", "with\nnewline/file"])
async def test_what_cannot_be_put_goes_the_old_way(
    vsock: Path, source: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / name
    service = older if name == "plain" else gone
    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: service}):
        await copy_into(vsock, source, str(target))
    assert target.read_bytes() == source.read_bytes()
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("service", "code", "said"),
    [
        (full, ErrorCode.EXEC_NONZERO_EXIT, r"No space left on device \[31m"),
        (forgetful, ErrorCode.EXEC_NONZERO_EXIT, f"only {LARGE - 1} of {LARGE} bytes arrived"),
        (chatty, ErrorCode.EXEC_PROTOCOL, "an archive nobody asked for"),
        (gone, ErrorCode.EXEC_AGENT_UNAVAILABLE, "link to the guest was lost"),
    ],
)
async def test_a_put_that_fails_leaves_the_old_file_and_nothing_else(
    vsock: Path, source: Path, tmp_path: Path, service: Handler, code: ErrorCode, said: str
) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: service}):
        with pytest.raises(ExecError, match=said) as caught:
            await copy_into(vsock, source, str(target))
        assert caught.value.code is code
    assert target.read_text() == "old"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
async def test_a_file_that_cannot_be_sent_is_read_or_refused(
    vsock: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "sendfile", refuses)
    target = tmp_path / "target"
    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: put_service}):
        if number == errno.EINVAL:
            await copy_into(vsock, source, str(target))
            assert target.read_bytes() == source.read_bytes()
        else:
            with pytest.raises(FilesError, match="cannot read the file: Input/output error"):
                await copy_into(vsock, source, str(target))
            assert not target.exists()
    assert not leftovers(tmp_path)


async def test_a_directory_in_the_way_is_the_guests_word(
    vsock: Path, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "directory").mkdir()
    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: put_service}) as agent:
        with source.open("rb") as file, pytest.raises(ExecError, match="is a directory"):
            await put_guest_file(
                vsock,
                str(tmp_path / "directory"),
                file.fileno(),
                WriteFileOptions(),
                lambda size: None,
            )
    assert FILES_PORT not in agent.connected


async def test_a_put_may_be_cancelled(vsock: Path, source: Path, tmp_path: Path) -> None:
    begun = anyio.Event()

    async def slow(peer: Peer) -> None:
        await peer.line()
        begun.set()
        await anyio.sleep_forever()

    async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: slow}):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(copy_into, vsock, source, str(tmp_path / "target")))
                await begun.wait()
                tasks.cancel_scope.cancel()
    assert not (tmp_path / "target").exists()


def test_whatever_is_said_to_a_put_the_file_is_whole_or_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("put")
    vsock, target = directory / "vsock.sock", directory / "target"

    @settings(max_examples=40, deadline=None)
    @given(said=SAID)
    def converse(said: list[bytes]) -> None:
        target.write_text("as it was")

        async def speak(peer: Peer) -> None:
            path = (await peer.line()).decode().partition(" ")[2]
            Path(path).write_bytes(await peer.rest())
            with suppress(anyio.BrokenResourceError):
                for piece in said:
                    await peer.send(piece)

        async def run() -> None:
            with anyio.fail_after(60):
                async with fake_agent(vsock, {EXEC_PORT: host_exec, FILES_PORT: speak}):
                    with (directory / "source").open("rb") as file, suppress(ExecError, FilesError):
                        options = WriteFileOptions()
                        await put_guest_file(
                            vsock, str(target), file.fileno(), options, lambda size: None
                        )

        anyio.run(run)
        assert target.read_bytes() in (b"as it was", b"new")
        assert not leftovers(directory)

    (directory / "source").write_bytes(b"new")
    converse()
