"""The standbys of this host: which there are, who takes one, and how they end.

    <runtime>/standby/<match>.<number>      a slot: who sits in it, locked while it is a standby
    <runtime>/<id>/claim.sock               there once it can be taken; whoever renames it, takes it

A standby (vmm/standby.py) is a machine from a template that is nobody yet. It is in no registry and
no list of sandboxes. `match` says for which boots it will do (standby.py).
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from machinen_runtime.file_lock import is_locked
from machinen_runtime.paths import remove_tree, runtime_root, state_root
from machinen_runtime.pids import signal_process, validate_pid
from machinen_runtime.regular_file import open_regular
from vmm.claim import CLAIM_SOCKET, TAKEN_SOCKET

STANDBY_DIR = "standby"
MAX_SLOT_BYTES = 4096
END_TIMEOUT_S = 2.0
TAKING_S = 5.0
"""Whoever withdraws a standby tells it within a fraction of this, or never."""
_SLOT = re.compile(r"([0-9a-f]{32})\.([0-9])", re.ASCII)
_ID = re.compile(r"[0-9a-f]{8}", re.ASCII)
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """One standby, or what one left."""

    id: str
    key: str
    """Its template's."""
    pid: int
    """The monitor's."""
    process_identity: str | None
    made_at: float
    """In ms since 1970."""
    slot: Path
    vmm_exe: str | None = None
    started_at: float | None = None

    @property
    def match(self) -> str:
        """For which boots it will do."""
        return self.slot.name.partition(".")[0]

    @property
    def run_dir(self) -> Path:
        """Where its sockets are."""
        return runtime_root() / self.id

    @property
    def state_dir(self) -> Path:
        """Where its disk is."""
        return state_root() / self.id

    @property
    def is_ready(self) -> bool:
        """Whether it can be taken; else it is being made, or somebody takes it."""
        return (self.run_dir / CLAIM_SOCKET).exists()

    @property
    def is_being_taken(self) -> bool:
        """Whether somebody withdrew it a moment ago, and tells it who it is."""
        with suppress(OSError):
            withdrawn_at = (self.run_dir / TAKEN_SOCKET).stat().st_ctime
            return abs(time.time() - withdrawn_at) < TAKING_S
        return False

    def to_json(self) -> str:
        """What its slot holds."""
        written = asdict(self)
        kept = ("id", "key", "pid", "process_identity", "made_at")
        return json.dumps({name: written[name] for name in kept})


def standbys_root() -> Path:
    """`<runtime>/standby`."""
    return runtime_root() / STANDBY_DIR


def list_standbys(*, dead: bool = False) -> list[Standby]:
    """The standbys there are, oldest first; `dead`: what those left that are gone instead."""
    found: list[Standby] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in standbys_root().iterdir():
            if _SLOT.fullmatch(path.name) and (each := _read(path, dead=dead)) is not None:
                found.append(each)
    return sorted(found, key=lambda each: each.made_at)


def withdraw(standby: Standby) -> bool:
    """Take a standby out of everybody's sight; True for one caller alone, whose it is now."""
    try:
        os.rename(standby.run_dir / CLAIM_SOCKET, standby.run_dir / TAKEN_SOCKET)
    except OSError:
        return False
    return True


def give_back(standby: Standby) -> None:
    """Undo `withdraw`, of a standby to which nothing was said."""
    with suppress(OSError):
        os.rename(standby.run_dir / TAKEN_SOCKET, standby.run_dir / CLAIM_SOCKET)


def end_standbys(key: str | None = None) -> int:
    """End all standbys, or those of one template, and remove what they leave; how many there were.

    One that somebody takes this moment is passed over. Blocks until they are gone.
    """
    chosen = [each for each in list_standbys() if key in (None, each.key) and end_standby(each)]
    for each in chosen:
        if not _wait_gone(each, END_TIMEOUT_S):
            _signal(each, signal.SIGKILL)
            _wait_gone(each, END_TIMEOUT_S)
    sweep()
    return len(chosen)


def end_standby(standby: Standby) -> bool:
    """Tell a standby to end; False if it becomes somebody this moment."""
    if standby.is_being_taken or (standby.is_ready and not withdraw(standby)):
        return False
    _signal(standby, signal.SIGTERM)
    return True


def sweep() -> None:
    """Remove what standbys left that were killed, and kill those that answer nobody."""
    for each in list_standbys():
        is_withdrawn = (each.run_dir / TAKEN_SOCKET).exists()
        if is_withdrawn and not each.is_being_taken:
            _signal(each, signal.SIGKILL)
            _wait_gone(each, END_TIMEOUT_S)
    for each in list_standbys(dead=True):
        if validate_pid(each.pid, each) == "alive":
            continue  # it became somebody this moment
        remove_tree(each.run_dir)
        remove_tree(each.state_dir)
        each.slot.unlink(missing_ok=True)


def standby_paths() -> list[str]:
    """Directories that are theirs, and so nobody's garbage."""
    paths = [standbys_root()]
    for each in list_standbys():
        paths += [each.run_dir, each.state_dir]
    return [str(path) for path in paths]


def _read(path: Path, *, dead: bool) -> Standby | None:
    """The standby of a slot. None: there is no sense in it, or it is dead, or is not."""
    try:
        with open_regular(path, follow=False) as file:
            if is_locked(file.fileno()) == dead:
                return None
            return parse_slot(path, file.read(MAX_SLOT_BYTES))
    except OSError:
        return None


def parse_slot(path: Path, text: bytes) -> Standby | None:
    """The standby that a slot's text describes; None if there is no sense in it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    match cast("dict[str, Any]", value):
        case {
            "id": str(vm_id),
            "key": str(key),
            "pid": int(pid),
            "process_identity": str(identity),
            "made_at": int() | float() as made_at,
        } if _ID.fullmatch(vm_id) and _KEY.fullmatch(key) and not isinstance(pid, bool) and pid > 1:
            return Standby(
                id=vm_id,
                key=key,
                pid=pid,
                process_identity=identity,
                made_at=made_at,
                slot=path,
            )
        case _:
            return None


def _signal(standby: Standby, number: signal.Signals) -> None:
    """Signal the standby and what it was before it was a monitor (standby.py): they are a group,
    to which its QEMU does not belong.
    """
    if signal_process(standby.pid, standby, number) == "alive":
        with suppress(OSError):
            os.killpg(standby.pid, number)


def _wait_gone(standby: Standby, timeout_s: float) -> bool:
    try:
        pidfd = os.pidfd_open(standby.pid)
    except (OSError, OverflowError):
        return True
    try:
        ends_at = time.monotonic() + timeout_s
        if validate_pid(standby.pid, standby) != "alive":
            return True
        left_s = max(0.0, ends_at - time.monotonic())
        return bool(select.select([pidfd], [], [], left_s)[0])
    finally:
        os.close(pidfd)
