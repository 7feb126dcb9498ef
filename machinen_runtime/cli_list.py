"""`machinen ls`. Imports no event loop: it is typed a hundred times a day."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import click

from machinen_runtime.cli_support import (
    Verb,
    format_bytes,
    format_duration,
    json_option,
    print_json,
    print_table,
)
from machinen_runtime.memory import read_cpu_percent, read_host_rss_bytes_multi, read_vm_state
from machinen_runtime.registry import RegistryEntry, live_entries

HEADER = ["PID", "NAME", "STATE", "UP", "MEM", "CPU", "PORTS", "FORKED-FROM"]
DISPENSABLE = ("CPU", "MEM")
"""Columns that go first if the terminal is too narrow."""


@click.command("ls", cls=Verb, short_help="List the running sandboxes.")
@json_option
def ls_command(as_json: bool) -> None:
    """List the running sandboxes, oldest first.

    STATE is booting, restoring, running, paused, snapshotting, stopping or disk-full: that one
    stands still until the host's disk has room, and goes on by itself. MEM is what monitor and
    QEMU hold of the host's memory, against the most the guest may use; CPU is percent of one core
    over the last half second, or two if it is idle. Both are left out where they do not fit.

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
    for title in DISPENSABLE:
        if not sys.stdout.isatty() or _width(header, rows) <= shutil.get_terminal_size().columns:
            break
        column = header.index(title)
        header = header[:column] + header[column + 1 :]
        rows = [row[:column] + row[column + 1 :] for row in rows]
    print_table(header, rows)


def _width(header: list[str], rows: list[list[str]]) -> int:
    columns = zip(header, *rows, strict=True)
    return sum(max(map(len, column)) for column in columns) + 2 * (len(header) - 1)


def _as_row(entry: RegistryEntry, resident: dict[int, int], now_ms: float) -> list[str]:
    return [
        str(entry.pid),
        entry.name or "-",
        _state(entry) or "-",
        format_duration(now_ms - entry.started_at),
        _memory(resident.get(entry.pid), entry.memory_ceiling_mib),
        "-" if (percent := _cpu_percent(entry)) is None else f"{percent:.0f}%",
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


def _state(entry: RegistryEntry) -> str | None:
    return read_vm_state(entry.stats_path) if entry.stats_path else None


def _cpu_percent(entry: RegistryEntry) -> float | None:
    return read_cpu_percent(entry.stats_path) if entry.stats_path else None


def _memory(resident: int | None, ceiling_mib: int | None) -> str:
    if ceiling_mib is None:
        return "-" if resident is None else format_bytes(resident)
    used = "?" if resident is None else format_bytes(resident)
    return f"{used}/{format_bytes(ceiling_mib << 20)}"


def _as_object(entry: RegistryEntry, resident: dict[int, int], now_ms: float) -> dict[str, Any]:
    return {
        "pid": entry.pid,
        "name": entry.name,
        "state": _state(entry),
        "started_at": entry.started_at,
        "uptime_ms": max(0, round(now_ms - entry.started_at)),
        "memory": {
            "rss_bytes": resident.get(entry.pid),
            "ceiling_mib": entry.memory_ceiling_mib,
        },
        "cpu": {"percent": _cpu_percent(entry)},
        "limits": entry.limits.to_object() if entry.limits else {},
        "ports": [
            {
                "hostPort": forward.host_port,
                "guestPort": forward.guest_port,
                "hostAddr": forward.host_addr,
            }
            for forward in entry.port_forward
        ],
        "mount": None if entry.mount_disk is None else {"guest": entry.mount_disk.guest},
        "live_mounts": [
            {"host": str(each.host), "guest": each.guest, "mode": each.mode}
            for each in entry.live_mounts
        ],
        "forked_from": entry.forked_from,
        "forked_from_name": entry.forked_from_name,
        "forked_from_pid": entry.forked_from_pid,
    }
