"""Engine criu: what a process tree has to do with the world around it."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.bundle import read_bundle
from machinen_runtime.bundle_check import check_bundle
from machinen_runtime.channel_sessions import TerminalSession
from machinen_runtime.errors import ExecError
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount, Mount
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, say
from vmm.allowlist import own_addresses

pytestmark = pytest.mark.vm

WORKLOAD = """
import socket, sys
outer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
listener = socket.create_server(("127.0.0.1", 7000))
client = socket.create_connection(("127.0.0.1", 7000))
server, _ = listener.accept()
queued = socket.create_connection(("127.0.0.1", 7000))  # nobody ever accepts this one
web = socket.create_server(("127.0.0.1", 7001))
print("ready", flush=True)
forwarded, _ = web.accept()
copied = open("/mnt/copied/data", "a", buffering=1)
shown = open("/mnt/shown/log", "a", buffering=1)
for line in sys.stdin:
    command, name = line.split()
    try:
        argument = {"send": b"x", "recv": 1, "write": "more\\n"}[command]
        done = getattr(globals()[name], command)(argument)
    except OSError as error:
        done = type(error).__name__
    print(name, command, done, flush=True)
"""


@pytest.fixture(scope="module")
def echo() -> Generator[tuple[str, int]]:
    """A server on this host, on an address guests reach, that sends back what it gets."""
    addresses = (each for each in own_addresses() if each.version == 4 and not each.is_loopback)
    listener = socket.create_server((str(next(addresses)), 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client:
            while data := client.recv(100):
                client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[:2]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host that the guest sees."""
    directory = tmp_path_factory.mktemp("host") / "shown"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
async def source(
    vm_home: Path, anyio_backend: str, echo: tuple[str, int], shown: Path
) -> AsyncGenerator[VmHandle]:
    """A program with connections to another host, to itself, and through a port forward, and with
    files open in a mount and in a live mount.
    """
    copied = shown.with_name("copied")
    copied.mkdir()
    (copied / "data").write_text("copied\n")
    (copied / "gone").write_text("removed in the guest\n")
    async with await boot(
        name="world",
        memory=MEMORY_MIB,
        mount=Mount(host=copied, guest="/mnt/copied"),
        live_mounts=[LiveMount(host=shown, guest="/mnt/shown", mode="rw")],
    ) as vm:
        shutil.rmtree(copied)
        await vm.exec("rm /mnt/copied/gone; mkdir /mnt/copied/new; echo 1 >/mnt/copied/new/file")
        await vm.write_file("/root/world.py", WORKLOAD)
        forward = await vm.add_port_forward(7001)
        async with vm.open_session(cols=90, rows=30) as session:
            await say(session, f"python3 /root/world.py {echo[0]} {echo[1]}\n", "ready")
            with socket.create_connection(("127.0.0.1", forward.host_port)) as visitor:
                await exchange(session, "outer")
                visitor.sendall(b"v")
                await say(session, "recv forwarded\n", "forwarded recv b'v'")
                await say(session, "write copied\n", "copied write 5")
                await say(session, "write shown\n", "shown write 5")
                yield vm


async def exchange(session: TerminalSession, name: str, other: str | None = None) -> None:
    """Send over the one end, receive from the other or by echo."""
    await say(session, f"send {name}\n", f"{name} send 1")
    await say(session, f"recv {other or name}\n", f"{other or name} recv b'x'")


async def test_connections_are_kept_where_both_ends_can_be(
    source: VmHandle, tmp_path: Path
) -> None:
    await source.snapshot(out_dir=tmp_path / "kept", engine="criu", leave_running=True)
    async with source.open_session(cols=90, rows=30) as session:
        await exchange(session, "outer")
        await exchange(session, "client", "server")
    async with await restore(snap_dir=tmp_path / "kept", name="kept") as vm:
        peers = (await vm.exec("ss -tnH state established | awk '{print $4}'")).stdout.split()
        async with vm.open_session(cols=90, rows=30) as session:
            await exchange(session, "client", "server")
            await say(session, "send outer\n", "outer send 1")
            await say(session, "recv queued\n", "queued recv ConnectionResetError")
            await say(session, "recv forwarded\n", "forwarded recv ConnectionResetError")
    assert len(peers) == 3
    assert sum(not peer.startswith("127.") for peer in peers) == 1


async def test_a_tree_goes_on_without_a_network_and_with_its_mounts(
    source: VmHandle, tmp_path: Path, shown: Path
) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    await source.snapshot(out_dir=bundle, engine="criu", leave_running=True)
    assert (bundle / "mount-lower.sqfs").exists()
    check_bundle(bundle)
    await source.exec("echo later >>/mnt/copied/data; rm -r /mnt/copied/new")
    other.mkdir()
    shutil.copy(shown / "log", other)
    async with await restore(
        snap_dir=bundle,
        name="alone",
        network=["example.org"],  # no card, but a proxy
        live_mounts=[LiveMount(host=other, guest="/mnt/shown", mode="rw")],
    ) as vm:
        async with vm.open_session(cols=90, rows=30) as session:
            await exchange(session, "client", "server")
            await say(session, "recv outer\n", "outer recv ConnectionResetError")
            await say(session, "write copied\n", "copied write 5")
            await say(session, "write shown\n", "shown write 5")
            assert (await vm.exec("cat /mnt/copied/data")).stdout == "copied\nmore\nmore\n"
            assert (await vm.exec("cd /mnt/copied; ls; cat new/file")).stdout == "data\nnew\n1\n"
            assert (other / "log").read_text() == "more\nmore\n"
            await vm.snapshot(
                out_dir=tmp_path / "again",
                engine="criu",
                dump_cmd="env -u MACHINEN_DUMP_MOUNT machinen-dump",  # knows of no mount
                leave_running=True,
            )
        assert "10.0.2.15" not in (await vm.exec("ip addr; ip route")).stdout
        assert (await vm.exec("/sbin/machinen-remount")).stdout == "/mnt/shown\n"
        with suppress(ExecError):  # the guest may be gone before it has answered
            await vm.exec("/sbin/machinen-poweroff")
        with anyio.fail_after(60):
            await vm.wait()
    async with await restore(snap_dir=tmp_path / "again", name="confined") as vm:
        status = await vm.status()
        assert (status.network, status.allow_hosts) == ("allowlist", ["example.org"])
        assert (await vm.exec("cat /mnt/copied/data")).stdout == "copied\nmore\nmore\n"
    assert (shown / "log").read_text() == "more\n"
    before, after = (read_bundle(each).mount_disk for each in (bundle, tmp_path / "again"))
    assert before is not None
    assert after is not None
    assert len(after.layers) == len(before.layers) + 1


async def test_a_fork_resets_connections_and_the_source_keeps_them(source: VmHandle) -> None:
    async with (
        await source.fork(engine="criu", name="fork") as fork,
        fork.open_session(cols=90, rows=30) as session,
    ):
        for name in ("outer", "client", "server", "queued", "forwarded"):
            await say(session, f"recv {name}\n", f"{name} recv ConnectionResetError")
    async with source.open_session(cols=90, rows=30) as session:
        await exchange(session, "outer")
        await exchange(session, "server", "client")
