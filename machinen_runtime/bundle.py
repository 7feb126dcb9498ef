"""The snapshot bundle on disk: a directory with `meta.json` and, for engine `vmstate`, `vm/`.

    <bundle>/meta.json          SnapshotMeta in camelCase, with ours: format, engine, machine, disk,
    files <bundle>/vm/state           QEMU's device state <bundle>/vm/ram.img         guest RAM,
    sparse <bundle>/vm/disk-<n>.qcow2  frozen disk layers, oldest first, on a base named by path and
    content

Written under a temporary name and renamed; sizes of all files are recorded, so a torn bundle is
refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from machinen_runtime.bundle_mounts import (
    LiveMountMeta,
    MountDiskMeta,
    check_mount_files,
    live_mounts_from_object,
    mount_disk_from_object,
    mount_disk_of_report,
)
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.network_option import validate_network
from machinen_runtime.option_types import is_whole
from vmm.requests import SnapshotReport
from vmm.spec import MachineSpec

FORMAT = 1
META_FILE = "meta.json"
VM_DIR = "vm"
MAX_META_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotMeta:
    """What a bundle says about itself. Times in ms since 1970, sizes in bytes."""

    format: int = FORMAT
    engine: str = "vmstate"
    id: str = ""
    source_name: str | None = None
    source_image: str | None = None
    source_pid: int | None = None
    source_started_at: float | None = None
    snapped_at: float
    qemu_version: str
    machine: MachineSpec
    base_disk: str
    base_disk_bytes: int
    layers: list[str]
    state: str
    ram_image: str
    mount_disk: MountDiskMeta | None = None
    live_mounts: list[LiveMountMeta] | None = None
    live_state: str | None = None
    """The file below `vm/` with what was open in the live mounts."""
    files: dict[str, int] = field(default_factory=dict[str, int])
    allow_hosts: list[str] = field(default_factory=list[str])
    """What a machine whose `network` is "allowlist" may reach."""

    def to_json(self) -> str:
        """Compact JSON, keys in camelCase."""
        raw = dataclasses.asdict(self)
        written = {_camel(key): value for key, value in raw.items()}
        if self.mount_disk is None:
            del written["mountDisk"]
        else:
            written["mountDisk"] = self.mount_disk.to_object()
        return json.dumps(written, separators=(",", ":"))


def meta_of_report(
    report: SnapshotReport, *, source_pid: int, source_started_at: float, source_image: str | None
) -> SnapshotMeta:
    """The meta.json of what a monitor just wrote into `<bundle>/vm`."""
    directory = Path(report.directory)
    names = [report.state, report.ram_image, *report.layers, *report.mount_layers]
    names += [report.live_state] if report.live_state else []
    return SnapshotMeta(
        id=report.id,
        source_name=report.name,
        source_image=source_image,
        source_pid=source_pid,
        source_started_at=source_started_at,
        snapped_at=time.time_ns() // 1_000_000,
        qemu_version=report.qemu_version,
        machine=MachineSpec(**report.machine),
        base_disk=report.base,
        base_disk_bytes=os.stat(report.base).st_size,
        layers=report.layers,
        state=report.state,
        ram_image=report.ram_image,
        allow_hosts=report.allow_hosts,
        mount_disk=mount_disk_of_report(report),
        live_mounts=[LiveMountMeta(**each) for each in report.live_mounts],  # pyright: ignore
        live_state=report.live_state,
        files={name: (directory / name).stat().st_size for name in names},
    )


def write_meta(bundle: Path, meta: SnapshotMeta) -> None:
    """Write `meta.json`, synced: it is what makes the directory a bundle."""
    with open(bundle / META_FILE, "x", encoding="utf-8") as file:
        file.write(meta.to_json())
        file.flush()
        os.fsync(file.fileno())


def read_bundle(bundle: Path) -> SnapshotMeta:
    """The meta of a bundle whose files are all there.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND if there is no bundle, BOOT_SNAPSHOT_INVALID if it is
            torn or foreign.
    """
    try:
        text = (bundle / META_FILE).read_bytes()[: MAX_META_BYTES + 1]
    except OSError as error:
        message = f"there is no snapshot in {bundle}: {error.strerror} ({META_FILE})"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, message) from error
    try:
        meta = meta_from_object(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError, BootError) as error:
        message = f"{bundle / META_FILE} is not a snapshot's: {error}"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message) from error
    _check_files(bundle, meta)
    return meta


def meta_from_object(raw: Any) -> SnapshotMeta:
    """A SnapshotMeta from its JSON object; ValueError, TypeError or KeyError if it does not fit."""
    if not isinstance(raw, dict):
        raise TypeError("not an object")
    values = {_snake(key): value for key, value in cast("dict[str, Any]", raw).items()}
    if values.get("format") != FORMAT:
        raise ValueError(f"format {values.get('format')!r}, this version reads {FORMAT}")
    known = {item.name for item in dataclasses.fields(SnapshotMeta)}
    values = {key: value for key, value in values.items() if key in known}
    values["machine"] = MachineSpec(**values["machine"])
    values["mount_disk"] = mount_disk_from_object(values.get("mount_disk"))
    values["live_mounts"] = live_mounts_from_object(values.get("live_mounts"))
    meta = SnapshotMeta(**values)
    _check_values(meta)
    named = [*meta.files, meta.state, meta.ram_image, *meta.layers]
    named += meta.mount_disk.layers if meta.mount_disk else []
    named += [meta.live_state] if meta.live_state is not None else []
    for name in named:
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise ValueError(f"not a file name: {name!r}")
        if name not in meta.files:
            raise ValueError(f"no size recorded for {name}")
    return meta


def _check_values(meta: SnapshotMeta) -> None:
    """ValueError if a field does not hold what its type says: the file may be anybody's."""
    machine, live_state = meta.machine, cast("object", meta.live_state)
    texts: list[object] = [meta.id, meta.qemu_version, meta.base_disk, meta.state, meta.ram_image]
    optional: list[object] = [meta.source_name, meta.source_image]
    times: list[object] = [meta.snapped_at, meta.source_started_at or 0]
    checks = {
        "a text": all(isinstance(each, str) and "\0" not in each for each in texts),
        "a source": all(each is None or isinstance(each, str) for each in optional),
        "sourcePid": meta.source_pid is None or is_whole(meta.source_pid),
        "a time": all(isinstance(each, int | float) for each in times),
        "baseDiskBytes": is_whole(meta.base_disk_bytes),
        "layers": _is_list_of_texts(meta.layers),
        "files": isinstance(meta.files, dict) and all(map(is_whole, meta.files.values())),  # pyright: ignore
        "engine": meta.engine == "vmstate",
        "liveState": isinstance(live_state, str | None),
        "mountDisk": machine.mount_disk is (meta.mount_disk is not None),
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


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, str) for each in cast("list[object]", value)
    )


def _are_hosts(hosts: list[str]) -> bool:
    if hosts:
        validate_network(hosts)
    return True


def _is_qemu_word(value: object) -> bool:
    """Whether it may be given to QEMU: options and numbers, but no path."""
    return isinstance(value, str) and re.fullmatch(r"[\w.,=+-]{1,200}", value, re.ASCII) is not None


def _check_files(bundle: Path, meta: SnapshotMeta) -> None:
    for name, size in meta.files.items():
        path = bundle / VM_DIR / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            message = f"the snapshot in {bundle} is incomplete: {VM_DIR}/{name} {found}"
            raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)
    if meta.mount_disk is not None:
        check_mount_files(bundle, meta.mount_disk)
    base = Path(meta.base_disk)
    if not base.is_file() or base.stat().st_size != meta.base_disk_bytes:
        message = (
            f"the snapshot in {bundle} needs the base disk {base.name} ({meta.base_disk_bytes} "
            f"bytes), which is not at {base}; install the same release, or copy the file there"
        )
        raise BootError(ErrorCode.BOOT_IMAGE_NOT_FOUND, message)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
