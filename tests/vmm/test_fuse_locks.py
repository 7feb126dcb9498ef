"""Locks held against a model that knows, for each byte, who has it and how."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import fuse_locks
from vmm.fuse_locks import END_OF_FILE, READ, UNLOCK, WRITE, Lock, LockTable

BYTES = 12
FILE = 5


def lock(owner: int, kind: int, start: int = 0, end: int = END_OF_FILE) -> Lock:
    return Lock(False, owner, kind, start, end, owner, owner)


class Model:
    """Each byte's holders: owner → kind."""

    def __init__(self) -> None:
        self.bytes: list[dict[int, int]] = [{} for _ in range(BYTES)]

    def set(self, wanted: Lock) -> bool:
        covered = self.bytes[wanted.start : wanted.end + 1]
        for holders in covered:
            for owner, kind in holders.items():
                if owner != wanted.owner and WRITE in (kind, wanted.kind) and wanted.kind != UNLOCK:
                    return False
        for holders in covered:
            holders.pop(wanted.owner, None)
            if wanted.kind != UNLOCK:
                holders[wanted.owner] = wanted.kind
        return True


def by_byte(table: LockTable) -> list[dict[int, int]]:
    found: list[dict[int, int]] = [{} for _ in range(BYTES)]
    for each in table.held.get(FILE, []):
        for position in range(each.start, each.end + 1):
            assert each.owner not in found[position], "an owner has a byte once"
            found[position][each.owner] = each.kind
    return found


spans = st.tuples(st.integers(0, BYTES - 1), st.integers(0, BYTES - 1)).map(sorted)
steps = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([READ, WRITE, UNLOCK]), spans))


@given(steps)
def test_locks_cover_the_bytes_they_should(steps: list[tuple[int, int, list[int]]]) -> None:
    table, model = LockTable(), Model()
    for owner, kind, (start, end) in steps:
        wanted = lock(owner, kind, start, end)
        if model.set(wanted):
            table.set(FILE, wanted)
        else:
            with pytest.raises(OSError, match="locked"):
                table.set(FILE, wanted)
        assert by_byte(table) == model.bytes
    for owner in (1, 2, 3):
        table.drop_owner(FILE, owner, flock=False)
    assert table.held == {}


@given(steps)
def test_every_wait_ends_when_all_locks_are_given_up(
    steps: list[tuple[int, int, list[int]]],
) -> None:
    table = LockTable()
    waiting: set[int] = set()
    for unique, (owner, kind, (start, end)) in enumerate(steps):
        try:
            granted = table.wait(unique, FILE, lock(owner, kind, start, end))
        except OSError:
            continue  # EDEADLK: it does not wait
        waiting |= {unique} if granted is None else set()
        waiting -= set(granted or ())
        for each in table.held.get(FILE, []):
            assert not table.blocker(FILE, each), "no two that exclude each other"
    for _ in range(len(steps) + 1):
        for owner in (1, 2, 3):
            waiting -= set(table.drop_owner(FILE, owner, flock=False))
    assert waiting == set()
    assert table.waiting == []


def test_posix_locks_and_flocks_do_not_see_each_other() -> None:
    table = LockTable()
    table.set(FILE, lock(1, WRITE))
    table.set(FILE, lock(2, WRITE)._replace(flock=True))
    with pytest.raises(OSError, match="locked"):
        table.set(FILE, lock(3, READ)._replace(flock=True))


def test_two_who_would_wait_for_each_other_are_told() -> None:
    table = LockTable()
    table.set(1, lock(1, WRITE))
    table.set(2, lock(2, WRITE))
    assert table.wait(10, 2, lock(1, WRITE)) is None
    with pytest.raises(OSError, match="wait for each other") as caught:
        table.wait(11, 1, lock(2, WRITE))
    assert caught.value.errno == errno.EDEADLK


@pytest.mark.parametrize(
    "bad", [lock(1, 3), lock(1, WRITE, 5, 4), lock(1, WRITE, -1, 4)], ids=["kind", "span", "start"]
)
def test_what_is_no_lock_is_refused(bad: Lock) -> None:
    with pytest.raises(OSError, match="not a lock"):
        LockTable().set(FILE, bad)


def test_locks_and_waits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_locks, "MAX_LOCKS", 3)
    monkeypatch.setattr(fuse_locks, "MAX_WAITING", 2)
    table = LockTable()
    for number in range(3):
        table.set(number, lock(1, WRITE))
    with pytest.raises(OSError, match="too many locks"):
        table.set(9, lock(1, WRITE))
    table.set(2, lock(1, UNLOCK))
    for unique in range(2):
        assert table.wait(unique, 0, lock(2 + unique, WRITE)) is None
    with pytest.raises(OSError, match="too many wait"):
        table.wait(7, 0, lock(9, WRITE))


def test_locks_go_with_the_file_they_were_asked_through() -> None:
    table = LockTable()
    table.set(FILE, lock(1, WRITE, 0, 5)._replace(handle=70))
    table.set(FILE, lock(1, WRITE, 10, 11)._replace(handle=71))
    assert table.wait(4, FILE, lock(2, READ, 0, 1)) is None
    assert table.drop_handle(FILE, 70) == [4]
    assert [each.start for each in table.held[FILE]] == [10, 0]
