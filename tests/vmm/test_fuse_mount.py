"""A directory shared with this very kernel: what programs do in it, and what both sides see."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.vmm.fuse_mounts import LiveMount, live_mount


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveMount]:
    """One mount for the module; each test makes a directory of its own in it."""
    with live_mount(tmp_path_factory.mktemp("share")) as mount:
        yield mount


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run(
        argv, cwd=cwd, check=True, capture_output=True, text=True, timeout=120, env=GIT_ENV
    )
    return done.stdout


GIT_ENV = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def test_both_sides_see_what_the_other_writes(share: LiveMount) -> None:
    (share.guest / "from-guest").write_text("hello host")
    assert (share.host / "from-guest").read_text() == "hello host"
    (share.host / "from-host").write_text("hello guest")
    assert (share.guest / "from-host").read_text() == "hello guest"


def test_a_file_the_host_changes_is_read_anew_when_opened(share: LiveMount) -> None:
    file = share.host / "changing"
    for text in ("first", "second", "a third that is longer", "4"):
        file.write_text(text)
        assert (share.guest / "changing").read_text() == text
    file.unlink()
    with pytest.raises(FileNotFoundError):
        (share.guest / "changing").read_text()


def test_a_file_the_host_replaces_is_the_new_one_when_opened(share: LiveMount) -> None:
    for text in ("old", "new"):
        (share.host / "next").write_text(text)
        (share.host / "next").replace(share.host / "replaced")
        assert (share.guest / "replaced").read_text() == text


def test_git_commits_clones_and_checks_itself(share: LiveMount, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    run("git", "init", "-q", cwd=source)
    for number in range(40):
        (source / f"file{number}").write_text(f"content {number}\n" * 50)
    run("git", "add", ".", cwd=source)
    run("git", "commit", "-qm", "first", cwd=source)
    run("git", "clone", "-q", "--no-local", str(source), "clone", cwd=share.guest)
    clone = share.guest / "clone"
    (clone / "file1").write_text("changed")
    run("git", "commit", "-qam", "second", cwd=clone)
    run("git", "gc", "-q", cwd=clone)
    run("git", "fsck", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("git", "log", "--format=%s", cwd=share.host / "clone") == "second\nfirst\n"


def test_tar_unpacks_five_thousand_files(share: LiveMount, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(5000):
        directory = tree / f"d{number % 50}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_text(f"{number}")
    run("tar", "cf", "tree.tar", "tree", cwd=tmp_path)
    run("tar", "xf", str(tmp_path / "tree.tar"), cwd=share.guest)
    run("diff", "-r", str(tree), str(share.host / "tree"), cwd=tmp_path)
    assert sum(len(files) for _, _, files in os.walk(share.host / "tree")) == 5000
    run("rm", "-r", "tree", cwd=share.guest)
    assert not (share.host / "tree").exists()


def test_sqlite_in_wal_mode_serves_two_connections(share: LiveMount) -> None:
    path = share.guest / "db.sqlite"
    with sqlite3.connect(path) as first, sqlite3.connect(path, timeout=0) as second:
        assert first.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        first.execute("create table t (n integer)")
        first.commit()
        for number in range(200):
            first.execute("insert into t values (?)", (number,))
            first.commit()
            assert second.execute("select count(*) from t").fetchone() == (number + 1,)
        first.execute("insert into t values (1)")  # holds the write lock
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            second.execute("insert into t values (2)")
        first.rollback()
        assert second.execute("pragma integrity_check").fetchone() == ("ok",)
    first.close()
    second.close()


def test_large_data_arrives_whole(share: LiveMount) -> None:
    data = os.urandom(1 << 20) * 40
    (share.guest / "large").write_bytes(data)
    digest = hashlib.sha256(data).digest()
    assert hashlib.sha256((share.host / "large").read_bytes()).digest() == digest
    assert hashlib.sha256((share.guest / "large").read_bytes()).digest() == digest


def test_a_sparse_file_beyond_4_gib_keeps_its_holes(share: LiveMount) -> None:
    with open(share.guest / "sparse", "w+b") as file:
        file.seek(5 << 30)
        file.write(b"far away")
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 5 << 30
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0
        assert os.pread(file.fileno(), 8, 5 << 30) == b"far away"
    assert (share.host / "sparse").stat().st_size == (5 << 30) + 8
    assert (share.guest / "sparse").stat().st_blocks * 512 < 1 << 20


def test_a_directory_of_ten_thousand_entries_is_listed_whole(share: LiveMount) -> None:
    directory = share.host / "many"
    directory.mkdir()
    names = {f"entry-{number:05}" for number in range(10_000)}
    for name in names:
        (directory / name).touch()
    assert set(os.listdir(share.guest / "many")) == names
    assert {entry.name for entry in os.scandir(share.guest / "many") if entry.is_file()} == names


def test_an_open_file_outlives_its_name(share: LiveMount) -> None:
    with open(share.guest / "short-lived", "w+b") as file:
        file.write(b"still here")
        file.flush()
        (share.guest / "short-lived").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        os.ftruncate(file.fileno(), 5)
        assert os.pread(file.fileno(), 20, 0) == b"still"
    assert not (share.host / "short-lived").exists()


def test_a_link_that_leads_out_leads_nowhere_of_the_hosts(share: LiveMount, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (share.host / "out").symlink_to("../../../../../../../../machinen-nowhere")
    assert os.readlink(share.guest / "out") == "../../../../../../../../machinen-nowhere"
    with pytest.raises(FileNotFoundError):
        (share.guest / "out").read_text()


def test_locks_of_two_processes_exclude_each_other(share: LiveMount) -> None:
    (share.guest / "lock").touch()
    with open(share.guest / "lock", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        script = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'r+b'), fcntl.LOCK_EX{})"
        argv = ["python3", "-c", script.format("|fcntl.LOCK_NB"), str(share.guest / "lock")]
        assert subprocess.run(argv, capture_output=True, timeout=60).returncode == 1
        argv[2] = script.format("")
        with subprocess.Popen(argv) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(timeout=0.5)
            fcntl.lockf(file, fcntl.LOCK_UN)
            assert waiting.wait(timeout=60) == 0


def test_a_guest_goes_on_with_another_session_where_it_was(share: LiveMount) -> None:
    file = share.guest / "kept-open"
    file.write_text("before")
    with open(file, "r+b", buffering=0) as handle:
        share.ask("restart")
        assert handle.read() == b"before"
        handle.write(b" after")
    assert (share.host / "kept-open").read_text() == "before after"
    assert "kept-open" in os.listdir(share.guest)


def test_work_goes_on_while_sessions_come_and_go(share: LiveMount) -> None:
    at = share.guest / "going-on"
    at.mkdir()
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            with open(at / f"log{worker}", "a+b", buffering=0) as log:
                for number in range(60):
                    log.write(b"%d\n" % number)
                    file = at / f"{worker}-{number}"
                    file.write_text(str(number))
                    file.rename(at / f"{worker}-renamed-{number}")
                    os.fsync(log.fileno())
                log.seek(0)
                assert log.read() == b"".join(b"%d\n" % number for number in range(60))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        share.ask("restart")
    for thread in threads:
        thread.join(timeout=120)
    assert failures == []
    assert len(os.listdir(share.host / "going-on")) == 3 + 3 * 60


def test_an_unlinked_open_file_goes_on_with_another_session(share: LiveMount) -> None:
    with open(share.guest / "nameless", "w+b", buffering=0) as file:
        file.write(b"kept")
        (share.guest / "nameless").unlink()
        share.ask("restart")
        file.write(b" on")
        assert os.pread(file.fileno(), 100, 0) == b"kept on"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_a_lock_is_held_across_sessions(share: LiveMount) -> None:
    (share.guest / "kept-lock").touch()
    with open(share.guest / "kept-lock", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        argv = ["python3", "-c", LOCK_IT, str(share.guest / "kept-lock")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == b"asks\n"
            share.ask("restart")
            share.ask("restart")
            assert waiting.poll() is None
            fcntl.lockf(file, fcntl.LOCK_UN)
            assert waiting.wait(timeout=60) == 0


LOCK_IT = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
print("asks", flush=True)
fcntl.lockf(file, fcntl.LOCK_EX)
"""


def test_a_waiting_process_can_be_killed(share: LiveMount) -> None:
    (share.guest / "killed-lock").touch()
    with open(share.guest / "killed-lock", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        argv = ["python3", "-c", LOCK_IT, str(share.guest / "killed-lock")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == b"asks\n"
            waiting.kill()
            assert waiting.wait(timeout=60) == -9
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_the_host_makes_removes_and_moves_shows_soon(share: LiveMount) -> None:
    host, guest = share.host / "soon", share.guest / "soon"
    host.mkdir()
    assert not (guest / "late").exists()
    (host / "late").write_text("x")
    wait_until(lambda: (guest / "late").exists())
    (host / "late").rename(host / "moved")
    assert os.listdir(guest) == ["moved"], "a listing is never old"
    wait_until(lambda: not (guest / "late").exists())
    (host / "moved").chmod(0o600)
    wait_until(lambda: (guest / "moved").stat().st_mode & 0o777 == 0o600)
    (host / "moved").unlink()
    (host / "moved").mkdir()
    wait_until((guest / "moved").is_dir)


def wait_until(holds: Callable[[], bool]) -> None:
    """What the guest may remember for a second shows when that is over."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_log_the_host_goes_on_writing_is_followed(share: LiveMount) -> None:
    with open(share.host / "log", "ab", buffering=0) as log:
        log.write(b"one ")
        with open(share.guest / "log", "rb", buffering=0) as reader:
            assert reader.read(100) == b"one "
            log.write(b"two")
            found = b""

            def read_more() -> bool:
                nonlocal found
                found += reader.read(100)
                return bool(found)

            wait_until(read_more)
            assert found == b"two"


def test_read_only_refuses_every_change(tmp_path: Path) -> None:
    with live_mount(tmp_path, mode="ro") as mount:
        (mount.host / "file").write_text("as it was")
        assert (mount.guest / "file").read_text() == "as it was"
        for change in (
            lambda: (mount.guest / "file").write_text("changed"),
            lambda: (mount.guest / "new").touch(),
            lambda: (mount.guest / "file").unlink(),
            lambda: (mount.guest / "file").chmod(0o600),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                change()
        assert os.listdir(mount.host) == ["file"]


def test_nothing_is_left_open_after_use(share: LiveMount) -> None:
    before = share.ask("stats")["descriptors"]
    for number in range(50):
        (share.guest / f"leak{number}").write_text("x")
        (share.guest / f"leak{number}").read_text()
        with pytest.raises(FileNotFoundError):
            (share.guest / "missing").read_text()
        os.listdir(share.guest)
    run("sync", cwd=share.host)
    assert share.ask("stats")["descriptors"] <= before + 2
