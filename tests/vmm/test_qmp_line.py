"""QMP from a thread: what it sends, what it takes for an answer, what a broken QEMU is to it."""

from __future__ import annotations

import json
import socket
from collections.abc import Generator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import qmp_line
from vmm.errors import VmmError
from vmm.qmp_line import QmpLine

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
EVENT = b'{"timestamp": {}, "event": "STOP"}\r\n'


def done(number: int) -> bytes:
    """The answer to the line's command of this number."""
    return b'{"return": {}, "id": %d}\r\n' % number


class FakeQemu:
    """The other end: what is to be read lies there already."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.theirs = theirs
        self.line = QmpLine(theirs)

    def says(self, *lines: bytes) -> None:
        self.ours.sendall(b"".join(lines))

    def heard(self) -> bytes:
        return self.ours.recv(65536, socket.MSG_DONTWAIT)

    def begun(self) -> QmpLine:
        self.says(GREETING, done(1))
        self.line.begin()
        self.heard()
        return self.line


@pytest.fixture
def qemu() -> Generator[FakeQemu]:
    qemu = FakeQemu()
    yield qemu
    qemu.ours.close()
    qemu.theirs.close()


def test_it_begins_once_and_its_commands_are_short(qemu: FakeQemu) -> None:
    qemu.says(GREETING, done(1))
    qemu.line.begin()
    assert qemu.heard() == b'{"execute":"qmp_capabilities","id":1}'
    qemu.line.begin()
    qemu.says(done(2))
    qemu.line.execute("blockdev-snapshot", {"node": "a", "overlay": "b"})
    wanted = b'{"execute":"blockdev-snapshot","id":2,"arguments":{"node":"a","overlay":"b"}}'
    assert qemu.heard() == wanted


def test_events_between_are_no_answers(qemu: FakeQemu) -> None:
    line = qemu.begun()
    qemu.says(EVENT, EVENT, done(2), EVENT)
    line.execute("stop")
    qemu.says(done(3))
    line.execute("cont")


def test_what_qemu_refuses_is_said_in_its_words(qemu: FakeQemu) -> None:
    line = qemu.begun()
    qemu.says(b'{"error": {"desc": "no room"}, "id": 2}\r\n')
    with pytest.raises(VmmError, match="QEMU refused stop: no room") as caught:
        line.execute("stop")
    assert caught.value.code == "QMP_REFUSED"
    qemu.says(done(3))
    line.execute("stop")


def test_an_answer_that_came_too_late_is_not_that_of_the_next_command(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_line, "TIMEOUT_S", 0.01)
    line = qemu.begun()
    with pytest.raises(VmmError, match="hangs"):
        line.execute("stop")
    qemu.says(done(2), b'{"error": {"desc": "it is stopped"}, "id": 3}\r\n')
    with pytest.raises(VmmError, match="it is stopped"):
        line.execute("cont")


def test_events_are_dropped_and_half_a_line_is_kept(qemu: FakeQemu) -> None:
    qemu.line.drop_events()  # nothing was begun: the greeting stays
    line = qemu.begun()
    qemu.says(EVENT * 1000, EVENT[:20])
    line.drop_events()
    qemu.says(EVENT[20:], done(2))
    line.execute("stop")
    qemu.says(EVENT, EVENT[:3])
    line.drop_events()
    qemu.says(EVENT[3:], done(3))
    line.execute("cont")


def test_dropping_events_drops_no_answer_and_never_waits_for_one(qemu: FakeQemu) -> None:
    line = qemu.begun()
    qemu.says(done(2))
    line.send("stop")
    line.drop_events()  # the answer has come, and nobody has read it
    line.wait("stop")


@pytest.mark.parametrize(
    "said",
    [b"no JSON\r\n", b"[]\r\n", b"1\n", b"\xff\n", b"[" * 100_000 + b"\n"],
    ids=["words", "list", "number", "bytes", "deep"],
)
def test_what_is_no_qmp_is_a_qemu_that_is_gone(qemu: FakeQemu, said: bytes) -> None:
    line = qemu.begun()
    qemu.says(said)
    with pytest.raises(VmmError) as caught:
        line.execute("stop")
    assert caught.value.code == "QEMU_GONE"


def test_a_line_without_end_is_given_up(qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp_line, "MAX_LINE_BYTES", 1000)
    line = qemu.begun()
    qemu.says(b"x" * 5000)
    with pytest.raises(VmmError, match="no QMP"):
        line.execute("stop")


def test_one_that_hangs_or_hangs_up_is_gone(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qmp_line, "TIMEOUT_S", 0.01)
    line = qemu.begun()
    with pytest.raises(VmmError, match="hangs") as caught:
        line.execute("stop")
    assert caught.value.code == "QEMU_GONE"
    qemu.ours.close()
    for _ in range(2):
        with pytest.raises(VmmError) as caught:
            line.execute("stop")
        assert caught.value.code == "QEMU_GONE"
    line.drop_events()


def test_one_that_ends_before_it_greets_is_gone(qemu: FakeQemu) -> None:
    qemu.ours.close()
    with pytest.raises(VmmError) as caught:
        qemu.line.begin()
    assert caught.value.code == "QEMU_GONE"


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_an_answer_or_refused(said: bytes, drop: bool) -> None:
    qemu = FakeQemu()
    with qemu.ours, qemu.theirs:
        line = qemu.begun()
        qemu.says(said)
        qemu.ours.shutdown(socket.SHUT_WR)
        if drop:
            line.drop_events()
        with suppress(VmmError):
            line.execute("stop")


JSON = st.recursive(
    st.none() | st.just(2) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.sampled_from(["error", "id", "desc"]), part),
)


@given(JSON)
def test_any_json_is_an_answer_or_refused(said: object) -> None:
    qemu = FakeQemu()
    with qemu.ours, qemu.theirs:
        line = qemu.begun()
        qemu.says(json.dumps(said).encode() + b"\r\n")
        qemu.ours.shutdown(socket.SHUT_WR)
        with suppress(VmmError):
            line.execute("stop")
