"""Machinen: small named Linux VMs that are watched, snapshotted, restored and forked as they run.

    import anyio
    from machinen_runtime import boot

    async def main():
        async with await boot(name="web") as vm:
            print((await vm.exec("uname -a")).stdout)
            fork = await vm.fork(name="web-2")

    anyio.run(main)

The public names; nothing is defined here, and each file is imported when a name of it is first
used, so that `import machinen_runtime` costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machinen_runtime.ancestry import Ancestor
    from machinen_runtime.assets import resolve_base_dtb, resolve_base_kernel, resolve_base_rootfs
    from machinen_runtime.attach import attach
    from machinen_runtime.boot import boot
    from machinen_runtime.boot_log import boot_snapshot_path, detached_log_root, write_boot_snapshot
    from machinen_runtime.bundle import SnapshotMeta
    from machinen_runtime.bundle_notes import BundleNotes, change_notes, read_notes
    from machinen_runtime.call_options import (
        AttachOptions,
        CheckForkBackpressureOptions,
        EnsureMountDiskImageOptions,
        EnsureMountDiskUpperOptions,
        EnsureRootfsImageOptions,
        MachinenErrorOptions,
        PtyBootOptions,
        RunGcOptions,
        SupervisorOptions,
        VsockExecPtyOptions,
        VsockFilesOptions,
        VsockSecretsOptions,
        VsockWinsizeOptions,
    )
    from machinen_runtime.channel_exec import VsockExec, VsockExecOptions, VsockExecResult
    from machinen_runtime.channel_files import VsockFiles
    from machinen_runtime.channel_pty import VsockExecPtyHandle, VsockExecPtyResult
    from machinen_runtime.channel_secrets import VsockSecrets
    from machinen_runtime.channel_sessions import (
        Exited,
        Output,
        ReplayDone,
        Resized,
        SessionEvent,
        SessionInfo,
        TerminalSession,
    )
    from machinen_runtime.channel_winsize import VsockWinsize
    from machinen_runtime.errors import (
        BootError,
        CacheError,
        ErrorCode,
        ExecError,
        FilesError,
        GvproxyError,
        MachinenError,
        MkinitramfsError,
        MountError,
        ParseError,
        ProvisionError,
        RegistryError,
        SandboxError,
        SecretsError,
        SnapshotError,
        WinsizeError,
        format_machinen_error,
        is_machinen_error,
    )
    from machinen_runtime.first_byte import measure_first_byte
    from machinen_runtime.gc import GcResult, run_gc
    from machinen_runtime.guest_config import build_machinen_config
    from machinen_runtime.handle import ExitStatus, VmHandle
    from machinen_runtime.image_config import ImageConfig, warm_image_config_cache
    from machinen_runtime.internal import (
        _internal as _internal,  # pyright: ignore[reportPrivateUsage]
    )
    from machinen_runtime.lineage import FamilyNode, family_tree
    from machinen_runtime.log_events import (
        ChunkLogEvent,
        LogEvent,
        OnLog,
        PhaseLogEvent,
    )
    from machinen_runtime.memory import (
        DEFAULT_FREE_MEMORY_THRESHOLD,
        STATS_FILE_SIZE,
        BalloonCounters,
        MemoryStats,
        RssTarget,
        check_fork_backpressure,
        read_balloon_stats,
        read_host_free_bytes,
        read_host_rss_bytes,
        read_host_rss_bytes_multi,
        read_host_total_bytes,
    )
    from machinen_runtime.mkinitramfs import (
        mkinitramfs_bundle,
        mkinitramfs_minimal,
        mkinitramfs_rootfs,
        mkinitramfs_tiny_bundle,
        mkinitramfs_workspace,
    )
    from machinen_runtime.mkinitramfs_cli import mkinitramfs_cli
    from machinen_runtime.mkinitramfs_options import (
        PackBundleOptions,
        PackMinimalOptions,
        PackRootfsOptions,
        PackTinyBundleOptions,
        PackWorkspaceOptions,
    )
    from machinen_runtime.mountdisk_image import (
        EnsureMountDiskImageResult,
        EnsureMountDiskUpperResult,
        ensure_mount_disk_image,
        ensure_mount_disk_upper,
        mark_mount_disk_image_clean,
        mountdisk_img_cache_dir,
        resolve_mksquashfs,
    )
    from machinen_runtime.options import (
        BootOptions,
        ForkOptions,
        LiveMount,
        Mount,
        PortForward,
        RestoreOptions,
        SnapshotOptions,
        WriteFileOptions,
        auto_size_memory_mib,
        validate_memory_mib,
    )
    from machinen_runtime.pids import PidStatus, validate_pid
    from machinen_runtime.provision import ProvisionOptions, ProvisionResult, provision
    from machinen_runtime.pty_process import PtyVmHandle, boot_pty
    from machinen_runtime.registry import RegistryEntry, list, registry_root
    from machinen_runtime.restore import restore
    from machinen_runtime.rewind import RewindResult, rewind
    from machinen_runtime.rootfs_image import (
        ensure_rootfs_image,
        mark_rootfs_image_clean,
        resolve_mke2fs,
        rootfs_img_cache_dir,
    )
    from machinen_runtime.sandboxes import OnOutputListener, SandboxEntry, Sandboxes
    from machinen_runtime.shelf import KeptSnapshot, delete_snapshot, find_snapshot, kept_snapshots
    from machinen_runtime.snapshot import SnapshotResult
    from machinen_runtime.supervisor import Supervisor
    from machinen_runtime.vmm_binary import resolve_vmm_binary
    from machinen_runtime.write_file import build_write_file_cmd, build_write_file_cmds

_NAMES = {
    "ancestry": ("Ancestor",),
    "assets": (
        "resolve_base_dtb",
        "resolve_base_kernel",
        "resolve_base_rootfs",
    ),
    "attach": ("attach",),
    "boot": ("boot",),
    "boot_log": (
        "boot_snapshot_path",
        "detached_log_root",
        "write_boot_snapshot",
    ),
    "bundle": ("SnapshotMeta",),
    "bundle_notes": (
        "BundleNotes",
        "change_notes",
        "read_notes",
    ),
    "call_options": (
        "AttachOptions",
        "CheckForkBackpressureOptions",
        "EnsureMountDiskImageOptions",
        "EnsureMountDiskUpperOptions",
        "EnsureRootfsImageOptions",
        "MachinenErrorOptions",
        "PtyBootOptions",
        "RunGcOptions",
        "SupervisorOptions",
        "VsockExecPtyOptions",
        "VsockFilesOptions",
        "VsockSecretsOptions",
        "VsockWinsizeOptions",
    ),
    "channel_exec": (
        "VsockExec",
        "VsockExecOptions",
        "VsockExecResult",
    ),
    "channel_files": ("VsockFiles",),
    "channel_pty": (
        "VsockExecPtyHandle",
        "VsockExecPtyResult",
    ),
    "channel_secrets": ("VsockSecrets",),
    "channel_sessions": (
        "Exited",
        "Output",
        "ReplayDone",
        "Resized",
        "SessionEvent",
        "SessionInfo",
        "TerminalSession",
    ),
    "channel_winsize": ("VsockWinsize",),
    "errors": (
        "BootError",
        "CacheError",
        "ErrorCode",
        "ExecError",
        "FilesError",
        "GvproxyError",
        "MachinenError",
        "MkinitramfsError",
        "MountError",
        "ParseError",
        "ProvisionError",
        "RegistryError",
        "SandboxError",
        "SecretsError",
        "SnapshotError",
        "WinsizeError",
        "format_machinen_error",
        "is_machinen_error",
    ),
    "first_byte": ("measure_first_byte",),
    "gc": (
        "GcResult",
        "run_gc",
    ),
    "guest_config": ("build_machinen_config",),
    "handle": (
        "ExitStatus",
        "VmHandle",
    ),
    "image_config": (
        "ImageConfig",
        "warm_image_config_cache",
    ),
    "internal": ("_internal",),
    "lineage": (
        "FamilyNode",
        "family_tree",
    ),
    "log_events": (
        "ChunkLogEvent",
        "LogEvent",
        "OnLog",
        "PhaseLogEvent",
    ),
    "memory": (
        "BalloonCounters",
        "DEFAULT_FREE_MEMORY_THRESHOLD",
        "MemoryStats",
        "RssTarget",
        "STATS_FILE_SIZE",
        "check_fork_backpressure",
        "read_balloon_stats",
        "read_host_free_bytes",
        "read_host_rss_bytes",
        "read_host_rss_bytes_multi",
        "read_host_total_bytes",
    ),
    "mkinitramfs": (
        "mkinitramfs_bundle",
        "mkinitramfs_minimal",
        "mkinitramfs_rootfs",
        "mkinitramfs_tiny_bundle",
        "mkinitramfs_workspace",
    ),
    "mkinitramfs_cli": ("mkinitramfs_cli",),
    "mkinitramfs_options": (
        "PackBundleOptions",
        "PackMinimalOptions",
        "PackRootfsOptions",
        "PackTinyBundleOptions",
        "PackWorkspaceOptions",
    ),
    "mountdisk_image": (
        "EnsureMountDiskImageResult",
        "EnsureMountDiskUpperResult",
        "ensure_mount_disk_image",
        "ensure_mount_disk_upper",
        "mark_mount_disk_image_clean",
        "mountdisk_img_cache_dir",
        "resolve_mksquashfs",
    ),
    "options": (
        "BootOptions",
        "ForkOptions",
        "LiveMount",
        "Mount",
        "PortForward",
        "RestoreOptions",
        "SnapshotOptions",
        "WriteFileOptions",
        "auto_size_memory_mib",
        "validate_memory_mib",
    ),
    "pids": (
        "PidStatus",
        "validate_pid",
    ),
    "provision": (
        "ProvisionOptions",
        "ProvisionResult",
        "provision",
    ),
    "pty_process": (
        "PtyVmHandle",
        "boot_pty",
    ),
    "registry": (
        "RegistryEntry",
        "list",
        "registry_root",
    ),
    "restore": ("restore",),
    "rewind": (
        "RewindResult",
        "rewind",
    ),
    "rootfs_image": (
        "ensure_rootfs_image",
        "mark_rootfs_image_clean",
        "resolve_mke2fs",
        "rootfs_img_cache_dir",
    ),
    "sandboxes": (
        "OnOutputListener",
        "SandboxEntry",
        "Sandboxes",
    ),
    "shelf": (
        "KeptSnapshot",
        "delete_snapshot",
        "find_snapshot",
        "kept_snapshots",
    ),
    "snapshot": ("SnapshotResult",),
    "supervisor": ("Supervisor",),
    "vmm_binary": ("resolve_vmm_binary",),
    "write_file": (
        "build_write_file_cmd",
        "build_write_file_cmds",
    ),
}
"""Each file with public names, and the names."""

_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "DEFAULT_FREE_MEMORY_THRESHOLD",
    "STATS_FILE_SIZE",
    "Ancestor",
    "AttachOptions",
    "BalloonCounters",
    "BootError",
    "BootOptions",
    "BundleNotes",
    "CacheError",
    "CheckForkBackpressureOptions",
    "ChunkLogEvent",
    "EnsureMountDiskImageOptions",
    "EnsureMountDiskImageResult",
    "EnsureMountDiskUpperOptions",
    "EnsureMountDiskUpperResult",
    "EnsureRootfsImageOptions",
    "ErrorCode",
    "ExecError",
    "ExitStatus",
    "Exited",
    "FamilyNode",
    "FilesError",
    "ForkOptions",
    "GcResult",
    "GvproxyError",
    "ImageConfig",
    "KeptSnapshot",
    "LiveMount",
    "LogEvent",
    "MachinenError",
    "MachinenErrorOptions",
    "MemoryStats",
    "MkinitramfsError",
    "Mount",
    "MountError",
    "OnLog",
    "OnOutputListener",
    "Output",
    "PackBundleOptions",
    "PackMinimalOptions",
    "PackRootfsOptions",
    "PackTinyBundleOptions",
    "PackWorkspaceOptions",
    "ParseError",
    "PhaseLogEvent",
    "PidStatus",
    "PortForward",
    "ProvisionError",
    "ProvisionOptions",
    "ProvisionResult",
    "PtyBootOptions",
    "PtyVmHandle",
    "RegistryEntry",
    "RegistryError",
    "ReplayDone",
    "Resized",
    "RestoreOptions",
    "RewindResult",
    "RssTarget",
    "RunGcOptions",
    "SandboxEntry",
    "SandboxError",
    "Sandboxes",
    "SecretsError",
    "SessionEvent",
    "SessionInfo",
    "SnapshotError",
    "SnapshotMeta",
    "SnapshotOptions",
    "SnapshotResult",
    "Supervisor",
    "SupervisorOptions",
    "TerminalSession",
    "VmHandle",
    "VsockExec",
    "VsockExecOptions",
    "VsockExecPtyHandle",
    "VsockExecPtyOptions",
    "VsockExecPtyResult",
    "VsockExecResult",
    "VsockFiles",
    "VsockFilesOptions",
    "VsockSecrets",
    "VsockSecretsOptions",
    "VsockWinsize",
    "VsockWinsizeOptions",
    "WinsizeError",
    "WriteFileOptions",
    "attach",
    "auto_size_memory_mib",
    "boot",
    "boot_pty",
    "boot_snapshot_path",
    "build_machinen_config",
    "build_write_file_cmd",
    "build_write_file_cmds",
    "change_notes",
    "check_fork_backpressure",
    "delete_snapshot",
    "detached_log_root",
    "ensure_mount_disk_image",
    "ensure_mount_disk_upper",
    "ensure_rootfs_image",
    "family_tree",
    "find_snapshot",
    "format_machinen_error",
    "is_machinen_error",
    "kept_snapshots",
    "list",
    "mark_mount_disk_image_clean",
    "mark_rootfs_image_clean",
    "measure_first_byte",
    "mkinitramfs_bundle",
    "mkinitramfs_cli",
    "mkinitramfs_minimal",
    "mkinitramfs_rootfs",
    "mkinitramfs_tiny_bundle",
    "mkinitramfs_workspace",
    "mountdisk_img_cache_dir",
    "provision",
    "read_balloon_stats",
    "read_host_free_bytes",
    "read_host_rss_bytes",
    "read_host_rss_bytes_multi",
    "read_host_total_bytes",
    "read_notes",
    "registry_root",
    "resolve_base_dtb",
    "resolve_base_kernel",
    "resolve_base_rootfs",
    "resolve_mke2fs",
    "resolve_mksquashfs",
    "resolve_vmm_binary",
    "restore",
    "rewind",
    "rootfs_img_cache_dir",
    "run_gc",
    "validate_memory_mib",
    "validate_pid",
    "warm_image_config_cache",
    "write_boot_snapshot",
]


class _LazyPackage(ModuleType):
    """Keeps `machinen_runtime.boot` the function, though a file of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what the import system does on its own: bind a submodule to a public name."""
        if not (isinstance(value, ModuleType) and name in _HOMES):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        """Import a public name from its file when it is first used (compare PEP 562)."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{home}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> Iterable[str]:
        """The public names, imported or not."""
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _LazyPackage
