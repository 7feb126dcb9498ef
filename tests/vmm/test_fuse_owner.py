"""A monitor that is not root: whose files the guest sees, and what it may do with them."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.vmm import fuse_raw as raw
from vmm import fuse_wire as wire
from vmm.fuse_session import FuseSession
from vmm.fuse_tree import Request
from vmm.fuse_wire import Op, SetAttr

USER, GROUP = 4242, 4343
PR_SET_DUMPABLE = 4


def as_a_user(work: Callable[[Path], None]) -> None:
    """Do it in a child that is no longer root, in a directory of its own."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, USER, GROUP)
        (Path(name) / "of-root").write_bytes(b"root's")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(GROUP)
                os.setuid(USER)
                # A process that changed its user may not look into its own /proc without this.
                ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
                work(Path(name))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0


class Guest:
    """Asks without a stream."""

    def __init__(self, root: Path) -> None:
        self.session = FuseSession(root, writable=True)

    def ask(self, op: Op, node: int, body: bytes) -> raw.Reply:
        request = Request(40 + len(body), op, 2, node, 1000, 1000, 1, 0)
        assert self.session.handle(request, memoryview(body)) is None
        outbox = self.session._outbox  # pyright: ignore[reportPrivateUsage]
        reply = b"".join(outbox)
        outbox.clear()
        return raw.Reply(-wire.OUT_HEADER.unpack_from(reply)[1], reply[wire.OUT_HEADER.size :])


def owner(reply: raw.Reply) -> tuple[int, int]:
    """User and group of an entry."""
    fields = wire.ATTR.unpack_from(reply.body, wire.ENTRY.size)
    return fields[11], fields[12]


def test_its_own_files_are_roots_in_the_guest_and_roots_are_nobodys() -> None:
    def work(root: Path) -> None:
        guest = Guest(root)
        made = guest.ask(Op.CREATE, 1, raw.create_body(b"made"))
        assert made.error == 0
        assert owner(made) == (0, 0), "whoever asked: the monitor can own it only as itself"
        assert (root / "made").stat().st_uid == USER
        other = guest.ask(Op.LOOKUP, 1, b"of-root\0")
        assert owner(other) == (65534, 65534)
        assert guest.ask(Op.OPEN, other.node, raw.open_body(os.O_RDWR)).error == errno.EACCES
        guest.session.close()

    as_a_user(work)


def test_owners_stay_and_modes_change() -> None:
    def change(valid: int, *, mode: int = 0, uid: int = 0, gid: int = 0) -> bytes:
        fields = (valid, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, uid, gid, 0)
        return wire.SETATTR_IN.pack(*fields)

    def work(root: Path) -> None:
        guest = Guest(root)
        node = guest.ask(Op.CREATE, 1, raw.create_body(b"made")).node
        owners = SetAttr.UID | SetAttr.GID
        assert guest.ask(Op.SETATTR, node, change(owners)).error == 0
        assert guest.ask(Op.SETATTR, node, change(owners, uid=5, gid=5)).error == errno.EPERM
        assert guest.ask(Op.SETATTR, node, change(SetAttr.MODE, mode=0o4710)).error == 0
        assert stat.S_IMODE((root / "made").stat().st_mode) == 0o710
        foreign = guest.ask(Op.LOOKUP, 1, b"of-root\0").node
        assert guest.ask(Op.SETATTR, foreign, change(SetAttr.MODE, mode=0o777)).error == errno.EPERM
        for op, body in (
            (Op.MKDIR, wire.U32_PAIR.pack(0o2755, 0) + b"directory\0"),
            (Op.SYMLINK, b"link\0to\0"),
            (Op.MKNOD, wire.MKNOD_IN.pack(stat.S_IFIFO | 0o600, 0, 0, 0) + b"fifo\0"),
        ):
            assert guest.ask(op, 1, body).error == 0
        guest.session.close()

    as_a_user(work)
