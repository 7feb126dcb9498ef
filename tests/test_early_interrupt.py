"""Ctrl-C while a command still loads: it leaves at once, without a traceback. While Python ends it
changes nothing.

Before a command's own first module it is Python's to answer, so nothing of weight may load there.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest

COMMANDS = {
    "machinen": "from machinen_runtime.cli_start import main; main()",
    "machinen-tui": "from machinen_tui.start import main; raise SystemExit(main())",
}


@pytest.fixture
def terminal() -> Generator[int]:
    """The end of a terminal a command may have for its own."""
    ours, theirs = os.openpty()
    yield theirs
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_loads_before_a_commands_own_module_takes_no_time(name: str) -> None:
    entry = COMMANDS[name].partition(";")[0]
    listing = f"import sys; before = {{*sys.modules}}; {entry}; print(*{{*sys.modules}} - before)"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, check=True, text=True
    )
    assert set(done.stdout.split()) <= {
        "__future__",
        "atexit",
        "machinen_runtime",
        "machinen_runtime.cli_start",
        "machinen_runtime.public_names",
        "machinen_tui",
        "machinen_tui.start",
        "types",
    }


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("more", [*range(0, 40, 8), *range(50, 500, 75)])
async def test_an_early_ctrl_c_shows_no_traceback(
    machinen_home: Path, terminal: int, name: str, more: int
) -> None:
    """Interrupted after as many more imports as `more` says; the reader is never far behind."""
    argv = [sys.executable, "-X", "importtime", "-c", COMMANDS[name]]
    module = COMMANDS[name].split()[1]
    begins = re.compile(rf"\| +{re.escape(module)}\n.*\n".encode())  # it is there, and then another
    argv += ["ls"] if name == "machinen" else []
    # Without a driver `machinen-tui` would say that its stderr is no terminal.
    env = {**os.environ, "TEXTUAL_DRIVER": "textual.drivers.headless_driver:HeadlessDriver"}
    async with await anyio.open_process(argv, stdin=terminal, stdout=terminal, env=env) as client:
        assert client.stderr is not None
        said, sent = b"", False
        async for piece in client.stderr:
            said += piece
            begun = begins.search(said)
            if begun is not None and not sent and said.count(b"\n", begun.end()) >= more:
                client.send_signal(signal.SIGINT)
                sent = True
        assert b"Traceback" not in said
        assert await client.wait() in {0, 130}  # 0: `ls` is done, or the application is up and left


INTERRUPTED_END = """\
import os
class Interrupt:
    def __del__(self, kill=os.kill, pid=os.getpid(), write=os.write):
        kill(pid, SIGNAL)
        write(2, b"and went on")
interrupt = Interrupt()  # Python lets go of it when it has given signals their defaults back
"""


@pytest.mark.parametrize(
    ("name", "number"),
    [("machinen", signal.SIGINT), ("machinen", signal.SIGTERM), ("machinen-tui", signal.SIGINT)],
)
def test_a_signal_in_pythons_own_end_changes_nothing(name: str, number: int) -> None:
    program = INTERRUPTED_END.replace("SIGNAL", str(int(number))) + COMMANDS[name]
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "and went on")
