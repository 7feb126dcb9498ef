"""Live mounts in real guests: what programs do in them, and what snapshots do to them."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, leftovers
from tests.vm.guest_pip import put_pip

pytestmark = pytest.mark.vm

GUEST = "/mnt/live"
SHARED_LOG = """
import sys, time
with open("log", "a+") as log, open("deleted", "w+") as deleted:
    __import__("os").unlink("deleted")
    deleted.write("unlinked")
    deleted.flush()
    while True:
        line = sys.stdin.readline()
        if not line:
            break
        deleted.seek(0)
        log.write(f"{line.strip()} {deleted.read()}\\n")
        log.flush()
"""
WAL = """
import sqlite3
one, two = (sqlite3.connect("data.db", timeout=30) for _ in range(2))
assert one.execute("pragma journal_mode=wal").fetchone() == ("wal",)
one.execute("create table t (n)")
for n in range(50):
    (one, two)[n % 2].execute("insert into t values (?)", (n,))
    (one, two)[n % 2].commit()
print(two.execute("select count(*), sum(n) from t").fetchone(),
      one.execute("pragma integrity_check").fetchone())
"""
EXERCISE = """
import mmap, os, random
random.seed(7)
model = bytearray()
with open("exercised", "w+b", buffering=0) as file:
    for step in range(400):
        at, size = random.randrange(1 << 18), random.randrange(1, 1 << 15)
        match random.choice(["write", "write", "read", "cut", "map", "append"]):
            case "write":
                data = random.randbytes(size)
                model.extend(bytes(max(0, at + size - len(model))))
                model[at : at + size] = data
                assert os.pwrite(file.fileno(), data, at) == size
            case "read":
                assert os.pread(file.fileno(), size, at) == model[at : at + size], step
            case "cut":
                del model[at:]
                model.extend(bytes(at - len(model)))
                os.ftruncate(file.fileno(), at)
            case "map" if len(model) > 4096:
                with mmap.mmap(file.fileno(), len(model)) as mapped:
                    at %= len(model) - 16
                    assert mapped[at : at + 16] == model[at : at + 16], step
                    mapped[at : at + 16] = model[at : at + 16] = random.randbytes(16)
            case "append":
                with open("exercised", "ab") as end:
                    end.write(b"end")
                model += b"end"
        assert os.fstat(file.fileno()).st_size == len(model), step
    assert os.pread(file.fileno(), 1 << 20, 0) == model
print(len(model))
"""

FOLLOWED = """
import os, threading
wrong, ended = [], threading.Event()
with open("log", "wb", buffering=0) as log, open("log", "rb") as reader:
    def follow():
        while not ended.is_set():
            wrong.extend(filter(None, [os.pread(reader.fileno(), 1 << 20, 0).strip(b"x")]))
    thread = threading.Thread(target=follow)
    thread.start()
    for count in range(1, 150):
        log.write(b"x" * 1500)
        if len(os.pread(reader.fileno(), 1 << 20, 0)) != count * 1500:
            wrong.append(count)
    ended.set()
    thread.join()
print(wrong)
"""


NAMES = """
import os, random, sys
place = random.Random(int(sys.argv[1]))
ours = {f"{d}/{sys.argv[1]}-{n}" for d in ("a", "b") for n in range(12)}
there, mine = set(), sys.argv[1]
for d in ("a", "b"):
    os.makedirs(d, exist_ok=True)
for step in range(150):
    name, other = place.sample(sorted(ours), 2)
    before = os.stat(os.path.dirname(name)).st_mtime_ns
    match place.choice(["make", "make", "link", "remove", "move", "look"]):
        case "make" if name not in there:
            open(name, "x").close()
            there.add(name)
            assert os.stat(os.path.dirname(name)).st_mtime_ns >= before, step
        case "link" if name in there and other not in there:
            os.link(name, other)
            there.add(other)
        case "remove" if name in there:
            os.unlink(name)
            there.remove(name)
        case "move" if name in there:
            linked = other in there and os.path.samefile(name, other)
            os.rename(name, other)
            there |= {other}
            there -= set() if linked else {name}
    for each in (name, other, place.choice(sorted(ours))):
        assert os.path.exists(each) == (each in there), (step, each)
listed = {f"{d}/{n}" for d in ("a", "b") for n in os.listdir(d) if n.startswith(mine + "-")}
assert listed == there
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's directory, with a program that holds files open."""
    directory = tmp_path_factory.mktemp("live")
    (directory / "hello").write_text("from the host\n")
    for name, text in (("log.py", SHARED_LOG), ("wal.py", WAL), ("exercise.py", EXERCISE)):
        (directory / name).write_text(text)
    return directory


@pytest.fixture(scope="module")
async def vm(
    vm_home: Path, anyio_backend: str, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[VmHandle]:
    """A VM with a directory to share and one to look at."""
    fixed = tmp_path_factory.mktemp("fixed")
    (fixed / "hello").write_text("look\n")
    async with await boot(
        name="live",
        memory=MEMORY_MIB,
        network="none",
        live_mounts=[
            LiveMount(host=shared, guest=GUEST),
            LiveMount(host=fixed, guest="/mnt/fixed", mode="ro"),
        ],
    ) as handle:
        yield handle


async def said(vm: VmHandle, command: str) -> str:
    return (await vm.exec(command, cwd=GUEST, exec_timeout_ms=60_000)).stdout


async def test_each_sees_what_the_other_writes(vm: VmHandle, shared: Path) -> None:
    assert await said(vm, "cat hello; echo from the guest > reply") == "from the host\n"
    assert (shared / "reply").read_text() == "from the guest\n"
    (shared / "hello").write_text("changed\n")
    await vm.exec("until grep -q changed hello; do sleep 0.1; done", cwd=GUEST)
    (shared / "new").write_text("new\n")
    await vm.exec("until [ -e new ]; do sleep 0.1; done", cwd=GUEST)
    (shared / "hello").write_text("from the host\n")


async def test_names_come_and_go_for_several_programs_as_they_make_them(
    vm: VmHandle, shared: Path
) -> None:
    """Much of this the agent answers from hints, while others change the same directories."""
    (shared / "names.py").write_text(NAMES)
    await vm.exec(
        "mkdir names; cd names; for n in 1 2 3; do python3 ../names.py $n & pids=$pids\\ $!; done; "
        "for pid in $pids; do wait $pid || exit; done",
        cwd=GUEST,
        exec_timeout_ms=240_000,
    )
    # Names in vain have the agent hear all names: one of the host's still shows.
    look = "for n in 1 2 3 4; do [ -e no$n ]; done; touch ready; until [ -e host ]; do :; done"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(said, vm, f"cd names/a; {look}")
        with anyio.fail_after(120):
            while not (shared / "names/a/ready").exists():
                await anyio.sleep(0.01)
            (shared / "names/a/host").touch()


async def test_read_only_is_read_only_and_links_lead_nowhere_on_the_host(
    vm: VmHandle, shared: Path
) -> None:
    assert await said(vm, "cat /mnt/fixed/hello") == "look\n"
    for command in ("echo x > hello", "rm hello", "mkdir x", "chmod 600 hello"):
        result = await vm.exec_raw(command, cwd="/mnt/fixed")
        assert result.exit_code != 0, command
        assert "Read-only file system" in result.stderr
    secret = Path(shared.parent, "secret")
    (shared / "out").symlink_to(secret)  # links are followed by the guest, in the guest
    await vm.exec(f"mkdir -p {secret.parent}; echo guest > out; cat {secret}", cwd=GUEST)
    assert not secret.exists()


async def test_git_clones_a_repository_inside_it(vm: VmHandle, shared: Path) -> None:
    """The base has no git: the host's own runs there, from the mount."""
    (shared / "tools").mkdir()
    git = shutil.which("git")
    assert git, "install git"
    for name in ("git", "git-upload-pack"):
        shutil.copy(git, shared / "tools" / name)
    run = f"export PATH={GUEST}/tools:$PATH GIT_EXEC_PATH={GUEST}/tools; "
    who = "-c user.name=n -c user.email=e"
    await vm.exec(f"{run} git init -q r; cp *.py r; git -C r add .", cwd=GUEST)
    await vm.exec(f"{run} git -C r {who} commit -q -m one", cwd=GUEST)
    await vm.exec(f"{run} git clone -q r cloned; git -C cloned fsck --full", cwd=GUEST)
    for name in ("r", "cloned"):
        command = ["git", "-c", "safe.directory=*", "-C", str(shared / name)]
        assert subprocess.check_output([*command, "log", "--format=%s"]) == b"one\n"
        assert subprocess.check_output([*command, "status", "--short"]) == b""


async def test_pip_installs_a_wheel_into_it(vm: VmHandle, shared: Path, tmp_path: Path) -> None:
    put_pip(shared / "lib", tmp_path)
    with zipfile.ZipFile(shared / "demo-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo/__init__.py", "answer = 42\n")
        info = "demo-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    install = "python3 -m pip install -q --no-index --no-cache-dir --target site demo-1.0*.whl"
    await vm.exec(f"PYTHONPATH=lib {install}", cwd=GUEST)
    command = "PYTHONPATH=site python3 -c 'import demo; print(demo.answer)'"
    assert await said(vm, command) == "42\n"
    assert (shared / "site/demo/__init__.py").is_file()


async def test_sqlite_keeps_a_write_ahead_log_in_it(vm: VmHandle) -> None:
    assert await said(vm, "python3 wal.py") == "(50, 1225) ('ok',)\n"


async def test_who_follows_a_file_reads_what_another_has_just_written(vm: VmHandle) -> None:
    assert (await vm.exec(["python3", "-c", FOLLOWED], cwd=GUEST)).stdout == "[]\n"


async def test_random_writes_reads_cuts_and_maps_agree_with_a_model(
    vm: VmHandle, shared: Path
) -> None:
    size = int(await said(vm, "python3 exercise.py"))
    assert (shared / "exercised").stat().st_size == size


@pytest.mark.timeout(900)  # longer beside other work than what the suite allows
async def test_an_archive_of_5000_files_unpacks_into_it(
    vm: VmHandle, shared: Path, tmp_path: Path
) -> None:
    for number in range(5000):
        path = tmp_path / f"t/{number % 50}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * (number % 7))
    subprocess.run(["tar", "-cf", shared / "t.tar", "-C", tmp_path, "t"], check=True)
    await vm.exec("tar -xf t.tar", cwd=GUEST, exec_timeout_ms=600_000)
    compared = subprocess.run(["diff", "-r", tmp_path / "t", shared / "t"], check=False)
    assert compared.returncode == 0
    assert await said(vm, "find t -type f | wc -l") == "5000\n"
    await vm.exec("rm -r t t.tar", cwd=GUEST, exec_timeout_ms=600_000)
    assert not (shared / "t").exists()


async def start_log(vm: VmHandle) -> None:
    """A program in the guest that keeps two files open, one of them without a name."""
    await vm.exec("rm -f log; mkfifo /run/lines 2>/dev/null || true", cwd=GUEST)
    keep_open = "exec 9<>/run/lines; exec python3 log.py </run/lines"
    await vm.exec(f"setsid sh -c '{keep_open}' >/run/log-said 2>&1 </dev/null &", cwd=GUEST)
    await vm.exec("until [ -e log ]; do sleep 0.1; done", cwd=GUEST)
    await log_line(vm, "started")


async def log_line(vm: VmHandle, line: str) -> None:
    await vm.exec(
        f"echo {line} >/run/lines; until grep -q {line} log; do sleep 0.1; done", cwd=GUEST
    )


async def test_open_files_go_on_after_a_snapshot_in_source_and_copy(
    vm: VmHandle, shared: Path, tmp_path: Path
) -> None:
    await start_log(vm)
    await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    await log_line(vm, "source")
    async with await restore(snap_dir=tmp_path / "bundle", name="restored") as again:
        await log_line(again, "restored")
        assert again.entry.live_mounts == vm.entry.live_mounts
    await log_line(vm, "after")
    lines = (shared / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["started", "source", "restored", "after"]
    assert lines[1] == "source unlinked"


SEEN = "until cat live; do sleep 0.1; done"
"""Who is replaced twice between its name and its inode is stale, as on any file system afar."""


async def test_forks_share_the_window_while_files_are_written(vm: VmHandle, shared: Path) -> None:
    # Each writes to a file of its own, but for the moment before a fork learns its name.
    step = "name=$(cat /run/machinen/name); i=$((i+1)); echo $i > $name.new; mv $name.new $name"
    count = f"while [ ! -e stop ]; do {step}; done"
    busy = f"setsid sh -c 'i=0; {count}; touch /run/over' >/run/busy 2>&1 </dev/null &"
    await vm.exec(f"rm -f stop; {busy}", cwd=GUEST)
    await vm.exec("until [ -s live ]; do sleep 0.1; done", cwd=GUEST)
    forks = await vm.fork_many(2, name="window")
    async with AsyncExitStack() as stack:
        for fork in forks:
            await stack.enter_async_context(fork)
        for number, fork in enumerate(forks):
            await fork.exec(f"echo {number} > from-{number}; {SEEN}", cwd=GUEST)
        assert await said(vm, "cat from-0 from-1") == "0\n1\n"
        assert (await forks[0].exec("cat from-1", cwd=GUEST)).stdout == "1\n"
        (shared / "stop").touch()
        for each in (vm, *forks):
            await each.exec("until [ -e /run/over ]; do sleep 0.1; done")
            said_busy = (await each.exec("cat /run/busy")).stdout
            assert "Input/output error" not in said_busy


@pytest.mark.provokes(ErrorCode.BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN)
async def test_a_restore_leads_elsewhere_when_asked(
    vm: VmHandle, shared: Path, tmp_path: Path, vm_home: Path
) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    await vm.snapshot(out_dir=bundle, leave_running=True)
    other.mkdir()
    (other / "hello").write_text("from elsewhere\n")
    override = LiveMount(host=other, guest=GUEST, mode="ro")
    async with await restore(snap_dir=bundle, name="other", live_mounts=[override]) as again:
        await again.exec("until grep -q elsewhere hello; do sleep 0.1; done", cwd=GUEST)
        assert "Read-only" in (await again.exec_raw("echo x > new", cwd=GUEST)).stderr
        assert (await again.exec("cat /mnt/fixed/hello")).stdout == "look\n"
    before = leftovers(vm_home)
    unknown = LiveMount(host=other, guest="/mnt/unknown")
    with pytest.raises(BootError) as caught:
        await restore(snap_dir=bundle, live_mounts=[unknown])
    assert caught.value.code is ErrorCode.BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN
    assert GUEST in str(caught.value)
    moved = shared.rename(tmp_path / "moved")
    try:
        with pytest.raises(BootError) as caught:
            await restore(snap_dir=bundle)
        assert caught.value.code is ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND
        assert str(shared) in str(caught.value)
    finally:
        moved.rename(shared)
    assert leftovers(vm_home) == before


async def test_after_unmounting_the_guest_does_without(vm: VmHandle) -> None:
    async with await vm.fork(name="without") as fork:
        await fork.exec("umount /mnt/fixed")
        assert (await fork.exec_raw("cat /mnt/fixed/hello")).exit_code != 0
        assert (await fork.exec("cat hello", cwd=GUEST)).stdout == "from the host\n"
        async with await fork.fork(name="without-too") as again:
            assert (await again.exec("cat hello", cwd=GUEST)).stdout == "from the host\n"


def names_open_in(pid: int) -> set[str]:
    """Of the files that a process has open."""
    names: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            names.add(link.readlink().name)
    return names


async def test_a_monitor_keeps_no_descriptor_of_a_mount_that_is_idle(vm: VmHandle) -> None:
    await vm.exec("cat hello; sync; echo 3 > /proc/sys/vm/drop_caches", cwd=GUEST)
    with anyio.fail_after(60):
        while "hello" in names_open_in(vm.pid):
            await anyio.sleep(0.1)
