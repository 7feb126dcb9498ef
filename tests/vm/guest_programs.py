"""Programs in a guest, in one of its terminals, shown by our terminal and by tmux; and programs of
this host that are lent to the guest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from machinen_runtime.channel_sessions import Exited, Output, TerminalSession
from machinen_runtime.handle import VmHandle
from tests.tui.programs import COLUMNS, LINES, Compared, Shown
from tests.tui.terminal_oracles import tmux_pane

LENT = "/mnt/lent"
"""Where the guest finds what the host lends it."""
STEP_S = 60.0


class GuestProgram(Shown):
    """A program in a session of a guest; what our terminal answers goes back to it."""

    def __init__(self, session: TerminalSession) -> None:
        self._answers: list[bytes] = []
        super().__init__(self._answers.append)
        self._session = session

    async def type(self, data: bytes) -> None:
        await self._session.send(data)

    async def until(self, text: str) -> None:
        """Read until `text` is on the screen."""
        with anyio.move_on_after(STEP_S) as waiting:
            while text not in self.model.screen_text():
                await self._read()
        assert not waiting.cancelled_caught, f"waited for {text!r}:\n{self.model.screen_text()}"

    async def _read(self) -> None:
        event = await self._session.receive()
        assert not isinstance(event, Exited), f"it has ended:\n{self.model.screen_text()}"
        if isinstance(event, Output):
            self.take(event.data)
            answers, self._answers[:] = b"".join(self._answers), []
            await self._session.send(answers)


class GuestBeside(Compared):
    """A program of a guest beside tmux: after each step both must show the same."""

    program: GuestProgram

    async def step(self, keys: bytes, shown: str) -> None:
        """Type `keys`, wait for `shown`, compare."""
        await self.program.type(keys)
        await self.program.until(shown)
        self.compare()


@asynccontextmanager
async def guest_beside_tmux(
    vm: VmHandle, argv: Sequence[str], directory: Path
) -> AsyncGenerator[GuestBeside]:
    """`argv` in a terminal of the guest, beside tmux here, for the length of the block."""
    name = Path(argv[0]).name
    command = ["env", "TERM=xterm-256color", "LC_ALL=C.UTF-8", "PS1=$ ", *argv]
    session = vm.open_session(name, cols=COLUMNS, rows=LINES, cmd=command, create=True)
    async with session as connected:
        try:
            with tmux_pane(directory, COLUMNS, LINES) as pane:
                program = GuestProgram(connected)
                both = GuestBeside(program, pane)
                both.program = program
                yield both
        finally:
            await vm.kill_session(name)


def lend(directory: Path, programs: Sequence[str], shared: Sequence[Path] = ()) -> None:
    """Put programs of this host into `directory`, with the loader and the libraries they were
    linked with: what the guest has need not fit. `shared` are directories of data they read."""
    for part in ("bin", "lib", "share"):
        (directory / part).mkdir()
    for name in programs:
        path = shutil.which(name)
        assert path is not None, f"{name} is missing; make setup installs it"
        binary = os.path.realpath(path)
        listed = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
        libraries = [word for word in listed.split() if word.startswith("/")]
        loader = next(Path(word).name for word in libraries if "/ld-" in word)
        for library in libraries:
            shutil.copy(library, directory / "lib")
        shutil.copy(binary, directory / "lib" / f"{name}.bin")
        start = f"{LENT}/lib/{loader} --library-path {LENT}/lib {LENT}/lib/{name}.bin"
        script = directory / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        script.chmod(0o755)
    for data in shared:
        shutil.copytree(data, directory / "share" / data.name)
