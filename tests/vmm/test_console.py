"""The console log's cap, and what is kept of QEMU's last words."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.console import ConsoleLog, copy_console, read_last_words


@pytest.fixture
def log(tmp_path: Path) -> Generator[ConsoleLog]:
    with closing(ConsoleLog(tmp_path / "console.log", cap_bytes=100)) as log:
        yield log


def on_disk(log: ConsoleLog) -> bytes:
    before = log.path.with_name("console.log.1")
    return (before.read_bytes() if before.exists() else b"") + log.path.read_bytes()


def test_a_full_log_becomes_the_one_before(log: ConsoleLog) -> None:
    log.write(b"a" * 100)
    log.write(b"b")
    assert log.path.read_bytes() == b"b"
    assert log.path.with_name("console.log.1").read_bytes() == b"a" * 100


def test_one_write_may_fill_several_logs(log: ConsoleLog) -> None:
    log.write(bytes(range(250)))
    assert on_disk(log) == bytes(range(100, 250))


@given(chunks=st.lists(st.binary(max_size=150), max_size=12))
def test_the_newest_bytes_are_on_disk_within_two_caps(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "console.log"
    with closing(ConsoleLog(path, cap_bytes=100)) as log:
        for chunk in chunks:
            log.write(chunk)
        kept, written = on_disk(log), b"".join(chunks)
    assert written.endswith(kept)
    assert min(len(written), 100) <= len(kept) <= 200


def test_a_full_disk_loses_bytes_and_harms_nobody() -> None:
    with closing(ConsoleLog(Path("/dev/full"))) as log:
        log.write(b"lost")
        log.note("lost, too")


def test_a_log_that_could_not_begin_anew_goes_on_later(
    log: ConsoleLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(path: Path, *_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    log.write(b"a" * 100)
    monkeypatch.setattr(Path, "open", refuse)
    log.write(b"lost")
    monkeypatch.setattr(Path, "open", opened)
    log.write(b"kept")
    assert on_disk(log) == b"a" * 100 + b"kept"


def test_a_log_that_exists_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    for text in (b"first", b"second"):
        with closing(ConsoleLog(path, cap_bytes=8)) as log:
            log.write(text)
    assert path.read_bytes() == b"ond"


def test_a_note_is_marked_as_ours(log: ConsoleLog) -> None:
    log.note("the guest broke the protocol")
    assert re.fullmatch(r"machinen \d\d:\d\d:\d\d: the guest broke the protocol\n", log.tail())


def test_the_tail_is_the_last_part_as_text(log: ConsoleLog) -> None:
    log.write(b"panic: \xff\n")
    assert log.tail(3) == " \ufffd\n"
    assert log.tail() == "panic: \ufffd\n"


def test_the_tail_of_a_log_somebody_removed_is_empty(log: ConsoleLog) -> None:
    log.path.unlink()
    assert log.tail() == ""


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_the_console_is_copied_until_qemu_closes_it(log: ConsoleLog, ending: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def copy() -> None:
                await copy_console(ours, log, to_stderr=False)

            tasks.start_soon(copy)
            theirs.send(b"Linux version 6.12\n")
            await anyio.wait_all_tasks_blocked()
            if ending == "reset":
                ours.send(b"unread")  # closing now resets the connection
            theirs.close()
    assert log.path.read_bytes() == b"Linux version 6.12\n"


async def last_words(chunks: list[bytes], keep_bytes: int = 8192) -> bytes:
    """What is kept of chunks that QEMU prints one after the other."""
    read_end, write_end = os.pipe()
    kept: list[bytes] = []
    try:
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                kept.append(await read_last_words(read_end, keep_bytes))

            tasks.start_soon(read)
            for chunk in chunks:
                os.write(write_end, chunk)
                await anyio.wait_all_tasks_blocked()
            os.close(write_end)
    finally:
        os.close(read_end)
    return kept[0]


DISCARD = b"qemu: ram_block_discard_range: Failed to discard range: Bad file descriptor\n"


@pytest.mark.parametrize("size", [13, 40, 4096])
async def test_the_line_of_every_refused_discard_is_dropped(size: int) -> None:
    printed = DISCARD * 3 + b"qemu: fatal\n" + DISCARD
    chunks = [printed[at : at + size] for at in range(0, len(printed), size)]
    assert await last_words(chunks) == b"qemu: fatal\n"


async def test_only_the_end_of_much_output_is_kept() -> None:
    assert await last_words([b"x" * 500, b"y" * 500, b"end"], 100) == b"y" * 97 + b"end"
