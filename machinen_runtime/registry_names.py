"""Names of VMs: what a name may look like, and the pins that make it unique while its VM lives.

A pin is the file `<registry>/names/<name>`; its first line is the pid that holds the name, its
second that process' identity (`pids.process_identity`), so that a recycled pid frees the name by
itself. Names may be path-shaped: the pin of `worker/1` lies in the directory `worker`.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.argument_types import is_text
from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.paths import ensure_private_dir, write_atomically
from machinen_runtime.pids import process_identity, validate_pid

MAX_NAME_CHARS = 128
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~+@-]{0,63}")


def validate_name(name: str) -> str:
    """Return `name` if a VM may have it, else REGISTRY_NAME_INVALID."""
    parts = name.split("/") if is_text(name) else [""]
    if not all(_PART.fullmatch(part) for part in parts) or len(name) > MAX_NAME_CHARS:
        raise RegistryError(
            ErrorCode.REGISTRY_NAME_INVALID,
            f"not a name for a VM: {name!r:.80}; use letters, digits, and . _ - ~ + @, in parts of"
            f" at most 64 joined by '/', {MAX_NAME_CHARS} characters in all",
        )
    if name.isdigit():
        raise RegistryError(
            ErrorCode.REGISTRY_NAME_INVALID,
            f"{name} would be taken for a pid; add a letter to the name",
        )
    return name


@contextmanager
def names_lock(root: Path, *, wait: bool = True) -> Generator[Path]:
    """Hold the registry's lock for the block; yields the directory of the pins.

    Without `wait` a lock that another process holds is BlockingIOError. Whoever looks at a pin and
    then removes or replaces it needs the lock: between the look and the act another process may
    have done the same.
    """
    ensure_private_dir(root)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield ensure_private_dir(root / "names")
    finally:
        os.close(descriptor)


def write_pin(names: Path, name: str, pid: int) -> None:
    """Pin `name` to `pid`, or raise REGISTRY_NAME_IN_USE. The caller holds `names_lock`.

    Pins of dead holders and directories without a live pin are in nobody's way: they are removed.
    """
    pin = names / name
    for parent in reversed(pin.relative_to(names).parents[:-1]):
        _free(names, names / parent, name)
    if pin.is_dir() and not pin.is_symlink():
        if live := prune_pins(names, pin):
            raise _in_use(name, f"the name {live[0]} lies below it")
    elif read_pin(pin) != pid:
        _free(names, pin, name)
    pin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(pin, f"{pid}\n{process_identity(pid) or ''}\n")


def remove_pin(names: Path, name: str, pid: int) -> None:
    """Unpin `name` if `pid` holds it. The caller holds `names_lock`."""
    pin = names / name
    if read_pin(pin) == pid:
        _remove(names, pin)


def read_pin(pin: Path) -> int | None:
    """The pid in a pin; None if there is no such pin or it makes no sense."""
    holder = _read_holder(pin)
    return holder.pid if holder else None


def prune_pins(names: Path, below: Path) -> list[str]:
    """Remove the pins of dead holders and the empty directories below `below`.

    Returns the names that are live there. The caller holds `names_lock`.
    """
    live: list[str] = []
    for directory, _, files in os.walk(below, topdown=False):
        for file in files:
            pin = Path(directory, file)
            if _is_live(pin):
                live.append(str(pin.relative_to(names)))
            else:
                pin.unlink(missing_ok=True)
        if Path(directory) != names:
            with suppress(OSError):  # it still holds a live pin
                os.rmdir(directory)
    return live


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process in a pin, as `validate_pid` wants it."""

    pid: int
    process_identity: str | None
    vmm_exe: str | None = None
    started_at: float | None = None


def _read_holder(pin: Path) -> _Holder | None:
    try:
        with open(pin, "rb") as file:
            lines = file.read(256).decode("ascii").splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    return _Holder(pid, lines[1] if len(lines) > 1 and lines[1] else None)


def _is_live(pin: Path) -> bool:
    holder = _read_holder(pin)
    return holder is not None and validate_pid(holder.pid, holder) == "alive"


def _free(names: Path, pin: Path, wanted: str) -> None:
    """Make sure no live VM has this pin; remove it if a dead one has."""
    if not os.path.lexists(pin) or (pin.is_dir() and not pin.is_symlink()):
        return
    if _is_live(pin):
        raise _in_use(wanted, f"pid {read_pin(pin)} holds {pin.relative_to(names)}")
    pin.unlink(missing_ok=True)


def _remove(names: Path, pin: Path) -> None:
    pin.unlink(missing_ok=True)
    for parent in pin.parents:
        if parent == names:
            break
        try:
            parent.rmdir()
        except OSError:
            break


def _in_use(name: str, why: str) -> RegistryError:
    return RegistryError(
        ErrorCode.REGISTRY_NAME_IN_USE,
        f"the name {name} is in use ({why}); choose another, or stop that VM first",
    )
