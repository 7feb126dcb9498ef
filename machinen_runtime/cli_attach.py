"""`machinen attach` and `machinen sessions`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from machinen_runtime.cli_support import (
    Verb,
    find_target,
    format_duration,
    json_option,
    once,
    print_json,
    print_table,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, ParseError


@click.command("attach", cls=Verb, short_help="Attach this terminal to a session of a sandbox.")
@vm_argument()
@once("--session", metavar="NAME", help="The session to attach to; main if not given.")
@once("--new", metavar="CMD", help="Start the session with this command if it does not exist.")
def attach_command(vm: str, session: str | None, new: str | None) -> int:
    """Show a session of a sandbox on this terminal, led by what it showed before.

    Ctrl-] Ctrl-] leaves; the session goes on and any other terminal may show it, too. A single
    Ctrl-] reaches the guest. Where stdin is no terminal its end is not the session's: its output
    is shown until it ends, or until Ctrl-C.

    \b
    Examples:
      machinen attach web
      machinen attach web --session logs --new 'journalctl -f'
    """
    from machinen_runtime.cli_terminal import Left, attach_session, notice

    if new is not None and session is None:
        raise ParseError(
            ErrorCode.PARSE_FLAG_MISSING_VALUE, "--new starts another session: name it by --session"
        )
    entry = find_target(vm)

    async def attach() -> Left | int:
        return await attach_session(
            entry.socket_path, session or "main", command=new, create=new is not None
        )

    outcome = run_async(attach)
    if isinstance(outcome, Left):
        again = f"machinen attach {vm}" + (f" --session {session}" if session else "")
        notice(f"[left {vm}; `{again}` comes back]")
        return 0
    return outcome


@click.command("sessions", cls=Verb, short_help="List the sessions of a sandbox, or end one.")
@vm_argument()
@once("--kill", metavar="NAME", help="End this session instead: HUP, after a second KILL.")
@json_option
def sessions_command(vm: str, kill: str | None, as_json: bool) -> None:
    """List the terminals in a sandbox that one can attach to.

    \b
    Example:
      machinen sessions web --kill logs
    """
    from machinen_runtime.channel_sessions import SessionInfo, kill_session, list_sessions

    entry = find_target(vm)

    async def act() -> list[SessionInfo]:
        if kill is not None:
            await kill_session(entry.socket_path, kill)
            return []
        return await list_sessions(entry.socket_path)

    sessions = run_async(act)
    if as_json:
        print_json({"vm": entry.name or entry.pid, "sessions": [asdict(one) for one in sessions]})
    elif kill is None:
        now_ms = time.time() * 1000
        rows = [
            [
                one.name,
                str(one.pid),
                f"{one.cols}x{one.rows}",
                str(one.clients),
                format_duration(now_ms - one.started_at),
            ]
            for one in sessions
        ]
        print_table(["NAME", "PID", "SIZE", "CLIENTS", "UP"], rows)
