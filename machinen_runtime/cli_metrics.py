"""`machinen metrics` and `machinen trace`: figures for monitoring, timelines for a browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from machinen_runtime.cli_support import Verb, complete_vm, find_target, once, run_async
from machinen_runtime.errors import ErrorCode, ParseError
from machinen_runtime.paths import write_atomically
from machinen_runtime.registry import live_entries


@click.command("metrics", cls=Verb, short_help="Print or serve figures of all sandboxes.")
@once("--listen", metavar="PATH", help="Serve them over HTTP on a Unix socket, until Ctrl-C.")
def metrics_command(listen: str | None) -> None:
    """Print what all sandboxes cost and did as OpenMetrics text, or serve it to agents that scrape:
    state, processor, memory, disk, bytes, commands with their latency, boots and snapshots.

    The socket is yours alone (mode 0600) and goes with the command.

    \b
    Examples:
      machinen metrics
      machinen metrics --listen /run/user/1000/machinen.sock
      curl --unix-socket /run/user/1000/machinen.sock http://localhost/metrics
    """
    if listen is None:
        from machinen_runtime.metrics import metrics_text

        click.echo(run_async(metrics_text), nl=False)
        return
    run_async(_serve, listen)


async def _serve(path: str) -> None:
    from functools import partial

    import anyio

    from machinen_runtime.metrics_server import serve_metrics

    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve_metrics, path))
        click.echo(f"machinen: figures are served at {path}; Ctrl-C ends it", err=True)


@click.command("trace", cls=Verb, short_help="Write what sandboxes did, as a timeline.")
@click.argument("vms", metavar="[VM]...", nargs=-1, shell_complete=complete_vm)
@click.option("-a", "--all", "everything", is_flag=True, help="Every running sandbox.")
@once("-o", "--output", metavar="FILE", help="Write it to this file instead of stdout.")
def trace_command(vms: Sequence[str], everything: bool, output: str | None) -> None:
    """Write the last boots, forks, restores, snapshots and commands of sandboxes, with their phases
    and states, as JSON in Chrome's trace format: open it in Perfetto or chrome://tracing.

    Of commands only the program's name is kept, never an argument.

    \b
    Examples:
      machinen trace web -o web.json
      machinen trace --all -o all.json
    """
    if everything == bool(vms):
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, "name sandboxes, or pass --all")
    entries = live_entries() if everything else [find_target(vm) for vm in vms]

    async def read() -> dict[str, Any]:
        from machinen_runtime.trace import chrome_trace

        return await chrome_trace(list({entry.pid: entry for entry in entries}.values()))

    text = json.dumps(run_async(read)) + "\n"
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)


def _write(output: str, text: str) -> None:
    """Whole or not at all, for the user's eyes; a device or a pipe is just written to."""
    from pathlib import Path

    path = Path(output)
    if path.exists() and not path.is_file():
        path.write_text(text)
    else:
        write_atomically(path, text)
