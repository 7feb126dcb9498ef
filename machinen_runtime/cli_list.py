"""`machinen ls`. Imports no event loop: it is typed a hundred times a day."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from machinen_runtime.cli_support import (
    format_bytes,
    format_duration,
    json_option,
    print_json,
    print_table,
)
from machinen_runtime.memory import read_host_rss_bytes_multi
from machinen_runtime.registry import RegistryEntry, live_entries

HEADER = ["PID", "NAME", "UP", "MEM", "PORTS", "FORKED-FROM"]
MEMORY_COLUMN = HEADER.index("MEM")


@click.command("ls", short_help="List the running sandboxes.")
@json_option
def ls_command(as_json: bool) -> None:
    """List the running sandboxes, oldest first.

    MEM is what monitor and QEMU hold of the host's memory, against the most the guest may use.

    \b
    Example:
      machinen ls --json | jq -r '.vms[].name'
    """
    entries = live_entries()
    resident = read_host_rss_bytes_multi(entry.pid for entry in entries)
    now_ms = time.time() * 1000
    if as_json:
        print_json({"vms": [_as_object(entry, resident, now_ms) for entry in entries]})
    elif not entries:
        click.echo("(no running VMs)")
    else:
        _print_rows([_as_row(entry, resident, now_ms) for entry in entries])


def _print_rows(rows: list[list[str]]) -> None:
    header = HEADER
    width = max(
        sum(max(map(len, column)) for column in zip(header, *rows, strict=True)) + 2 * len(HEADER),
        0,
    )
    if sys.stdout.isatty() and width > shutil.get_terminal_size().columns:
        header = [title for title in HEADER if title != "MEM"]
        rows = [row[:MEMORY_COLUMN] + row[MEMORY_COLUMN + 1 :] for row in rows]
    print_table(header, rows)


def _as_row(entry: RegistryEntry, resident: dict[int, int], now_ms: float) -> list[str]:
    return [
        str(entry.pid),
        entry.name or "-",
        format_duration(now_ms - entry.started_at),
        _memory(resident.get(entry.pid), entry.memory_ceiling_mib),
        ",".join(_port(entry)) or "-",
        entry.forked_from_name or entry.forked_from or "-",
    ]


def _port(entry: RegistryEntry) -> list[str]:
    return [
        f"{forward.host_port}:{forward.guest_port}"
        if forward.host_addr == "127.0.0.1"
        else f"{forward.host_addr}:{forward.host_port}:{forward.guest_port}"
        for forward in entry.port_forward
    ]


def _memory(resident: int | None, ceiling_mib: int | None) -> str:
    if ceiling_mib is None:
        return "-" if resident is None else format_bytes(resident)
    used = "?" if resident is None else format_bytes(resident)
    return f"{used}/{format_bytes(ceiling_mib << 20)}"


def _as_object(entry: RegistryEntry, resident: dict[int, int], now_ms: float) -> dict[str, Any]:
    return {
        "pid": entry.pid,
        "name": entry.name,
        "started_at": entry.started_at,
        "uptime_ms": max(0, round(now_ms - entry.started_at)),
        "memory": {
            "rss_bytes": resident.get(entry.pid),
            "ceiling_mib": entry.memory_ceiling_mib,
        },
        "ports": [
            {
                "hostPort": forward.host_port,
                "guestPort": forward.guest_port,
                "hostAddr": forward.host_addr,
            }
            for forward in entry.port_forward
        ],
        "forked_from": entry.forked_from,
        "forked_from_name": entry.forked_from_name,
        "forked_from_pid": entry.forked_from_pid,
    }
