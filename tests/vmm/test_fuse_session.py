"""A session and its streams: answers, ends, holds, waits, and guests that break the rules."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vmm import fuse_raw as raw
from tests.vmm.fuse_raw import DirectGuest, RawGuest, filled
from vmm import fuse_wire as wire
from vmm.errors import VmmError
from vmm.fuse_session import FuseSession
from vmm.fuse_tree import ATTRIBUTES_S
from vmm.fuse_wire import Op


@asynccontextmanager
async def served(
    root: Path, *, writable: bool = True, state: dict[str, Any] | None = None
) -> AsyncGenerator[RawGuest]:
    """A guest whose requests are served."""
    session = FuseSession(root, writable=writable, state=state)
    try:
        async with talking(session) as guest:
            yield guest
    finally:
        session.close()


@pytest.fixture(autouse=True, params=[RawGuest, DirectGuest], ids=["in turns", "directly"])
def kind_of_guest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs over both kinds of stream."""
    monkeypatch.setattr(sys.modules[__name__], "guest_of", request.param)


guest_of: Callable[[FuseSession], RawGuest] = RawGuest


@asynccontextmanager
async def talking(session: FuseSession) -> AsyncGenerator[RawGuest]:
    """One stream of a session."""
    guest = guest_of(session)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.serve, guest, guest if isinstance(guest, DirectGuest) else None)
        await anyio.wait_all_tasks_blocked()
        yield guest
        guest.end()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("root", ["missing", "root/file", "relative"])
def test_a_root_that_is_no_directory_is_refused(tmp_path: Path, root: str) -> None:
    filled(tmp_path)
    place = Path(root) if root == "relative" else tmp_path / root
    with pytest.raises(VmmError) as caught:
        FuseSession(place, writable=True)
    assert caught.value.code == "MOUNT_PATH_INVALID"


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "root-link").symlink_to(filled(tmp_path))
    FuseSession(tmp_path / "root-link", writable=False).close()


async def test_init_takes_what_it_knows_of_the_kernels_offers(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        reply = await guest.good(Op.INIT, 0, wire.INIT_IN.pack(7, 40, 131072, 0xFFFFFFFF))
        major, minor, readahead, flags, background, _, max_write, *_ = wire.INIT_OUT.unpack(
            reply.body
        )
        assert (major, minor, readahead, max_write) == (7, 31, 131072, 1 << 20)
        assert flags & wire.InitFlag.MAX_PAGES
        assert not flags & 1 << 16, "a write-back cache would keep a fork's writes to itself"
        assert background > 0
        old = await guest.ask(Op.INIT, 0, wire.INIT_IN.pack(7, 19, 0, 0))
        assert old.error == errno.EPROTO


async def test_an_unknown_operation_is_not_there(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        for op in (Op.ACCESS, 37, 39, 40, 48, 51, 4096):
            assert (await guest.ask(op)).error == errno.ENOSYS


async def test_a_message_may_come_byte_by_byte_and_many_at_once(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        whole = raw.message(Op.LOOKUP, 1, b"file\0", unique=100)
        for byte in whole:
            guest.say(bytes([byte]))
        assert (await guest.answer(100)).size == 15
        many = b"".join(
            raw.message(Op.LOOKUP, 1, b"file\0", unique=1000 + number) for number in range(300)
        )
        guest.say(many + whole[:7])
        guest.say(whole[7:])
        for number in range(300):
            assert (await guest.answer(1000 + number)).error == 0
        assert (await guest.answer(100)).error == 0


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\0\0\0",
        b"\x27\0\0\0" + bytes(60),
        b"\xff\xff\xff\xff" + bytes(60),
        (wire.MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"),
        b"\x08\0\0\0\x09\0\0\0",
    ],
    ids=["zero", "short", "huge", "too long", "unknown word"],
)
async def test_what_is_no_message_ends_the_stream_and_says_why(tmp_path: Path, bad: bytes) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    guest = RawGuest(session)
    guest.say(bad)
    with anyio.fail_after(60):
        await session.serve(guest)
    assert session.broken is not None
    async with talking(session) as again:
        assert (await again.lookup(b"file")).size == 15
    assert session.broken is None
    session.close()


async def test_an_end_in_the_middle_of_a_message_is_told(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    guest = RawGuest(session)
    guest.say(raw.message(Op.LOOKUP, 1, b"file\0")[:20])
    guest.end()
    await session.serve(guest)
    assert session.broken == "the stream ended in the middle of a message"
    session.close()


async def test_nodes_and_handles_outlive_the_stream(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    async with talking(session) as guest:
        node, handle = await guest.opened(b"file")
    async with talking(session) as guest:
        reply = await guest.good(Op.READ, node, raw.read_body(handle, 11, 100))
        assert reply.body == b"file"
    session.close()


async def test_hold_waits_until_the_relay_says_held(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest, anyio.create_task_group() as tasks:
        held = anyio.Event()

        async def hold() -> None:
            await guest.session.hold()
            held.set()

        tasks.start_soon(hold)
        assert await guest.heard_word() == [wire.Control.HOLD]
        assert (await guest.lookup(b"file")).error == 0  # what was on its way is still answered
        assert not held.is_set()
        guest.say(wire.control(wire.HELD))
        with anyio.fail_after(60):
            await held.wait()
        await guest.session.release()
        assert (await guest.heard_word(2))[1] == wire.Control.GO


async def test_held_of_a_hold_that_was_given_up_satisfies_no_other(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest, anyio.create_task_group() as tasks:
        held = anyio.Event()

        async def hold() -> None:
            await guest.session.hold()
            held.set()

        async with anyio.create_task_group() as giving_up:
            giving_up.start_soon(hold)
            await guest.heard_word()
            giving_up.cancel_scope.cancel()
        await guest.session.release()
        tasks.start_soon(hold)
        again = wire.U32_PAIR.unpack(wire.control(wire.Control.HOLD, 1))[1]
        assert await guest.heard_word(3) == [wire.Control.HOLD, wire.Control.GO, again]
        guest.say(wire.control(wire.HELD))  # the answer to the first comes now
        assert (await guest.lookup(b"file")).error == 0
        await anyio.wait_all_tasks_blocked()
        assert not held.is_set()
        guest.say(wire.control(wire.HELD, 1))
        with anyio.fail_after(60):
            await held.wait()


async def test_who_gives_up_a_hold_cuts_no_message_short(tmp_path: Path) -> None:
    root = filled(tmp_path)
    (root / "large").write_bytes(bytes(1 << 20))
    session = FuseSession(root, writable=True)

    class Stuttering(RawGuest):
        """Takes a message in two pieces, the second when told."""

        go_on = anyio.Event()

        async def send(self, data: bytes) -> None:
            await super().send(data[:10])
            await self.go_on.wait()
            await super().send(data[10:])

    guest = Stuttering(session)
    guest.go_on = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.serve, guest)
        asked = guest.post(Op.LOOKUP, 1, b"large\0")
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.05):
            await session.hold()
        await session.release()
        guest.go_on.set()
        assert (await guest.answer(asked)).error == 0
        assert await guest.heard_word(2) == [wire.Control.HOLD, wire.Control.GO]
        guest.end()
    session.close()


async def test_hold_returns_when_there_is_no_stream_or_it_ends(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    with anyio.fail_after(60):
        await session.hold()
        await session.release()
        async with anyio.create_task_group() as tasks, talking(session) as guest:
            tasks.start_soon(session.hold)
            await guest.heard_word()
            guest.end()
    session.close()


async def test_a_wait_for_a_lock_is_answered_when_it_is_free(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 1))
        refused = await guest.ask(Op.SETLK, node, raw.lock_body(handle, 2, 1))
        assert refused.error == errno.EAGAIN
        waiting = guest.post(Op.SETLKW, node, raw.lock_body(handle, 2, 1))
        assert (await guest.lookup(b"file")).error == 0, "others are served meanwhile"
        assert not guest.has_answer(waiting)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 2))
        assert (await guest.answer(waiting)).error == 0
        blocker = await guest.good(Op.GETLK, node, raw.lock_body(handle, 1, 0))
        assert wire.LOCK_OUT.unpack(blocker.body)[2:] == (1, 2)


async def test_an_interrupted_wait_ends_with_eintr(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 1))
        waiting = guest.post(Op.SETLKW, node, raw.lock_body(handle, 2, 1))
        guest.post(Op.INTERRUPT, 0, wire.U64.pack(waiting))
        assert (await guest.answer(waiting)).error == errno.EINTR
        await guest.good(Op.RELEASE, node, raw.release_body(handle))
        other = (await guest.good(Op.OPEN, node, raw.open_body(os.O_RDWR))).handle
        await guest.good(Op.SETLK, node, raw.lock_body(other, 3, 1))


async def test_closing_a_file_gives_its_lock_to_who_waits(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        node, first = await guest.opened(b"file", os.O_RDWR)
        _, second = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(first, 1, 1))
        waiting = guest.post(Op.SETLKW, node, raw.lock_body(second, 2, 1))
        await guest.good(Op.FLUSH, node, wire.FLUSH_IN.pack(first, 0, 1))
        assert (await guest.answer(waiting)).error == 0
        waiting = guest.post(Op.SETLKW, node, raw.lock_body(first, 1, 1))
        await guest.good(Op.RELEASE, node, raw.release_body(second))
        assert (await guest.answer(waiting)).error == 0


async def test_who_waits_for_a_lock_hears_of_it_on_the_next_stream(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    async with talking(session) as guest:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 1))
        waiting = guest.post(Op.SETLKW, node, raw.lock_body(handle, 2, 1))
        await guest.lookup(b"file")
    state = json.loads(json.dumps(session.save()))
    session.close()
    async with served(tmp_path / "root", state=state) as guest:
        guest.unique = 1000
        await guest.good(Op.SETLK, node, raw.lock_body(handle, 1, 2))
        assert (await guest.answer(waiting)).error == 0


async def test_slow_work_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    real = os.fsync

    def slow_fsync(fd: int) -> None:
        assert go_on.wait(30)
        real(fd)

    async with served(filled(tmp_path)) as guest:
        node, handle = await guest.opened(b"file", os.O_RDWR)
        monkeypatch.setattr(os, "fsync", slow_fsync)
        syncing = guest.post(Op.FSYNC, node, wire.FSYNC_IN.pack(handle, 0, 0))
        assert (await guest.lookup(b"file")).size == 15
        await guest.good(Op.RELEASE, node, raw.release_body(handle))
        assert not guest.has_answer(syncing)
        go_on.set()
        assert (await guest.answer(syncing)).error == 0, "its descriptor stayed open for it"


async def test_a_slow_root_is_served_from_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.fuse_session.SLOW_TURN_S", -1.0)
    served_in: set[int] = set()
    real = os.readlink

    def noted(path: Any, *, dir_fd: int | None = None) -> Any:
        served_in.add(threading.get_ident())
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", noted)
    async with served(filled(tmp_path)) as guest:
        node = (await guest.lookup(b"link")).node
        for _ in range(3):
            assert (await guest.good(Op.READLINK, node)).body == b"file"
        handle = (await guest.opened(b"file", os.O_RDWR))[1]
        fine = await guest.ask(Op.FSYNC, 1, wire.FSYNC_IN.pack(handle, 0, 0))
        assert fine.error == 0
    assert threading.get_ident() not in served_in


async def test_a_guest_that_takes_no_replies_is_not_heard_further(tmp_path: Path) -> None:
    root = filled(tmp_path)
    (root / "large").write_bytes(bytes(1 << 20))
    session = FuseSession(root, writable=True)

    class Deaf(RawGuest):
        async def send(self, data: bytes) -> None:
            if self.deaf:
                await anyio.sleep_forever()
            await super().send(data)

        deaf = False

    guest = Deaf(session)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.serve, guest)
        node, handle = await guest.opened(b"large")
        guest.deaf = True
        one = raw.message(Op.READ, node, raw.read_body(handle, 0, 1 << 20), unique=900)
        for _ in range(100):
            guest.say(one * 10)
        await anyio.wait_all_tasks_blocked()
        assert session._outbox_bytes < 16 << 20  # pyright: ignore[reportPrivateUsage]
        tasks.cancel_scope.cancel()
    session.close()


async def test_nothing_stays_open_after_close(tmp_path: Path) -> None:
    root = filled(tmp_path)
    async with served(root) as guest:
        await guest.lookup(b"file")  # whatever is opened once and for all
    before = open_descriptors()
    async with served(root) as guest:
        for name in (b"file", b"file"):
            await guest.opened(name)
        await guest.good(Op.OPENDIR, 1, raw.open_body())
        for name in (b"missing", b"link"):
            node = (await guest.lookup(name)).node
            await guest.ask(Op.OPEN, node, raw.open_body())
    assert open_descriptors() == before


async def test_slow_work_before_a_broken_message_closes_what_it_used(tmp_path: Path) -> None:
    root = filled(tmp_path)
    async with served(root) as guest:
        await guest.lookup(b"file")
    before = open_descriptors()
    session = FuseSession(root, writable=True)
    guest = RawGuest(session)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.serve, guest)
        node, handle = await guest.opened(b"file", os.O_RDWR)
        sync = raw.message(Op.FSYNC, node, wire.FSYNC_IN.pack(handle, 0, 0))
        guest.say(sync * 20 + bytes(100))
    assert session.broken is not None
    session.close()
    assert open_descriptors() == before


async def test_a_new_mount_begins_with_nothing_of_the_old(tmp_path: Path) -> None:
    async with served(filled(tmp_path)) as guest:
        node, handle = await guest.opened(b"file")
        before = open_descriptors()
        await guest.good(Op.INIT, 0, wire.INIT_IN.pack(7, 31, 0, 0))
        assert open_descriptors() == before - 1
        assert (await guest.ask(Op.GETATTR, node, bytes(16))).error == errno.ENOENT
        gone = await guest.ask(Op.READ, node, raw.read_body(handle, 0, 1))
        assert gone.error == errno.EBADF
        again = await guest.lookup(b"file")
        assert again.node > node, "no number is used twice"
        await guest.good(Op.DESTROY)


async def test_pages_read_from_images_are_counted(tmp_path: Path) -> None:
    root = filled(tmp_path)
    (root / "pages-1.img").write_bytes(bytes(5000))
    (root / "pages-x.img").write_bytes(bytes(5000))
    async with served(root, writable=False) as guest:
        for name, counted in ((b"pages-x.img", 0), (b"pages-1.img", 5000)):
            node, handle = await guest.opened(name)
            await guest.good(Op.READ, node, raw.read_body(handle, 0, 8192))
            assert guest.session.pages_bytes_served == counted


async def test_opening_a_changed_file_has_the_kernel_ask_anew(tmp_path: Path) -> None:
    root = filled(tmp_path)
    async with served(root) as guest:
        node, _ = await guest.opened(b"file")
        assert guest.notices == []
        (root / "file").write_bytes(b"now longer than it was before")
        reply = await guest.good(Op.OPEN, node, raw.open_body())
        assert guest.notices == [wire.forget_attributes(node)]
        assert not wire.OPEN_OUT.unpack(reply.body)[1] & wire.FOPEN_KEEP_CACHE
        assert ATTRIBUTES_S <= 1


async def test_a_file_that_was_replaced_since_it_was_found_is_looked_for_again(
    tmp_path: Path,
) -> None:
    async with served(filled(tmp_path)) as guest:
        old = (await guest.lookup(b"file")).node
        made = await guest.good(Op.CREATE, 1, raw.create_body(b"new"))
        await guest.good(Op.RENAME, 1, wire.U64.pack(1) + b"new\0file\0")
        assert (await guest.ask(Op.OPEN, old, raw.open_body())).error == errno.ESTALE
        assert (await guest.lookup(b"file")).node == made.node


async def test_who_only_writes_a_file_made_anew_writes_past_the_cache(tmp_path: Path) -> None:
    def told(reply: raw.Reply) -> int:
        return wire.OPEN_OUT.unpack(reply.body[-wire.OPEN_OUT.size :])[1] & wire.FOPEN_DIRECT_IO

    root = filled(tmp_path)
    async with served(root) as guest:
        for flags, past in ((os.O_WRONLY, True), (os.O_RDWR, False), (os.O_RDONLY, False)):
            name = b"made-%d" % flags
            made = await guest.good(Op.CREATE, 1, raw.create_body(name, flags | os.O_CREAT))
            assert bool(told(made)) == past
        node = (await guest.lookup(b"file")).node
        for flags, past in (
            (os.O_WRONLY, False),
            (os.O_RDWR | os.O_TRUNC, False),
        ):
            reply = await guest.good(Op.OPEN, node, raw.open_body(flags))
            assert bool(told(reply)) == past
            await guest.good(Op.RELEASE, node, raw.release_body(reply.handle))
        anew = raw.open_body(os.O_WRONLY | os.O_TRUNC)
        assert told(await guest.good(Op.OPEN, node, anew))
        assert not told(await guest.good(Op.OPEN, node, anew)), "somebody may have it mapped"


@asynccontextmanager
async def direct(root: Path) -> AsyncGenerator[DirectGuest]:
    """A guest that is served where its requests arrive."""
    session = FuseSession(root, writable=True)
    guest = DirectGuest(session)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.serve, guest, guest)
        await anyio.wait_all_tasks_blocked()
        yield guest
        guest.end()
    session.close()


async def test_a_request_is_answered_before_anybody_else_has_a_turn(tmp_path: Path) -> None:
    async with direct(filled(tmp_path)) as guest:
        unique = guest.post(Op.LOOKUP, 1, b"file\0")
        assert guest.has_answer(unique)
        assert guest.sent_at_once == 1


async def test_answers_a_full_stream_does_not_take_follow_in_order(tmp_path: Path) -> None:
    async with direct(filled(tmp_path)) as guest:
        guest.is_full = True
        first = guest.post(Op.LOOKUP, 1, b"file\0")
        second = guest.post(Op.LOOKUP, 1, b"none\0")
        assert not guest.has_answer(first)
        assert (await guest.answer(first)).error == 0
        assert (await guest.answer(second)).error == 0  # a name that is not there has an entry 0
        assert guest.sent_at_once == 0


async def test_many_requests_at_once_leave_others_their_turn(tmp_path: Path) -> None:
    async with direct(filled(tmp_path)) as guest:
        asked = [raw.message(Op.LOOKUP, 1, b"file\0", unique=2 * n) for n in range(1, 301)]
        guest.say(b"".join(asked))
        assert guest.has_answer(2)
        assert not guest.has_answer(600)
        late = guest.post(Op.LOOKUP, 1, b"file\0")  # its number is 2 again: behind the others
        assert late == 2
        for number in range(1, 301):
            assert (await guest.answer(2 * number)).error == 0


async def test_what_is_no_message_ends_a_direct_stream_too(tmp_path: Path) -> None:
    session = FuseSession(filled(tmp_path), writable=True)
    guest = DirectGuest(session)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.serve, guest, guest)
            await anyio.wait_all_tasks_blocked()
            whole = raw.message(Op.LOOKUP, 1, b"file\0", unique=2)
            guest.say(whole + b"\xff\xff\xff\xff" + bytes(60))
    assert guest.has_answer(2)
    assert session.broken is not None
    assert guest.on_data is None
    session.close()
