"""push and pull, against a guest whose tar is this host's."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import pytest

from machinen_runtime.channel_files import FILES_PORT, VsockFiles
from machinen_runtime.errors import ErrorCode, FilesError
from tests.fakes import Handler, Peer, fake_agent


async def tar_service(peer: Peer) -> None:
    """The files service of docs/protocol.md 3.5, for paths of this host."""
    argv = ["tar", "-c"]
    while True:
        verb, _, rest = (await peer.line()).decode().partition(" ")
        if verb != "EXCLUDE":
            break
        argv.append(f"--exclude={rest}")
    if verb == "PUSH":
        await anyio.Path(rest).mkdir(parents=True, exist_ok=True)
        archive = await peer.rest()
        done = await anyio.run_process(["tar", "-xmf", "-", "-C", rest], input=archive, check=False)
    else:
        assert verb == "PULL"
        done = await anyio.run_process([*argv, "-C", rest, "-f", "-", "."], check=False)
        for start in range(0, len(done.stdout), 10_000):
            await peer.frame(b"D", done.stdout[start : start + 10_000])
    if done.returncode == 0:
        await peer.send(b"OK\n")
    else:
        await peer.frame(b"ERR", done.stderr)


@pytest.fixture
def vsock(tmp_path: Path) -> Path:
    return tmp_path / "run" / "vsock.sock"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "big").write_bytes(os.urandom(1_500_000))
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    (tree / "link").symlink_to("script")
    (tree / "skipped.log").write_text("x")
    return tree


def listing(root: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }


async def test_push_copies_a_tree(vsock: Path, tree: Path, tmp_path: Path) -> None:
    async with fake_agent(vsock, {FILES_PORT: tar_service}):
        await VsockFiles.push(vsock, tree, str(tmp_path / "guest/deep"), excludes=["*.log"])
    (tree / "skipped.log").unlink()
    assert listing(tmp_path / "guest/deep") == listing(tree)
    assert (tmp_path / "guest/deep/script").stat().st_mode & 0o777 == 0o755


async def test_pull_copies_a_tree(vsock: Path, tree: Path, tmp_path: Path) -> None:
    async with fake_agent(vsock, {FILES_PORT: tar_service}):
        await VsockFiles.pull(vsock, str(tree), tmp_path / "host/deep", excludes=["*.log"])
    (tree / "skipped.log").unlink()
    assert listing(tmp_path / "host/deep") == listing(tree)


@pytest.mark.provokes(ErrorCode.FILES_TRANSFER_FAILED)
async def test_a_failure_in_the_guest_is_an_error_here(vsock: Path, tmp_path: Path) -> None:
    async with fake_agent(vsock, {FILES_PORT: tar_service}):
        with pytest.raises(FilesError) as caught:
            await VsockFiles.pull(vsock, str(tmp_path / "missing"), tmp_path / "host")
    assert caught.value.code is ErrorCode.FILES_TRANSFER_FAILED
    assert "No such file" in str(caught.value)


async def test_a_guest_that_stops_reading_is_an_error(
    vsock: Path, tree: Path, tmp_path: Path
) -> None:
    async def gives_up(peer: Peer) -> None:
        await peer.line()
        await peer.frame(b"ERR", b"disk full\x1b[31m")
        await peer.rest()

    async with fake_agent(vsock, {FILES_PORT: gives_up}):
        with pytest.raises(FilesError, match="disk full \\[31m"):
            await VsockFiles.push(vsock, tree, "/x")


async def silent(peer: Peer) -> None:
    await peer.line()


async def truncated(peer: Peer) -> None:
    await peer.line()
    await peer.send(b"D 100000\nabc")


async def nonsense(peer: Peer) -> None:
    await peer.line()
    await peer.send(b"WHAT 1\n")


async def hostile(peer: Peer) -> None:
    await peer.line()
    made = await anyio.run_process(
        ["tar", "-cPf", "-", "--transform=s|.*|/tmp/machinen-evil|", "/etc/hostname"]
    )
    await peer.frame(b"D", made.stdout)
    await peer.send(b"OK\n")


@pytest.mark.parametrize("handler", [silent, truncated, nonsense, hostile])
async def test_a_broken_pull_is_an_error(vsock: Path, tmp_path: Path, handler: Handler) -> None:
    async with fake_agent(vsock, {FILES_PORT: handler}):
        with pytest.raises(FilesError) as caught:
            await VsockFiles.pull(vsock, "/x", tmp_path / "host")
    assert caught.value.code is ErrorCode.FILES_TRANSFER_FAILED
    assert not await anyio.Path("/tmp/machinen-evil").exists()


async def test_a_push_that_lost_its_link_is_an_error(vsock: Path, tree: Path) -> None:
    async with fake_agent(vsock, {FILES_PORT: silent}):
        with pytest.raises(FilesError) as caught:
            await VsockFiles.push(vsock, tree, "/x")
    assert caught.value.code is ErrorCode.FILES_TRANSFER_FAILED


@pytest.mark.provokes(ErrorCode.FILES_HOST_DIR_NOT_FOUND)
async def test_bad_requests_are_refused_before_connecting(vsock: Path, tmp_path: Path) -> None:
    with pytest.raises(FilesError) as caught:
        await VsockFiles.push(vsock, tmp_path / "missing", "/x")
    assert caught.value.code is ErrorCode.FILES_HOST_DIR_NOT_FOUND
    for path in ("relative", "/new\nline"):
        with pytest.raises(FilesError):
            await VsockFiles.push(vsock, tmp_path, path)


@pytest.mark.provokes(ErrorCode.FILES_AGENT_UNAVAILABLE)
async def test_no_agent_is_a_retryable_error(vsock: Path, tmp_path: Path) -> None:
    with pytest.raises(FilesError) as caught:
        await VsockFiles.push(vsock, tmp_path, "/x")
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.FILES_AGENT_UNAVAILABLE, True)


async def test_a_pull_tells_of_every_byte(vsock: Path, tree: Path, tmp_path: Path) -> None:
    counted: list[int] = []
    threads: set[int] = set()

    def count(size: int) -> None:
        counted.append(size)
        threads.add(threading.get_ident())

    async with fake_agent(vsock, {FILES_PORT: tar_service}):
        await VsockFiles.pull(vsock, str(tree), tmp_path / "host", on_bytes=count)
    made = await anyio.run_process(["tar", "-c", "-C", str(tree), "-f", "-", "."])
    assert sum(counted) == len(made.stdout)
    assert threads == {threading.get_ident()}  # nobody who counts expects another


async def test_a_cancelled_pull_leaves_no_thread_waiting(vsock: Path, tmp_path: Path) -> None:
    asked = anyio.Event()

    async def endless(peer: Peer) -> None:
        await peer.line()
        await peer.send(b"D 1000000\nabc")
        asked.set()
        assert await peer.rest() == b""

    async with fake_agent(vsock, {FILES_PORT: endless}):
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(VsockFiles.pull, vsock, "/x", tmp_path / "host")
                await asked.wait()
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()


async def in_crumbs(peer: Peer) -> None:
    """Headers and contents cut anywhere, empty frames among them."""
    await peer.line()
    made = await anyio.run_process(["tar", "-c", "-C", "/etc", "-f", "-", "hostname"])
    sent = b"".join(
        b"D 0\nD %d\n%b" % (len(piece), piece)
        for start in range(0, len(made.stdout), 700)
        if (piece := made.stdout[start : start + 700])
    )
    for start in range(0, len(sent), 3):
        await peer.send(sent[start : start + 3])
    await peer.send(b"OK\n")


async def test_frames_may_be_cut_anywhere(vsock: Path, tmp_path: Path) -> None:
    async with fake_agent(vsock, {FILES_PORT: in_crumbs}):
        await VsockFiles.pull(vsock, "/etc", tmp_path / "host")
    name = await anyio.Path("/etc/hostname").read_bytes()
    assert await anyio.Path(tmp_path / "host/hostname").read_bytes() == name
