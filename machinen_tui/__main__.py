"""`machinen-tui [--demo] [--tour]`: read the arguments, show the application. Imports only what
the first paint needs."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from machinen_runtime.cli_start import let_verbs_unwind

if TYPE_CHECKING:
    from machinen_tui.wanted import NewSandbox

USAGE = """\
usage: machinen-tui [--demo] [--tour] [--help]
       machinen-tui --serve [HOST:]PORT [--allow-remote] [--demo]
       machinen-tui config [keys | path | check]

Watch many sandboxes at once, type into each, snapshot and fork them while they run.

  --demo   boot three sandboxes with something to look at: counter, htop and shell
  --tour   the guided tour again; the first start offers it
  --serve [HOST:]PORT   in a browser; prints the address, which only you should have
  --allow-remote        HOST may be an address that others reach
  --help   this text

  config        prints every setting with its default: the start of a tui.toml
  config keys   the same for the keys: the start of a keys.toml
  config path   where both are looked for
  config check  says what is wrong in them; status 1 if anything is

Inside, ? lists the keys. Sandboxes go on when you leave; `machinen ls` lists them.
"""

FLAGS = ("--demo", "--tour")
SERVE, REMOTE = "--serve", "--allow-remote"

SWITCH_S = 0.001
"""How soon a busy thread lets another in: keys are read and rows written by threads of their own,
and Python's 5 ms are a frame's third each time."""

COUNTER = """\
import itertools, socket, time
for number in itertools.count():
    bar = "#" * (number % 20 + 1)
    print(f"\\033[36m{socket.gethostname():10}\\033[0m {number:6}  \\033[32m{bar}\\033[0m",
    flush=True)
    time.sleep(1)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the application; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(USAGE)
        return 0
    if arguments[:1] == ["config"]:
        from machinen_tui.config_command import config_command

        return config_command(arguments[1:], sys.stdout.write, sys.stderr.write)
    try:
        address, rest = _serve_address(arguments)
    except ValueError as error:
        sys.stderr.write(f"machinen-tui: {error}\n")
        return 2
    if unknown := [argument for argument in rest if argument not in FLAGS]:
        sys.stderr.write(f"machinen-tui: unknown argument {unknown[0]}\n{USAGE}")
        return 2
    if address is not None:
        return _serve(*address, rest)
    if not os.environ.get("TEXTUAL_DRIVER") and (problem := _no_terminal()):
        sys.stderr.write(f"machinen-tui: {problem}\n")
        return 2
    os.environ.setdefault("ESCDELAY", "20")  # Textual waits this many ms to tell Esc from Alt
    sys.setswitchinterval(SWITCH_S)
    return _run(demo="--demo" in arguments, tour="--tour" in arguments)


def _no_terminal() -> str:
    """What keeps it from drawing; empty if nothing does."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return "it needs a terminal; `machinen ls` works without one"
    if not sys.stderr.isatty():  # where Textual draws
        sys.stdout.write("machinen-tui draws on its standard error: do not redirect it\n")
        return "standard error is no terminal"
    return ""


def _serve_address(arguments: Sequence[str]) -> tuple[tuple[str, int] | None, list[str]]:
    """Where to serve, if that is asked for, and the other arguments. ValueError: not there."""
    from machinen_tui.serve_address import ServeError, parse_address

    rest = [argument for argument in arguments if argument != REMOTE]
    if SERVE not in rest:
        return None, list(arguments)
    at = rest.index(SERVE)
    if at + 1 == len(rest):
        raise ServeError(f"{SERVE} takes [HOST:]PORT, for instance 8000")
    address = parse_address(rest[at + 1], allow_remote=REMOTE in arguments)
    return address, rest[:at] + rest[at + 2 :]


def _serve(host: str, port: int, rest: Sequence[str]) -> int:
    try:
        from machinen_tui.serve import serve_command
    except ModuleNotFoundError as error:
        sys.stderr.write(f"machinen-tui: {SERVE} needs {error.name}: pip install textual-serve\n")
        return 1
    return serve_command(host, port, rest)


def _run(*, demo: bool, tour: bool) -> int:
    gc.disable()  # of what is imported nothing is garbage: looking for it takes a tenth of the time
    from machinen_tui.app import MachinenApp
    from machinen_tui.garbage import collect_seldom
    from machinen_tui.habits import Habits
    from machinen_tui.runtime_gateway import RuntimeGateway

    app = MachinenApp(
        RuntimeGateway(),
        _demo() if demo else (),
        Habits.of_user(),
        tour="given" if tour else "offered",
    )
    gc.freeze()  # nor is it ever looked at again
    gc.enable()
    collect_seldom()
    let_verbs_unwind()
    app.run()
    return app.return_code or 0


def _demo() -> list[NewSandbox]:
    from machinen_tui.wanted import NewSandbox

    return [
        NewSandbox(name="counter", cmd=("python3", "-c", COUNTER), memory_mib=512),
        NewSandbox(name="htop", cmd=("htop",), memory_mib=512),
        NewSandbox(name="shell", memory_mib=512),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
