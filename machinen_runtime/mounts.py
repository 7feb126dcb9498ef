"""The mounts of a VM to be launched: a `mount`'s two disks, and which live mounts it gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from machinen_runtime.cached_image import OnPhase
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.mountdisk_image import ensure_mount_disk_image, ensure_upper_base
from machinen_runtime.option_types import LiveMount, Mount, StrPath
from machinen_runtime.overlay_template import ensure_overlay_template, overlay_size_bytes
from vmm.spec import LiveMountSpec, MountDiskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDisk:
    """The disks behind a `mount`: files nobody writes to, and frozen layers on the upper's base."""

    guest: str
    lower: Path
    base: Path
    layers: tuple[Path, ...] = ()

    def to_spec(self) -> MountDiskSpec:
        """What the monitor is told.

        Raises:
            BootError: BOOT_SNAPSHOT_INVALID for a layer that is none.
        """
        sizes = [overlay_size_bytes(layer) for layer in self.layers]
        return MountDiskSpec(
            guest=self.guest,
            lower=str(self.lower),
            base=str(self.base),
            layers=[str(layer) for layer in self.layers],
            overlay_template=str(ensure_overlay_template(self.base, sizes[-1] if sizes else None)),
        )


def prepare_mount_disk(
    mount: Mount | None,
    upper_size_bytes: int,
    cwd: StrPath | None = None,
    on_phase: OnPhase | None = None,
) -> MountDisk | None:
    """Copy the directory of a `mount` into an image, unless that very tree is cached.

    Raises:
        BootError, ProvisionError: those of `ensure_mount_disk_image`.
    """
    if mount is None:
        return None
    host = Path(cwd or ".", mount.host).absolute()
    image = ensure_mount_disk_image(host, on_phase=on_phase)
    base = ensure_upper_base(upper_size_bytes)
    return MountDisk(guest=mount.guest, lower=image.lower_path, base=base)


def resolve_live_mounts(
    mounts: Sequence[LiveMount], cwd: StrPath | None = None
) -> tuple[LiveMount, ...]:
    """The live mounts with absolute host paths.

    Raises:
        BootError: BOOT_MOUNT_HOST_NOT_FOUND if a directory is not there.
    """
    resolved = tuple(
        replace(each, host=str(Path(cwd or ".", each.host).absolute())) for each in mounts
    )
    for each in resolved:
        if not os.path.isdir(each.host):
            message = f"no such directory to mount at {each.guest}: {each.host}"
            raise BootError(ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, message)
    return resolved


def override_live_mounts(
    recorded: Sequence[LiveMount] | None, overrides: Sequence[LiveMount]
) -> tuple[LiveMount, ...]:
    """The live mounts of a restored VM: those of its bundle, with some shown from elsewhere.

    A bundle that knows nothing of live mounts (None) gets the overrides as they are.

    Raises:
        BootError: BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN, BOOT_MOUNT_HOST_NOT_FOUND.
    """
    if recorded is None:
        return resolve_live_mounts(overrides)
    by_guest = {each.guest: each for each in overrides}
    known = {each.guest for each in recorded}
    if unknown := sorted(set(by_guest) - known):
        has = f"has live mounts at {', '.join(sorted(known))}" if known else "has none"
        message = f"the snapshot has no live mount at {', '.join(unknown)}; it {has}"
        raise BootError(ErrorCode.BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN, message)
    return resolve_live_mounts([by_guest.get(each.guest, each) for each in recorded])


def live_mount_specs(mounts: Sequence[LiveMount], state: Path | None) -> list[LiveMountSpec]:
    """What the monitor is told. `state`: the bundle's file on what was open in them."""
    state_file = None if state is None else str(state)
    return [
        LiveMountSpec(host=str(each.host), guest=each.guest, mode=each.mode, state_file=state_file)
        for each in mounts
    ]
