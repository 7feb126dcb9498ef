"""Requests the agent answers by itself, with the kernel's real FUSE; docs/protocol.md, 3.6."""

import struct
import zlib

import pytest

from tests.guest.agent_process import Agent
from tests.guest.fuse_responder import (
    GETATTR,
    GO,
    HINT_ATTRIBUTES,
    HINT_NAMES,
    HOLD,
    LOOKUP,
    OPEN,
    RELEASE,
    hint,
)
from tests.guest.test_live_mounts import Mounted, reconnected

ROOT = 1
MISSES = "for n in 1 2 3 4 5; do test -e missing$n && exit 1; done; exit 0"


@pytest.fixture
def mounted(mounting_agent: Agent) -> Mounted:
    return Mounted(mounting_agent, mounting_agent.client)


def names(*there: str, valid_ms: int = 60_000) -> bytes:
    """The hint that the root has these names and no others."""
    sums = struct.pack(f"<{len(there)}I", *(zlib.crc32(name.encode()) for name in there))
    return hint(ROOT, HINT_NAMES, sums, valid_ms=valid_ms)


def asked(mounted: Mounted, opcode: int, command: str) -> int:
    """How often a command that succeeds has the host asked something."""
    before = mounted.host.opcodes.count(opcode)
    assert mounted.run(command) == (0, b"")
    return mounted.host.opcodes.count(opcode) - before


def test_without_hints_the_host_is_asked_for_every_name(mounted: Mounted) -> None:
    assert asked(mounted, LOOKUP, MISSES) == 5


def test_names_that_are_not_hinted_are_not_asked_for(mounted: Mounted) -> None:
    mounted.host.hints[LOOKUP] = [names("hello")]
    assert asked(mounted, LOOKUP, MISSES) == 1
    assert mounted.run("cat hello") == (0, b"from the host\n")


def test_a_hint_that_is_over_says_nothing(mounted: Mounted) -> None:
    mounted.host.hints[LOOKUP] = [names("hello", valid_ms=0)]
    assert asked(mounted, LOOKUP, MISSES) == 5


def test_a_directorys_attributes_are_not_asked_for_again(mounted: Mounted) -> None:
    stat = "python3 -c 'import os; [os.stat(\".\") for _ in range(9)]'"
    assert asked(mounted, GETATTR, stat) >= 9
    mounted.host.hints[GETATTR] = [mounted.host.attributes_hint(ROOT)]
    assert asked(mounted, GETATTR, stat) == 1


def test_a_change_ends_what_was_hinted_of_the_directory(mounted: Mounted) -> None:
    mounted.host.hints[GETATTR] = [mounted.host.attributes_hint(ROOT)]
    mounted.run("test -d .")
    before = mounted.host.opcodes.count(GETATTR)
    assert mounted.run("chmod 755 .")[0] == 0
    assert asked(mounted, GETATTR, "test -d .") > 0
    assert mounted.host.opcodes.count(GETATTR) > before


def test_holding_and_a_new_stream_end_hints(mounting_agent: Agent, mounted: Mounted) -> None:
    mounted.host.hints[LOOKUP] = [names("hello")]
    mounted.run("test -e gone")
    mounted.host.control(HOLD)
    mounted.host.serve_until(lambda: mounted.host.held)
    mounted.host.control(GO)
    mounted.host.hints[LOOKUP] = [names("hello")]
    assert asked(mounted, LOOKUP, MISSES) == 1
    again = reconnected(mounting_agent)
    others = MISSES.replace("missing", "others")  # the kernel itself remembers the first ones
    assert asked(again, LOOKUP, others) == 5


def test_a_closed_file_is_told_without_an_answer_and_before_held(mounted: Mounted) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == RELEASE
    assert mounted.run("cat hello; cat hello") == (0, b"from the host\n" * 2)
    host.control(HOLD)
    host.serve_until(lambda: host.held)
    assert host.opcodes.count(RELEASE) == host.opcodes.count(OPEN) == len(host.kept) == 2
    assert all(struct.unpack_from("<H", message, 38) == (1,) for message in host.kept)
    host.let_go()  # an answer that nobody waits for does no harm
    host.control(GO)
    assert mounted.run("cat hello") == (0, b"from the host\n")


@pytest.mark.parametrize(
    "broken",
    [hint(ROOT, HINT_NAMES, b"123"), hint(ROOT, HINT_ATTRIBUTES, bytes(87)), hint(ROOT, 99)],
)
def test_a_hint_without_sense_changes_nothing(mounted: Mounted, broken: bytes) -> None:
    mounted.host.hints[LOOKUP] = [broken]
    assert asked(mounted, LOOKUP, MISSES) == 5
    assert mounted.run("cat hello") == (0, b"from the host\n")
