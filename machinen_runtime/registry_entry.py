"""RegistryEntry: what the registry knows about one live VM, and its JSON.

The keys are those of the API declaration in camelCase; readers tolerate anything: a field of the
wrong shape is read as absent, an entry without pid, socket or start time as no entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, cast

from machinen_runtime.ancestry import Ancestor, line_from_object
from machinen_runtime.errors import MachinenError
from machinen_runtime.option_types import LiveMount, PortForward
from vmm.limits import Limits, limits_from_object

MAX_ENTRY_BYTES = 256 * 1024
MAX_PID = 1 << 22
"""PID_MAX_LIMIT of the Linux kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDiskRecord:
    """Where the two halves of a `mount` lie on the host."""

    guest: str
    lower_path: str
    upper_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """One live VM. Written by whoever launched it, read by everybody."""

    pid: int
    """The monitor's."""
    socket_path: str
    """`vsock.sock` in the run directory; `control.sock` lies beside it."""
    started_at: float
    """When the entry was made, in ms since 1970."""
    name: str | None = None
    image_path: str | None = None
    disk_path: str | None = None
    forked_from: str | None = None
    """The bundle this VM was restored from."""
    boot_log_path: str | None = None
    cleanup_paths: tuple[str, ...] = ()
    """What has to go when the VM is gone: run directory, state directory, …"""
    vmm_exe: str | None = None
    gvproxy_pid: int | None = None
    gvproxy_exe: str | None = None
    port_forward: tuple[PortForward, ...] = ()
    memory_ceiling_mib: int | None = None
    stats_path: str | None = None
    lazy_pages_total: int | None = None
    """Pages of 4096 bytes that a lazy restore left in the bundle."""
    lazy_pages_mount_root: str | None = None
    mount_disk: MountDiskRecord | None = None
    live_mounts: tuple[LiveMount, ...] = ()
    forked_from_name: str | None = None
    """Name of the source, if this VM is a fork or a restore. Ours."""
    forked_from_pid: int | None = None
    """Pid the source had. Ours."""
    ancestry: tuple[Ancestor, ...] = ()
    """Whose life it goes on with, oldest first; whether they run or not. Ours."""
    booted: str | None = None
    """"cold": its kernel was booted; "warm": it began with a template. None: it is a copy. Ours."""
    cold_reason: str | None = None
    """Why it was no warm boot. Ours."""
    limits: Limits | None = None
    """What it may take of the host; None: there is no limit. Ours."""
    cgroups: tuple[str, ...] = ()
    """The control groups it is in, which go when it is gone. Ours."""
    process_identity: str | None = None
    """`pids.process_identity(pid)` when the entry was made; `register()` fills it in. Ours."""

    def to_json(self) -> str:
        """Compact JSON in camelCase, without what is absent or empty."""
        return json.dumps(_to_object(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> RegistryEntry | None:
        """Read what `to_json` wrote. None if it is no entry."""
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(parsed, dict):
            return None
        return entry_from_object(cast("dict[str, Any]", parsed))


_STRINGS = (
    "name",
    "image_path",
    "disk_path",
    "forked_from",
    "boot_log_path",
    "vmm_exe",
    "gvproxy_exe",
    "stats_path",
    "lazy_pages_mount_root",
    "forked_from_name",
    "process_identity",
    "booted",
    "cold_reason",
)
_NUMBERS = ("gvproxy_pid", "memory_ceiling_mib", "lazy_pages_total", "forked_from_pid")


def entry_from_object(raw: Mapping[str, Any]) -> RegistryEntry | None:
    """The entry a JSON object describes, or None if it lacks pid, socketPath or startedAt."""
    pid, socket_path, started_at = (
        _whole(raw, "pid"),
        _text(raw, "socketPath"),
        raw.get("startedAt"),
    )
    if pid is None or not 0 < pid <= MAX_PID or not socket_path:
        return None
    if isinstance(started_at, bool) or not isinstance(started_at, int | float):
        return None
    try:
        started_at = float(started_at)
    except OverflowError:
        return None
    if not math.isfinite(started_at):
        return None
    texts: dict[str, Any] = {field: _text(raw, camel_case(field)) for field in _STRINGS}
    numbers: dict[str, Any] = {field: _whole(raw, camel_case(field)) for field in _NUMBERS}
    return RegistryEntry(
        pid=pid,
        socket_path=socket_path,
        started_at=started_at,
        cleanup_paths=tuple(path for path in _items(raw, "cleanupPaths") if _is_text(path)),
        port_forward=tuple(_forwards(_items(raw, "portForward"))),
        mount_disk=_mount_disk(raw.get("mountDisk")),
        live_mounts=tuple(_live_mounts(_items(raw, "liveMounts"))),
        ancestry=line_from_object(raw.get("ancestry")),
        limits=_limits(raw.get("limits")),
        cgroups=tuple(path for path in _items(raw, "cgroups") if _is_text(path)),
        **texts,
        **numbers,
    )


def camel_case(name: str) -> str:
    """`host_port` → `hostPort`."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _to_object(record: Any) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, tuple):
            items = cast("tuple[Any, ...]", value)
            value = [item if isinstance(item, str) else _to_object(item) for item in items]
        elif isinstance(value, MountDiskRecord):
            value = _to_object(value)
        elif isinstance(value, Limits):
            value = value.to_object()
        if isinstance(value, PurePath):
            value = str(value)
        if value is not None and value != []:
            written[camel_case(field.name)] = value
    return written


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _text(raw: Mapping[str, Any], key: str) -> str | None:
    value = raw.get(key)
    return value if _is_text(value) else None


def _whole(raw: Mapping[str, Any], key: str) -> int | None:
    value = raw.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _items(raw: Mapping[str, Any], key: str) -> list[Any]:
    value = raw.get(key)
    return cast("list[Any]", value) if isinstance(value, list) else []


def _objects(items: Iterable[Any]) -> Iterable[Mapping[str, Any]]:
    return (cast("Mapping[str, Any]", item) for item in items if isinstance(item, dict))


def _forwards(items: Iterable[Any]) -> Iterable[PortForward]:
    for item in _objects(items):
        host, guest = _whole(item, "hostPort"), _whole(item, "guestPort")
        if host is not None and guest is not None:
            address = _text(item, "hostAddr") or "127.0.0.1"
            with suppress(MachinenError):
                yield PortForward(host_port=host, guest_port=guest, host_addr=address)


def _limits(raw: object) -> Limits | None:
    """What an entry says of limits; they are shown and inherited, so none rather than nonsense."""
    with suppress(ValueError):
        return limits_from_object(raw)
    return None


def _mount_disk(raw: object) -> MountDiskRecord | None:
    for item in _objects([raw]):
        texts = [_text(item, key) for key in ("guest", "lowerPath", "upperPath")]
        guest, lower, upper = texts
        if guest and lower and upper:
            return MountDiskRecord(guest=guest, lower_path=lower, upper_path=upper)
    return None


def _live_mounts(items: Iterable[Any]) -> Iterable[LiveMount]:
    for item in _objects(items):
        guest, host, mode = (_text(item, key) for key in ("guest", "host", "mode"))
        if guest and host and mode in ("ro", "rw"):
            with suppress(MachinenError):
                yield LiveMount(guest=guest, host=host, mode=mode)
