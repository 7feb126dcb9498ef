"""The option records, results and error codes of the API declaration as data.

Names are in snake_case, defaults in Python's words: an absent sequence is `()`, an absent mapping
`{}`, no limit or no value `None`. `REQUIRED` has no default.
"""

from __future__ import annotations

from typing import Any, Final

REQUIRED: Final = ...
Fields = dict[str, Any]

# -- option records -------------------------------------------------------------------------------

_LAUNCH: Fields = {
    "env": {},
    "guest_cwd": None,
    "root_disk": None,
    "root_disk_size_bytes": None,
    "name": None,
    "forked_from": None,
    "mount": None,
    "mount_disk_upper_size_bytes": 4 << 30,
    "live_mounts": (),
    "port_forward": (),
    "binary": None,
    "cwd": None,
    "args": (),
    "kernel": None,
    "dtb": None,
    "memory": None,
    "pdeathsig": True,
    "timeout_ms": 60_000,
    "vmm_env": {},
    "on_log": None,
    "detached": False,
}
_RESTORE: Fields = {**_LAUNCH, "snap_dir": REQUIRED, "image": None, "lazy": False}
_FORK: Fields = {
    **{name: default for name, default in _RESTORE.items() if name != "snap_dir"},
    "out_dir": None,
    "tcp_keep": False,
    "timeout_ms": None,
    "free_memory_threshold": 0.01,
}
_PTY: Fields = {
    "cols": REQUIRED,
    "rows": REQUIRED,
    "stdin": REQUIRED,
    "stdout": REQUIRED,
    "connect_timeout_ms": 5000,
}

OPTIONS: dict[str, Fields] = {
    "AttachOptions": {"pid": None, "name": None, "on_log": None},
    "BootOptions": {**_LAUNCH, "image": None, "cmd": None, "snapshot": None},
    "RestoreOptions": _RESTORE,
    "ForkOptions": _FORK,
    "SnapshotOptions": {
        "out_dir": REQUIRED,
        "dump_cmd": "/sbin/machinen-dump",
        "timeout_ms": 90_000,
        "on_log": None,
        "leave_running": False,
        "tcp_close": False,
    },
    "WriteFileOptions": {"mode": None, "recursive": True, "append": False},
    "VsockExecOptions": {
        "connect_timeout_ms": 30_000,
        "retry_ms": 250,
        "exec_timeout_ms": 300_000,
        "on_stdout": None,
        "on_stderr": None,
    },
    "VsockExecPtyOptions": _PTY,
    "VsockWinsizeOptions": {"timeout_ms": 10_000, "retry_ms": 250},
    "VsockSecretsOptions": {"timeout_ms": 10_000, "retry_ms": 250},
    "VsockFilesOptions": {"timeout_ms": 5_000, "retry_ms": 200, "excludes": ()},
    "SupervisorOptions": {
        "sandboxes": REQUIRED,
        "input": None,
        "output": None,
        "command_prefix": "/",
        "raw_tty_on_attach": None,
        "forward_resize": None,
    },
    "PtyBootOptions": {
        "binary": REQUIRED,
        "env": None,
        "cwd": None,
        "args": (),
        "cols": 80,
        "rows": 24,
        "name": "xterm-256color",
    },
    "ProvisionOptions": {
        "base": None,
        "install": REQUIRED,
        "out": REQUIRED,
        "cmd": None,
        "env": {},
        "binary": None,
        "cwd": None,
        "scratch_disk_size_bytes": 1 << 30,
        "timeout_ms": 600_000,
        "vmm_env": {},
        "kernel": None,
        "dtb": None,
        "on_log": None,
    },
    "EnsureRootfsImageOptions": {
        "cache_dir": None,
        "force": False,
        "size_multiplier": 2.5,
        "min_size_bytes": 2 << 30,
        "size_bytes": None,
        "on_phase": None,
    },
    "EnsureMountDiskImageOptions": {"cache_dir": None, "force": False, "on_phase": None},
    "EnsureMountDiskUpperOptions": {"size_bytes": 4 << 30},
    "RunGcOptions": {"dry_run": False, "pid": None},
    "CheckForkBackpressureOptions": {
        "threshold": REQUIRED,
        "read_free": None,
        "total_bytes": None,
    },
    "MachinenErrorOptions": {"retryable": False, "cause": None},
    "PackBundleOptions": {
        "bundle": REQUIRED,
        "out": REQUIRED,
        "base": None,
        "mount": None,
        "env": {},
        "excludes": (),
        "init_path": None,
        "fuse_agent_path": None,
        "exec_agent_path": None,
    },
    "PackTinyBundleOptions": {
        "bundle": REQUIRED,
        "out": REQUIRED,
        "env": {},
        "mount_guest": None,
        "init_path": None,
        "fuse_agent_path": None,
    },
    "PackRootfsOptions": {
        "rootfs": REQUIRED,
        "out": REQUIRED,
        "config": None,
        "excludes": (),
        "init_path": None,
    },
    "PackMinimalOptions": {"out": REQUIRED, "init_path": None, "config": None},
    "PackWorkspaceOptions": {
        "workspace": REQUIRED,
        "out": REQUIRED,
        "mountpoint": "workspace",
        "excludes": None,
        "max_mb": 500,
    },
}

# -- what comes back ------------------------------------------------------------------------------

RECORDS: dict[str, tuple[str, ...]] = {
    "VsockExecResult": ("exit_code", "stdout", "stderr"),
    "VsockExecPtyResult": ("exit_code",),
    "ChunkLogEvent": ("source", "cmd", "chunk"),
    "PhaseLogEvent": ("source", "kind", "phases", "total_ms"),
    "ImageConfig": ("cmd", "env", "cwd"),
    "MemoryStats": (
        "ceiling_mib",
        "host_rss_bytes",
        "balloon_inflated_bytes",
        "lazy_pages_pending",
    ),
    "SnapshotResult": ("snap_dir", "img_dir", "elapsed_ms", "console_log"),
    "SnapshotMeta": ("source_name", "source_image", "snapped_at", "mount_disk", "live_mounts"),
    "SandboxEntry": ("id", "vm", "scrollback", "added_at"),
    "ProvisionResult": ("image_path", "size_bytes", "elapsed_ms"),
    "EnsureMountDiskImageResult": ("lower_path", "key"),
    "EnsureMountDiskUpperResult": ("upper_path", "size_bytes"),
    "GcResult": (
        "pid",
        "name",
        "status",
        "removed_paths",
        "failed_paths",
        "registry_removed",
    ),
    "RegistryEntry": (
        "pid",
        "name",
        "socket_path",
        "image_path",
        "disk_path",
        "forked_from",
        "boot_log_path",
        "cleanup_paths",
        "vmm_exe",
        "gvproxy_pid",
        "gvproxy_exe",
        "port_forward",
        "memory_ceiling_mib",
        "stats_path",
        "lazy_pages_total",
        "lazy_pages_mount_root",
        "mount_disk",
        "live_mounts",
        "live_mount_servers",
        "started_at",
    ),
    "RssTarget": ("pid", "stats_path"),
    "BalloonCounters": ("bytes_reported", "bytes_inflated", "host_phys_footprint_bytes"),
}

MEMORY_CAP_MIB = 16384
"""The most that `auto_size_memory_mib()` gives a guest on a big host."""
CONSTANTS: Fields = {"DEFAULT_FREE_MEMORY_THRESHOLD": 0.01, "STATS_FILE_SIZE": 24}
TYPES = ("LogEvent", "OnLog", "OnOutputListener", "PidStatus")
INTERNAL = ("collect", "CONSOLE_TAIL_BYTES", "validate_memory_mib")
"""What `_internal` has."""

# -- error codes ---------------------------------------------------------------------------------

_CODES = """
BOOT: VMM_MISSING VMM_PACKAGE_BROKEN IMAGE_NOT_FOUND SNAPSHOT_NOT_FOUND KERNEL_NOT_FOUND
 DTB_NOT_FOUND CMD_WITHOUT_IMAGE CMD_MISSING CWD_INVALID MOUNT_INVALID MOUNT_HOST_NOT_FOUND
 LIVE_MOUNT_OVERRIDE_UNKNOWN PORT_FORWARD_INVALID PORT_FORWARD_CONFLICT PORT_FORWARD_NO_GVPROXY
 PORT_FORWARD_IN_USE PACK_FAILED TIMEOUT DETACHED_READINESS_FAILED MEMORY_INVALID
 MOUNTDISK_TOOL_MISSING
FORK: MEMORY_BACKPRESSURE
EXEC: VSOCK_UNAVAILABLE AGENT_UNAVAILABLE AGENT_TIMEOUT NONZERO_EXIT PROTOCOL
SNAPSHOT: NO_DISK DUMP_FAILED TIMEOUT
PROVISION: BASE_NOT_FOUND KERNEL_NOT_FOUND DTB_NOT_FOUND ASSETS_DIR_INVALID INSTALL_HOOK_FAILED
 DISK_TOO_SMALL
ROOTFS: IMG_TOOL_MISSING
REGISTRY: VM_NOT_FOUND NAME_IN_USE
FILES: HOST_DIR_NOT_FOUND AGENT_UNAVAILABLE
MOUNT: PATH_INVALID PATH_ESCAPE SERVER_BIN_MISSING SERVER_SPAWN_FAILED
SECRETS: VALUE_INVALID AGENT_UNAVAILABLE
WINSIZE: AGENT_UNAVAILABLE
SANDBOX: ID_DUPLICATE ID_UNKNOWN
CACHE: BIND_FAILED
GVPROXY: NOT_FOUND EXPOSE_FAILED PORT_IN_USE INSTALL_FAILED SPAWN_FAILED
MKINITRAMFS: BUNDLE_INVALID WORKSPACE_INVALID WORKSPACE_TOO_LARGE BASE_EXTRACT_FAILED INIT_MISSING
PARSE: FLAG_UNKNOWN FLAG_MISSING_VALUE FLAG_DUPLICATE FLAG_MALFORMED PORT_INVALID
"""


def error_codes() -> list[str]:
    """Every code of the declaration, in its order within a group."""
    lines = _CODES.replace("\n ", " ").strip().splitlines()
    groups = [line.split(": ") for line in lines]
    return [f"{group}_{code}" for group, codes in groups for code in codes.split()]
