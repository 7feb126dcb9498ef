"""The options of the `mkinitramfs_` packers. Names and defaults mirror the API declaration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from machinen_runtime.option_types import Mount, OptionRecord, StrPath

DEFAULT_MAX_MB = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PackBundleOptions(OptionRecord):
    """Options of `mkinitramfs_bundle()`."""

    bundle: StrPath
    """A directory with `machinen-config.json` and, if it has files of its own, `rootfs/`."""
    out: StrPath
    """The archive to write; an older one is replaced."""
    base: StrPath | None = None
    """A root filesystem tarball to start from."""
    mount: Mount | None = None
    """A host directory copied to a path under /mnt, over the base and below the bundle."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to the config's `env`; what the bundle says wins."""
    excludes: Sequence[str] = ()
    """fnmatch patterns of paths to leave out, relative to the guest's root; with what is below."""
    init_path: StrPath | None = None
    """The program that becomes `/init`. None: ours."""
    fuse_agent_path: StrPath | None = None
    """A program that becomes `/fuse-agent`. None: there is none; ours is part of the agent."""
    exec_agent_path: StrPath | None = None
    """The program that becomes `/agent`. None: ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackTinyBundleOptions(OptionRecord):
    """Options of `mkinitramfs_tiny_bundle()`."""

    bundle: StrPath
    """A directory with `machinen-config.json`; its `rootfs/` is not packed."""
    out: StrPath
    """The archive to write; an older one is replaced."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Added to the config's `env`; what the bundle says wins."""
    mount_guest: str | None = None
    """Where the guest shall put the overlay of a `mount`: a path under /mnt."""
    init_path: StrPath | None = None
    """The program that becomes `/init`. None: ours."""
    fuse_agent_path: StrPath | None = None
    """A program that becomes `/fuse-agent`. None: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRootfsOptions(OptionRecord):
    """Options of `mkinitramfs_rootfs()`."""

    rootfs: StrPath
    """The directory that becomes the root."""
    out: StrPath
    """The archive to write; an older one is replaced."""
    config: StrPath | None = None
    """A file that becomes `/machinen-config.json`."""
    excludes: Sequence[str] = ()
    """fnmatch patterns of paths to leave out, relative to the root; with what is below."""
    init_path: StrPath | None = None
    """The program that becomes `/init`. None: ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackMinimalOptions(OptionRecord):
    """Options of `mkinitramfs_minimal()`."""

    out: StrPath
    """The archive to write; an older one is replaced."""
    init_path: StrPath | None = None
    """The program that becomes `/init`. None: ours."""
    config: StrPath | None = None
    """A file that becomes `/machinen-config.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackWorkspaceOptions(OptionRecord):
    """Options of `mkinitramfs_workspace()`."""

    workspace: StrPath
    """The directory to pack."""
    out: StrPath
    """The archive to write; an older one is replaced."""
    mountpoint: str = "workspace"
    """Its name in the archive."""
    excludes: Iterable[str] | None = None
    """Base names to leave out, with what is below. None: `DEFAULT_WORKSPACE_EXCLUDES`."""
    max_mb: float = DEFAULT_MAX_MB
    """The most MiB the archive may have."""
