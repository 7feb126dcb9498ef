"""The mounts in a snapshot bundle: the two disks of a `mount`, and which live mounts there were.

    <bundle>/mount-lower.sqfs        the copied directory
    <bundle>/mount-upper.img         the empty ext4 its layers lie on
    <bundle>/vm/mount-<n>.qcow2      frozen layers with what was written, oldest first

Of live mounts no bytes are kept, only where they led and what was open in them. The meta.json may
be anybody's: everything read from it is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.mounts import MountDisk
from machinen_runtime.option_types import LiveMount, is_whole, validate_mount_guest
from vmm.requests import MOUNT_LOWER_FILE, MOUNT_UPPER_FILE, SnapshotReport

LAZY_DIR = "/mnt/snap-src/img"
"""Where a lazy restore of engine criu shows the images. No bundle of that engine records it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDiskMeta:
    """The disks of a `mount`: file names in the bundle, sizes in bytes, and layers below vm/."""

    guest: str
    lower: str
    upper: str
    layers: list[str]
    lower_bytes: int
    upper_bytes: int

    def to_object(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "guest": self.guest,
            "lower": self.lower,
            "upper": self.upper,
            "layers": self.layers,
            "lowerBytes": self.lower_bytes,
            "upperBytes": self.upper_bytes,
        }

    def files(self, layers_dir: str) -> list[str]:
        """All its files, by their paths in the bundle; `layers_dir` is the layers' directory."""
        return [self.lower, self.upper, *(f"{layers_dir}/{name}" for name in self.layers)]

    def to_disk(self, bundle: Path, layers_dir: Path) -> MountDisk:
        """The disks to launch from."""
        return MountDisk(
            guest=self.guest,
            lower=bundle / self.lower,
            base=bundle / self.upper,
            layers=tuple(layers_dir / name for name in self.layers),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMountMeta:
    """A live mount the source had."""

    guest: str
    host: str
    mode: Literal["ro", "rw"]

    def to_option(self) -> LiveMount:
        """The option that makes the same mount again."""
        return LiveMount(host=self.host, guest=self.guest, mode=self.mode)


def mount_disk_of_report(report: SnapshotReport) -> MountDiskMeta | None:
    """What a monitor just wrote, once `place_mount_files` has moved it."""
    if report.mount_guest is None:
        return None
    return mount_disk_meta(Path(report.directory).parent, report.mount_guest, report.mount_layers)


def mount_disk_meta(bundle: Path, guest: str, layers: list[str]) -> MountDiskMeta:
    """The meta of a mount's disks that lie in `bundle` where they belong."""
    return MountDiskMeta(
        guest=guest,
        lower=MOUNT_LOWER_FILE,
        upper=MOUNT_UPPER_FILE,
        layers=layers,
        lower_bytes=(bundle / MOUNT_LOWER_FILE).stat().st_size,
        upper_bytes=(bundle / MOUNT_UPPER_FILE).stat().st_size,
    )


def place_mount_files(directory: Path) -> None:
    """The monitor writes into one directory; the mount's bases belong beside it, by the API."""
    for name in (MOUNT_LOWER_FILE, MOUNT_UPPER_FILE):
        (directory / name).rename(directory.parent / name)


def mount_disk_from_object(raw: object) -> MountDiskMeta | None:
    """A MountDiskMeta from its JSON; ValueError if it does not fit."""
    if raw is None:
        return None
    fields = _object(raw, "mountDisk")
    guest, layers = fields.get("guest"), fields.get("layers")
    sizes = fields.get("lowerBytes"), fields.get("upperBytes")
    if (fields.get("lower"), fields.get("upper")) != (MOUNT_LOWER_FILE, MOUNT_UPPER_FILE):
        raise ValueError("mountDisk names files we do not write")
    if not isinstance(guest, str) or not isinstance(layers, list) or not all(map(is_whole, sizes)):
        raise ValueError("mountDisk")
    names = cast("list[object]", layers)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("mountDisk.layers")
    return MountDiskMeta(
        guest=_guest(guest),
        lower=MOUNT_LOWER_FILE,
        upper=MOUNT_UPPER_FILE,
        layers=cast("list[str]", names),
        lower_bytes=cast("int", sizes[0]),
        upper_bytes=cast("int", sizes[1]),
    )


def live_mounts_from_object(raw: object) -> list[LiveMountMeta] | None:
    """The live mounts from their JSON, None if the bundle does not speak of any; or ValueError."""
    if raw is None:
        return None
    if not isinstance(raw, list):
        raise ValueError("liveMounts")
    return [_live_mount(each) for each in cast("list[object]", raw)]


def _live_mount(raw: object) -> LiveMountMeta:
    fields = _object(raw, "liveMounts")
    guest, host, mode = (fields.get(name) for name in ("guest", "host", "mode"))
    if not isinstance(guest, str) or not isinstance(host, str):
        raise ValueError("liveMounts")
    if mode not in ("ro", "rw") or not host.startswith("/") or "\0" in host:
        raise ValueError("liveMounts")
    return LiveMountMeta(guest=_guest(guest), host=host, mode="ro" if mode == "ro" else "rw")


def _object(raw: object, name: str) -> dict[str, object]:
    if not isinstance(raw, dict):
        raise ValueError(name)
    return cast("dict[str, object]", raw)


def _guest(path: str) -> str:
    try:
        return validate_mount_guest(path)
    except BootError as error:
        raise ValueError(str(error)) from error


def check_mount_files(bundle: Path, meta: MountDiskMeta) -> None:
    """BOOT_SNAPSHOT_INVALID if a base of the mount is missing or torn."""
    for name, size in ((meta.lower, meta.lower_bytes), (meta.upper, meta.upper_bytes)):
        path = bundle / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            found = "is missing" if actual is None else f"has {actual} bytes instead of {size}"
            message = f"the snapshot in {bundle} is incomplete: {name} {found}"
            raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)
