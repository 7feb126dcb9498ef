"""Record locks and flocks of one mount's guest, in memory.

POSIX locks belong to an owner (a process, as the guest's kernel numbers them) and cover bytes
`start` to `end`, both included; an owner's new lock takes the place of its old one over those
bytes. A flock covers the whole file and belongs to an open file. The two kinds do not see each
other, as on a local disk (fcntl(2), flock(2)). A request that waits keeps its number, and is
granted in the order it came, or ended by INTERRUPT.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

READ: Final = 0
WRITE: Final = 1
UNLOCK: Final = 2
"""F_RDLCK, F_WRLCK and F_UNLCK of Linux."""
MAX_LOCKS: Final = 65536
MAX_WAITING: Final = 1024
END_OF_FILE: Final = (1 << 63) - 1


class Lock(NamedTuple):
    """A lock on bytes of one file."""

    flock: bool
    owner: int
    kind: int
    start: int
    end: int
    pid: int
    handle: int
    """The open file it was asked through."""

    def conflicts(self, other: Lock) -> bool:
        """True if both cannot be held at once."""
        return (
            self.flock == other.flock
            and self.owner != other.owner
            and (self.kind == WRITE or other.kind == WRITE)
            and self.start <= other.end
            and other.start <= self.end
        )


class Waiting(NamedTuple):
    """A request that waits for its lock."""

    unique: int
    node: int
    lock: Lock


class LockTable:
    """Locks by node number."""

    def __init__(self) -> None:
        self.held: dict[int, list[Lock]] = {}
        self.waiting: list[Waiting] = []
        self._count = 0

    def blocker(self, node: int, wanted: Lock) -> Lock | None:
        """A lock that stands in the way, or None."""
        return next((lock for lock in self.held.get(node, ()) if lock.conflicts(wanted)), None)

    def set(self, node: int, wanted: Lock) -> list[int]:
        """Take, change or give up a lock; the requests that need wait no longer.

        Raises:
            OSError: EAGAIN if another owner's lock is in the way, ENOLCK if there are too many,
                EINVAL.
        """
        self._check(wanted)
        if wanted.kind != UNLOCK and self.blocker(node, wanted):
            raise OSError(errno.EAGAIN, "locked")
        self._place(node, wanted)
        return self._grant(node)

    def wait(self, unique: int, node: int, wanted: Lock) -> list[int] | None:
        """As `set`, or None if the request now waits.

        Raises:
            OSError: EDEADLK if owners would wait for each other, ENOLCK, EINVAL.
        """
        self._check(wanted)
        if wanted.kind == UNLOCK or not self.blocker(node, wanted):
            return self.set(node, wanted)
        if len(self.waiting) >= MAX_WAITING:
            raise OSError(errno.ENOLCK, "too many wait for locks")
        if not wanted.flock and self._would_deadlock(node, wanted):
            raise OSError(errno.EDEADLK, "these processes would wait for each other")
        self.waiting.append(Waiting(unique, node, wanted))
        return None

    def interrupt(self, unique: int) -> bool:
        """End a wait; False if that request does not wait."""
        for waiting in self.waiting:
            if waiting.unique == unique:
                self.waiting.remove(waiting)
                return True
        return False

    def drop_owner(self, node: int, owner: int, *, flock: bool) -> list[int]:
        """Give up all an owner has on a file; the requests that wait no longer."""
        return self._keep(node, lambda lock: lock.owner != owner or lock.flock != flock)

    def drop_handle(self, node: int, handle: int) -> list[int]:
        """Give up what was locked through an open file that is closed now."""
        return self._keep(node, lambda lock: lock.handle != handle)

    def restore(self, node: int, lock: Lock) -> None:
        """A lock from a saved table."""
        self._check(lock)
        self.held.setdefault(node, []).append(lock)
        self._count += 1

    # -- inside ---------------------------------------------------------------------------------

    def _check(self, wanted: Lock) -> None:
        if wanted.kind not in (READ, WRITE, UNLOCK) or not 0 <= wanted.start <= wanted.end:
            raise OSError(errno.EINVAL, "not a lock")
        if wanted.kind != UNLOCK and self._count >= MAX_LOCKS:
            raise OSError(errno.ENOLCK, "the guest holds too many locks")

    def _place(self, node: int, wanted: Lock) -> None:
        """The owner's locks with the new one over them; neighbours of one kind become one."""
        before = self.held.get(node, [])
        after: list[Lock] = []
        merged = wanted
        for lock in before:
            own = (lock.flock, lock.owner) == (wanted.flock, wanted.owner)
            if not own or lock.end + 1 < merged.start or merged.end + 1 < lock.start:
                after.append(lock)
            elif lock.kind == wanted.kind:
                merged = merged._replace(
                    start=min(lock.start, merged.start), end=max(lock.end, merged.end)
                )
            else:
                after.extend(_cut(lock, wanted))
        if wanted.kind != UNLOCK:
            after.append(merged)
        self._store(node, before, after)

    def _store(self, node: int, before: list[Lock], after: list[Lock]) -> None:
        self._count += len(after) - len(before)
        if after:
            self.held[node] = after
        else:
            self.held.pop(node, None)

    def _keep(self, node: int, wanted: Callable[[Lock], bool]) -> list[int]:
        before = self.held.get(node)
        if before is None:
            return []
        after = [lock for lock in before if wanted(lock)]
        self._store(node, before, after)
        return self._grant(node) if len(after) < len(before) else []

    def _grant(self, node: int) -> list[int]:
        """Give locks to those who waited for this file and can have them now."""
        granted: list[int] = []
        for waiting in [each for each in self.waiting if each.node == node]:
            if not self.blocker(node, waiting.lock):
                self.waiting.remove(waiting)
                self._place(node, waiting.lock)
                granted.append(waiting.unique)
        return granted

    def _would_deadlock(self, node: int, wanted: Lock) -> bool:
        """True if someone in the way waits, through others, for `wanted`'s owner."""
        seen: set[int] = set()
        todo = [lock.owner for lock in self._blockers(node, wanted)]
        while todo:
            owner = todo.pop()
            if owner == wanted.owner:
                return True
            if owner in seen:
                continue
            seen.add(owner)
            for waiting in self.waiting:
                if waiting.lock.owner == owner and not waiting.lock.flock:
                    blockers = self._blockers(waiting.node, waiting.lock)
                    todo.extend(lock.owner for lock in blockers)
        return False

    def _blockers(self, node: int, wanted: Lock) -> Iterator[Lock]:
        return (lock for lock in self.held.get(node, ()) if lock.conflicts(wanted))


def _cut(lock: Lock, hole: Lock) -> Iterator[Lock]:
    """What is left of a lock around a hole."""
    if lock.start < hole.start:
        yield lock._replace(end=min(lock.end, hole.start - 1))
    if lock.end > hole.end:
        yield lock._replace(start=max(lock.start, hole.end + 1))
