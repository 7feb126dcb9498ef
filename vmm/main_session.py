"""Session `main` over two pipes, for the process that booted the VM and did not detach.

The pipes are that process' `stdin` and `stdout` of the VM. A reader that does not keep up loses
output, never stops the guest: the session itself keeps the last 256 KiB for whoever attaches.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

import anyio
from anyio.abc import TaskStatus

from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.spec import WorkloadSpec
from vmm.workload import EXEC_PORT, start_workload

_HEADER = re.compile(rb"([OEXFSP]) (\d{1,9})(?: (\d{1,5}))?\n")
_MAX_HEADER_BYTES = 24
_INPUT_BYTES = 32768


Pipes = tuple[int, int]
"""The ends of two pipes: what is typed, what is shown."""


async def run_workload(
    mux: ChannelMux,
    workload: WorkloadSpec,
    pipes: Pipes | None,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Start the workload; it is started when the task is. Then copy all it says, if asked to.

    Raises:
        VmmError: WORKLOAD_FAILED with the agent's reason.
    """
    async with mux.open_stream(EXEC_PORT) as stream:
        first = await start_workload(stream, workload)
        task_status.started()
        if pipes is not None:
            await _copy_both(stream, pipes, first)


async def attach_main(mux: ChannelMux, input_fd: int, output_fd: int) -> None:
    """Copy both ways until the session or the VM ends."""
    request = b"session=main\0attach=1\0"
    with suppress(VmmError, StreamResetError):
        async with mux.open_stream(EXEC_PORT) as stream:
            await stream.send(b"RUN %d\n%s" % (len(request), request))
            await _copy_both(stream, (input_fd, output_fd), b"")


async def _copy_both(stream: MuxStream, pipes: Pipes, first: bytes) -> None:
    """Until the session or the VM ends; then close the output pipe, so that its reader knows."""
    input_fd, output_fd = pipes
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_copy_input, stream, input_fd)
            await _copy_output(stream, output_fd, first)
            tasks.cancel_scope.cancel()
    finally:
        os.close(output_fd)


async def _copy_input(stream: MuxStream, input_fd: int) -> None:
    os.set_blocking(input_fd, False)
    while True:
        await anyio.wait_readable(input_fd)
        data = os.read(input_fd, _INPUT_BYTES)
        if not data:  # the other side closed its end; the session goes on without it
            return
        try:
            await stream.send(b"I %d\n" % len(data) + data)
        except StreamResetError:
            return


async def _copy_output(stream: MuxStream, output_fd: int, data: bytes) -> None:
    os.set_blocking(output_fd, False)
    splitter = OutputSplitter()
    with suppress(StreamResetError):  # the VM ended, or stopped making sense: no more output
        data = data or await stream.receive()
        while data:
            with suppress(BlockingIOError, BrokenPipeError):
                os.write(output_fd, splitter.feed(data))
            data = await stream.receive()


class OutputSplitter:
    """The terminal's bytes out of a session's replies (docs/protocol.md, 3.1 and 3.2)."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self._wanted = False

    def feed(self, data: bytes) -> bytes:
        """Terminal output contained in the next bytes of the stream.

        Raises:
            StreamResetError: the guest sent something that is no reply.
        """
        self._pending += data
        output: list[bytes] = []
        while self._pending:
            if self._left:
                piece = self._pending[: self._left]
                self._left -= len(piece)
                self._pending = self._pending[len(piece) :]
                if self._wanted:
                    output.append(piece)
                continue
            header = _HEADER.match(self._pending)
            if header is None:
                if b"\n" in self._pending or len(self._pending) > _MAX_HEADER_BYTES:
                    raise StreamResetError(71, "the session sent no reply we know")  # EPROTO
                break
            self._pending = self._pending[header.end() :]
            tag = header[1]
            self._wanted = tag in b"OP"
            self._left = int(header[2]) if tag in b"OEFP" else 0
        return b"".join(output)
