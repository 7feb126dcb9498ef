"""What a real guest reaches: everything, some hosts, nothing; and what a fork does to it.

Packages come from where this host gets its own: the guest's apt sources, pip's index, the host's
certificates. Nothing here names a host.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import psutil
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from machinen_runtime.monitor_process import KILL_AFTER_MS
from machinen_runtime.pids import wait_process_gone
from machinen_runtime.restore import restore
from tests.fakes import until
from tests.vm.conftest import MEMORY_MIB
from tests.vm.guest_pip import put_pip
from vmm.allowlist import own_addresses

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

PACKAGE = "iniconfig"
CERTIFICATES = "/root/certificates.pem"

APT = r"""
set -e
one=/root/one.sources
awk 'BEGIN { RS = ""; ORS = "\n\n" } /-security/' /etc/apt/sources.list.d/*.sources > $one
test -s $one
apt_() {
    tool=$1; shift
    $tool -o Dir::Etc::sourcelist=$one -o Dir::Etc::sourceparts=- -o Acquire::Languages=none "$@"
}
apt_ apt-get update >&2
name=$(apt_ apt-cache dumpavail | awk '
    /^Package:/ { name = $2 }
    /^Size:/ { size = $2 }
    /^(Pre-)?Depends:/ { more = 1 }
    /^$/ { if (!more) print size, name; more = 0 }' | sort -n | sed -n '1s/.* //p')
apt_ apt-get install -y --no-install-recommends "$name" >&2
dpkg-query -W -f '${Status}' "$name"
"""
"""Install the smallest package of the security archive that needs no other: a short list."""

DIAL = r"""
import socket, sys
address = (sys.argv[1], int(sys.argv[2]))
kept = socket.create_connection(address, 60)
inside = socket.create_server(("127.0.0.1", 7777))
one = socket.create_connection(("127.0.0.1", 7777))
other, _ = inside.accept()
kept.settimeout(None)
open("/root/up", "w").close()
try:
    said = kept.recv(10).decode()
except OSError as error:
    said = type(error).__name__
other.send(b"loopback")
said += " " + one.recv(10).decode()
said += " " + socket.create_connection(address, 60).recv(10).decode()
with open("/root/said", "w") as file:
    file.write(said)
"""


@pytest.fixture(scope="module")
async def full(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A guest that reaches everything."""
    async with await boot(name="full", memory=MEMORY_MIB) as vm:
        yield vm


@pytest.fixture(scope="module")
async def confined(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A guest that reaches its apt mirror and the package index, and nothing else."""
    hosts = [f"{host}:{port}" for host, port in {await mirror(), *package_index()}]
    async with await boot(name="confined", memory=MEMORY_MIB, network=hosts) as vm:
        yield vm


async def mirror() -> tuple[str, int]:
    """Where a guest of the base gets its packages."""
    from machinen_runtime.assets import resolve_base_rootfs

    tar = await anyio.run_process(
        ["tar", "-xOf", str(resolve_base_rootfs()), "--wildcards", "*/sources.list.d/*.sources"]
    )
    uri = next(line for line in tar.stdout.decode().splitlines() if line.startswith("URIs:"))
    return place_of(uri.split()[1])


def package_index() -> list[tuple[str, int]]:
    """Where pip on this host looks; the index and what it leads to are one mirror or two hosts."""
    from pip._internal.models.index import PyPI

    return [place_of(PyPI.simple_url), (PyPI.file_storage_domain, 443)]


def place_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


@pytest.fixture(scope="module")
def pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds pip for a guest."""
    directory = tmp_path_factory.mktemp("lib")
    put_pip(directory, tmp_path_factory.mktemp("root"))
    return directory


async def give_pip(vm: VmHandle, pip: Path) -> None:
    """pip and this host's certificates: the base knows no mirror's own authority."""
    certificates = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    assert certificates is not None
    await vm.write_file(CERTIFICATES, Path(certificates).read_bytes())
    await VsockFiles.push(vm.vsock_path, pip, "/root/lib")


PIP = (
    f"PYTHONPATH=/root/lib PIP_CERT={CERTIFICATES} "
    "python3 -m pip --no-cache-dir install -q --no-compile"
)


async def test_a_guest_installs_a_package_with_apt(full: VmHandle) -> None:
    done = await full.exec(APT, exec_timeout_ms=400_000)
    assert done.stdout == "install ok installed"


async def test_a_guest_installs_a_package_with_pip(full: VmHandle, pip: Path) -> None:
    await give_pip(full, pip)
    await full.exec(f"{PIP} --target /root/got {PACKAGE}", exec_timeout_ms=400_000)
    told = await full.exec(f"PYTHONPATH=/root/got python3 -c 'import {PACKAGE}; print(1)'")
    assert told.stdout == "1\n"


async def test_names_are_looked_up_through_the_host(full: VmHandle) -> None:
    host, _ = await mirror()
    here = {str(place[0]) for *_, place in await anyio.getaddrinfo(host, 80)}
    told = await full.exec(f"getent ahostsv4 {host}")
    assert {line.split()[0] for line in told.stdout.splitlines()} <= here
    assert (await full.exec_raw("getent hosts no-such-name.invalid")).exit_code


async def test_the_hosts_loopback_is_out_of_reach(full: VmHandle) -> None:
    with answering("127.0.0.1") as (_, port):
        for address in ("10.0.2.2", "10.0.2.3", "127.0.0.1"):
            dial = f"import socket; socket.create_connection(('{address}', {port}), 3)"
            assert (await full.exec_raw(f'python3 -c "{dial}"')).exit_code


@contextmanager
def answering(address: str) -> Generator[tuple[str, int]]:
    """A server on this host; the first client hears nothing, all later ones `hello`."""
    with socket.create_server((address, 0)) as server:
        clients: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    clients.append(server.accept()[0])
                except OSError:
                    return  # the test is over
                if len(clients) > 1:
                    clients[-1].sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        yield address, server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for client in clients:
            client.close()


def outer_address() -> str:
    """An address of this host that a guest reaches as it reaches any other."""
    found = (str(each) for each in own_addresses() if each.version == 4 and not each.is_loopback)
    return next(found)


async def test_a_fork_loses_its_connections_at_once_and_makes_new_ones(full: VmHandle) -> None:
    with answering(outer_address()) as (address, port):
        await full.write_file("/root/dial.py", DIAL)
        run = f"setsid python3 /root/dial.py {address} {port} </dev/null >/root/dial.log 2>&1 &"
        await full.exec(run)
        await full.exec("for i in $(seq 300); do [ -e /root/up ] && exit; sleep 0.1; done; exit 1")
        async with await full.fork(name="cut-off") as fork:
            wait = "for i in $(seq 600); do [ -s /root/said ] && break; sleep 0.1; done"
            said = (await fork.exec(f"{wait}; cat /root/said")).stdout.split()
            assert said[0] in ("ConnectionResetError", "BrokenPipeError")
            assert said[1:] == ["loopback", "hello"]
        assert (await full.exec_raw("cat /root/said")).exit_code, "the source's goes on"
        assert (await full.exec("ss -tnH state established")).stdout.count(f":{port}") == 1


async def test_a_restored_guest_is_on_the_network_again(full: VmHandle, tmp_path: Path) -> None:
    await full.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    with answering(outer_address()) as (address, port):
        socket.create_connection((address, port)).close()  # the one that hears nothing
        async with await restore(snap_dir=tmp_path / "bundle", name="again") as again:
            dial = f"import socket; s = socket.create_connection(('{address}', {port}), 60)"
            told = await again.exec(f'python3 -c "{dial}; print(s.recv(10))"')
            assert told.stdout == "b'hello'\n"
        with pytest.raises(BootError) as caught:
            await restore(snap_dir=tmp_path / "bundle", network=["a.example"])
        assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


# -- an allowlist --------------------------------------------------------------------------------


async def test_a_confined_guest_has_no_card_and_knows_its_proxy(confined: VmHandle) -> None:
    assert (await confined.exec("ls /sys/class/net")).stdout.split() == ["lo"]
    told = (await confined.exec("echo $http_proxy $https_proxy $HTTP_PROXY")).stdout.split()
    assert told == ["http://127.0.0.1:3128"] * 3
    assert (await confined.status()).allow_hosts


async def test_a_confined_guest_installs_from_what_is_allowed(
    confined: VmHandle, pip: Path
) -> None:
    done = await confined.exec(APT, exec_timeout_ms=400_000)
    assert done.stdout == "install ok installed"
    await give_pip(confined, pip)
    await confined.exec(f"{PIP} --target /root/got {PACKAGE}", exec_timeout_ms=400_000)


def fetch(url: str) -> str:
    """Print the status of a GET."""
    return (
        'python3 -c "import urllib.request as u, urllib.error as e\n'
        f"try: print(u.urlopen('{url}', timeout=60).status)\n"
        'except e.HTTPError as error: print(error.code)"'
    )


async def status_of(vm: VmHandle, url: str) -> str:
    return (await vm.exec(fetch(url))).stdout.strip()


async def test_a_confined_guest_is_denied_everything_else(confined: VmHandle) -> None:
    with answering(outer_address()) as (address, port):
        for url in ("http://elsewhere.example/", f"http://{address}:{port}/"):
            assert await status_of(confined, url) == "403"
        tunnel = (
            "import socket; s = socket.create_connection(('127.0.0.1', 3128)); "
            f"s.send(b'CONNECT {address}:{port} HTTP/1.1\\r\\n\\r\\n'); print(s.recv(12))"
        )
        told = await confined.exec(f'python3 -c "{tunnel}"')
        assert told.stdout == "b'HTTP/1.1 403'\n"
    log = Path(confined.entry.cleanup_paths[1], "console.log").read_text()
    assert "the web proxy denied elsewhere.example:80" in log


async def test_a_fork_is_as_confined_and_a_restore_may_have_another_list(
    confined: VmHandle, tmp_path: Path
) -> None:
    host, port = await mirror()
    url, bundle = f"http://{host}:{port}/", tmp_path / "bundle"
    async with await confined.fork(name="as-confined", out_dir=bundle) as fork:
        assert await status_of(fork, url) != "403"
        assert await status_of(fork, "http://elsewhere.example/") == "403"
    async with await restore(snap_dir=bundle, name="other", network=["other.example"]) as other:
        assert await status_of(other, url) == "403"
    async with await restore(snap_dir=bundle, name="cut", network="none") as cut:
        assert (await cut.exec("echo -n $http_proxy")).stdout == ""
        refused = await cut.exec_raw(
            "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3128))'"
        )
        assert "ConnectionRefusedError" in refused.stderr
    with pytest.raises(BootError) as caught:
        await restore(snap_dir=bundle, network="full")
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


# -- the end of passt, last: what `full` has open is lost ---------------------------------


def passts_of(vm: VmHandle) -> list[psutil.Process]:
    return [each for each in psutil.Process(vm.pid).children() if "passt" in each.name()]


async def test_a_passt_that_is_killed_has_a_successor(full: VmHandle) -> None:
    host, port = await mirror()
    console = Path(full.entry.cleanup_paths[1], "console.log")
    dial = f"python3 -c 'import socket; socket.create_connection((\"{host}\", {port}), 60)'"
    await full.exec(dial)
    (first,) = passts_of(full)
    for times in (1, 2):
        (passt,) = passts_of(full)
        passt.send_signal(signal.SIGKILL)
        await until(
            lambda times=times: console.read_text().count("passt has ended (signal 9)") == times,
            timeout_s=60,
        )
        await full.exec(dial)
    assert passts_of(full) != [first]
    assert (await full.status()).state == "running"
    async with await full.fork(name="reconnected") as fork:
        await fork.exec(dial)
        (passt,) = passts_of(fork)
        passt.send_signal(signal.SIGKILL)
        log = Path(fork.entry.cleanup_paths[1], "console.log")
        await until(lambda: "next packet starts another one" in log.read_text(), timeout_s=60)
        await fork.exec(dial)
    await full.kill()
    assert await wait_process_gone(full.pid, full.entry, timeout_ms=KILL_AFTER_MS)


# -- a guest that sends nothing ------------------------------------------------------------------

RESOLVE = """python3 -c '
import socket
query = bytes([1, 2, 1, 0, 0, 1] + [0] * 6) + b"\\x07machine\\x04test\\x00\\x00\\x01\\x00\\x01"
asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(60)
asked.sendto(query, ("10.0.2.3", 53))
print(*asked.recv(512)[:2])
'"""
"""One query: what it asks for exists nowhere, and that is an answer too."""
QUIET_S = 12
"""Longer than a kernel waits between its questions for routers."""


async def test_a_guest_that_sends_nothing_has_no_passt_until_it_does(vm_home: Path) -> None:
    async with await boot(memory=MEMORY_MIB, warm=False) as cold:
        assert (await cold.exec("cat /sys/class/net/eth0/carrier")).stdout == "1\n"
        async with await cold.fork(name="silent") as fork:
            await fork.exec("true")
            await anyio.sleep(QUIET_S)
            assert passts_of(cold) == passts_of(fork) == []
            sent = "cat /sys/class/net/eth0/statistics/tx_packets"
            assert (await cold.exec(sent)).stdout == (await fork.exec(sent)).stdout == "0\n"
            assert (await fork.exec(RESOLVE)).stdout == "1 2\n", "its first packet is not lost"
            assert (len(passts_of(fork)), passts_of(cold)) == (1, [])
        async with await boot(memory=MEMORY_MIB) as warm:
            await warm.exec("true")
            assert passts_of(warm) == []
            assert (await warm.exec(RESOLVE)).stdout == "1 2\n"
            assert len(passts_of(warm)) == 1
