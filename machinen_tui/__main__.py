"""`machinen-tui [--demo] [--tour]`: read the arguments, show the application. Imports only what
the first paint needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from machinen_runtime.cli_start import let_verbs_unwind

USAGE = """\
usage: machinen-tui [--demo] [--tour] [--help]
       machinen-tui config [keys | path | check]

Watch many sandboxes at once, type into each, snapshot and fork them while they run.

  --demo   boot three sandboxes with something to look at: counter, htop and shell
  --tour   the guided tour again; the first start offers it
  --help   this text

  config        prints every setting with its default: the start of a tui.toml
  config keys   the same for the keys: the start of a keys.toml
  config path   where both are looked for
  config check  says what is wrong in them; status 1 if anything is

Inside, ? lists the keys. Sandboxes go on when you leave; `machinen ls` lists them.
"""

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
    if unknown := [argument for argument in arguments if argument not in ("--demo", "--tour")]:
        sys.stderr.write(f"machinen-tui: unknown argument {unknown[0]}\n{USAGE}")
        return 2
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        sys.stderr.write("machinen-tui needs a terminal; `machinen ls` works without one\n")
        return 2
    os.environ.setdefault("ESCDELAY", "20")  # Textual waits this many ms to tell Esc from Alt
    sys.setswitchinterval(SWITCH_S)
    return _run(demo="--demo" in arguments, tour="--tour" in arguments)


def _run(*, demo: bool, tour: bool) -> int:
    from machinen_tui.app import MachinenApp
    from machinen_tui.habits import Habits
    from machinen_tui.runtime_gateway import RuntimeGateway
    from machinen_tui.wanted import NewSandbox

    wanted = [
        NewSandbox(name="counter", cmd=("python3", "-c", COUNTER), memory_mib=512),
        NewSandbox(name="htop", cmd=("htop",), memory_mib=512),
        NewSandbox(name="shell", memory_mib=512),
    ]
    app = MachinenApp(
        RuntimeGateway(),
        wanted if demo else (),
        Habits.of_user(),
        tour="given" if tour else "offered",
    )
    let_verbs_unwind()
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    raise SystemExit(main())
