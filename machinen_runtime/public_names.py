"""The public names and the file each comes from: the one table they are in.

`__init__.py` finds names here when they are used, and `__init__.pyi`, which type checkers read, is
made from it: `make docs`.
"""

from __future__ import annotations

NAMES: dict[str, tuple[str, ...]] = {
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
    "compare": (
        "FileDifference",
        "MemoryFacts",
        "ProcessDifference",
        "VariableDifference",
        "VmDifference",
        "compare",
    ),
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
    "file_difference": (
        "TextDifference",
        "file_difference",
    ),
    "first_byte": ("measure_first_byte",),
    "gc": (
        "GcResult",
        "run_gc",
    ),
    "guest_config": ("build_machinen_config",),
    "guest_survey": (
        "FileFacts",
        "ProcessFacts",
    ),
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
    "promote": (
        "PromotePlan",
        "PromoteResult",
        "plan_promotion",
        "promote",
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
    "run_many": (
        "OutcomeGroup",
        "RunOutcome",
        "grouped",
        "run_in_each",
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

HOMES = {name: home for home, names in NAMES.items() for name in names}
PUBLIC = sorted(
    (name for name in HOMES if not name.startswith("_")),
    key=lambda name: (not name.isupper(), name),
)
"""`__all__`: constants, then classes, then functions."""
