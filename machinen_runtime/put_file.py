"""Write a large file into a guest: PUT carries the bytes, docs/protocol.md 3.5, a shell the rest.

Through the standard input of a program in the guest, each byte is copied three times more, and a
turn of the event loop moves 64 KiB. Here a thread sends the file, which this process never reads.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
from contextlib import suppress

import anyio
import anyio.from_thread

from machinen_runtime.channel_conversation import Conversation, LinkLostError
from machinen_runtime.channel_exec import (
    DEFAULT_CONNECT_TIMEOUT_MS,
    DEFAULT_RETRY_MS,
    lost_link_error,
)
from machinen_runtime.channel_files import OnBytes, connect_files
from machinen_runtime.channel_format import (
    INPUT_END,
    Exit,
    Failure,
    RunRequest,
    Stderr,
    Stdout,
    failure_error,
    input_frames,
)
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.options import WriteFileOptions
from machinen_runtime.tar_socket import (
    BrokenFramesError,
    GuestFailedError,
    TarSocket,
    run_in_thread,
)
from machinen_runtime.write_file import put_command

LEAST_BYTES = 1 << 20
"""A smaller file is there sooner by one conversation alone."""
SEND_BYTES = 1 << 20
MAX_STAGE_BYTES = 4000
MAX_COMPLAINT_BYTES = 65_536
GIVE_UP_S = 5.0
NO_SUCH_VERB = "the first line is PUSH"
"""How an agent of a guest snapshotted earlier begins its answer to PUT."""


async def put_guest_file(
    vsock_path: str | os.PathLike[str],
    guest_path: str,
    file: int,
    options: WriteFileOptions,
    on_bytes: OnBytes,
) -> bool:
    """Write the open plain file `file`, from its position on, to `guest_path` in the guest.

    False if the guest knows no PUT, or its path cannot be said in a line: it is as it was then.
    `on_bytes` hears how many bytes went.

    Raises:
        ExecError: EXEC_AGENT_UNAVAILABLE (retryable), EXEC_NONZERO_EXIT if the guest could not
            write: no permission, disk full, a directory there.
        OSError: `file` cannot be read.
    """
    token = secrets.token_hex(8)
    request = RunRequest(cmd=put_command(guest_path, options, token), stdin=True).to_bytes()
    try:
        conversation = await Conversation.open(
            vsock_path, timeout_ms=DEFAULT_CONNECT_TIMEOUT_MS, retry_ms=DEFAULT_RETRY_MS
        )
        try:
            await conversation.send(request)
            script = _Script(conversation, guest_path)
            stage = await script.stage()
            size = None
            try:
                if stage.endswith(token.encode()) and len(stage) <= MAX_STAGE_BYTES:
                    size = await _put(vsock_path, guest_path, stage, file, on_bytes)
            finally:
                if size is None:
                    await script.give_up()
            if size is None:
                return False
            await conversation.send(input_frames(b"%d\n" % size) + INPUT_END)
            await script.end()
        finally:
            conversation.close()
    except (ChannelUnavailableError, LinkLostError) as error:
        raise await lost_link_error(vsock_path, error) from error
    return True


class _Script:
    """The command in the guest: it names its stage, and ends once it has heard the size."""

    def __init__(self, conversation: Conversation, guest_path: str) -> None:
        self._conversation = conversation
        self._guest_path = guest_path
        self._told = bytearray()
        self._complaint = bytearray()
        self._code: int | None = None

    async def stage(self) -> bytes:
        """The path of the file to be written, without what would follow a newline in it."""
        while b"\n" not in self._told and self._code is None and len(self._told) < MAX_STAGE_BYTES:
            await self._receive()
        if self._code is not None:
            raise failed_write(self._guest_path, self._why())
        return bytes(self._told).partition(b"\n")[0]

    async def end(self) -> None:
        """Wait for the end; ExecError unless all went well."""
        while self._code is None:
            await self._receive()
        if self._code != 0:
            raise failed_write(self._guest_path, self._why())

    async def give_up(self) -> None:
        """Make the command remove its stage. Who is cancelled does not wait: it is hung up on."""
        with anyio.move_on_after(GIVE_UP_S), suppress(ExecError, LinkLostError):
            await self._conversation.send(INPUT_END)
            while self._code is None:
                await self._receive()

    async def _receive(self) -> None:
        for reply in await self._conversation.receive():
            match reply:
                case Stdout(data):
                    self._told += data[: MAX_STAGE_BYTES - len(self._told)]
                case Stderr(data):
                    self._complaint += data[: MAX_COMPLAINT_BYTES - len(self._complaint)]
                case Exit(code):
                    self._code = code
                    return
                case Failure():
                    raise failure_error(reply)
                case _:
                    raise ExecError(
                        ErrorCode.EXEC_PROTOCOL, f"not a reply to a command: {reply!r:.80}"
                    )

    def _why(self) -> str:
        complaint = self._complaint.decode("utf-8", "replace").strip()
        return complaint or f"exit code {self._code}"


def failed_write(guest_path: str, why: str) -> ExecError:
    """The error for a guest that could not write a file, with its words."""
    return ExecError(
        ErrorCode.EXEC_NONZERO_EXIT, f"could not write {guest_path} in the guest: {why}"
    )


async def _put(
    vsock_path: str | os.PathLike[str], guest_path: str, stage: bytes, file: int, on_bytes: OnBytes
) -> int | None:
    """Send the file; returns how many bytes that were, or None if the agent knows no PUT."""
    stream = await connect_files(vsock_path)

    def send(connected: socket.socket) -> int:
        size = _send_file(connected, file, on_bytes)
        TarSocket(connected, on_bytes).expect_ok()
        return size

    try:
        await stream.send(b"PUT %b\n" % stage)
        return await run_in_thread(stream, send)
    except GuestFailedError as error:
        if str(error).startswith(NO_SUCH_VERB):
            return None
        text = "".join(char if char.isprintable() else " " for char in str(error)).strip()
        raise failed_write(guest_path, text) from error
    except BrokenFramesError as error:
        raise ExecError(
            ErrorCode.EXEC_PROTOCOL, f"the guest broke the protocol: {error}"
        ) from error
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise LinkLostError(answered=True) from error
    finally:
        stream.close()


def _send_file(connected: socket.socket, file: int, on_bytes: OnBytes) -> int:
    """Send all of it and its end; less if the guest says something, or goes away, before."""
    size = 0
    spoken = select.poll()
    spoken.register(connected, select.POLLIN)
    while not spoken.poll(0):
        try:
            sent = os.sendfile(connected.fileno(), file, None, SEND_BYTES)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                break
            raise
        if not sent:
            break
        size += sent
        anyio.from_thread.run_sync(on_bytes, sent)
    try:
        connected.shutdown(socket.SHUT_WR)
    except OSError as error:
        raise anyio.BrokenResourceError(str(error)) from error
    return size
