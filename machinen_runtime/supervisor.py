"""Supervisor: switch between sandboxes on a plain terminal, by commands and Ctrl-] Ctrl-]."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack, suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.detach_keys import HOLD_MS, DetachKeys
from machinen_runtime.errors import ErrorCode, MachinenError, SandboxError
from machinen_runtime.sandboxes import OutputSource, SandboxEntry, Sandboxes
from machinen_runtime.terminal_io import (
    STDIN,
    STDOUT,
    DescriptorReceiveStream,
    DescriptorSendStream,
    ScreenWatch,
    raw_terminal,
    terminal_size,
)

MAX_LINE_BYTES = 4096
MAX_UNWRITTEN_BYTES = 1 << 20
"""A sandbox that floods a slow terminal loses its oldest output, not our memory."""


class Supervisor:
    """A text-driven multiplexer. `run()` it; it ends with its input or by `stop()`, and kills none.

    Commands while detached, with the default prefix: /ls, /attach ID, /help, /quit. While attached
    every byte goes to the sandbox; Ctrl-] Ctrl-] comes back.
    """

    def __init__(
        self,
        *,
        sandboxes: Sandboxes,
        input_stream: ByteReceiveStream | None = None,
        output_stream: ByteSendStream | None = None,
        command_prefix: str = "/",
        raw_tty_on_attach: bool | None = None,
        forward_resize: bool | None = None,
    ) -> None:
        self.sandboxes = sandboxes
        self._input = input_stream or DescriptorReceiveStream(STDIN)
        self._output = output_stream or DescriptorSendStream(STDOUT)
        self._prefix = command_prefix
        on_terminal = input_stream is None and os.isatty(STDIN)
        self._raw = on_terminal if raw_tty_on_attach is None else raw_tty_on_attach
        shown = output_stream is None and os.isatty(STDOUT)
        self._forward_resize = shown if forward_resize is None else forward_resize
        self._attached: SandboxEntry | None = None
        self._while_attached = ExitStack()
        self._keys = DetachKeys()
        self._screen = ScreenWatch()
        self._line = bytearray()
        self._unwritten = bytearray()
        self._to_write = anyio.Event()
        self._scope = anyio.CancelScope()

    async def run(self) -> None:
        """Serve the input until it ends, /quit, or stop()."""
        self._print(self._banner())
        with self._scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write_output)
                if self._forward_resize:
                    tasks.start_soon(self._follow_size)
                await self._read_input()
                tasks.cancel_scope.cancel()
        self.detach()
        await self._flush()

    def stop(self) -> None:
        """End `run()`. Sandboxes run on."""
        self._scope.cancel()

    def attach(self, sandbox_id: str) -> None:
        """Show a sandbox, after leaving the one shown; SANDBOX_ID_UNKNOWN."""
        self.detach()
        entry = self.sandboxes.get(sandbox_id)
        if entry is None:
            raise SandboxError(
                ErrorCode.SANDBOX_ID_UNKNOWN,
                f"no sandbox {sandbox_id!r}; {self._prefix}ls lists them",
            )
        self._while_attached.callback(self.sandboxes.on_output(sandbox_id, self._show))
        self._while_attached.callback(self.sandboxes.on_end(sandbox_id, self._leave_ended))
        self._screen = ScreenWatch()
        if self._raw:
            self._while_attached.callback(lambda: self._write(self._screen.reset_sequence()))
            self._while_attached.enter_context(raw_terminal())
        self._attached = entry
        self._show(entry.scrollback)
        self._keys = DetachKeys()
        self._resize()
        self._print(f"-- attached to {sandbox_id}; Ctrl-] Ctrl-] comes back --")

    def detach(self) -> None:
        """Leave the sandbox that is shown, if one is."""
        entry, self._attached = self._attached, None
        if entry is not None:
            self._while_attached.close()
            self._print(f"-- detached from {entry.id} --")

    # -- input ------------------------------------------------------------------------------------

    async def _read_input(self) -> None:
        while not self._scope.cancel_called:
            try:
                with anyio.move_on_after(HOLD_MS / 1000 if self._keys.holding else None):
                    await self._ingest(await self._input.receive())
                    continue
            except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
            await self._send(self._keys.flush())

    async def _ingest(self, chunk: bytes) -> None:
        """Bytes for the sandbox while one is shown, for the command line while none is."""
        while chunk:
            if self._attached is not None:
                typed = self._keys.feed(chunk)
                await self._send(typed.forward)
                if typed.detached:
                    self.detach()
                chunk = typed.rest
            else:
                chunk = self._ingest_line(chunk)

    def _ingest_line(self, chunk: bytes) -> bytes:
        """Take bytes up to the end of a line and obey it. Returns what follows."""
        end = min((at for at in (chunk.find(b"\n"), chunk.find(b"\r")) if at >= 0), default=-1)
        piece = chunk if end < 0 else chunk[:end]
        self._line += piece[: MAX_LINE_BYTES - len(self._line)]
        if end < 0:
            return b""
        line = self._line.decode("utf-8", "replace").strip()
        self._line.clear()
        if line:
            self._obey(line)
        return chunk[end + 1 :]

    async def _send(self, data: bytes) -> None:
        if data and self._attached is not None:
            await self.sandboxes.send(self._attached.id, data)

    # -- commands ---------------------------------------------------------------------------------

    def _obey(self, line: str) -> None:
        if not line.startswith(self._prefix):
            self._print(
                f"(unknown input; commands start with {self._prefix}, see {self._prefix}help)"
            )
            return
        word, _, argument = line[len(self._prefix) :].partition(" ")
        match word, argument.strip():
            case "ls", _:
                self._print_sandboxes()
            case "attach", "":
                self._print(f"usage: {self._prefix}attach ID")
            case "attach", sandbox_id:
                try:
                    self.attach(sandbox_id)
                except MachinenError as error:
                    self._print(f"({error.code}) {error}")
            case (("quit" | "exit"), _):
                self.stop()
            case "help", _:
                self._print(self._banner())
            case _:
                self._print(f"unknown command {self._prefix}{word}; see {self._prefix}help")

    def _print_sandboxes(self) -> None:
        listed = self.sandboxes.list()
        for info in listed:
            self._print(f"  {info.id}")
        if not listed:
            self._print("(no sandboxes registered)")

    def _banner(self) -> str:
        prefix = self._prefix
        return "\n".join(
            [
                f"machinen supervisor; commands start with {prefix}",
                f"  {prefix}ls           list the sandboxes",
                f"  {prefix}attach ID    show a sandbox; Ctrl-] Ctrl-] comes back",
                f"  {prefix}quit         leave; sandboxes run on",
                f"  {prefix}help         this text",
            ]
        )

    # -- output -----------------------------------------------------------------------------------

    def _show(self, chunk: bytes, _source: OutputSource = "stdout") -> None:
        self._screen.feed(chunk)
        self._write(chunk)

    def _print(self, text: str) -> None:
        # While the terminal is raw, a newline alone would not go back to the first column.
        self._write(text.replace("\n", "\r\n").encode() + b"\r\n")

    def _write(self, data: bytes) -> None:
        self._unwritten += data
        excess = len(self._unwritten) - MAX_UNWRITTEN_BYTES
        if excess > 0:
            del self._unwritten[:excess]
        self._to_write.set()

    async def _write_output(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write = anyio.Event()
            await self._flush()

    async def _flush(self) -> None:
        while self._unwritten:
            data = bytes(self._unwritten)
            self._unwritten.clear()
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._output.send(data)

    # -- the sandbox that is shown ----------------------------------------------------------------

    def _leave_ended(self) -> None:
        if self._attached is not None:
            self._print(f"-- {self._attached.id} has ended --")
            self.detach()

    async def _follow_size(self) -> None:
        with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
            async for _ in signals:
                self._resize()

    def _resize(self) -> None:
        resize = getattr(self._attached.vm, "resize", None) if self._attached else None
        if resize is not None and self._forward_resize:
            resize(*terminal_size())
