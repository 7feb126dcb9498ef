"""The rarer things a soak does: mounts, forwards, copies, names, other clients, engine criu.

What a live mount must hold is modelled on the host: a checksum per file, whoever wrote it. Sources,
forks and restored sandboxes of one boot share its directory.
"""

from __future__ import annotations

import hashlib
import random
import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from bench.world import MACHINEN
from machinen_runtime.channel_sessions import Output, TerminalSession
from machinen_runtime.guest_copy import copy_into, copy_out
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount, Mount
from machinen_runtime.paths import remove_tree
from machinen_runtime.restore import restore

LIVE_PATH = "/mnt/live"
COPY_PATH = "/mnt/copied"
ECHO_PORT = 7000
MAX_FILE_BYTES = 2_000_000
SAY_TIMEOUT_S = 60.0
KEPT_FILES = 20

_ECHO = (
    "import socketserver as s\n"
    "class E(s.StreamRequestHandler):\n"
    "    def handle(self):\n"
    "        while data := self.request.recv(65536):\n"
    "            self.request.sendall(data)\n"
    "s.ThreadingTCPServer.allow_reuse_address = True\n"
    f"s.ThreadingTCPServer(('127.0.0.1', {ECHO_PORT}), E).serve_forever()\n"
)
_START_ECHO = (
    f"ss -ltn | grep -q :{ECHO_PORT} && exit\n"
    "setsid python3 /root/echo.py </dev/null >/root/echo.log 2>&1 &\n"
    f"for i in $(seq 600); do ss -ltn | grep -q :{ECHO_PORT} && exit; sleep 0.1; done; exit 1\n"
)


class SoakError(RuntimeError):
    """A sandbox answered, but not what it should have."""


@dataclass(slots=True)
class Shared:
    """The host directory of a live mount, and what must be in it: name → sha256."""

    directory: Path
    files: dict[str, str] = field(default_factory=dict[str, str])


class Features:
    """Directories and models that outlive single sandboxes; all gone after `end()`."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._shared: list[Shared] = []
        self._serial = 0
        self._source: Path | None = None

    def boot_options(self) -> tuple[dict[str, Any], Shared | None, bool]:
        """Some mounts for a boot, or none: options, the live mount's model, whether `mount` is."""
        options: dict[str, Any] = {}
        shared = None
        if self._choice.random() < 0.5:
            shared = Shared(Path(tempfile.mkdtemp(prefix="shared-")))
            self._shared.append(shared)
            options["live_mounts"] = [LiveMount(host=str(shared.directory), guest=LIVE_PATH)]
        has_mount = self._choice.random() < 0.3
        if has_mount:
            options["mount"] = Mount(host=str(self._mount_source()), guest=COPY_PATH)
        return options, shared, has_mount

    def _mount_source(self) -> Path:
        if self._source is None:
            self._source = Path(tempfile.mkdtemp(prefix="source-"))
            (self._source / "known").write_bytes(bytes(range(256)) * 64)
        return self._source

    def end(self) -> None:
        """Remove the directories, once no sandbox is left that has them."""
        for shared in self._shared:
            remove_tree(shared.directory)
        if self._source is not None:
            remove_tree(self._source)

    async def write_live(self, vm: VmHandle, shared: Shared) -> None:
        """The guest writes a file and the host one; each finds the other's, and an older one."""
        size = self._choice.randrange(MAX_FILE_BYTES)
        theirs, ours = self._next_name(), self._next_name()
        said = await vm.exec(
            f"head -c {size} /dev/urandom > {LIVE_PATH}/{theirs}; sha256sum < {LIVE_PATH}/{theirs}"
        )
        shared.files[theirs] = said.stdout.split()[0]
        data = self._choice.randbytes(size // 2)
        (shared.directory / ours).write_bytes(data)
        shared.files[ours] = hashlib.sha256(data).hexdigest()
        await to_thread.run_sync(_check_host_files, vm, shared, [theirs])
        old = self._choice.choice([*shared.files])
        said = await vm.exec(f"sha256sum < {LIVE_PATH}/{old}; sha256sum < {LIVE_PATH}/{ours}")
        for name, found in zip((old, ours), said.stdout.split()[::2], strict=True):
            if found != shared.files[name]:
                raise SoakError(f"{vm.name} reads another {name} in its live mount")
        if len(shared.files) > KEPT_FILES:
            gone = next(iter(shared.files))
            del shared.files[gone]
            await vm.exec(f"rm {LIVE_PATH}/{gone}")
            if (shared.directory / gone).exists():
                raise SoakError(f"{vm.name} removed {gone}, and the host still has it")

    def check_host_side(self) -> None:
        """Every file of every live mount is what whoever wrote it meant."""
        for shared in self._shared:
            _check_host_files(None, shared, [*shared.files])

    async def check_mount(self, vm: VmHandle) -> None:
        """The copied directory is as it was, and takes writes."""
        expected = hashlib.sha256((self._mount_source() / "known").read_bytes()).hexdigest()
        said = await vm.exec(
            f"sha256sum < {COPY_PATH}/known; echo x >> {COPY_PATH}/own; sync {COPY_PATH}/own"
        )
        if said.stdout.split()[0] != expected:
            raise SoakError(f"{vm.name} reads something else from its mount")

    async def forward(self, vm: VmHandle) -> None:
        """A port comes, carries bytes both ways, goes, and nobody listens there any more."""
        await vm.write_file("/root/echo.py", _ECHO)
        await vm.exec(_START_ECHO)
        forward = await vm.add_port_forward(ECHO_PORT)
        data = self._choice.randbytes(300_000)
        try:
            heard = await _echoed(forward.host_port, data)
        finally:
            await vm.remove_port_forward(forward.host_port)
        if heard != data:
            raise SoakError(f"{vm.name} echoed {len(heard)} other bytes than the {len(data)} sent")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", forward.host_port)) == 0:
                raise SoakError(f"{vm.name}: a removed forward still listens")

    async def copy(self, vm: VmHandle) -> None:
        """A directory into the guest and out again."""
        directory = Path(tempfile.mkdtemp(prefix="copy-"))
        try:
            (directory / "tree").mkdir()
            for number in range(5):
                data = self._choice.randbytes(self._choice.randrange(100_000))
                (directory / "tree" / f"file {number}").write_bytes(data)
            await vm.exec("rm -rf /root/tree")
            await copy_into(vm.vsock_path, directory / "tree", "/root/tree", recursive=True)
            await copy_out(vm.vsock_path, "/root/tree", directory / "back", recursive=True)
            if _contents(directory / "tree") != _contents(directory / "back"):
                raise SoakError(f"{vm.name}: a copy came back as something else")
        finally:
            remove_tree(directory)

    async def other_client(self, vm: VmHandle, expected: str) -> None:
        """What another process, which only knows the name, hears of it."""
        argv = [MACHINEN, "exec", str(vm.name), "--", "cat", "/root/number"]
        done = await anyio.run_process(argv, check=False)
        if done.returncode or done.stdout.decode().strip() != expected:
            raise SoakError(f"another process hears {done.stdout!r} {done.stderr!r}")

    async def criu(self, vm: VmHandle, name: str) -> None:
        """The workload's tree goes on in another machine, with what its shell remembered."""
        secret = self._choice.randrange(1 << 30)
        directory = Path(tempfile.mkdtemp(prefix="criu-"))
        try:
            async with vm.open_session(cols=80, rows=24) as session:
                await _say(session, f"N={secret}; echo is-$N-\n", f"is-{secret}-")
            await vm.snapshot(out_dir=directory / "bundle", engine="criu", leave_running=True)
            copy = await restore(snap_dir=directory / "bundle", name=name, timeout_ms=None)
            try:
                async with copy.open_session(cols=80, rows=24) as session:
                    await _say(session, "echo still-$N-\n", f"still-{secret}-")
            finally:
                with anyio.CancelScope(shield=True):
                    await copy.kill()
                    await copy.detach()
        finally:
            remove_tree(directory)

    def _next_name(self) -> str:
        self._serial += 1
        return f"file-{self._serial}"


def _check_host_files(vm: VmHandle | None, shared: Shared, names: Sequence[str]) -> None:
    for name in names:
        found = hashlib.sha256((shared.directory / name).read_bytes()).hexdigest()
        if found != shared.files[name]:
            who = "the host" if vm is None else f"beside {vm.name} the host"
            raise SoakError(f"{who} reads another {name} than was written through a live mount")


async def _echoed(port: int, data: bytes) -> bytes:
    heard = bytearray()
    with anyio.fail_after(SAY_TIMEOUT_S):
        async with (
            await anyio.connect_tcp("127.0.0.1", port) as client,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.send, data)
            while len(heard) < len(data):
                heard += await client.receive()
    return bytes(heard)


async def _say(session: TerminalSession, text: str, wanted: str) -> None:
    """Type `text` and wait until `wanted` is on the screen."""
    await session.send(text.encode())
    seen = ""
    with anyio.move_on_after(SAY_TIMEOUT_S):
        while wanted not in seen:
            event = await session.receive()
            if isinstance(event, Output):
                seen += event.data.decode("utf-8", "replace")
        return
    raise SoakError(f"the shell said {seen[-200:]!r}, not {wanted}")


def _contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}
