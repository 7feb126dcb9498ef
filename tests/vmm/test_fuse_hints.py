"""What the agent is told beside the answers, and who is told nothing."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from tests.vmm import fuse_raw as raw
from tests.vmm.fuse_raw import RawGuest, filled
from tests.vmm.test_fuse_session import open_descriptors
from vmm import fuse_hints
from vmm import fuse_wire as wire
from vmm.fuse_session import FuseSession
from vmm.fuse_wire import Hint, Op


class Told(NamedTuple):
    """A hint."""

    node: int
    kind: Hint
    valid_ms: int
    body: bytes


class HearingGuest(RawGuest):
    """A guest whose agent hears hints."""

    mark = wire.HEARS_HINTS

    def post(self, op: Op | int, node: int, body: bytes = b"") -> int:
        """Send a request; its number."""
        self.unique += 2
        self.say(raw.message(op, node, body, unique=self.unique, last=self.mark))
        return self.unique

    async def told(self) -> list[Told]:
        """The hints that have come since the last call."""
        await self.ask(Op.STATFS)  # they come before its answer
        heard: list[Told] = []
        for notice in self.notices:
            _, code, _, node, kind, valid_ms = wire.HINT_HEADER.unpack_from(notice)
            assert code == wire.HINT_CODE
            heard.append(Told(node, Hint(kind), valid_ms, notice[wire.HINT_HEADER.size :]))
        self.notices.clear()
        return heard


@asynccontextmanager
async def hearing(root: Path) -> AsyncGenerator[HearingGuest]:
    """A guest that is served, and hears hints."""
    session = FuseSession(root, writable=True)
    guest = HearingGuest(session)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.serve, guest)
            yield guest
            guest.end()
    finally:
        session.close()


def sums(*names: bytes) -> set[int]:
    return {zlib.crc32(name) for name in names}


def sums_of(told: Told) -> set[int]:
    return set(struct.unpack(f"={len(told.body) // 4}I", told.body))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return filled(tmp_path)


async def test_who_hears_no_hints_is_told_none_and_hears_of_every_release(root: Path) -> None:
    async with hearing(root) as guest:
        guest.mark = 0
        made = await guest.good(Op.CREATE, 1, raw.create_body(b"new"))
        assert (await guest.good(Op.RELEASE, made.node, raw.release_body(made.handle))).body == b""
        for _ in range(3):
            await guest.lookup(b"missing")
        assert guest.notices == []


async def test_a_new_file_and_its_directory_are_told(root: Path) -> None:
    async with hearing(root) as guest:
        made = await guest.good(Op.CREATE, 1, raw.create_body(b"new"))
        directory, file = await guest.told()
        assert directory[:3] == (1, Hint.ATTRIBUTES, 1000)
        asked = await guest.good(Op.GETATTR, 1, bytes(16))
        assert directory.body == asked.body[wire.ATTR_VALID.size :]
        assert file == (made.node, Hint.PLAIN, 1000, b"")


async def test_an_existing_file_may_have_a_capability(root: Path) -> None:
    async with hearing(root) as guest:
        await guest.good(Op.CREATE, 1, raw.create_body(b"file"))
        assert Hint.PLAIN not in {told.kind for told in await guest.told()}


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.MKNOD, wire.MKNOD_IN.pack(0o100644, 0, 0, 0) + b"new\0"),
        (Op.SYMLINK, b"new\0target\0"),
        (Op.UNLINK, b"file\0"),
        (Op.RENAME, wire.U64.pack(1) + b"file\0other\0"),
    ],
)
async def test_changes_tell_what_the_directory_is_like(root: Path, op: Op, body: bytes) -> None:
    async with hearing(root) as guest:
        await guest.good(op, 1, body)
        (told,) = await guest.told()
        assert told[:2] == (1, Hint.ATTRIBUTES)
        asked = await guest.good(Op.GETATTR, 1, bytes(16))
        assert told.body == asked.body[wire.ATTR_VALID.size :]


async def test_a_rename_tells_of_both_directories(root: Path) -> None:
    async with hearing(root) as guest:
        sub = (await guest.lookup(b"sub")).node
        await guest.good(Op.RENAME, 1, wire.U64.pack(sub) + b"file\0other\0")
        assert [told.node for told in await guest.told()] == [1, sub]


async def test_a_change_that_fails_tells_nothing(root: Path) -> None:
    async with hearing(root) as guest:
        assert (await guest.ask(Op.MKDIR, 1, wire.U32_PAIR.pack(0o755, 0) + b"sub\0")).error
        assert (await guest.ask(Op.UNLINK, 1, b"missing\0")).error
        assert await guest.told() == []


async def test_a_new_directory_is_empty(root: Path) -> None:
    async with hearing(root) as guest:
        made = await guest.good(Op.MKDIR, 1, wire.U32_PAIR.pack(0o755, 0) + b"new\0")
        parent, new = await guest.told()
        assert parent.node == 1
        assert new == (made.node, Hint.NAMES, 200, b"")


async def test_the_second_name_in_vain_brings_all_names(root: Path) -> None:
    async with hearing(root) as guest:
        await guest.lookup(b"missing")
        assert await guest.told() == []
        await guest.lookup(b"missing too")
        (told,) = await guest.told()
        assert told[:3] == (1, Hint.NAMES, 200)
        assert sums_of(told) == sums(b"file", b"link", b"sub")
        (root / "of the host").touch()
        await guest.lookup(b"still missing")
        assert sums_of((await guest.told())[0]) == sums(b"file", b"link", b"sub", b"of the host")


async def test_a_large_directory_is_not_listed_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse_hints, "MAX_NAMES", 2)
    async with hearing(root) as guest:
        for _ in range(2):
            await guest.lookup(b"missing")
        monkeypatch.setattr(fuse_hints, "MAX_NAMES", 3)
        for _ in range(2):
            await guest.lookup(b"missing")
        assert await guest.told() == []


async def test_names_that_are_found_in_capitals_too_are_not_hinted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.stat

    def stat(path: bytes, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        return found(path.lower(), dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    async with hearing(root) as guest:
        with monkeypatch.context() as patched:
            patched.setattr(fuse_hints.os, "stat", stat)
            for _ in range(2):
                await guest.lookup(b"missing")
        assert await guest.told() == []


async def test_a_release_that_nobody_waits_for_is_done_and_not_answered(root: Path) -> None:
    before = open_descriptors()
    async with hearing(root) as guest:
        node, handle = await guest.opened(b"file")
        unique = guest.post(Op.RELEASE, node, raw.release_body(handle))
        listing = (await guest.good(Op.OPENDIR, 1, raw.open_body())).handle
        closed = guest.post(Op.RELEASEDIR, 1, raw.release_body(listing))
        again = guest.post(Op.RELEASEDIR, 1, raw.release_body(listing))
        short = guest.post(Op.RELEASE, node, b"")
        await guest.told()
        assert (await guest.ask(Op.READ, node, raw.read_body(handle, 0, 1))).error
        assert not any(map(guest.has_answer, (unique, closed, again, short)))
    assert open_descriptors() == before
