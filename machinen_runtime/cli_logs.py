"""`machinen logs`: the console of a VM, the boot log of one that has ended, the monitor's log."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Generator
from io import FileIO
from pathlib import Path

import click

from machinen_runtime.cli_support import Verb, complete_vm, find_target, once, printable
from machinen_runtime.errors import ErrorCode, ParseError, RegistryError
from machinen_runtime.pids import validate_pid
from machinen_runtime.registry import RegistryEntry, all_entries
from vmm.requests import CONSOLE_LOG, EVENT_LOG

FOLLOW_STEP_S = 0.2
READ_BYTES = 65536


@click.command("logs", cls=Verb, short_help="Show the console of a sandbox.")
@click.argument("vm", metavar="VM", shell_complete=complete_vm)
@click.option("-f", "--follow", is_flag=True, help="Go on until the sandbox ends.")
@once("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--boot", is_flag=True, help="Show the console of its boot, kept at --detach.")
@click.option("--json", "as_json", is_flag=True, help="The monitor's own log, an object a line.")
def logs_command(vm: str, follow: bool, tail: int | None, boot: bool, as_json: bool) -> None:
    """Show what a guest's kernel and init wrote to the console.

    Of a detached sandbox that has ended, the boot log is shown, until `machinen gc` removes it.
    With --json it is what the monitor noted: states, phases, snapshots, trouble.

    \b
    Examples:
      machinen logs web --follow
      machinen logs web --tail 20
      machinen logs web --json --follow | jq -r .message
    """
    if as_json and boot:
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, "--boot shows a console: without --json")
    entry, lives = _find(vm)
    path = _event_path(entry) if as_json else _log_path(entry, boot or not lives)
    file = path.open("rb", buffering=0)
    if tail is not None:
        file.seek(_tail_offset(path, tail))
    chunks = _follow(path, entry, file) if follow and lives else _read(file)
    if not sys.stdout.isatty():
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return
    for text in codecs.iterdecode(chunks, "utf-8", "replace"):
        click.echo(printable(text), nl=False)


def _find(target: str) -> tuple[RegistryEntry, bool]:
    """The entry `target` names, and whether its VM lives; of dead ones the youngest."""
    try:
        return find_target(target), True
    except RegistryError:
        dead = [entry for entry in all_entries() if target in (entry.name, str(entry.pid))]
        if not dead:
            raise
        return max(dead, key=lambda entry: entry.started_at), False


def _log_path(entry: RegistryEntry, boot: bool) -> Path:
    candidates = (
        [entry.boot_log_path]
        if boot
        else [os.path.join(directory, CONSOLE_LOG) for directory in entry.cleanup_paths[1:2]]
    )
    for path in candidates:
        if path and os.path.isfile(path):
            return Path(path)
    kind = "boot log" if boot else "console log"
    raise RegistryError(ErrorCode.REGISTRY_VM_NOT_FOUND, f"{entry.name or entry.pid} has no {kind}")


def _event_path(entry: RegistryEntry) -> Path:
    """The monitor's log: it goes with the VM."""
    for directory in entry.cleanup_paths[1:2]:
        path = Path(directory, EVENT_LOG)
        if path.is_file():
            return path
    what = f"the monitor's log of {entry.name or entry.pid} is gone with it; `machinen crashes`"
    raise RegistryError(ErrorCode.REGISTRY_VM_NOT_FOUND, what)


def _tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin. Logs are capped, so reading one whole is cheap."""
    text = path.read_bytes()
    position = len(text)
    if text.endswith(b"\n"):
        position -= 1
    for _ in range(lines):
        position = text.rfind(b"\n", 0, position)
        if position < 0:
            return 0
    return position + 1 if lines else len(text)


def _read(file: FileIO) -> Generator[bytes]:
    with file:
        while chunk := file.read(READ_BYTES):
            yield chunk


def _follow(path: Path, entry: RegistryEntry, file: FileIO) -> Generator[bytes]:
    """The file's contents as they grow, over its rotations, until the VM is gone."""
    try:
        while True:
            while chunk := file.read(READ_BYTES):
                yield chunk
            alive = validate_pid(entry.pid, entry) == "alive"
            if _was_replaced(path, file.fileno()):
                file.close()
                file = path.open("rb", buffering=0)
            elif not alive:
                return
            else:
                time.sleep(FOLLOW_STEP_S)  # a log file tells nobody that it has grown
    except FileNotFoundError:
        return
    finally:
        file.close()


def _was_replaced(path: Path, descriptor: int) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
