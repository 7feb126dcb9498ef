"""What POSIX and Linux say files do, asked of a live mount as this kernel shows it.

Each case runs in the mount and on a plain directory of the same disk: both must do the same.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.vmm.fuse_mounts import LiveMount, live_mount


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveMount]:
    with live_mount(tmp_path_factory.mktemp("posix")) as mount:
        yield mount


Case = Callable[[Path], object]
CASES: list[Case] = []


def case(function: Case) -> Case:
    """One case: it gets an empty directory, and what it returns must be the same in both."""
    CASES.append(function)
    return function


def refusal(call: Callable[[], object]) -> int:
    """The errno of a call, 0 if it succeeds."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


def write(path: Path, text: str = "x") -> Path:
    path.write_text(text)
    return path


@case
def modes_are_what_was_asked_for(at: Path) -> object:
    old = os.umask(0o027)
    try:
        os.close(os.open(at / "file", os.O_CREAT, 0o666))
        os.mkdir(at / "directory", 0o777)
        os.umask(0)
        os.close(os.open(at / "open", os.O_CREAT, 0o666))
        os.mkdir(at / "wide", 0o1777)
    finally:
        os.umask(old)
    (at / "file").chmod(0o641)
    return [oct(path.stat().st_mode) for path in sorted(at.iterdir())]


@case
def owners_change_and_are_inherited(at: Path) -> object:
    write(at / "file")
    os.chown(at / "file", 12, 34)
    (at / "shared").mkdir()
    os.chown(at / "shared", 0, 55)
    (at / "shared").chmod(0o2775)
    write(at / "shared" / "file")
    (at / "shared" / "sub").mkdir()
    os.symlink("x", at / "link")
    os.lchown(at / "link", 7, 8)
    return [
        (str(path.relative_to(at)), path.lstat().st_uid, path.lstat().st_gid, path.lstat().st_mode)
        for path in sorted(at.rglob("*"))
    ]


@case
def another_user_owns_what_it_makes(at: Path) -> object:
    at.chmod(0o777)
    script = (
        "import os,sys; os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(4242); os.setuid(4242);"
        "open('file','w').write('x'); os.mkdir('d'); os.symlink('x','l'); os.mkfifo('p');"
        "[print(n, os.lstat(n).st_uid, os.lstat(n).st_gid) for n in sorted(os.listdir('.'))];"
        "open('/dev/null'); os.chmod('.', 0o777)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(at)], capture_output=True, text=True, timeout=60
    )
    assert "file 4242 4242" in done.stdout
    return done.stdout, done.returncode, "PermissionError" in done.stderr


@case
def times_are_kept_to_the_nanosecond(at: Path) -> object:
    write(at / "file")
    os.utime(at / "file", ns=(1_234_567_890_123_456_789, 987_654_321_000_000_001))
    os.symlink("x", at / "link")
    os.utime(at / "link", ns=(5, 7), follow_symlinks=False)
    os.mkdir(at / "old")
    os.utime(at / "old", ns=(-5_000_000_000, -6_000_000_001))
    return [(path.lstat().st_atime_ns, path.lstat().st_mtime_ns) for path in sorted(at.iterdir())]


@case
def names_are_refused_as_they_should(at: Path) -> object:
    write(at / "file")
    (at / "full").mkdir()
    write(at / "full" / "x")
    os.symlink("loop", at / "loop")
    return [
        refusal(lambda: os.mkdir(at / "file")),
        refusal(lambda: os.mkdir(at / ("n" * 256))),
        refusal(lambda: os.mkdir(at / ("n" * 255))),
        refusal(lambda: os.mkdir(at / "no" / "such")),
        refusal(lambda: os.mkdir(at / "file" / "below")),
        refusal(lambda: os.rmdir(at / "full")),
        refusal(lambda: os.rmdir(at / "file")),
        refusal(lambda: os.unlink(at / "full")),
        refusal(lambda: os.unlink(at / "none")),
        refusal(lambda: os.open(at / "loop", os.O_RDONLY)),
        refusal(lambda: os.open(at / "loop", os.O_RDONLY | os.O_NOFOLLOW)),
        refusal(lambda: os.open(at / "full", os.O_WRONLY)),
        refusal(lambda: os.open(at / "file", os.O_RDONLY | os.O_DIRECTORY)),
        refusal(lambda: os.open(at / "file", os.O_CREAT | os.O_EXCL)),
        refusal(lambda: os.link(at / "full", at / "hard")),
        refusal(lambda: os.symlink("x", at / "file")),
        refusal(lambda: os.readlink(at / "file")),
        refusal(lambda: os.truncate(at / "full", 0)),
        sorted(name[:8] for name in os.listdir(at)),
    ]


@case
def renames_replace_or_refuse(at: Path) -> object:
    for name in ("a", "b", "c"):
        write(at / name, name)
    (at / "dir").mkdir()
    (at / "full").mkdir()
    write(at / "full" / "x")
    os.link(at / "c", at / "c2")
    return [
        refusal(lambda: os.rename(at / "a", at / "b")),
        (at / "b").read_text(),
        refusal(lambda: os.rename(at / "c", at / "c2")),
        (at / "c").exists(),
        refusal(lambda: os.rename(at / "b", at / "dir")),
        refusal(lambda: os.rename(at / "dir", at / "b")),
        refusal(lambda: os.rename(at / "dir", at / "full")),
        refusal(lambda: os.rename(at / "full", at / "dir")),
        refusal(lambda: os.rename(at / "dir", at / "dir" / "below")),
        refusal(lambda: os.rename(at / "none", at / "x")),
        sorted(os.listdir(at)),
        os.listdir(at / "dir"),
    ]


@case
def a_file_renamed_over_stays_open(at: Path) -> object:
    write(at / "old", "old content")
    write(at / "new", "new")
    with open(at / "old") as file:
        os.rename(at / "new", at / "old")
        os.unlink(at / "old")
        return file.read(), os.fstat(file.fileno()).st_nlink


@case
def hard_links_are_one_file(at: Path) -> object:
    write(at / "one", "first")
    (at / "sub").mkdir()
    os.link(at / "one", at / "sub" / "two")
    os.link(at / "one", at / "three")
    same = (at / "one").stat().st_ino == (at / "sub" / "two").stat().st_ino
    write(at / "sub" / "two", "changed")
    before = (at / "one").read_text(), (at / "three").stat().st_nlink
    os.unlink(at / "one")
    os.rename(at / "sub" / "two", at / "four")
    write(at / "four", "again")
    return same, before, (at / "three").read_text(), (at / "four").stat().st_nlink


@case
def links_are_followed_by_the_reader(at: Path) -> object:
    (at / "d").mkdir()
    write(at / "d" / "f", "through")
    os.symlink("d/../d", at / "l")
    os.symlink("/etc/hostname-of-nobody", at / "absolute")
    text = (at / "l" / "f").read_text()
    return text, os.readlink(at / "l"), refusal(lambda: (at / "absolute").read_text())


@case
def appends_go_to_the_end(at: Path) -> object:
    first = os.open(at / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    second = os.open(at / "log", os.O_WRONLY | os.O_APPEND)
    for number in range(20):
        os.write(first if number % 2 else second, b"%d," % number)
    os.pwrite(first, b"end", 0)
    flags = fcntl.fcntl(first, fcntl.F_GETFL)
    fcntl.fcntl(first, fcntl.F_SETFL, flags & ~os.O_APPEND)
    os.pwrite(first, b"X", 0)
    os.close(first)
    os.close(second)
    return (at / "log").read_text()


@case
def sizes_change_as_asked(at: Path) -> object:
    with open(at / "f", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        file.truncate(4)
        file.truncate(8)
        found = os.pread(file.fileno(), 20, 0)
    os.truncate(at / "f", 2)
    os.close(os.open(at / "f", os.O_WRONLY | os.O_TRUNC))
    empty = (at / "f").stat().st_size
    (at / "f").write_bytes(b"abc")
    return found, empty, (at / "f").stat().st_size, (at / "f").read_bytes()


@case
def what_a_program_that_only_writes_has_written_others_read_at_once(at: Path) -> object:
    wrong: list[bytes] = []
    with open(at / "log", "wb", buffering=0) as log, open(at / "log", "rb") as reader:
        ended = threading.Event()

        def read_on() -> None:
            while not ended.is_set():
                seen = os.pread(reader.fileno(), 1 << 20, 0)
                wrong.extend(filter(None, [seen.strip(b"x")]))

        thread = threading.Thread(target=read_on)
        thread.start()
        try:
            for count in range(1, 200):
                log.write(b"x" * 1500)
                size = os.fstat(reader.fileno()).st_size
                late = size != count * 1500 or len(os.pread(reader.fileno(), 1 << 20, 0)) != size
                wrong.extend([b"late"] * late)
        finally:
            ended.set()
            thread.join()
        with mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            before = mapped[:3]
            os.pwrite(log.fileno(), b"new", 0)
            return wrong, before, mapped[:4], os.pread(reader.fileno(), 4, 0)


@case
def holes_are_punched_and_found(at: Path) -> object:
    block = 65536
    with open(at / "f", "w+b", buffering=0) as file:
        file.write(b"x" * block * 4)
        from vmm.fuse_syscalls import allocate

        allocate(file.fileno(), 3, block, block)  # PUNCH_HOLE | KEEP_SIZE
        allocate(file.fileno(), 1, block * 8, block)  # KEEP_SIZE
        hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        data = os.lseek(file.fileno(), hole, os.SEEK_DATA)
        os.posix_fallocate(file.fileno(), 0, block * 5)
        middle = os.pread(file.fileno(), 4, block)
        return hole, data, middle, os.fstat(file.fileno()).st_size


@case
def copies_are_made_by_the_kernel(at: Path) -> object:
    write(at / "from", "0123456789" * 1000)
    with open(at / "from", "rb") as source, open(at / "to", "w+b") as target:
        size = os.copy_file_range(source.fileno(), target.fileno(), 5000, 5, 3)
        sent = os.sendfile(target.fileno(), source.fileno(), 0, 10)
    return size, sent, (at / "to").read_bytes()[:30], (at / "to").stat().st_size


@case
def attributes_are_kept(at: Path) -> object:
    write(at / "f")
    os.setxattr(at / "f", "user.one", b"1")
    os.setxattr(at / "f", "user.large", b"v" * 1000)
    os.setxattr(at / "f", "trusted.t", b"t")
    os.setxattr(at, "user.directory", b"d")
    again = refusal(lambda: os.setxattr(at / "f", "user.one", b"2", os.XATTR_CREATE))
    missing = refusal(lambda: os.setxattr(at / "f", "user.no", b"2", os.XATTR_REPLACE))
    os.removexattr(at / "f", "user.large")
    gone = refusal(lambda: os.getxattr(at / "f", "user.large"))
    values = {name: os.getxattr(at / "f", name) for name in sorted(os.listxattr(at / "f"))}
    return again, missing, gone, values, os.getxattr(at, "user.directory")


@case
def special_files_are_made_and_used(at: Path) -> object:
    os.mkfifo(at / "fifo")
    reader = os.open(at / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(at / "fifo", os.O_WRONLY)
    os.write(writer, b"through")
    found = os.read(reader, 100)
    os.close(reader)
    os.close(writer)
    old = os.getcwd()
    os.chdir(at)
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("sock")
            server.listen()
            client.connect("sock")
    finally:
        os.chdir(old)
    return found, stat.S_ISSOCK((at / "sock").stat().st_mode)


@case
def mapped_memory_is_the_file(at: Path) -> object:
    write(at / "f", "0" * 10000)
    with open(at / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5000:5003] = b"abc"
        mapped.flush()
        seen = os.pread(file.fileno(), 3, 5000)
        os.pwrite(file.fileno(), b"xyz", 9000)
        return seen, bytes(mapped[9000:9003])


@case
def set_user_id_is_cleared_by_writing(at: Path) -> object:
    write(at / "f")
    (at / "f").chmod(0o755)
    os.chown(at / "f", 1, 1)
    write(at / "f", "changed")
    return oct((at / "f").stat().st_mode)


@case
def a_removed_directory_takes_nothing_more(at: Path) -> object:
    (at / "d").mkdir()
    fd = os.open(at / "d", os.O_RDONLY)
    os.rmdir(at / "d")
    try:
        return (
            refusal(lambda: os.close(os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=fd))),
            refusal(lambda: os.mkdir("y", dir_fd=fd)),
        )
    finally:
        os.close(fd)


@case
def a_listing_survives_removal_on_the_way(at: Path) -> object:
    for number in range(500):
        write(at / f"f{number:03}")
    seen = 0
    with os.scandir(at) as entries:
        for entry in entries:
            os.unlink(entry.path)
            seen += 1
    return seen, os.listdir(at)


@case
def locks_go_when_any_descriptor_is_closed(at: Path) -> object:
    write(at / "f")
    first = os.open(at / "f", os.O_RDWR)
    second = os.open(at / "f", os.O_RDWR)
    fcntl.lockf(first, fcntl.LOCK_EX, 10, 5)
    held = other_process_locks(at / "f")
    os.close(second)
    after = other_process_locks(at / "f")
    fcntl.flock(first, fcntl.LOCK_EX)
    third = os.open(at / "f", os.O_RDWR)
    flocked = refusal(lambda: fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB))
    os.close(first)
    free = refusal(lambda: fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB))
    os.close(third)
    return held, after, flocked, free


def other_process_locks(path: Path) -> int:
    script = "import fcntl,sys; fcntl.lockf(open(sys.argv[1],'r+b'), fcntl.LOCK_EX|fcntl.LOCK_NB)"
    argv = [sys.executable, "-c", script, str(path)]
    return subprocess.run(argv, capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("which", CASES, ids=lambda each: each.__name__)
def test_files_behave_as_on_a_disk(share: LiveMount, tmp_path: Path, which: Case) -> None:
    inside, plain = share.guest / which.__name__, tmp_path / which.__name__
    inside.mkdir()
    plain.mkdir()
    assert which(inside) == which(plain)


def test_set_id_bits_never_reach_the_host(share: LiveMount) -> None:
    file = write(share.guest / "set-id")
    file.chmod(0o6755)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    os.close(os.open(share.guest / "set-id-new", os.O_CREAT, 0o4755))
    os.mknod(share.guest / "set-id-node", stat.S_IFREG | 0o6755)
    found = [stat.S_IMODE(path.stat().st_mode) for path in share.host.glob("set-id*")]
    assert [mode & 0o6000 for mode in found] == [0, 0, 0]


def test_set_id_bits_of_the_host_go_when_the_guest_writes(share: LiveMount) -> None:
    file = write(share.host / "host-set-id")
    file.chmod(0o6777)
    script = "import os; os.setuid(4242); open('host-set-id', 'r+b', buffering=0).write(b'y')"
    subprocess.run([sys.executable, "-c", script], cwd=share.guest, check=True, timeout=60)
    assert stat.S_IMODE(file.stat().st_mode) == 0o777


def test_devices_are_not_made(share: LiveMount) -> None:
    with pytest.raises(PermissionError):
        os.mknod(share.guest / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))


def test_attributes_the_host_would_act_on_are_kept_apart(share: LiveMount) -> None:
    file = write(share.guest / "capable")
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(file, "security.capability", value)
    os.setxattr(file, "security.other", b"o")
    assert os.getxattr(file, "security.other") == b"o"
    names = os.listxattr(share.host / "capable")
    assert [name for name in names if name.startswith("security.")] == []
    with pytest.raises(OSError, match="not supported"):
        os.setxattr(file, "user.machinen.security.other", b"forged")


def test_renames_in_a_storm_lose_nothing(share: LiveMount) -> None:
    at = share.guest / "storm"
    at.mkdir()
    for name in ("a", "b", "c"):
        (at / name).mkdir()
    for number in range(60):
        write(at / "a" / f"f{number}", str(number))
    failures: list[BaseException] = []

    def storm(mine: range, seed: int) -> None:
        chance = random.Random(seed)
        where = dict.fromkeys(mine, "a")
        try:
            for _ in range(150):
                number = chance.choice(mine)
                to = chance.choice("abc")
                os.rename(at / where[number] / f"f{number}", at / to / f"f{number}")
                where[number] = to
                assert (at / to / f"f{number}").read_text() == str(number)
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=storm, args=(range(start, start + 20), start))
        for start in (0, 20, 40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = sorted(int(path.name[1:]) for path in (share.host / "storm").rglob("f*"))
    assert found == list(range(60))


def test_a_tree_many_levels_deep_is_walked(share: LiveMount) -> None:
    at = os.open(share.guest, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=at)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(os.open("bottom", os.O_CREAT, dir_fd=at))
    assert os.listdir(at) == ["bottom"]
    os.close(at)
    subprocess.run(["rm", "-r", "d" * 100], cwd=share.guest, check=True, timeout=120)
    assert not (share.host / ("d" * 100)).exists()
