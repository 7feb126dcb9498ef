"""Engine `criu`: one process tree of a guest, dumped by CRIU in there, its images streamed here.

The helper machinen-dump (guest/tool_dump.c, or the caller's `dump_cmd`) lets the tree go on and
writes the images to its stdout as a tar; its stderr is the log. Nothing is kept twice: the tar is
unpacked as it comes. The workload's screen is saved beside the images, so that the session of a
restored VM opens on it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
from anyio import to_thread

from machinen_runtime.channel_conversation import Conversation, LinkLostError
from machinen_runtime.channel_format import (
    Exit,
    Failure,
    Replay,
    RunRequest,
    Stderr,
    Stdout,
    failure_error,
)
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.errors import ErrorCode, ExecError, SnapshotError
from machinen_runtime.log_events import ChunkLogEvent, OnLog
from machinen_runtime.tar_extract import UnsafeArchiveError, extract_tar

CONNECT_TIMEOUT_MS = 10_000
REPLAY_FILE = "machinen-replay"
"""guest/tools.h has the same name."""
MAX_REPLAY_BYTES = 1 << 20
MAX_LOG_BYTES = 16 * 1024
LOG_TAIL_CHARS = 2000
_CORE_IMAGE = re.compile(r"core-\d+\.img")


async def dump_tree(
    vsock_path: Path,
    img_dir: Path,
    *,
    dump_cmd: str,
    env: dict[str, str] | None = None,
    on_log: OnLog | None,
) -> None:
    """Dump the workload's process tree into the new directory `img_dir`; `env`: the helper's.

    Raises:
        SnapshotError: SNAPSHOT_DUMP_FAILED with what the helper and CRIU said.
    """
    await anyio.Path(img_dir).mkdir(mode=0o700)
    try:
        replay = await read_replay(vsock_path)
        await _receive_images(vsock_path, img_dir, dump_cmd, env, on_log)
    except ChannelUnavailableError as error:
        raise _failed(f"the guest's agent cannot be reached: {error}") from error
    except LinkLostError as error:
        raise _failed("the link to the guest was lost during the dump") from error
    except ExecError as error:
        raise _failed(str(error)) from error
    if replay:
        (img_dir / REPLAY_FILE).write_bytes(replay)
    _check_images(img_dir)


def image_files(img_dir: Path) -> list[str]:
    """The names of the images, sorted."""
    return sorted(path.name for path in img_dir.iterdir())


async def read_replay(vsock_path: Path) -> bytes:
    """What session `main` has on its screen and above; b"" if there is no such session."""
    request = RunRequest(session="main", attach=True).to_bytes()
    replay = bytearray()
    conversation = await _converse(vsock_path, request)
    try:
        while True:
            for reply in await conversation.receive():
                match reply:
                    case Replay(b"") | Failure() | Exit():
                        return bytes(replay)
                    case Replay(data) if len(replay) + len(data) <= MAX_REPLAY_BYTES:
                        replay += data
                    case _:
                        pass
    finally:
        conversation.close()


async def _converse(vsock_path: Path, request: bytes) -> Conversation:
    conversation = await Conversation.open(vsock_path, timeout_ms=CONNECT_TIMEOUT_MS, retry_ms=100)
    await conversation.send(request)
    return conversation


async def _receive_images(
    vsock_path: Path,
    img_dir: Path,
    dump_cmd: str,
    env: dict[str, str] | None,
    on_log: OnLog | None,
) -> None:
    conversation = await _converse(vsock_path, RunRequest(cmd=dump_cmd, env=env).to_bytes())
    output = _DumpOutput(conversation, partial(_tell, on_log, dump_cmd))
    unsafe: Exception | None = None
    try:
        try:
            await to_thread.run_sync(extract_tar, _ThreadReader(output), img_dir)
        except (UnsafeArchiveError, OSError) as error:
            unsafe = error
        await output.drain()
    finally:
        conversation.close()
    if output.exit_code != 0:
        raise _failed(f"{dump_cmd} ended with status {output.exit_code}:\n{output.log_text}")
    if unsafe is not None:
        raise _failed(f"the images cannot be unpacked: {unsafe}\n{output.log_text}") from unsafe


def _tell(on_log: OnLog | None, dump_cmd: str, chunk: bytes) -> None:
    if on_log is not None:
        on_log(ChunkLogEvent(source="exec-stderr", chunk=chunk, cmd=dump_cmd))


class _DumpOutput:
    """The helper's stdout as a stream, its stderr as the log, its end as a status."""

    def __init__(self, conversation: Conversation, tell: Callable[[bytes], None]) -> None:
        self._conversation = conversation
        self._tell = tell
        self._pending = bytearray()
        self._log = bytearray()
        self.exit_code: int | None = None

    async def receive(self, max_bytes: int) -> bytes:
        """Some bytes of stdout; b"" once the helper has ended."""
        while not self._pending and self.exit_code is None:
            for reply in await self._conversation.receive():
                match reply:
                    case Stdout(data):
                        self._pending += data
                    case Stderr(data):
                        self._tell(data)
                        self._log = (self._log + data)[-MAX_LOG_BYTES:]
                    case Exit(code):
                        self.exit_code = code
                    case Failure():
                        raise failure_error(reply)
                    case _:
                        raise _failed("the guest broke the exec protocol")
        data = bytes(self._pending[:max_bytes])
        del self._pending[:max_bytes]
        return data

    async def drain(self) -> None:
        """Read on to the status: tar pads its archives, and extraction stops before that."""
        while await self.receive(1 << 20):
            pass

    @property
    def log_text(self) -> str:
        """The end of the log; what could play tricks on a terminal is left out."""
        text = self._log.decode("utf-8", "replace").strip()[-LOG_TAIL_CHARS:]
        return "".join(char for char in text if char.isprintable() or char == "\n")


class _ThreadReader:
    """A file object for a worker thread over the dump's output."""

    def __init__(self, output: _DumpOutput) -> None:
        self._output = output

    def readinto(self, buffer: memoryview, /) -> int:
        filled = 0
        while filled < len(buffer):
            piece = anyio.from_thread.run(self._output.receive, len(buffer) - filled)
            if not piece:
                break
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled


def _check_images(img_dir: Path) -> None:
    """SNAPSHOT_DUMP_FAILED unless there are images, and nothing but plain files."""
    names = image_files(img_dir)
    for name in names:
        if not stat.S_ISREG((img_dir / name).lstat().st_mode):
            raise _failed(f"the dump holds {name}, which is not a file")
    if not any(map(_CORE_IMAGE.fullmatch, names)):
        raise _failed("the dump holds no core-<pid>.img: no process was dumped")


def _failed(message: str) -> SnapshotError:
    return SnapshotError(ErrorCode.SNAPSHOT_DUMP_FAILED, message)
