"""A live mount saved and gone on with: the same directory, another one, and states nobody saved."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm import fuse_raw as raw
from tests.vmm.fuse_raw import RawGuest, filled
from tests.vmm.test_fuse_session import open_descriptors, served, talking
from vmm import fuse_unlinked
from vmm import fuse_wire as wire
from vmm.errors import VmmError
from vmm.fuse_session import FuseSession
from vmm.fuse_wire import Op


async def saved_after(root: Path, use: Any) -> tuple[dict[str, Any], Any]:
    """The state after a guest did something, and what that returned."""
    async with served(root) as guest:
        found = await use(guest)
        return json.loads(json.dumps(guest.session.save())), found


async def test_open_files_go_on_where_they_were(tmp_path: Path) -> None:
    root = filled(tmp_path)

    async def use(guest: RawGuest) -> tuple[int, int]:
        sub = (await guest.lookup(b"sub")).node
        node = (await guest.lookup(b"inner", sub)).node
        handle = (await guest.good(Op.OPEN, node, raw.open_body(os.O_RDWR))).handle
        return node, handle

    state, (node, handle) = await saved_after(root, use)
    async with served(root, state=state) as guest:
        await guest.good(Op.WRITE, node, raw.write_body(handle, 5, b" and more"))
        read = await guest.good(Op.READ, node, raw.read_body(handle, 0, 100))
        assert read.body == b"inner and more"
        new = await guest.good(Op.CREATE, 1, raw.create_body(b"new"))
        assert new.node > node
        assert new.handle > handle
    assert (root / "sub" / "inner").read_bytes() == b"inner and more"


async def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    root = filled(tmp_path)
    name = b"\xff\xfe\x01 \xc3\xa9"
    (root / os.fsdecode(name)).write_bytes(b"odd")

    async def use(guest: RawGuest) -> int:
        return (await guest.lookup(name)).node

    state, node = await saved_after(root, use)
    async with served(root, state=state) as guest:
        handle = (await guest.good(Op.OPEN, node, raw.open_body())).handle
        assert (await guest.good(Op.READ, node, raw.read_body(handle, 0, 9))).body == b"odd"


async def test_an_unlinked_file_goes_on_as_a_copy_of_its_own(tmp_path: Path) -> None:
    root = filled(tmp_path)

    async def use(guest: RawGuest) -> tuple[int, int, int]:
        node, first = await guest.opened(b"file", os.O_RDWR)
        second = (await guest.good(Op.OPEN, node, raw.open_body())).handle
        await guest.good(Op.UNLINK, 1, b"file\0")
        return node, first, second

    state, (node, first, second) = await saved_after(root, use)
    async with served(root, state=state) as guest, served(root, state=state) as other:
        await guest.good(Op.WRITE, node, raw.write_body(first, 0, b"CONTENT"))
        for handle in (first, second):
            read = await guest.good(Op.READ, node, raw.read_body(handle, 0, 100))
            assert read.body == b"CONTENT of file"
        read = await other.good(Op.READ, node, raw.read_body(first, 0, 100))
        assert read.body == b"content of file", "a fork has its own"
        refused = await guest.ask(Op.WRITE, node, raw.write_body(second, 0, b"x"))
        assert refused.error == errno.EBADF
        attributes = await guest.good(Op.GETATTR, node, bytes(16))
        assert wire.ATTR.unpack_from(attributes.body, 16)[10] == 0, "no link"
    assert sorted(os.listdir(root)) == ["link", "sub"]


async def test_an_unlinked_file_too_large_to_carry_is_lost_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse_unlinked, "MAX_KEPT_BYTES", 10)
    root = filled(tmp_path)

    async def use(guest: RawGuest) -> tuple[int, int]:
        opened = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.UNLINK, 1, b"file\0")
        return opened

    state, (node, handle) = await saved_after(root, use)
    async with served(root, state=state) as guest:
        gone = await guest.ask(Op.READ, node, raw.read_body(handle, 0, 1))
        assert gone.error == errno.EBADF
        await guest.good(Op.RELEASE, node, raw.release_body(handle))


async def test_a_file_replaced_meanwhile_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    root = filled(tmp_path)

    async def use(guest: RawGuest) -> tuple[int, int]:
        return await guest.opened(b"file")

    state, (node, handle) = await saved_after(root, use)
    (root / "other").write_bytes(b"another file")
    (root / "other").replace(root / "file")
    async with served(root, state=state) as guest:
        read = await guest.ask(Op.READ, node, raw.read_body(handle, 0, 100))
        assert read.error == errno.EBADF
        assert (await guest.ask(Op.OPEN, node, raw.open_body())).error == errno.ESTALE
        again = await guest.lookup(b"file")
        assert again.node != node
        assert again.size == 12


async def test_on_another_directory_the_same_paths_will_do(tmp_path: Path) -> None:
    root = filled(tmp_path)

    async def use(guest: RawGuest) -> tuple[int, int]:
        sub = (await guest.lookup(b"sub")).node
        node = (await guest.lookup(b"inner", sub)).node
        return node, (await guest.good(Op.OPEN, node, raw.open_body())).handle

    state, (node, handle) = await saved_after(root, use)
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy/sub/inner").write_bytes(b"the copy's")
    async with served(tmp_path / "copy", state=state) as guest:
        read = await guest.good(Op.READ, node, raw.read_body(handle, 0, 100))
        assert read.body == b"the copy's"


async def test_a_listing_goes_on_where_it_was(tmp_path: Path) -> None:
    root = filled(tmp_path)
    names = {b"entry%03d" % number for number in range(300)}
    for name in names:
        (root / "sub" / os.fsdecode(name)).touch()

    def names_in(body: bytes) -> tuple[list[bytes], int]:
        found: list[bytes] = []
        offset = position = 0
        while position < len(body):
            _, offset, length, _ = wire.DIRENT.unpack_from(body, position)
            start = position + wire.DIRENT.size
            found.append(body[start : start + length])
            position = (start + length + 7) & ~7
        return found, offset

    async def use(guest: RawGuest) -> tuple[int, int, list[bytes], int]:
        node = (await guest.lookup(b"sub")).node
        handle = (await guest.good(Op.OPENDIR, node, raw.open_body())).handle
        body = (await guest.good(Op.READDIR, node, raw.read_body(handle, 0, 4096))).body
        return node, handle, *names_in(body)

    state, (node, handle, first, offset) = await saved_after(root, use)
    listed = list(first)
    assert 0 < len(first) < 300
    async with served(root, state=state) as guest:
        while body := (
            await guest.good(Op.READDIR, node, raw.read_body(handle, offset, 4096))
        ).body:
            found, offset = names_in(body)
            listed += found
    assert sorted(listed) == sorted(names | {b".", b"..", b"inner"})


async def test_locks_are_kept(tmp_path: Path) -> None:
    async def use(guest: RawGuest) -> tuple[int, int]:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 1, 5, 9))
        return node, handle

    root = filled(tmp_path)
    state, (node, handle) = await saved_after(root, use)
    async with served(root, state=state) as guest:
        refused = await guest.ask(Op.SETLK, node, raw.lock_body(handle, 2, 0, 9, 9))
        assert refused.error == errno.EAGAIN
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 2, 0, 10, 10))


async def example_state(root: Path) -> dict[str, Any]:
    async def use(guest: RawGuest) -> None:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 1))
        guest.post(Op.SETLKW, node, raw.lock_body(handle, 2, 1))
        await guest.good(Op.LINK, 1, wire.U64.pack(node) + b"second\0")
        await guest.opened(b"second")
        await guest.good(Op.CREATE, 1, raw.create_body(b"temporary"))
        await guest.good(Op.UNLINK, 1, b"temporary\0")

    return (await saved_after(root, use))[0]


NUMBERS = st.integers(-2, 9) | st.sampled_from([1 << 40, (1 << 64) - 1, 1 << 70])
NAMES = st.sampled_from(["..", "/etc", "a/b", "", "a\0b", "\ud800", "file"])
EDITS: st.SearchStrategy[Any] = st.none() | st.booleans() | NUMBERS | NAMES | st.builds(list[Any])
"""Values that are like those of a state, or not at all."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of a state."""
    if isinstance(value, dict):
        items: list[tuple[Any, Any]] = list(value.items())  # pyright: ignore
    elif isinstance(value, list):
        items = list(enumerate(value))  # pyright: ignore
    else:
        return [path]
    return [path] * bool(path) + [
        place for key, each in items for place in places(each, (*path, key))
    ]


def test_a_state_somebody_edited_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("edited")
    root = filled(directory)
    state = anyio.run(example_state, root)
    FuseSession(root, writable=True, state=state).close()
    before = open_descriptors()

    @given(st.data())
    def edited(data: st.DataObject) -> None:
        changed = json.loads(json.dumps(state))
        for _ in range(data.draw(st.integers(1, 3))):
            *way, last = data.draw(st.sampled_from(places(changed)))
            holder = changed
            for step in way:
                holder = holder[step]
            holder[last] = data.draw(EDITS)
        try:
            session = FuseSession(root, writable=True, state=changed)
        except VmmError as error:
            assert error.code == "MOUNT_STATE_INVALID"  # noqa: PT017
        else:
            for node in list(session._tree.nodes.by_id.values()):  # pyright: ignore
                path = (
                    b""
                    if node.parent is None
                    else session._tree.nodes.path_of(  # pyright: ignore
                        node.parent, node.name
                    )
                )
                assert b".." not in path.split(b"/")
            session.save()
            session.close()
        assert open_descriptors() == before

    edited()


async def test_a_session_goes_on_from_its_own_state_without_a_restart(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    async with talking(session) as guest:
        node, handle = await guest.opened(b"file")
        session.save()
        read = await guest.good(Op.READ, node, raw.read_body(handle, 0, 100))
        assert read.body == b"content of file"
    session.close()
