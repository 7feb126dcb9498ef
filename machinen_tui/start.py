"""Where the command `machinen-tui` begins, before anything that takes time is imported.

A Ctrl-C that comes while it still loads ends it at once and without a traceback, as for `machinen`.
"""

from __future__ import annotations

from machinen_runtime.cli_start import leave_at_once, nothing_is_left_to_do

SIGINT = 2
"""Without the milliseconds that `import signal` takes."""


def main() -> int:
    """Run the application; the exit status."""
    leave_at_once(SIGINT)
    from machinen_tui.__main__ import main as run_application

    try:
        return run_application()
    except KeyboardInterrupt:
        return 128 + SIGINT
    finally:  # the terminal is its owner's again
        nothing_is_left_to_do(SIGINT)
