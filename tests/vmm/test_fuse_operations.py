"""Every operation: done, refused, refused on a read-only mount; and requests no kernel sends."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm import fuse_raw as raw
from tests.vmm.fuse_raw import RawGuest, filled
from tests.vmm.test_fuse_session import open_descriptors, served
from vmm import fuse_handles, fuse_nodes
from vmm import fuse_wire as wire
from vmm.fuse_operations import CHANGES, SERVED
from vmm.fuse_session import FuseSession
from vmm.fuse_tree import Owners, Request
from vmm.fuse_wire import Op, SetAttr

FILE, HANDLE, SUB, LISTING = "file", "handle", "sub", "listing"


@dataclass(frozen=True)
class Case:
    """An operation, its body made from the numbers a guest holds, and the errno it gets."""

    op: Op
    on: str | int
    body: bytes | Callable[[dict[str, int]], bytes]
    error: int


def body_of(case: Case, held: dict[str, int]) -> bytes:
    """The body: bytes, or a function of the numbers."""
    return case.body(held) if callable(case.body) else case.body


NONE = 77777
"""A node and a handle nobody was given."""
GOOD: list[Case] = [
    Case(Op.LOOKUP, 1, b"file\0", 0),
    Case(Op.LOOKUP, 1, b"missing\0", 0),
    Case(Op.GETATTR, FILE, bytes(16), 0),
    Case(Op.SETATTR, FILE, raw.setattr_body(SetAttr.SIZE, size=3), 0),
    Case(Op.SETATTR, FILE, raw.setattr_body(SetAttr.MODE, mode=0o600), 0),
    Case(Op.SETATTR, FILE, raw.setattr_body(SetAttr.MTIME | SetAttr.MTIME_NOW), 0),
    Case(Op.READLINK, "link", b"", 0),
    Case(Op.SYMLINK, 1, b"new\0target\0", 0),
    Case(Op.MKNOD, 1, wire.MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0) + b"new\0", 0),
    Case(Op.MKNOD, 1, wire.MKNOD_IN.pack(stat.S_IFIFO | 0o644, 0, 0, 0) + b"new\0", 0),
    Case(Op.MKDIR, 1, wire.U32_PAIR.pack(0o755, 0) + b"new\0", 0),
    Case(Op.UNLINK, 1, b"file\0", 0),
    Case(Op.RMDIR, 1, b"empty\0", 0),
    Case(Op.RENAME, 1, wire.U64.pack(1) + b"file\0new\0", 0),
    Case(Op.RENAME, 1, lambda n: wire.U64.pack(n[SUB]) + b"file\0inner\0", 0),
    Case(Op.RENAME2, 1, lambda n: wire.RENAME2_IN.pack(n[SUB], 2, 0) + b"file\0inner\0", 0),
    Case(Op.LINK, 1, lambda n: wire.U64.pack(n[FILE]) + b"new\0", 0),
    Case(Op.OPEN, FILE, raw.open_body(os.O_RDWR), 0),
    Case(Op.CREATE, 1, raw.create_body(b"new"), 0),
    Case(Op.CREATE, 1, raw.create_body(b"file"), 0),
    Case(Op.READ, FILE, lambda n: raw.read_body(n[HANDLE], 0, 4096), 0),
    Case(Op.READ, FILE, lambda n: raw.read_body(n[HANDLE], 1 << 40, 4096), 0),
    Case(Op.WRITE, FILE, lambda n: raw.write_body(n[HANDLE], 0, b"x" * 5000), 0),
    Case(Op.WRITE, FILE, lambda n: raw.write_body(n[HANDLE], 0, b"end", os.O_APPEND), 0),
    Case(Op.STATFS, 1, b"", 0),
    Case(Op.RELEASE, FILE, lambda n: raw.release_body(n[HANDLE]), 0),
    Case(Op.RELEASE, FILE, raw.release_body(NONE), 0),
    Case(Op.FSYNC, FILE, lambda n: wire.FSYNC_IN.pack(n[HANDLE], 0, 0), 0),
    Case(Op.FSYNC, FILE, lambda n: wire.FSYNC_IN.pack(n[HANDLE], 1, 0), 0),
    Case(Op.FSYNCDIR, SUB, lambda n: wire.FSYNC_IN.pack(n[LISTING], 0, 0), 0),
    Case(Op.SETXATTR, FILE, wire.U32_PAIR.pack(1, 0) + b"user.a\0v", 0),
    Case(Op.SETXATTR, FILE, wire.U32_PAIR.pack(1, 0) + b"security.capability\0v", 0),
    Case(Op.LISTXATTR, FILE, wire.U32_PAIR.pack(4096, 0), 0),
    Case(Op.FLUSH, FILE, lambda n: wire.FLUSH_IN.pack(n[HANDLE], 0, 1), 0),
    Case(Op.OPENDIR, SUB, raw.open_body(), 0),
    Case(Op.READDIR, SUB, lambda n: raw.read_body(n[LISTING], 0, 4096), 0),
    Case(Op.READDIRPLUS, SUB, lambda n: raw.read_body(n[LISTING], 0, 4096), 0),
    Case(Op.RELEASEDIR, SUB, lambda n: raw.release_body(n[LISTING]), 0),
    Case(Op.GETLK, FILE, lambda n: raw.lock_body(n[HANDLE], 1, 1), 0),
    Case(Op.SETLK, FILE, lambda n: raw.lock_body(n[HANDLE], 1, 1), 0),
    Case(Op.SETLKW, FILE, lambda n: raw.lock_body(n[HANDLE], 1, 1), 0),
    Case(Op.FALLOCATE, FILE, lambda n: wire.FALLOCATE_IN.pack(n[HANDLE], 0, 9000, 0, 0), 0),
    Case(Op.LSEEK, FILE, lambda n: wire.LSEEK_IN.pack(n[HANDLE], 0, os.SEEK_DATA, 0), 0),
    Case(
        Op.COPY_FILE_RANGE,
        FILE,
        lambda n: wire.COPY_IN.pack(n[HANDLE], 0, n[FILE], n[HANDLE], 50, 5, 0),
        0,
    ),
]  # fmt: skip
BAD: list[Case] = [
    Case(Op.LOOKUP, 1, b"..\0", errno.EINVAL),
    Case(Op.LOOKUP, 1, b"a/b\0", errno.EINVAL),
    Case(Op.LOOKUP, 1, b"\0", errno.EINVAL),
    Case(Op.LOOKUP, 1, b"unended", errno.EINVAL),
    Case(Op.LOOKUP, 1, b"x" * 256 + b"\0", errno.ENAMETOOLONG),
    Case(Op.LOOKUP, FILE, b"x\0", errno.ENOTDIR),
    Case(Op.LOOKUP, NONE, b"x\0", errno.ENOENT),
    Case(Op.GETATTR, NONE, bytes(16), errno.ENOENT),
    Case(Op.GETATTR, FILE, bytes(3), errno.EINVAL),
    Case(Op.SETATTR, SUB, raw.setattr_body(SetAttr.SIZE, size=3), errno.EISDIR),
    Case(Op.SETATTR, FILE, raw.setattr_body(SetAttr.SIZE, size=1 << 63), errno.EFBIG),
    Case(Op.SETATTR, FILE, raw.setattr_body(SetAttr.FH, handle=NONE), errno.EBADF),
    Case(Op.SETATTR, FILE, lambda n: raw.setattr_body(SetAttr.FH, handle=n[LISTING]), errno.EBADF),
    Case(Op.READLINK, FILE, b"", errno.EINVAL),
    Case(Op.SYMLINK, 1, b"file\0target\0", errno.EEXIST),
    Case(Op.SYMLINK, 1, b"..\0target\0", errno.EINVAL),
    Case(Op.MKNOD, 1, wire.MKNOD_IN.pack(stat.S_IFBLK, 0, 0, 0) + b"new\0", errno.EPERM),
    Case(Op.MKNOD, 1, wire.MKNOD_IN.pack(stat.S_IFCHR, 0, 0, 0) + b"new\0", errno.EPERM),
    Case(Op.MKDIR, 1, wire.U32_PAIR.pack(0o755, 0) + b"sub\0", errno.EEXIST),
    Case(Op.UNLINK, 1, b"missing\0", errno.ENOENT),
    Case(Op.UNLINK, 1, b"sub\0", errno.EISDIR),
    Case(Op.RMDIR, 1, b"sub\0", errno.ENOTEMPTY),
    Case(Op.RMDIR, 1, b"file\0", errno.ENOTDIR),
    Case(Op.RENAME, 1, wire.U64.pack(NONE) + b"file\0new\0", errno.ENOENT),
    Case(Op.RENAME, 1, wire.U64.pack(1) + b"file\0../new\0", errno.EINVAL),
    Case(Op.RENAME, 1, lambda n: wire.U64.pack(n[SUB]) + b"sub\0new\0", errno.EINVAL),
    Case(Op.RENAME2, 1, wire.RENAME2_IN.pack(1, 1, 0) + b"file\0sub\0", errno.EEXIST),
    Case(Op.RENAME2, 1, wire.RENAME2_IN.pack(1, 4, 0) + b"file\0new\0", errno.EINVAL),
    Case(Op.LINK, 1, wire.U64.pack(NONE) + b"new\0", errno.ENOENT),
    Case(Op.LINK, 1, lambda n: wire.U64.pack(n[SUB]) + b"new\0", errno.EPERM),
    Case(Op.OPEN, NONE, raw.open_body(), errno.ENOENT),
    Case(Op.OPEN, SUB, raw.open_body(), errno.EISDIR),
    Case(Op.OPEN, "link", raw.open_body(), errno.ENXIO),
    Case(Op.OPEN, "fifo", raw.open_body(), errno.ENXIO),
    Case(Op.OPEN, FILE, raw.open_body(3), errno.EINVAL),
    Case(Op.CREATE, 1, raw.create_body(b"file", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    Case(Op.CREATE, 1, raw.create_body(b"../x"), errno.EINVAL),
    Case(Op.CREATE, 1, raw.create_body(b"fifo"), errno.ENXIO),
    Case(Op.READ, FILE, raw.read_body(NONE, 0, 1), errno.EBADF),
    Case(Op.READ, FILE, lambda n: raw.read_body(n[HANDLE], 1 << 63, 1), errno.EINVAL),
    Case(Op.READ, SUB, lambda n: raw.read_body(n[LISTING], 0, 1), errno.EISDIR),
    Case(Op.WRITE, FILE, raw.write_body(NONE, 0, b"x"), errno.EBADF),
    Case(Op.WRITE, FILE, lambda n: wire.WRITE_IN.pack(n[HANDLE], 0, 9, 0, 0, 0, 0), errno.EINVAL),
    Case(Op.WRITE, FILE, lambda n: raw.write_body(n[HANDLE], (1 << 64) - 1, b"x"), errno.EINVAL),
    Case(Op.FSYNC, FILE, wire.FSYNC_IN.pack(NONE, 0, 0), errno.EBADF),
    Case(Op.GETXATTR, FILE, wire.U32_PAIR.pack(10, 0) + b"user.none\0", errno.ENODATA),
    Case(Op.GETXATTR, FILE, wire.U32_PAIR.pack(10, 0) + b"system.x\0", errno.EOPNOTSUPP),
    Case(Op.GETXATTR, FILE, wire.U32_PAIR.pack(10, 0) + b"user.machinen.x\0", errno.EOPNOTSUPP),
    Case(Op.SETXATTR, FILE, wire.U32_PAIR.pack(1, 2) + b"user.none\0v", errno.ENODATA),
    Case(Op.SETXATTR, FILE, wire.U32_PAIR.pack(99, 0) + b"user.a\0v", errno.EINVAL),
    Case(Op.SETXATTR, "link", wire.U32_PAIR.pack(1, 0) + b"user.a\0v", errno.EPERM),
    Case(Op.REMOVEXATTR, FILE, b"user.none\0", errno.ENODATA),
    Case(Op.OPENDIR, FILE, raw.open_body(), errno.ENOTDIR),
    Case(Op.READDIR, FILE, lambda n: raw.read_body(n[HANDLE], 0, 1), errno.ENOTDIR),
    Case(Op.READDIR, SUB, lambda n: raw.read_body(n[LISTING], 1 << 63, 100), errno.EINVAL),
    Case(Op.SETLK, FILE, raw.lock_body(NONE, 1, 1), errno.EBADF),
    Case(Op.SETLK, FILE, lambda n: raw.lock_body(n[HANDLE], 1, 9), errno.EINVAL),
    Case(Op.SETLK, FILE, lambda n: raw.lock_body(n[HANDLE], 1, 1, 5, 4), errno.EINVAL),
    Case(Op.SETLK, SUB, lambda n: raw.lock_body(n[HANDLE], 1, 1), errno.EBADF),
    Case(Op.FALLOCATE, FILE, lambda n: wire.FALLOCATE_IN.pack(n[HANDLE], 0, 0, 0, 0), errno.EINVAL),
    Case(Op.LSEEK, FILE, lambda n: wire.LSEEK_IN.pack(n[HANDLE], 99, os.SEEK_DATA, 0), errno.ENXIO),
    Case(Op.LSEEK, FILE, lambda n: wire.LSEEK_IN.pack(n[HANDLE], 0, os.SEEK_SET, 0), errno.EINVAL),
    Case(Op.COPY_FILE_RANGE, FILE, wire.COPY_IN.pack(NONE, 0, 0, NONE, 0, 1, 0), errno.EBADF),
]  # fmt: skip


def named(case: Case) -> str:
    return f"{case.op.name}-{errno.errorcode.get(case.error, 'ok')}"


async def numbers(guest: RawGuest, flags: int) -> dict[str, int]:
    """What a guest holds: nodes, a handle of `file`, one of `sub`."""
    held: dict[str, int] = {}
    for name in ("file", "sub", "link", "fifo"):
        held[name] = (await guest.lookup(os.fsencode(name))).node
    held[HANDLE] = (await guest.good(Op.OPEN, held[FILE], raw.open_body(flags))).handle
    held[LISTING] = (await guest.good(Op.OPENDIR, held[SUB], raw.open_body())).handle
    return held


def shared(tmp_path: Path) -> Path:
    root = filled(tmp_path)
    (root / "empty").mkdir()
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize("case", [*GOOD, *BAD], ids=named)
async def test_an_operation_does_its_work_or_says_why_not(tmp_path: Path, case: Case) -> None:
    async with served(shared(tmp_path)) as guest:
        held = await numbers(guest, os.O_RDWR)
        node = held[case.on] if isinstance(case.on, str) else case.on
        reply = await guest.ask(case.op, node, body_of(case, held))
        assert errno.errorcode.get(reply.error) == errno.errorcode.get(case.error)
        assert (await guest.lookup(b"sub")).error == 0, "the next one is served"


@pytest.mark.parametrize("case", GOOD, ids=named)
async def test_a_read_only_mount_refuses_what_changes_and_nothing_else(
    tmp_path: Path, case: Case
) -> None:
    root = shared(tmp_path)
    before = tree_of(root)
    async with served(root, writable=False) as guest:
        held = await numbers(guest, os.O_RDONLY)
        node = held[case.on] if isinstance(case.on, str) else case.on
        reply = await guest.ask(case.op, node, body_of(case, held))
        refused = case.op in CHANGES or case.op is Op.OPEN
        assert reply.error == (errno.EROFS if refused else 0)
    assert tree_of(root) == before


def tree_of(root: Path) -> list[tuple[str, int, int, int]]:
    """Everything in a directory, but for when it was read."""
    found = [(path, path.lstat()) for path in [root, *sorted(root.rglob("*"))]]
    return [(str(path), each.st_mode, each.st_size, each.st_mtime_ns) for path, each in found]


def test_every_operation_is_in_the_tables() -> None:
    assert {case.op for case in GOOD} | {Op.GETXATTR, Op.REMOVEXATTR} == set(SERVED)
    assert {case.op for case in BAD} >= set(SERVED) - {
        Op.STATFS, Op.RELEASE, Op.RELEASEDIR, Op.FLUSH, Op.FSYNCDIR, Op.LISTXATTR, Op.GETLK,
        Op.SETLKW, Op.READDIRPLUS,
    }  # fmt: skip


async def test_nodes_and_handles_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shared(tmp_path)
    monkeypatch.setattr(fuse_nodes, "MAX_NODES", 3)
    async with served(root) as guest:
        node, handle = await guest.opened(b"file")
        sub = await guest.lookup(b"sub")
        assert (await guest.ask(Op.LOOKUP, 1, b"empty\0")).error == errno.ENOMEM
        guest.post(Op.FORGET, sub.node, wire.U64.pack(1))
        assert (await guest.lookup(b"empty")).node > sub.node
        guest.session._tree.handles.limit = 1  # pyright: ignore[reportPrivateUsage]
        assert (await guest.ask(Op.OPEN, node, raw.open_body())).error == errno.ENFILE
        await guest.good(Op.RELEASE, node, raw.release_body(handle))
        await guest.good(Op.OPEN, node, raw.open_body())
    assert fuse_handles.MAX_HANDLES < 1 << 16


async def test_a_node_is_forgotten_when_nothing_needs_it(tmp_path: Path) -> None:
    async with served(shared(tmp_path)) as guest:
        table = guest.session._tree.nodes  # pyright: ignore[reportPrivateUsage]
        sub = (await guest.lookup(b"sub")).node
        inner = (await guest.lookup(b"inner", sub)).node
        handle = (await guest.good(Op.OPEN, inner, raw.open_body())).handle
        pairs = wire.FORGET_ONE.pack(sub, 1) + wire.FORGET_ONE.pack(inner, 5)
        guest.post(Op.BATCH_FORGET, 0, wire.U32_PAIR.pack(2, 0) + pairs)
        assert (await guest.good(Op.READ, inner, raw.read_body(handle, 0, 9))).body == b"inner"
        assert set(table.by_id) == {1, sub, inner}
        await guest.good(Op.RELEASE, inner, raw.release_body(handle))
        assert set(table.by_id) == {1}
        assert table.root_node.children == 0


async def test_a_refused_create_gives_the_guest_nothing(tmp_path: Path) -> None:
    async with served(shared(tmp_path)) as guest:
        assert (await guest.ask(Op.CREATE, 1, raw.create_body(b"fifo"))).error == errno.ENXIO
        assert set(guest.session._tree.nodes.by_id) == {1}  # pyright: ignore[reportPrivateUsage]


async def test_a_listing_that_fails_midway_passes_on_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse_nodes, "MAX_NODES", 3)
    async with served(shared(tmp_path)) as guest:
        handle = (await guest.good(Op.OPENDIR, 1, raw.open_body())).handle
        listed = await guest.good(Op.READDIRPLUS, 1, raw.read_body(handle, 0, 4096))
        assert listed.body
        table = guest.session._tree.nodes.by_id  # pyright: ignore[reportPrivateUsage]
        told = {node for node in table if node.to_bytes(8, "little") in listed.body}
        assert set(table) - {1} <= told


def test_the_monitors_user_is_root_in_the_guest() -> None:
    plain, root = Owners(1000, 100), Owners(0, 0)
    assert [plain.uid_in_guest(uid) for uid in (1000, 0, 7)] == [0, 65534, 7]
    assert [plain.gid_in_guest(gid) for gid in (100, 0, 7)] == [0, 65534, 7]
    assert [plain.uid_on_host(uid) for uid in (0, 7)] == [1000, 7]
    assert [root.uid_in_guest(uid) for uid in (0, 7)] == [0, 7]


# -- requests no kernel sends ---------------------------------------------------------------------

WORDS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 4096, 1 << 31, (1 << 32) - 1])
LONGS = WORDS | st.sampled_from([1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
NAMES = st.sampled_from([b"file", b"sub", b"..", b".", b"", b"a/b", b"link", b"x" * 300, b"new"])
PARTS = (
    LONGS.map(lambda value: value.to_bytes(8, "little"))
    | WORDS.map(lambda value: value.to_bytes(4, "little"))
    | NAMES.map(lambda name: name + b"\0")
    | st.binary(max_size=40)
)
REQUESTS = st.tuples(
    st.sampled_from([*SERVED, *Op, 7, 99, 5000]),
    st.integers(0, 6) | LONGS,
    st.lists(PARTS, max_size=9).map(b"".join),
)


@contextmanager
def fuzzed(root: Path) -> Generator[FuseSession]:
    session = FuseSession(root, writable=True)
    before = open_descriptors()
    try:
        yield session
        session._tree.forget_all()  # pyright: ignore[reportPrivateUsage]
        assert open_descriptors() == before
    finally:
        session.close()


def test_no_request_raises_or_leaves_the_root(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("fuzz")
    root = shared(directory)
    outside = sorted(os.listdir(directory)), (directory / "secret").stat()

    @given(st.lists(REQUESTS, max_size=30))
    def any_requests(requests: list[tuple[int, int, bytes]]) -> None:
        with fuzzed(root) as session:
            for op, node, body in requests:
                if op == Op.FALLOCATE and any(body[19:24]):
                    continue  # it would do it, and fill this disk
                request = Request(40 + len(body), op, 2, node, 0, 0, 1, 0)
                slow = session.handle(request, memoryview(body))
                if slow is not None:
                    try:
                        slow.work()
                    except OSError:
                        continue  # a reply, too

    any_requests()
    assert (sorted(os.listdir(directory)), (directory / "secret").stat()) == outside
