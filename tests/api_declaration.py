"""The functions and classes of the API declaration as data: what `test_api_table.py` checks.

Names are in snake_case. A function's options are the fields of a record of `api_records.py`;
`throws` are the codes the declaration promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.api_records import CONSTANTS, OPTIONS, RECORDS, REQUIRED, TYPES, Fields


@dataclass(frozen=True)
class Function:
    """A function or method: positional parameters (with defaults), then an options record."""

    positional: tuple[str, ...] = ()
    defaults: tuple[Any, ...] = ()
    options: str | None = None
    throws: tuple[str, ...] = ()
    is_async: bool = False


@dataclass(frozen=True)
class Class:
    """A class: what can be called on it and what can be read from it."""

    methods: dict[str, Function]
    properties: tuple[str, ...] = ()
    constructor: Function | None = None


# -- functions ------------------------------------------------------------------------------------

_RESOLVE = (("explicit", "cwd"), (None, None))
_WRITE_FILE = ("guest_path", "contents")
_BOOT_CODES = (
    "BOOT_VMM_MISSING",
    "BOOT_VMM_PACKAGE_BROKEN",
    "BOOT_IMAGE_NOT_FOUND",
    "BOOT_SNAPSHOT_NOT_FOUND",
    "BOOT_KERNEL_NOT_FOUND",
    "BOOT_DTB_NOT_FOUND",
    "BOOT_CMD_WITHOUT_IMAGE",
    "BOOT_CMD_MISSING",
    "BOOT_MOUNT_INVALID",
    "BOOT_MOUNT_HOST_NOT_FOUND",
    "BOOT_PORT_FORWARD_INVALID",
    "BOOT_PORT_FORWARD_CONFLICT",
    "BOOT_PORT_FORWARD_NO_GVPROXY",
    "BOOT_PORT_FORWARD_IN_USE",
    "BOOT_PACK_FAILED",
)
_PROVISION_CODES = (
    "PROVISION_BASE_NOT_FOUND",
    "PROVISION_KERNEL_NOT_FOUND",
    "PROVISION_DTB_NOT_FOUND",
    "PROVISION_ASSETS_DIR_INVALID",
    "PROVISION_INSTALL_HOOK_FAILED",
    "PROVISION_DISK_TOO_SMALL",
)

FUNCTIONS: dict[str, Function] = {
    "attach": Function(options="AttachOptions", throws=("REGISTRY_VM_NOT_FOUND",), is_async=True),
    "auto_size_memory_mib": Function(("host_bytes",), (None,)),
    "boot": Function(options="BootOptions", throws=_BOOT_CODES, is_async=True),
    "boot_pty": Function(options="PtyBootOptions"),
    "boot_snapshot_path": Function(("pid",)),
    "build_machinen_config": Function(options="MachinenConfigInput"),
    "build_write_file_cmd": Function(_WRITE_FILE, options="WriteFileOptions"),
    "build_write_file_cmds": Function(_WRITE_FILE, options="WriteFileOptions"),
    "check_fork_backpressure": Function(
        options="CheckForkBackpressureOptions",
        throws=("FORK_MEMORY_BACKPRESSURE",),
        is_async=True,
    ),
    "detached_log_root": Function(),
    "ensure_mount_disk_image": Function(
        ("host_abs",),
        options="EnsureMountDiskImageOptions",
        throws=(
            "BOOT_MOUNTDISK_TOOL_MISSING",
            "PROVISION_INSTALL_HOOK_FAILED",
            "BOOT_MOUNT_HOST_NOT_FOUND",
            "BOOT_MOUNT_INVALID",
        ),
    ),
    "ensure_mount_disk_upper": Function(
        options="EnsureMountDiskUpperOptions",
        throws=("BOOT_MOUNTDISK_TOOL_MISSING", "PROVISION_INSTALL_HOOK_FAILED"),
    ),
    "ensure_rootfs_image": Function(
        ("tar_path",),
        options="EnsureRootfsImageOptions",
        throws=(
            "ROOTFS_IMG_TOOL_MISSING",
            "PROVISION_BASE_NOT_FOUND",
            "PROVISION_INSTALL_HOOK_FAILED",
        ),
    ),
    "format_machinen_error": Function(("error",)),
    "is_machinen_error": Function(("error", "code"), (None,)),
    "list": Function(),
    "mark_mount_disk_image_clean": Function(("img_path",)),
    "mark_rootfs_image_clean": Function(("img_path",)),
    "measure_first_byte": Function(("vm",), is_async=True),
    "mkinitramfs_bundle": Function(options="PackBundleOptions"),
    "mkinitramfs_cli": Function(("argv",)),
    "mkinitramfs_minimal": Function(options="PackMinimalOptions"),
    "mkinitramfs_rootfs": Function(options="PackRootfsOptions"),
    "mkinitramfs_tiny_bundle": Function(options="PackTinyBundleOptions"),
    "mkinitramfs_workspace": Function(options="PackWorkspaceOptions"),
    "mountdisk_img_cache_dir": Function(),
    "provision": Function(options="ProvisionOptions", throws=_PROVISION_CODES, is_async=True),
    "read_balloon_stats": Function(("path",)),
    "read_host_free_bytes": Function(is_async=True),
    "read_host_rss_bytes": Function(("pid", "stats_path"), (None,)),
    "read_host_rss_bytes_multi": Function(("targets",)),
    "read_host_total_bytes": Function(),
    "registry_root": Function(),
    "resolve_base_dtb": Function(
        *_RESOLVE, throws=("PROVISION_DTB_NOT_FOUND", "PROVISION_ASSETS_DIR_INVALID")
    ),
    "resolve_base_kernel": Function(
        *_RESOLVE, throws=("PROVISION_KERNEL_NOT_FOUND", "PROVISION_ASSETS_DIR_INVALID")
    ),
    "resolve_base_rootfs": Function(
        *_RESOLVE, throws=("PROVISION_BASE_NOT_FOUND", "PROVISION_ASSETS_DIR_INVALID")
    ),
    "resolve_mke2fs": Function(),
    "resolve_mksquashfs": Function(),
    "resolve_vmm_binary": Function(throws=("BOOT_VMM_MISSING", "BOOT_VMM_PACKAGE_BROKEN")),
    "restore": Function(
        options="RestoreOptions",
        throws=("BOOT_SNAPSHOT_NOT_FOUND", "BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN"),
        is_async=True,
    ),
    "rootfs_img_cache_dir": Function(),
    "run_gc": Function(options="RunGcOptions"),
    "validate_pid": Function(("pid", "expected")),
    "warm_image_config_cache": Function(("image_path", "config")),
    "write_boot_snapshot": Function(("path", "contents")),
}
INLINE_OPTIONS: dict[str, Fields] = {
    "MachinenConfigInput": {
        "cmd": REQUIRED,
        "env": REQUIRED,
        "guest_cwd": None,
        "image_cwd": None,
        "live_mounts": REQUIRED,
    },
    "SandboxesOptions": {"scrollback_bytes": 8192},
}
"""Options the declaration gives no exported name."""

# -- classes --------------------------------------------------------------------------------------

_LIFE: dict[str, Function] = {
    "wait": Function(is_async=True),
    "kill": Function(is_async=True),
    "output": Function(is_async=True),
    "error_output": Function(is_async=True),
}
_STREAMS = ("stdin", "stdout", "stderr")
_EXEC_CODES = ("EXEC_AGENT_UNAVAILABLE", "EXEC_AGENT_TIMEOUT")

CLASSES: dict[str, Class] = {
    "VmHandle": Class(
        properties=("pid", "name", *_STREAMS),
        methods={
            **_LIFE,
            "detach": Function(is_async=True),
            "exec": Function(("cmd",), options="VsockExecOptions", is_async=True),
            "exec_raw": Function(("cmd",), options="VsockExecOptions", is_async=True),
            "exec_pty": Function(("cmd",), options="VsockExecPtyOptions"),
            "write_file": Function(
                _WRITE_FILE,
                options="WriteFileOptions",
                throws=("EXEC_VSOCK_UNAVAILABLE", "EXEC_NONZERO_EXIT", *_EXEC_CODES),
                is_async=True,
            ),
            "snapshot": Function(
                options="SnapshotOptions",
                throws=("SNAPSHOT_NO_DISK", "SNAPSHOT_DUMP_FAILED", "SNAPSHOT_TIMEOUT"),
                is_async=True,
            ),
            "memory_stats": Function(is_async=True),
            "fork": Function(
                options="ForkOptions", throws=("FORK_MEMORY_BACKPRESSURE",), is_async=True
            ),
        },
    ),
    "PtyVmHandle": Class(
        properties=("pid", *_STREAMS), methods={**_LIFE, "resize": Function(("cols", "rows"))}
    ),
    "VsockExec": Class(
        {
            "run": Function(
                ("uds_path", "cmd"),
                options="VsockExecOptions",
                throws=(*_EXEC_CODES, "EXEC_PROTOCOL"),
                is_async=True,
            ),
            "start_pty": Function(("uds_path", "cmd"), options="VsockExecPtyOptions"),
        }
    ),
    "VsockExecPtyHandle": Class(
        {"resize": Function(("cols", "rows")), "cancel": Function()}, properties=("result",)
    ),
    "VsockFiles": Class(
        {
            "push": Function(
                ("uds_path", "host_dir", "guest_path"),
                options="VsockFilesOptions",
                is_async=True,
            ),
            "pull": Function(
                ("uds_path", "guest_path", "host_dir"),
                options="VsockFilesOptions",
                is_async=True,
            ),
        }
    ),
    "VsockSecrets": Class(
        {"send": Function(("uds_path", "secrets"), options="VsockSecretsOptions", is_async=True)}
    ),
    "VsockWinsize": Class(
        {
            "connect": Function(("uds_path",), options="VsockWinsizeOptions", is_async=True),
            "send": Function(("cols", "rows")),
            "close": Function(),
        }
    ),
    "Sandboxes": Class(
        constructor=Function(options="SandboxesOptions"),
        properties=("scrollback_bytes",),
        methods={
            "add": Function(("id", "vm")),
            "remove": Function(("id",)),
            "list": Function(),
            "get": Function(("id",)),
            "send": Function(("id", "data")),
            "on_output": Function(("id", "fn")),
        },
    ),
    "Supervisor": Class(
        constructor=Function(options="SupervisorOptions"),
        properties=("sandboxes",),
        methods={
            "run": Function(is_async=True),
            "stop": Function(),
            "attach": Function(("id",)),
            "detach": Function(),
        },
    ),
    "MachinenError": Class(
        constructor=Function(("code", "message"), options="MachinenErrorOptions"),
        properties=("code", "retryable"),
        methods={},
    ),
}
ERROR_CLASSES = (
    "BootError",
    "ExecError",
    "SnapshotError",
    "ProvisionError",
    "RegistryError",
    "FilesError",
    "MountError",
    "SecretsError",
    "WinsizeError",
    "SandboxError",
    "CacheError",
    "GvproxyError",
    "MkinitramfsError",
    "ParseError",
)

EXPORTED = sorted(
    {
        *OPTIONS,
        *RECORDS,
        *CONSTANTS,
        *TYPES,
        *FUNCTIONS,
        *CLASSES,
        *ERROR_CLASSES,
        "ErrorCode",
        "_internal",
    }
)
"""Every name a program can import."""
