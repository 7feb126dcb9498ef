"""Copy directories into and out of a guest as tar streams, docs/protocol.md 3.5.

Both ends say how it went: a copy that failed in the guest is an error here.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.argument_types import is_path, is_sequence, is_text
from machinen_runtime.channel_stream import ChannelUnavailableError, connect_channel
from machinen_runtime.errors import ErrorCode, FilesError
from machinen_runtime.tar_extract import UnsafeArchiveError, extract_tar
from machinen_runtime.tar_socket import (
    BrokenFramesError,
    GuestFailedError,
    TarSocket,
    run_in_thread,
)
from machinen_runtime.unix_stream import UnixStream

FILES_PORT = 1976
CONNECT_TIMEOUT_MS = 5_000
CONNECT_RETRY_MS = 200
MAX_HEADER_BYTES = 32
MAX_MESSAGE_BYTES = 65_536
CHUNK_BYTES = 256 * 1024
RECORD_BLOCKS = 128
"""64 KiB at once: with tar's own 10 KiB the pipe behind it costs more than the copying."""

OnBytes: TypeAlias = Callable[[int], object]
"""Called with the number of bytes that went, again and again."""


@asynccontextmanager
async def open_archive(
    vsock_path: str | os.PathLike[str],
    guest_path: str,
    *,
    excludes: Sequence[str] = (),
    timeout_ms: float = CONNECT_TIMEOUT_MS,
    retry_ms: float = CONNECT_RETRY_MS,
) -> AsyncGenerator[TarFrames]:
    """The tree at `guest_path` as the bytes of a tar archive, made by the agent itself.

    Unlike `VsockFiles.pull` it needs no tar in the guest and keeps owners, devices, hard links and
    extended attributes; the same tree gives the same bytes. It does not leave the file system.

    Args:
        excludes: paths relative to `guest_path`; `tmp/` leaves out what is in it, `tmp` also it.

    Raises:
        FilesError: FILES_AGENT_UNAVAILABLE (retryable), FILES_TRANSFER_FAILED.
    """
    lines = [b"EXCLUDE %b\n" % _checked_line(path) for path in excludes]
    request = b"".join([*lines, b"ARCHIVE %b\n" % _checked_path(guest_path)])
    stream = await connect_files(vsock_path, timeout_ms, retry_ms)
    try:
        await stream.send(request)
        yield TarFrames(stream, _ignore)
    except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
        raise _failed("the link to the guest was lost") from error
    finally:
        stream.close()


class VsockFiles:
    """Directories to and from a guest, addressed by its `vsock.sock`."""

    @staticmethod
    async def push(
        vsock_path: str | os.PathLike[str],
        host_dir: str | os.PathLike[str],
        guest_path: str,
        *,
        timeout_ms: float = CONNECT_TIMEOUT_MS,
        retry_ms: float = CONNECT_RETRY_MS,
        excludes: Sequence[str] = (),
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Copy what is in `host_dir` to the absolute `guest_path`, made if missing.

        Files there are overwritten; all belong to root, with the modes they have here. `excludes`
        are patterns of `tar --exclude`. `on_bytes` hears how many bytes of the archive went.

        Raises:
            FilesError: FILES_HOST_DIR_NOT_FOUND, FILES_AGENT_UNAVAILABLE (retryable),
                FILES_TRANSFER_FAILED with what either tar said.
        """
        _require_path(host_dir)
        if not await anyio.to_thread.run_sync(os.path.isdir, host_dir):
            message = f"no such directory to copy: {host_dir!s:.1000}"
            raise FilesError(ErrorCode.FILES_HOST_DIR_NOT_FOUND, message)
        patterns = _checked_patterns(excludes)
        request = b"PUSH %b\n" % _checked_path(guest_path)
        stream = await connect_files(vsock_path, timeout_ms, retry_ms)
        try:
            await stream.send(request)
            await _send_tar(stream, Path(host_dir), patterns, on_bytes or _ignore)
            await stream.send_eof()
            await _read_status(BufferedByteReceiveStream(stream))
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            raise _failed("the link to the guest was lost") from error
        finally:
            stream.close()

    @staticmethod
    async def pull(
        vsock_path: str | os.PathLike[str],
        guest_path: str,
        host_dir: str | os.PathLike[str],
        *,
        timeout_ms: float = CONNECT_TIMEOUT_MS,
        retry_ms: float = CONNECT_RETRY_MS,
        excludes: Sequence[str] = (),
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Copy what is in `guest_path` to `host_dir`, made if missing.

        The guest is not trusted: nothing is written outside of `host_dir`, links into it or out of
        it are never followed, and devices and setuid bits are left out.

        Raises:
            FilesError: FILES_AGENT_UNAVAILABLE (retryable), FILES_TRANSFER_FAILED.
        """
        _require_path(host_dir)
        lines = [b"EXCLUDE %b\n" % pattern for pattern in _checked_patterns(excludes)]
        request = b"".join([*lines, b"PULL %b\n" % _checked_path(guest_path)])
        stream = await connect_files(vsock_path, timeout_ms, retry_ms)
        try:
            await anyio.Path(host_dir).mkdir(parents=True, exist_ok=True)
            await stream.send(request)

            def extract(connected: socket.socket) -> None:
                source = TarSocket(connected, on_bytes or _ignore)
                extract_tar(source, Path(host_dir))
                source.drain()

            await run_in_thread(stream, extract)
        except BrokenFramesError as error:
            raise _failed(f"the guest broke the protocol: {error}") from error
        except GuestFailedError as error:
            raise _guest_failed(str(error)) from error
        except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            raise _failed("the link to the guest was lost") from error
        except (UnsafeArchiveError, OSError) as error:
            raise _failed(str(error)) from error
        finally:
            stream.close()


class TarFrames:
    """The tar stream inside D frames; its end is the guest's OK."""

    def __init__(self, stream: UnixStream, on_bytes: OnBytes) -> None:
        self._reader = BufferedByteReceiveStream(stream)
        self._on_bytes = on_bytes
        self._missing = 0
        self._ended = False

    async def receive(self, max_bytes: int) -> bytes:
        """Some bytes of the archive; b"" after its last. FilesError if the guest failed."""
        while not self._missing and not self._ended:
            line = await _read_line(self._reader)
            tag, _, number = line.partition(b" ")
            if tag == b"D" and number.isdigit():
                self._missing = int(number)
            else:
                await _check_status(line, self._reader)
                self._ended = True
        if self._ended:
            return b""
        data = await self._reader.receive(min(max_bytes, self._missing))
        self._missing -= len(data)
        self._on_bytes(len(data))
        return data


def _ignore(_size: int) -> None:
    """Nobody wants to know how many bytes went."""


async def _send_tar(
    stream: UnixStream, host_dir: Path, patterns: Sequence[bytes], on_bytes: OnBytes
) -> None:
    """Send an archive of `host_dir`. On failure the stream is left without its EOF."""
    program = shutil.which("tar")
    if program is None:
        raise _failed("there is no tar on this host; install the package tar")
    argv: list[str | bytes] = [
        program,
        "-C",
        str(host_dir),
        "-c",
        "--format=gnu",
        f"--blocking-factor={RECORD_BLOCKS}",
    ]
    argv += ["--owner=root:0", "--group=root:0"]  # who we are means nothing in the guest
    argv += [b"--exclude=" + pattern for pattern in patterns]
    async with await anyio.open_process([*argv, "-f", "-", "."], stdin=subprocess.DEVNULL) as tar:
        assert tar.stdout is not None
        assert tar.stderr is not None
        complaint = bytearray()

        async def read_complaint() -> None:
            assert tar.stderr is not None
            async for chunk in tar.stderr:
                complaint.extend(chunk[: MAX_MESSAGE_BYTES - len(complaint)])

        gave_up = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_complaint)
            try:
                while True:
                    piece = await tar.stdout.receive(CHUNK_BYTES)
                    await stream.send(piece)
                    on_bytes(len(piece))
            except anyio.EndOfStream:
                pass
            except anyio.BrokenResourceError:
                # The guest has given up and its answer says why; tar would wait for a reader.
                gave_up = True
                tar.kill()
        code = await tar.wait()
    # 1: a file changed while it was read, which is the way of the world.
    if code not in (0, 1) and not gave_up:
        raise _failed(complaint.decode("utf-8", "replace").strip() or f"tar exited with {code}")


async def _read_status(reader: BufferedByteReceiveStream) -> None:
    await _check_status(await _read_line(reader), reader)


async def _read_line(reader: BufferedByteReceiveStream) -> bytes:
    """A header without its newline; FilesError if it is longer than any of the protocol's."""
    try:
        line = await reader.receive_until(b"\n", MAX_HEADER_BYTES)
    except anyio.DelimiterNotFound as error:
        raise _failed("the guest broke the protocol: it sent no header") from error
    if len(line) > MAX_HEADER_BYTES:  # receive_until() looks further when more came at once
        raise _failed(f"the guest broke the protocol: it sent {line[:MAX_HEADER_BYTES]!r}…")
    return line


async def _check_status(line: bytes, reader: BufferedByteReceiveStream) -> None:
    """Raise FilesError unless `line` is OK."""
    if line == b"OK":
        return
    tag, _, number = line.partition(b" ")
    if tag != b"ERR" or not number.isdigit() or int(number) > MAX_MESSAGE_BYTES:
        raise _failed(f"the guest broke the protocol: it sent {line!r}")
    text = (await reader.receive_exactly(int(number))) if int(number) else b"no reason given"
    raise _guest_failed(text.decode("utf-8", "replace"))


def _guest_failed(message: str) -> FilesError:
    printable = "".join(char if char.isprintable() else " " for char in message)
    return _failed(f"the guest failed: {printable.strip() or 'no reason given'}")


async def connect_files(
    vsock_path: str | os.PathLike[str],
    timeout_ms: float = CONNECT_TIMEOUT_MS,
    retry_ms: float = CONNECT_RETRY_MS,
) -> UnixStream:
    """A stream to the files service; FilesError FILES_AGENT_UNAVAILABLE (retryable) without one."""
    try:
        return await connect_channel(
            vsock_path, FILES_PORT, timeout_ms=timeout_ms, retry_ms=retry_ms
        )
    except ChannelUnavailableError as error:
        raise FilesError(ErrorCode.FILES_AGENT_UNAVAILABLE, str(error), retryable=True) from error


def _require_path(host_dir: str | os.PathLike[str]) -> None:
    if not is_path(host_dir):
        message = f"the host's directory is a path, not {host_dir!r:.100}"
        raise FilesError(ErrorCode.FILES_HOST_DIR_NOT_FOUND, message)


def _checked_path(guest_path: str) -> bytes:
    if not is_text(guest_path) or not guest_path.startswith("/"):
        raise _failed(f"the path in the guest must be absolute, not {guest_path!r:.100}")
    return _checked_line(guest_path)


def _checked_patterns(excludes: Sequence[str]) -> list[bytes]:
    if not is_sequence(excludes):
        raise _failed(f"excludes takes a sequence of patterns, not {excludes!r:.100}")
    return [_checked_line(pattern) for pattern in excludes]


def _checked_line(text: str) -> bytes:
    if not is_path(text) or not is_text(text) or "\n" in text or len(text) > 4000:
        raise _failed(f"a path or pattern is a text without newlines and NULs, not {text!r:.100}")
    return text.encode("utf-8", "surrogateescape")


def _failed(message: str) -> FilesError:
    return FilesError(ErrorCode.FILES_TRANSFER_FAILED, message)
