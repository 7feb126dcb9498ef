"""The snapshot bundle on disk: a directory with `meta.json` and the engine's files.

    <bundle>/meta.json          SnapshotMeta in camelCase, with ours: format, engine, machine, sums
    <bundle>/vm/state           vmstate: QEMU's device state
    <bundle>/vm/ram.img         vmstate: guest RAM, sparse
    <bundle>/vm/disk-<n>.qcow2  vmstate: frozen disk layers, oldest first, on a base disk
    <bundle>/img/…              criu: CRIU's images of one process tree
    <bundle>/[vm/]mount-…       both: the disks of a `mount`, see bundle_mounts.py
    <bundle>/notes.json         what people say about it, see bundle_notes.py

Written under a temporary name and renamed. Sizes and checksums of all files are recorded, and one
of meta.json itself, so what is torn, edited or foreign is refused (bundle_check.py). A bundle that
only lives for the length of a fork carries no checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from machinen_runtime.ancestry import Ancestor, line_from_object, line_to_object
from machinen_runtime.bundle_mounts import (
    LiveMountMeta,
    MountDiskMeta,
    live_mounts_from_object,
    mount_disk_from_object,
    mount_disk_of_report,
)
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.network_option import validate_network
from machinen_runtime.option_types import is_whole
from machinen_runtime.regular_file import open_regular
from vmm.limits import Limits, limits_from_object
from vmm.requests import MOUNT_LOWER_FILE, MOUNT_UPPER_FILE, SnapshotReport
from vmm.spec import MachineSpec

FORMAT = 2
META_FILE = "meta.json"
VM_DIR = "vm"
IMG_DIR = "img"
INVENTORY_FILE = "inventory.img"
"""The one among CRIU's images that lists what the others are."""
MAX_META_BYTES = 1 << 20
_FILE_NAME = re.compile(r"(?:(?:vm|img)/)?[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}", re.ASCII)
_SUM = re.compile(r"[a-z0-9-]{1,20}:[0-9a-f]{32,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """What a bundle says about itself. Times in ms since 1970, sizes in bytes."""

    format: int = FORMAT
    engine: str = "vmstate"
    machinen: str = ""
    """The version that wrote it."""
    id: str = ""
    source_name: str | None = None
    source_image: str | None = None
    source_pid: int | None = None
    source_started_at: float | None = None
    snapped_at: float
    qemu_version: str
    machine: MachineSpec
    base_disk: str
    """Where the base disk was. What counts is `base_disk_sum`."""
    base_disk_bytes: int
    base_disk_sum: str = ""
    origin: dict[str, str] = field(default_factory=dict[str, str])
    """Content of what the guest booted from: kernel, initramfs. It is not needed to restore."""
    layers: list[str] = field(default_factory=list[str])
    state: str = ""
    ram_image: str = ""
    tcp_close: bool = False
    """criu: open TCP connections were not kept."""
    mount_disk: MountDiskMeta | None = None
    live_mounts: list[LiveMountMeta] | None = None
    live_state: str | None = None
    """The file below `vm/` with what was open in the live mounts."""
    files: dict[str, int] = field(default_factory=dict[str, int])
    """Every file but meta.json, by its path in the bundle."""
    sums: dict[str, str] = field(default_factory=dict[str, str])
    """`content_sum` of each of `files`; empty in a bundle that lives as long as a fork takes."""
    ancestry: tuple[Ancestor, ...] = ()
    """Of the source, oldest first."""
    allow_hosts: list[str] = field(default_factory=list[str])
    """What a machine whose `network` is "allowlist" may reach."""
    limits: dict[str, float] = field(default_factory=dict[str, float])
    """What the source might take of its host, by the names of `vmm.limits.Limits`."""

    def to_json(self) -> str:
        """Compact JSON, keys in camelCase, with a checksum of itself under `sum`."""
        raw = {_camel(key): value for key, value in dataclasses.asdict(self).items()}
        raw["ancestry"] = line_to_object(self.ancestry)
        if self.mount_disk is None:
            del raw["mountDisk"]
        else:
            raw["mountDisk"] = self.mount_disk.to_object()
        return json.dumps({**raw, "sum": meta_sum(raw)}, separators=(",", ":"))


def meta_sum(raw: dict[str, Any]) -> str:
    """The checksum of a meta.json: BLAKE2b of its other keys, sorted and compact."""
    text = json.dumps(
        {key: value for key, value in raw.items() if key != "sum"},
        separators=(",", ":"),
        sort_keys=True,
    )
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def meta_of_report(
    report: SnapshotReport,
    *,
    source_pid: int,
    source_started_at: float,
    source_image: str | None,
    snapped_at: float,
    machinen: str = "",
    ancestry: tuple[Ancestor, ...] = (),
    limits: Limits | None = None,
) -> SnapshotMeta:
    """The meta.json of what a monitor just wrote into `<bundle>/vm`, without checksums."""
    directory = Path(report.directory)
    names = [report.state, report.ram_image, *report.layers, *report.mount_layers]
    names += [report.live_state] if report.live_state else []
    names = [f"{VM_DIR}/{name}" for name in names]
    names += [MOUNT_LOWER_FILE, MOUNT_UPPER_FILE] if report.mount_guest is not None else []
    return SnapshotMeta(
        machinen=machinen,
        id=report.id,
        source_name=report.name,
        source_image=source_image,
        source_pid=source_pid,
        source_started_at=source_started_at,
        snapped_at=snapped_at,
        ancestry=ancestry,
        qemu_version=report.qemu_version,
        machine=MachineSpec(**report.machine),
        base_disk=report.base,
        base_disk_bytes=os.stat(report.base).st_size,
        origin=report.origin,
        layers=report.layers,
        state=report.state,
        ram_image=report.ram_image,
        allow_hosts=report.allow_hosts,
        limits=limits.to_object() if limits else {},
        mount_disk=mount_disk_of_report(report),
        live_mounts=[LiveMountMeta(**each) for each in report.live_mounts],  # pyright: ignore
        live_state=report.live_state,
        files={name: (directory.parent / name).stat().st_size for name in names},
    )


def write_meta(bundle: Path, meta: SnapshotMeta) -> None:
    """Write `meta.json`, synced: it is what makes the directory a bundle."""
    descriptor = os.open(bundle / META_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(meta.to_json())
        file.flush()
        os.fsync(file.fileno())


def read_bundle(bundle: Path) -> SnapshotMeta:
    """The meta of a bundle whose files are all there, with their sizes. Nothing is hashed.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND if there is no bundle, BOOT_SNAPSHOT_INVALID if it is
            torn or foreign.
    """
    try:
        with open_regular(bundle / META_FILE) as file:
            text = file.read(MAX_META_BYTES + 1)
    except (OSError, ValueError) as error:
        pass_exhaustion(error)
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"there is no snapshot in {bundle}: {reason} ({META_FILE})"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, message) from error
    try:
        if len(text) > MAX_META_BYTES:
            raise ValueError(f"longer than {MAX_META_BYTES} bytes")
        meta = meta_from_object(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError, BootError) as error:
        message = f"{bundle / META_FILE} is not a snapshot's: {error}"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message) from error
    _check_sizes(bundle, meta)
    return meta


def meta_from_object(raw: Any) -> SnapshotMeta:
    """A SnapshotMeta from its JSON object; ValueError, TypeError or KeyError if it does not fit."""
    if not isinstance(raw, dict):
        raise TypeError("not an object")
    given = cast("dict[str, Any]", raw)
    if given.get("format") != FORMAT:
        raise ValueError(f"format {given.get('format')!r}, this version reads {FORMAT}")
    if given.get("sum") != meta_sum(given):
        raise ValueError("its own checksum does not fit: it was edited or damaged")
    values = {_snake(key): value for key, value in given.items()}
    known = {item.name for item in dataclasses.fields(SnapshotMeta)}
    values = {key: value for key, value in values.items() if key in known}
    values["machine"] = MachineSpec(**values["machine"])
    values["ancestry"] = line_from_object(values.get("ancestry"))
    values["mount_disk"] = mount_disk_from_object(values.get("mount_disk"))
    values["live_mounts"] = live_mounts_from_object(values.get("live_mounts"))
    meta = SnapshotMeta(**values)
    _check_values(meta)
    limits_from_object(meta.limits)
    _check_names(meta)
    return meta


def _check_values(meta: SnapshotMeta) -> None:
    """ValueError if a field does not hold what its type says: the file may be anybody's."""
    machine, live_state = meta.machine, cast("object", meta.live_state)
    texts: list[object] = [meta.id, meta.qemu_version, meta.base_disk, meta.state, meta.ram_image]
    texts += [meta.machinen, meta.base_disk_sum]
    optional: list[object] = [meta.source_name, meta.source_image]
    times: list[object] = [meta.snapped_at, meta.source_started_at or 0]
    checks = {
        "a text": all(isinstance(each, str) and "\0" not in each for each in texts),
        "a source": all(each is None or isinstance(each, str) for each in optional),
        "sourcePid": meta.source_pid is None or is_whole(meta.source_pid),
        "a time": all(isinstance(each, int | float) for each in times),
        "baseDiskBytes": is_whole(meta.base_disk_bytes),
        "layers": _is_list_of_texts(meta.layers) and not (machine.root_in_ram and meta.layers),
        "files": isinstance(meta.files, dict) and all(map(is_whole, meta.files.values())),  # pyright: ignore
        "sums": _is_text_map(meta.sums) and all(map(_SUM.fullmatch, meta.sums.values())),
        "origin": _is_text_map(meta.origin),
        "tcpClose": isinstance(meta.tcp_close, bool),  # pyright: ignore
        "engine": meta.engine in ("vmstate", "criu"),
        "liveState": isinstance(live_state, str | None),
        "mountDisk": machine.mount_disk is (meta.mount_disk is not None),
        "machine.root_in_ram": isinstance(machine.root_in_ram, bool),  # pyright: ignore
        "machine.modern_virtio": isinstance(machine.modern_virtio, bool),  # pyright: ignore
        "machine.arch": machine.arch in ("amd64", "arm64"),
        "machine.accel": machine.accel in ("kvm", "tcg"),
        "machine.network": machine.network in ("full", "none", "allowlist"),
        "allowHosts": _is_list_of_texts(meta.allow_hosts) and _are_hosts(meta.allow_hosts),
        "machine.memory_mib": is_whole(machine.memory_mib) and machine.memory_mib > 0,
        "machine.cpus": is_whole(machine.cpus) and machine.cpus > 0,
        "machine.machine_type": _is_qemu_word(machine.machine_type),
        "machine.cpu_model": _is_qemu_word(machine.cpu_model),
    }
    if wrong := [name for name, is_right in checks.items() if not is_right]:
        raise ValueError(f"this version cannot use its {', '.join(wrong)}")


def _check_names(meta: SnapshotMeta) -> None:
    """ValueError unless every file lies in the bundle and those the engine needs are listed."""
    for name in meta.files:
        if _FILE_NAME.fullmatch(name) is None or ".." in name or name == META_FILE:
            raise ValueError(f"not the name of a file in a bundle: {name!r}")
    needed = [f"{IMG_DIR}/{INVENTORY_FILE}"]
    if meta.engine == "vmstate":
        needed = [meta.state, meta.ram_image, *meta.layers]
        needed += [meta.live_state] if meta.live_state is not None else []
        needed = [f"{VM_DIR}/{name}" for name in needed]
    needed += meta.mount_disk.files(VM_DIR) if meta.mount_disk else []
    for name in needed:
        if name not in meta.files:
            raise ValueError(f"no size recorded for {name}")
    if meta.sums and set(meta.sums) != set(meta.files):
        raise ValueError("not every file has a checksum")


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, str) for each in cast("list[object]", value)
    )


def _are_hosts(hosts: list[str]) -> bool:
    if hosts:
        validate_network(hosts)
    return True


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, str)
        for pair in cast("dict[object, object]", value).items()
        for each in pair
    )


def _is_qemu_word(value: object) -> bool:
    """Whether it may be given to QEMU: options and numbers, but no path."""
    return isinstance(value, str) and re.fullmatch(r"[\w.,=+-]{1,200}", value, re.ASCII) is not None


def _check_sizes(bundle: Path, meta: SnapshotMeta) -> None:
    for name, size in meta.files.items():
        path = bundle / name
        if path.parent != bundle and path.parent.is_symlink():
            raise _incomplete(bundle, path.parent.name, "is a symbolic link")
        if path.is_symlink():
            raise _incomplete(bundle, name, "is a symbolic link")
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            raise _incomplete(bundle, name, found)


def _incomplete(bundle: Path, name: str, what: str) -> BootError:
    message = f"the snapshot in {bundle} is incomplete: {name} {what}; take another copy of it"
    return BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
