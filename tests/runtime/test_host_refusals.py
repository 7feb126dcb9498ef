"""What the operating system refuses becomes a code, a sentence, and whether to try again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from machinen_runtime.errors import BootError, ErrorCode, SnapshotError
from machinen_runtime.host_refusals import host_refusals, pass_exhaustion
from vmm.errors import VmmError, exhaustion_in
from vmm.qemu import why_qemu_ended

started = host_refusals(BootError, "the VM cannot be started")


@pytest.mark.provokes(ErrorCode.HOST_REFUSED)
async def test_a_full_disk_is_retryable_and_says_what_to_do() -> None:
    @started
    async def fill() -> None:
        with open("/dev/full", "w") as full:
            full.write("more than fits")

    with pytest.raises(BootError, match="cannot be started: there is no space left") as caught:
        await fill()
    assert caught.value.code is ErrorCode.HOST_REFUSED
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_path_that_cannot_be_used_is_named_and_not_worth_another_try(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    @host_refusals(SnapshotError, "the snapshot cannot be kept", ErrorCode.SNAPSHOT_DUMP_FAILED)
    async def write() -> None:
        (tmp_path / "file" / "below").write_text("nowhere")

    with pytest.raises(SnapshotError, match=r"Not a directory for .*/file/below") as caught:
        await write()
    assert caught.value.code is ErrorCode.SNAPSHOT_DUMP_FAILED
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), "fs.file-max"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (MemoryError(), "no memory left"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/disk"), "quota is used up for /disk"),
    ],
)
async def test_each_thing_that_runs_out_has_its_remedy(error: Exception, said: str) -> None:
    @started
    async def refuse() -> None:
        raise error

    with pytest.raises(BootError, match=said) as caught:
        await refuse()
    assert caught.value.retryable


async def test_what_the_host_did_not_refuse_is_not_its_fault() -> None:
    @started
    async def fail() -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        await fail()


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("a warning\nqemu: qemu_thread_create: Resource temporarily unavailable\n", errno.EAGAIN),
        ("qemu: cannot set up guest memory 'ram': Cannot allocate memory", errno.ENOMEM),
        ("qemu: Could not open '/disk': Too many open files", errno.EMFILE),
    ],
)
def test_what_a_program_of_others_ran_out_of_is_in_its_last_line(words: str, number: int) -> None:
    found = exhaustion_in(words)
    assert found is not None
    assert found.errno == number


@pytest.mark.parametrize(
    "words", ["", "Cannot allocate memory\nqemu: it went on", "qemu: No such file or directory"]
)
def test_other_last_words_are_no_shortage(words: str) -> None:
    assert exhaustion_in(words) is None


@pytest.mark.parametrize(
    ("status", "code"), [(-6, "HOST_REFUSED"), (1, "HOST_REFUSED"), (0, "QEMU_GONE")]
)
def test_a_qemu_that_says_what_was_missing_was_not_killed(status: int, code: str) -> None:
    words = b"qemu: qemu_thread_create: Resource temporarily unavailable\n"
    gone = VmmError("QEMU_GONE", "QEMU went away")
    found = why_qemu_ended(gone, status, words)
    assert found is not None
    assert found.code == code
    unasked = why_qemu_ended(None, status, words)
    assert (unasked.code if unasked else None) == (code if status else None)
    assert why_qemu_ended(None, status, b"") is None
    killed = why_qemu_ended(gone, -9, b"")
    assert killed is not None
    assert killed.code == "QEMU_DIED"


def test_a_shortage_says_nothing_about_the_file_that_was_to_be_read() -> None:
    with pytest.raises(OSError, match="open files"):
        pass_exhaustion(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    pass_exhaustion(OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    pass_exhaustion(ValueError())
