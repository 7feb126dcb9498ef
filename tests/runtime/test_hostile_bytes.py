"""Whatever bytes a guest sends or a file holds: readers give an answer or one of our errors."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_runtime import registry, registry_names
from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.channel_secrets import VsockSecrets
from machinen_runtime.channel_sessions import list_sessions
from machinen_runtime.channel_winsize import VsockWinsize
from machinen_runtime.errors import ErrorCode, MachinenError, RegistryError
from machinen_runtime.image_config import read_image_config
from machinen_runtime.memory import read_balloon_stats, read_cpu_percent, read_vm_state
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.oci_image import read_oci_image
from machinen_runtime.options import WriteFileOptions
from machinen_runtime.put_file import put_guest_file
from machinen_runtime.tar_socket import BrokenFramesError, GuestFailedError, TarSocket
from tests.fakes import Peer, fake_agent
from tests.runtime.test_image_config import write_image
from tests.runtime.test_monitor_client import serving
from vmm.requests import STATES

Use = Callable[[Path, Path], Awaitable[object]]


ONCE = VsockExecOptions(exec_timeout_ms=5000, connect_timeout_ms=100, retry_ms=20)


async def use_winsize(vsock: Path, _: Path) -> None:
    """One resize."""
    async with await VsockWinsize.connect(vsock, timeout_ms=5000, retry_ms=1000) as winsize:
        await winsize.send(80, 24)


async def use_put(vsock: Path, directory: Path) -> None:
    """One file that goes by PUT."""
    with (directory / "tree" / "file").open("rb") as file:
        await put_guest_file(vsock, "/srv", file.fileno(), WriteFileOptions(), lambda size: None)


CLIENTS: dict[str, Use] = {
    "exec": lambda vsock, _: VsockExec.run(vsock, "true", ONCE),
    "sessions": lambda vsock, _: list_sessions(vsock),
    "pull": lambda vsock, directory: VsockFiles.pull(vsock, "/srv", directory / "pulled"),
    "push": lambda vsock, directory: VsockFiles.push(vsock, directory / "tree", "/srv"),
    "put": use_put,
    "secrets": lambda vsock, _: VsockSecrets.send(vsock, {"A": "b"}),
    "winsize": use_winsize,
}
WORDS = [
    *(
        b"OK\n",
        b"OK 1\n",
        b"ok 1\n",
        b"ok\n",
        b"err no\n",
        b"ERR 3\nno!",
        b"ERR 99999\n",
        b"ERR -1\n",
    ),
    *(b"D 4\nabcd", b"D 99999999999\n", b"D \xb2\n", b"O 2\nhi", b"X 0\n", b"X 256\n", b"F 2\nno"),
    *(
        b"S 80 24\n",
        b"P 3\nabc",
        b"main\t1\t80\t24\t0\t5\n",
        b"O 20\nmain\t1\t80\t24\t0\t1e9\n",
        b"\n",
    ),
    *(b"9" * 5000 + b"\n", b"D " + b"9" * 5000 + b"\n", b"ERR " + b"9" * 5000 + b"\n", b"x" * 99),
]
SAID = st.lists(st.sampled_from(WORDS) | st.binary(min_size=1, max_size=40), max_size=6)


@given(said=SAID, size=st.integers(1, 100))
def test_an_archive_of_whatever_frames_ends_or_is_told_of(said: list[bytes], size: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"".join(said))
        theirs.shutdown(socket.SHUT_WR)
        source, came = TarSocket(ours, lambda count: None), 0
        with suppress(
            BrokenFramesError, GuestFailedError, anyio.EndOfStream, anyio.BrokenResourceError
        ):
            while filled := source.readinto(memoryview(bytearray(size))):
                came += filled
        assert came <= sum(map(len, said))


@pytest.mark.parametrize("use", CLIENTS.values(), ids=CLIENTS)
def test_whatever_a_service_says_its_client_answers_or_tells(
    tmp_path_factory: pytest.TempPathFactory, use: Use
) -> None:
    directory = tmp_path_factory.mktemp("said")
    (directory / "tree").mkdir()
    (directory / "tree" / "file").write_text("content")
    vsock = directory / "vsock.sock"

    @settings(max_examples=60)
    @given(said=SAID)
    def converse(said: list[bytes]) -> None:
        async def speak(peer: Peer) -> None:
            with suppress(anyio.BrokenResourceError):  # a client may leave in the middle
                for piece in said:
                    await peer.send(piece)
                await peer.stream.send_eof()
                await peer.rest()

        class AnyService(dict[int, Callable[[Peer], Awaitable[None]]]):
            def get(self, key: int, default: object = None) -> Callable[[Peer], Awaitable[None]]:
                return speak

        async def run() -> None:
            with anyio.fail_after(60):
                async with fake_agent(vsock, AnyService()):
                    with suppress(MachinenError):
                        await use(vsock, directory)

        before = len(os.listdir("/proc/self/fd"))
        anyio.run(run)
        assert len(os.listdir("/proc/self/fd")) == before

    converse()
    below = {path.name for path in directory.iterdir()}
    assert below <= {"tree", "pulled", "vsock.sock"}


@settings(max_examples=60)
@given(said=st.binary(max_size=80) | st.sampled_from([b"OK", b"OK ", b"OK 1", b"NO\n", b"x" * 99]))
def test_whatever_answers_connect_is_ok_or_told(
    tmp_path_factory: pytest.TempPathFactory, said: bytes
) -> None:
    """What machinen_runtime/channel_stream.py reads."""
    vsock = tmp_path_factory.getbasetemp() / "connect.sock"

    async def silent(peer: Peer) -> None:
        await peer.rest()

    async def run() -> None:
        async with fake_agent(vsock, {1974: silent}) as agent:
            agent.answer = said
            with suppress(MachinenError):
                winsize = await VsockWinsize.connect(vsock, timeout_ms=50, retry_ms=20)
                winsize.close()

    anyio.run(run)


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Registry and cache that live for all examples of a test."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MACHINEN_REGISTRY_DIR", str(home / "vms"))
        patch.setenv("MACHINEN_CACHE_DIR", str(home / "cache"))
        yield home


@given(content=st.binary(max_size=300) | st.integers().map(lambda pid: f"{pid}\nx\n".encode()))
def test_any_pin_is_a_holder_or_none_and_frees_its_name(module_home: Path, content: bytes) -> None:
    names = module_home / "vms" / "names"
    names.mkdir(parents=True, exist_ok=True)
    (names / "web").write_bytes(content)
    holder = registry_names.read_pin(names / "web")
    assert holder is None or isinstance(holder, int)
    with pytest.raises(MachinenError):
        registry.find(name="web")
    with suppress(RegistryError):  # a pin that names a process which lives, by chance
        registry.claim_name("web", os.getpid())
        assert registry_names.read_pin(names / "web") == os.getpid()
        registry.release_name("web", os.getpid())


@given(st.binary(max_size=64))
def test_any_stats_file_is_figures_or_none(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "stats"
    path.write_bytes(content)
    counters, cpu = read_balloon_stats(path), read_cpu_percent(path)
    assert (counters is None) == (len(content) < 24)
    assert (cpu is None) == (len(content) < 32)
    assert read_vm_state(path) in (None, *STATES)
    if counters is not None:
        assert counters.bytes_reported == struct.unpack_from("<Q", content)[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["cmd", "env", "cwd", "user", "x"]), inner)
    ),
    max_leaves=10,
)
DEEP = b"[" * 100_000


@settings(max_examples=40)
@given(
    number=st.integers(0, 1 << 60),
    config=st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_any_config_of_an_image_is_one_or_refused(
    module_home: Path, number: int, config: bytes
) -> None:
    image = write_image(module_home / f"{number}.tar", config, mode="w")
    try:
        read_image_config(image)
    except MachinenError as error:
        assert_names_the_config(error)


def test_a_config_that_is_nested_without_end_is_refused(module_home: Path) -> None:
    with pytest.raises(MachinenError) as caught:
        read_image_config(write_image(module_home / "deep.tar", DEEP, mode="w"))
    assert_names_the_config(caught.value)


def assert_names_the_config(error: MachinenError) -> None:
    assert error.code is ErrorCode.BOOT_PACK_FAILED
    assert "machinen-config.json" in str(error)


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_a_container_image_nested_without_end_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (tmp_path / name).write_bytes(DEEP)
    with pytest.raises(MachinenError):
        read_oci_image(tmp_path)


@pytest.mark.parametrize("line", [b"[]\n", b"null\n", b"{\n", DEEP[:1000] + b"\n"])
async def test_events_of_another_version_are_told(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path, b'{"id": 1, "result": {}}\n', line):
        with pytest.raises(MachinenError, match="another version"):
            await hear_events(tmp_path)


@pytest.mark.parametrize("data", [b"null", b"[]", b'{"sunny": 1}'])
async def test_an_event_of_another_shape_is_told(tmp_path: Path, data: bytes) -> None:
    line = b'{"event": "state", "data": ' + data + b"}\n"
    async with serving(tmp_path, b'{"id": 1, "result": {}}\n', line):
        with pytest.raises(MachinenError, match="another version"):
            await hear_events(tmp_path)


async def hear_events(directory: Path) -> None:
    """Listen until there is nothing more."""
    async with MonitorClient(directory).events() as events:
        async for _ in events:
            pass
