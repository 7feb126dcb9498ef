"""The registry: one JSON file per live VM, and the pins that make names unique.

`<root>/<pid>/meta.json` is an entry, `<root>/names/<name>` a pin. There is no daemon: whoever
launches a VM writes them, everybody reads them, and nobody trusts them. An entry whose process is
gone is not listed; while it still names files to remove it is kept for `machinen gc`.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.paths import (
    ensure_private_dir,
    is_ours,
    registry_root_path,
    remove_tree,
    write_atomically,
)
from machinen_runtime.pids import process_identity, validate_pid
from machinen_runtime.registry_entry import MAX_ENTRY_BYTES, MAX_PID
from machinen_runtime.registry_entry import RegistryEntry as RegistryEntry
from machinen_runtime.registry_names import (
    names_lock,
    prune_pins,
    read_pin,
    remove_pin,
    validate_name,
    write_pin,
)


def registry_root() -> Path:
    """Where the registry lies: `~/.machinen/vms`, or `MACHINEN_REGISTRY_DIR`."""
    return registry_root_path()


def register(entry: RegistryEntry) -> RegistryEntry:
    """Write `entry`, replacing an older one of the same pid, and return it with its identity.

    What an older entry of that pid left behind is removed: its process must be gone.
    """
    if entry.process_identity is None:
        entry = replace(entry, process_identity=process_identity(entry.pid))
    directory = _entry_dir(entry.pid)
    old = _read_entry(directory)
    if old is not None and old.process_identity != entry.process_identity:
        for path in leftovers(old):
            if str(path) not in entry.cleanup_paths:
                remove_tree(path)
    ensure_private_dir(directory.parent)
    ensure_private_dir(directory)
    try:
        write_atomically(directory / "meta.json", entry.to_json())
    except OSError:
        with suppress(OSError):  # an older entry is in it
            directory.rmdir()
        raise
    return entry


def update(entry: RegistryEntry, change: Callable[[RegistryEntry], RegistryEntry]) -> None:
    """Replace the entry of a VM by what `change` makes of it; two at once both count.

    Nothing is written if the VM's entry has gone, or the pid has become another process'.
    """
    with names_lock(registry_root()):
        current = _read_entry(_entry_dir(entry.pid))
        if current is not None and current.process_identity == entry.process_identity:
            write_atomically(_entry_dir(entry.pid) / "meta.json", change(current).to_json())


def unregister(pid: int) -> None:
    """Forget the entry of `pid` and free its name. Nothing happens if there is none."""
    directory = _entry_dir(pid)
    entry = _read_entry(directory)
    if entry is not None and entry.name is not None:
        release_name(entry.name, pid)
    _remove_entry(directory)


def claim_name(name: str, pid: int) -> None:
    """Give `name` to the live process `pid`; REGISTRY_NAME_INVALID or REGISTRY_NAME_IN_USE.

    A launcher may claim a name for itself before there is a monitor, then hand it over with
    `transfer_name`; if the launcher dies in between, the name is free again.
    """
    validate_name(name)
    with names_lock(registry_root()) as names:
        write_pin(names, name, pid)


def transfer_name(name: str, from_pid: int, to_pid: int) -> None:
    """Hand a name over; REGISTRY_NAME_IN_USE if `from_pid` no longer holds it and it is taken."""
    with names_lock(registry_root()) as names:
        remove_pin(names, name, from_pid)
        write_pin(names, name, to_pid)


def release_name(name: str, pid: int) -> None:
    """Free `name` if `pid` holds it."""
    with names_lock(registry_root()) as names, suppress(OSError):
        remove_pin(names, name, pid)


def rename_entry(pid: int, name: str, reserved_by: int) -> RegistryEntry:
    """Move the entry of `pid` from its name to `name`, which `reserved_by` has claimed for it.

    The new name leads to the VM before the old one no longer does.
    """
    with names_lock(registry_root()) as names:
        old = _read_entry(_entry_dir(pid))
        if old is None:
            raise RegistryError(
                ErrorCode.REGISTRY_VM_NOT_FOUND, f"the VM with pid {pid} is no longer registered"
            )
        remove_pin(names, name, reserved_by)
        write_pin(names, name, pid)
        entry = replace(old, name=name)
        write_atomically(_entry_dir(pid) / "meta.json", entry.to_json())
        if old.name is not None and old.name != name:
            remove_pin(names, old.name, pid)
        return entry


def step_aside(pid: int, holder: int) -> RegistryEntry:
    """Move the entry of `pid` to a name beside its own, which goes to the process `holder`.

    There is no moment in which somebody else could take it. `rename_entry` undoes it.
    """
    with names_lock(registry_root()) as names:
        old = _read_entry(_entry_dir(pid))
        if old is None or old.name is None:
            raise RegistryError(
                ErrorCode.REGISTRY_VM_NOT_FOUND, f"the VM with pid {pid} is no longer registered"
            )
        entry = replace(old, name=_name_beside(old.name, pid))
        write_pin(names, str(entry.name), pid)
        write_atomically(_entry_dir(pid) / "meta.json", entry.to_json())
        remove_pin(names, old.name, pid)
        write_pin(names, old.name, holder)
        return entry


def _name_beside(name: str, pid: int) -> str:
    with suppress(RegistryError):
        return validate_name(f"{name}~{pid}")
    return f"aside~{pid}"  # the other one is too long


def free_names_of_the_dead() -> None:
    """Remove their pins: also of a VM whose starter was killed before it had an entry."""
    if not (registry_root() / "names").is_dir():
        return
    # Who holds the lock may be stopped by a debugger: nobody waits for it here.
    with suppress(OSError), names_lock(registry_root(), wait=False) as names:
        prune_pins(names, names)


def live_entries() -> builtins.list[RegistryEntry]:
    """The VMs that are alive, oldest first.

    Entries that died without leaving files are pruned, as are the pins of the dead.
    """
    alive: builtins.list[RegistryEntry] = []
    pruned = False
    for entry in all_entries():
        if validate_pid(entry.pid, entry) == "alive":
            alive.append(entry)
        elif not leftovers(entry):
            _remove_entry(_entry_dir(entry.pid))
            pruned = True
    if pruned:
        free_names_of_the_dead()
    return sorted(alive, key=lambda entry: (entry.started_at, entry.pid))


def all_entries() -> Generator[RegistryEntry]:
    """Every entry on disk, dead or alive. Foreign and damaged files are passed over."""
    try:
        names = os.listdir(registry_root())
    except OSError:
        return
    for name in names:
        if name.isascii() and name.isdigit():
            entry = _read_entry(registry_root() / name)
            if entry is not None:
                yield entry


def find(*, pid: int | None = None, name: str | None = None) -> RegistryEntry:
    """The live VM with this pid or this name; exactly one of them. Else REGISTRY_VM_NOT_FOUND."""
    if (pid is None) == (name is None):
        raise RegistryError(
            ErrorCode.REGISTRY_VM_NOT_FOUND, "say which VM: exactly one of pid and name"
        )
    entry = _find_pid(pid) if pid is not None else _find_name(str(name))
    if entry is None:
        named = name if name and name.isprintable() else repr(name)
        what = f"has pid {pid}" if name is None else f"is named {named}"
        raise RegistryError(
            ErrorCode.REGISTRY_VM_NOT_FOUND, f"no running VM {what}; `machinen ls` lists them"
        )
    return entry


def leftovers(entry: RegistryEntry) -> builtins.list[Path]:
    """The files an entry names that still exist and are ours to remove."""
    named = [*entry.cleanup_paths, *([entry.boot_log_path] if entry.boot_log_path else [])]
    return [Path(path) for path in named if os.path.lexists(path) and is_ours(Path(path))]


def _find_pid(pid: int) -> RegistryEntry | None:
    entry = _read_entry(_entry_dir(pid)) if 0 < pid <= MAX_PID else None
    return entry if entry and validate_pid(pid, entry) == "alive" else None


def _find_name(name: str) -> RegistryEntry | None:
    with suppress(RegistryError):
        validate_name(name)
        pid = read_pin(registry_root() / "names" / name)
        entry = _find_pid(pid) if pid is not None else None
        if entry is not None and entry.name == name:
            return entry
    # An entry without its pin: the pin was removed by hand, or never written.
    return next((entry for entry in live_entries() if entry.name == name), None)


def _entry_dir(pid: int) -> Path:
    return registry_root() / str(pid)


def _read_entry(directory: Path) -> RegistryEntry | None:
    try:
        with open(directory / "meta.json", "rb") as file:
            text = file.read(MAX_ENTRY_BYTES + 1)
    except OSError:
        return None
    entry = RegistryEntry.from_json(text) if len(text) <= MAX_ENTRY_BYTES else None
    # An entry that speaks of another pid than its directory was copied or tampered with.
    return entry if entry is not None and str(entry.pid) == directory.name else None


def _remove_entry(directory: Path) -> None:
    with suppress(OSError):
        (directory / "meta.json").unlink(missing_ok=True)
        for stray in directory.glob(".meta.json.*"):
            stray.unlink(missing_ok=True)
        directory.rmdir()


list = live_entries
