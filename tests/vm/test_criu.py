"""Engine criu: a process tree dumped in one guest goes on in another that was booted for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.bundle import read_bundle, write_meta
from machinen_runtime.bundle_check import check_bundle
from machinen_runtime.channel_sessions import Output, ReplayDone, TerminalSession
from machinen_runtime.errors import BootError, ErrorCode, SnapshotError
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.log_events import ChunkLogEvent, LogEvent, PhaseLogEvent
from machinen_runtime.restore import restore
from tests.vm.child import MACHINEN
from tests.vm.conftest import MEMORY_MIB, leftovers, say

pytestmark = pytest.mark.vm

WORKLOAD = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 7000))
client = socket.create_connection(("127.0.0.1", 7000))
server, _ = listener.accept()
log = open("/root/log", "a", buffering=1)
blob = bytearray(b"m" * (8 << 20))
n = 0
print("ready", flush=True)
for line in sys.stdin:
    n += 1
    log.write(f"line {n}\\n")
    client.send(b"x")
    print("answer", n, len(server.recv(1)), blob.count(b"m") >> 20, flush=True)
"""


async def replay_of(session: TerminalSession) -> bytes:
    replay = b""
    while not isinstance(event := await session.receive(), ReplayDone):
        replay += event.data if isinstance(event, Output) else b""
    return replay


@asynccontextmanager
async def detached(name: str) -> AsyncGenerator[VmHandle]:
    """A VM that another process has started; it ends with the block."""
    vm = await attach(name=name)
    try:
        yield vm
    finally:
        await vm.kill()


async def answer(*args: str) -> dict[str, Any]:
    """What a verb of the command line prints as JSON."""
    return json.loads((await anyio.run_process([*MACHINEN, *args, "--json"], stderr=None)).stdout)


async def wait_until_all_is_read(vm: VmHandle, pages: int) -> None:
    """The rest is read in the background, and every handle sees it."""
    with anyio.fail_after(60):
        while pending := (await vm.memory_stats()).lazy_pages_pending:
            assert pending < pages
    assert (await (await attach(pid=vm.pid)).memory_stats()).lazy_pages_pending == 0


@pytest.fixture(scope="module")
async def source(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A shell with a background job and, in its foreground, a program with state of every kind."""
    async with await boot(name="tree", memory=MEMORY_MIB) as vm:
        await vm.write_file("/root/workload.py", WORKLOAD)
        async with vm.open_session(cols=90, rows=30) as session:
            await say(session, "cd /root; COLOUR=blue; echo is-$((6*7))\n", "is-42")
            await say(session, "sleep 1000 & python3 workload.py; echo over\n", "ready")
            await say(session, "one\n", "answer 1 1 8")
        yield vm


@pytest.fixture(scope="module")
async def bundle(source: VmHandle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of it, taken once."""
    directory = tmp_path_factory.mktemp("criu") / "bundle"
    heard: list[LogEvent] = []
    result = await source.snapshot(
        out_dir=directory, engine="criu", leave_running=True, on_log=heard.append
    )
    assert result.snap_dir == str(directory)
    assert result.img_dir == str(directory / "img")
    assert result.phases["dump"] <= result.elapsed_ms
    assert any(isinstance(event, PhaseLogEvent) for event in heard)
    return directory


async def test_a_bundle_holds_images_a_log_and_what_travels_along(
    source: VmHandle, bundle: Path
) -> None:
    names = {path.name for path in (bundle / "img").iterdir()}
    assert {"inventory.img", "dump.log", "machinen-replay", "machinen-files.tar"} <= names
    meta = read_bundle(bundle)
    assert (meta.engine, meta.source_name, meta.tcp_close) == ("criu", "tree", False)
    assert set(meta.sums) == {f"img/{name}" for name in names}
    assert meta.origin["kernel"].startswith("blake2b-256:")
    assert "sourceName" in json.loads((bundle / "meta.json").read_text())
    assert (await source.exec("tail -n1 /root/log")).stdout == "line 1\n"


async def test_the_tree_goes_on_in_another_vm_with_all_it_had(
    source: VmHandle, bundle: Path, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        vm = await stack.enter_async_context(await restore(snap_dir=bundle, memory=640))
        assert vm.name is not None
        assert vm.name.startswith("tree~")
        session = await stack.enter_async_context(vm.open_session(cols=90, rows=30))
        assert b"is-42" in await replay_of(session)
        await say(session, "two\n", "answer 2 1 8")  # memory, open file, both ends of a connection
        assert (await vm.exec("cat /root/log")).stdout == "line 1\nline 2\n"
        await say(session, "\x03", "KeyboardInterrupt")  # the terminal is its session's again
        await say(session, "echo $COLOUR-$$; jobs\n", "sleep 1000")
        assert (await source.exec("cat /root/log")).stdout == "line 1\n"
        await say(session, "python3 workload.py\n", "ready")  # a script nobody had open
        await say(session, "\x03", "KeyboardInterrupt")
        await say(session, "python3 -q\n", ">>>")
        again = tmp_path / "again"
        await vm.snapshot(out_dir=again, engine="criu")  # a restored tree can be dumped again
        assert (await vm.wait()).code == 0
        assert check_bundle(again).meta.source_name == vm.name


async def test_a_lazy_restore_goes_on_before_its_memory_is_there(
    bundle: Path, tmp_path: Path
) -> None:
    pages = sum(path.stat().st_size for path in (bundle / "img").glob("pages-*.img")) // 4096
    assert pages >= 2048  # the program's own 8 MiB
    described = await answer("restore", str(bundle), "--lazy", "--name", "lazy", "--detach")
    async with detached(described["name"]) as vm, vm.open_session(cols=90, rows=30) as session:
        assert vm.entry.lazy_pages_total == pages
        assert vm.entry.lazy_pages_mount_root == str(bundle / "img")
        assert (await vm.exec("ls /mnt/snap-src/img/inventory.img")).exit_code == 0
        assert (await vm.exec_raw("touch /mnt/snap-src/img/x")).exit_code != 0
        assert (await vm.exec_raw("ls -A /run/machinen/restore /var/tmp")).stdout.count(".img") == 0
        await say(session, "two\n", "answer 2 1 8")
        await wait_until_all_is_read(vm, pages)
        again = tmp_path / "again"
        await vm.snapshot(out_dir=again, engine="criu", leave_running=True)
        assert read_bundle(again).live_mounts == []  # it stands on its own


async def test_a_lazy_fork_keeps_a_bundle_of_its_own_until_it_ends(source: VmHandle) -> None:
    options = ["--engine", "criu", "--lazy", "--tcp-keep", "--new-name", "lazy-fork"]
    described = await answer("fork", source.name or "", *options)
    assert described["ephemeral"]
    async with detached("lazy-fork") as fork:
        bundle = Path(fork.entry.lazy_pages_mount_root or "").parent
        assert (bundle / "img" / "inventory.img").exists()
        # It is nobody's orphan, though its maker has ended.
        assert "lazy-fork" not in [result.name for result in run_gc(dry_run=True)]
        async with fork.open_session(cols=90, rows=30) as session:
            await say(session, "two\n", "answer 2 ")
        await wait_until_all_is_read(fork, fork.entry.lazy_pages_total or 0)
    assert not bundle.exists()


async def test_the_end_of_a_restored_tree_is_the_end_of_its_vm(bundle: Path) -> None:
    async with (
        await restore(snap_dir=bundle, name="ending") as vm,
        vm.open_session(cols=90, rows=30) as session,
    ):
        await say(session, "\x03", "KeyboardInterrupt")
        await session.send(b"exit 7\nexit 7\n")
        assert (await vm.wait()).code == 7
    gone = [result.name for result in run_gc(dry_run=True)]
    assert "ending" not in gone  # its entry went with the block


async def test_what_criu_cannot_dump_is_named_and_the_source_runs_on(
    source: VmHandle, tmp_path: Path, vm_home: Path
) -> None:
    holder = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); "
        "open('/run/held', 'w').close(); time.sleep(1000)"
    )
    async with source.open_session("raw", cols=80, rows=24, cmd=["sh"], create=True) as session:
        await session.send(f'exec python3 -c "{holder}"\n'.encode())
        await source.exec("until [ -e /run/held ]; do sleep 0.05; done")
        pid = next(each.pid for each in await source.sessions() if each.name == "raw")
        with pytest.raises(SnapshotError) as caught:
            await source.snapshot(
                out_dir=tmp_path / "no",
                engine="criu",
                leave_running=True,
                dump_cmd=f"/sbin/machinen-dump {pid}",
            )
    await source.kill_session("raw")
    assert caught.value.code is ErrorCode.SNAPSHOT_DUMP_FAILED
    assert f"process {pid} (python3)" in str(caught.value)
    assert "raw IP socket" in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert (await source.exec("ls /run/machinen /var/tmp | grep -c dump-; true")).stdout == "0\n"


async def test_a_dump_that_takes_too_long_leaves_the_source_alive(
    source: VmHandle, tmp_path: Path
) -> None:
    with pytest.raises(SnapshotError) as caught:
        await source.snapshot(
            out_dir=tmp_path / "late", engine="criu", dump_cmd="sleep 1000", timeout_ms=3000
        )
    assert caught.value.code is ErrorCode.SNAPSHOT_TIMEOUT
    assert not list(tmp_path.iterdir())
    assert (await source.exec("echo alive")).stdout == "alive\n"


async def test_a_helper_that_writes_no_images_is_a_failed_dump(
    source: VmHandle, tmp_path: Path
) -> None:
    heard: list[LogEvent] = []
    with pytest.raises(SnapshotError) as caught:
        await source.snapshot(
            out_dir=tmp_path / "empty",
            engine="criu",
            dump_cmd="echo said >&2; mkdir -p /run/e; tar -cf - -C /run/e .",
            on_log=heard.append,
        )
    assert caught.value.code is ErrorCode.SNAPSHOT_DUMP_FAILED
    assert "core-" in str(caught.value)
    chunks = [event for event in heard if isinstance(event, ChunkLogEvent)]
    assert [each.chunk for each in chunks if each.source == "exec-stderr"] == [b"said\n"]
    assert not list(tmp_path.iterdir())


async def test_boot_goes_on_with_images_of_a_tar_and_of_a_directory(
    bundle: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(bundle / "img", ".")
    for images in (archive, bundle):
        where: dict[str, Any] = {"cwd": images.parent, "snapshot": images.name}
        async with (
            await boot(memory=MEMORY_MIB, network="none", **where) as vm,
            vm.open_session(cols=90, rows=30) as session,
        ):
            assert vm.entry.forked_from == str(images)
            await say(session, "two\n", "answer 2 1 8")


async def test_a_host_without_the_base_says_which_disk_it_lacks(
    bundle: Path, tmp_path: Path, vm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    meta = dataclasses.replace(read_bundle(copy), base_disk="/another/host/root.ext4")
    (copy / "meta.json").unlink()
    write_meta(copy, meta)
    assert check_bundle(copy).base_disk is not None  # found by its contents
    before = sorted(leftovers(vm_home))
    with monkeypatch.context() as elsewhere:
        for name in ("MACHINEN_HOME", "MACHINEN_CACHE_DIR"):
            elsewhere.setenv(name, str(tmp_path / "empty"))
        with pytest.raises(BootError) as caught:
            await restore(snap_dir=copy)
    assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND
    assert meta.base_disk_sum.startswith("blake2b-256:")
    assert meta.base_disk_sum in str(caught.value)
    assert "/another/host/root.ext4" in str(caught.value)
    assert sorted(leftovers(vm_home)) == before


async def test_images_that_do_not_fit_say_why_and_leave_nothing(
    bundle: Path, tmp_path: Path, vm_home: Path
) -> None:
    archive = tmp_path / "images.tar"
    archive.write_bytes(b"no tar of images at all" * 100)
    before = sorted(leftovers(vm_home))
    with pytest.raises(BootError) as caught:
        await boot(memory=MEMORY_MIB, network="none", snapshot=archive)
    assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert sorted(leftovers(vm_home)) == before
