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
    from machinen_runtime.assets import (
        resolve_base_dtb as resolve_base_dtb,
    )
    from machinen_runtime.assets import (
        resolve_base_kernel as resolve_base_kernel,
    )
    from machinen_runtime.assets import (
        resolve_base_rootfs as resolve_base_rootfs,
    )
    from machinen_runtime.attach import attach as attach
    from machinen_runtime.boot import boot as boot
    from machinen_runtime.boot_log import (
        boot_snapshot_path as boot_snapshot_path,
    )
    from machinen_runtime.boot_log import (
        detached_log_root as detached_log_root,
    )
    from machinen_runtime.boot_log import (
        write_boot_snapshot as write_boot_snapshot,
    )
    from machinen_runtime.channel_exec import (
        VsockExec as VsockExec,
    )
    from machinen_runtime.channel_exec import (
        VsockExecOptions as VsockExecOptions,
    )
    from machinen_runtime.channel_exec import (
        VsockExecResult as VsockExecResult,
    )
    from machinen_runtime.channel_files import VsockFiles as VsockFiles
    from machinen_runtime.channel_pty import (
        VsockExecPtyHandle as VsockExecPtyHandle,
    )
    from machinen_runtime.channel_pty import (
        VsockExecPtyResult as VsockExecPtyResult,
    )
    from machinen_runtime.channel_secrets import VsockSecrets as VsockSecrets
    from machinen_runtime.channel_sessions import (
        Exited as Exited,
    )
    from machinen_runtime.channel_sessions import (
        Output as Output,
    )
    from machinen_runtime.channel_sessions import (
        ReplayDone as ReplayDone,
    )
    from machinen_runtime.channel_sessions import (
        Resized as Resized,
    )
    from machinen_runtime.channel_sessions import (
        SessionEvent as SessionEvent,
    )
    from machinen_runtime.channel_sessions import (
        SessionInfo as SessionInfo,
    )
    from machinen_runtime.channel_sessions import (
        TerminalSession as TerminalSession,
    )
    from machinen_runtime.channel_winsize import VsockWinsize as VsockWinsize
    from machinen_runtime.errors import (
        BootError as BootError,
    )
    from machinen_runtime.errors import (
        CacheError as CacheError,
    )
    from machinen_runtime.errors import (
        ErrorCode as ErrorCode,
    )
    from machinen_runtime.errors import (
        ExecError as ExecError,
    )
    from machinen_runtime.errors import (
        FilesError as FilesError,
    )
    from machinen_runtime.errors import (
        GvproxyError as GvproxyError,
    )
    from machinen_runtime.errors import (
        MachinenError as MachinenError,
    )
    from machinen_runtime.errors import (
        MkinitramfsError as MkinitramfsError,
    )
    from machinen_runtime.errors import (
        MountError as MountError,
    )
    from machinen_runtime.errors import (
        ParseError as ParseError,
    )
    from machinen_runtime.errors import (
        ProvisionError as ProvisionError,
    )
    from machinen_runtime.errors import (
        RegistryError as RegistryError,
    )
    from machinen_runtime.errors import (
        SandboxError as SandboxError,
    )
    from machinen_runtime.errors import (
        SecretsError as SecretsError,
    )
    from machinen_runtime.errors import (
        SnapshotError as SnapshotError,
    )
    from machinen_runtime.errors import (
        WinsizeError as WinsizeError,
    )
    from machinen_runtime.errors import (
        format_machinen_error as format_machinen_error,
    )
    from machinen_runtime.errors import (
        is_machinen_error as is_machinen_error,
    )
    from machinen_runtime.gc import GcResult as GcResult
    from machinen_runtime.gc import run_gc as run_gc
    from machinen_runtime.handle import ExitStatus as ExitStatus
    from machinen_runtime.handle import VmHandle as VmHandle
    from machinen_runtime.image_config import (
        ImageConfig as ImageConfig,
    )
    from machinen_runtime.image_config import (
        warm_image_config_cache as warm_image_config_cache,
    )
    from machinen_runtime.log_events import (
        ChunkLogEvent as ChunkLogEvent,
    )
    from machinen_runtime.log_events import (
        LogEvent as LogEvent,
    )
    from machinen_runtime.log_events import (
        OnLog as OnLog,
    )
    from machinen_runtime.log_events import (
        PhaseLogEvent as PhaseLogEvent,
    )
    from machinen_runtime.memory import (
        DEFAULT_FREE_MEMORY_THRESHOLD as DEFAULT_FREE_MEMORY_THRESHOLD,
    )
    from machinen_runtime.memory import (
        STATS_FILE_SIZE as STATS_FILE_SIZE,
    )
    from machinen_runtime.memory import (
        BalloonCounters as BalloonCounters,
    )
    from machinen_runtime.memory import (
        MemoryStats as MemoryStats,
    )
    from machinen_runtime.memory import (
        check_fork_backpressure as check_fork_backpressure,
    )
    from machinen_runtime.memory import (
        read_balloon_stats as read_balloon_stats,
    )
    from machinen_runtime.memory import (
        read_host_free_bytes as read_host_free_bytes,
    )
    from machinen_runtime.memory import (
        read_host_rss_bytes as read_host_rss_bytes,
    )
    from machinen_runtime.memory import (
        read_host_rss_bytes_multi as read_host_rss_bytes_multi,
    )
    from machinen_runtime.memory import (
        read_host_total_bytes as read_host_total_bytes,
    )
    from machinen_runtime.options import (
        BootOptions as BootOptions,
    )
    from machinen_runtime.options import (
        ForkOptions as ForkOptions,
    )
    from machinen_runtime.options import (
        LiveMount as LiveMount,
    )
    from machinen_runtime.options import (
        Mount as Mount,
    )
    from machinen_runtime.options import (
        PortForward as PortForward,
    )
    from machinen_runtime.options import (
        RestoreOptions as RestoreOptions,
    )
    from machinen_runtime.options import (
        SnapshotOptions as SnapshotOptions,
    )
    from machinen_runtime.options import (
        WriteFileOptions as WriteFileOptions,
    )
    from machinen_runtime.options import (
        auto_size_memory_mib as auto_size_memory_mib,
    )
    from machinen_runtime.options import (
        validate_memory_mib as validate_memory_mib,
    )
    from machinen_runtime.pids import PidStatus as PidStatus
    from machinen_runtime.pids import validate_pid as validate_pid
    from machinen_runtime.pty_process import PtyVmHandle as PtyVmHandle
    from machinen_runtime.pty_process import boot_pty as boot_pty
    from machinen_runtime.registry import (
        RegistryEntry as RegistryEntry,
    )
    from machinen_runtime.registry import (
        list as list,
    )
    from machinen_runtime.registry import (
        registry_root as registry_root,
    )
    from machinen_runtime.restore import restore as restore
    from machinen_runtime.rootfs_image import (
        ensure_rootfs_image as ensure_rootfs_image,
    )
    from machinen_runtime.rootfs_image import (
        mark_rootfs_image_clean as mark_rootfs_image_clean,
    )
    from machinen_runtime.rootfs_image import (
        resolve_mke2fs as resolve_mke2fs,
    )
    from machinen_runtime.rootfs_image import (
        rootfs_img_cache_dir as rootfs_img_cache_dir,
    )
    from machinen_runtime.sandboxes import (
        OnOutputListener as OnOutputListener,
    )
    from machinen_runtime.sandboxes import (
        SandboxEntry as SandboxEntry,
    )
    from machinen_runtime.sandboxes import (
        Sandboxes as Sandboxes,
    )
    from machinen_runtime.snapshot import SnapshotResult as SnapshotResult
    from machinen_runtime.supervisor import Supervisor as Supervisor
    from machinen_runtime.write_file import (
        build_write_file_cmd as build_write_file_cmd,
    )
    from machinen_runtime.write_file import (
        build_write_file_cmds as build_write_file_cmds,
    )

_HOMES = {
    "resolve_base_dtb": "assets",
    "resolve_base_kernel": "assets",
    "resolve_base_rootfs": "assets",
    "attach": "attach",
    "boot": "boot",
    "boot_snapshot_path": "boot_log",
    "detached_log_root": "boot_log",
    "write_boot_snapshot": "boot_log",
    "VsockExec": "channel_exec",
    "VsockExecOptions": "channel_exec",
    "VsockExecResult": "channel_exec",
    "VsockFiles": "channel_files",
    "VsockExecPtyHandle": "channel_pty",
    "VsockExecPtyResult": "channel_pty",
    "VsockSecrets": "channel_secrets",
    "Exited": "channel_sessions",
    "Output": "channel_sessions",
    "ReplayDone": "channel_sessions",
    "Resized": "channel_sessions",
    "SessionEvent": "channel_sessions",
    "SessionInfo": "channel_sessions",
    "TerminalSession": "channel_sessions",
    "VsockWinsize": "channel_winsize",
    "BootError": "errors",
    "CacheError": "errors",
    "ErrorCode": "errors",
    "ExecError": "errors",
    "FilesError": "errors",
    "GvproxyError": "errors",
    "MachinenError": "errors",
    "MkinitramfsError": "errors",
    "MountError": "errors",
    "ParseError": "errors",
    "ProvisionError": "errors",
    "RegistryError": "errors",
    "SandboxError": "errors",
    "SecretsError": "errors",
    "SnapshotError": "errors",
    "WinsizeError": "errors",
    "format_machinen_error": "errors",
    "is_machinen_error": "errors",
    "GcResult": "gc",
    "run_gc": "gc",
    "ExitStatus": "handle",
    "VmHandle": "handle",
    "ImageConfig": "image_config",
    "warm_image_config_cache": "image_config",
    "ChunkLogEvent": "log_events",
    "LogEvent": "log_events",
    "OnLog": "log_events",
    "PhaseLogEvent": "log_events",
    "BalloonCounters": "memory",
    "DEFAULT_FREE_MEMORY_THRESHOLD": "memory",
    "MemoryStats": "memory",
    "STATS_FILE_SIZE": "memory",
    "check_fork_backpressure": "memory",
    "read_balloon_stats": "memory",
    "read_host_free_bytes": "memory",
    "read_host_rss_bytes": "memory",
    "read_host_rss_bytes_multi": "memory",
    "read_host_total_bytes": "memory",
    "BootOptions": "options",
    "ForkOptions": "options",
    "LiveMount": "options",
    "Mount": "options",
    "PortForward": "options",
    "RestoreOptions": "options",
    "SnapshotOptions": "options",
    "WriteFileOptions": "options",
    "auto_size_memory_mib": "options",
    "validate_memory_mib": "options",
    "PidStatus": "pids",
    "validate_pid": "pids",
    "PtyVmHandle": "pty_process",
    "boot_pty": "pty_process",
    "RegistryEntry": "registry",
    "list": "registry",
    "registry_root": "registry",
    "restore": "restore",
    "ensure_rootfs_image": "rootfs_image",
    "mark_rootfs_image_clean": "rootfs_image",
    "resolve_mke2fs": "rootfs_image",
    "rootfs_img_cache_dir": "rootfs_image",
    "OnOutputListener": "sandboxes",
    "SandboxEntry": "sandboxes",
    "Sandboxes": "sandboxes",
    "SnapshotResult": "snapshot",
    "Supervisor": "supervisor",
    "build_write_file_cmd": "write_file",
    "build_write_file_cmds": "write_file",
}
"""Each public name and the file it comes from."""

__all__ = [
    "DEFAULT_FREE_MEMORY_THRESHOLD",
    "STATS_FILE_SIZE",
    "BalloonCounters",
    "BootError",
    "BootOptions",
    "CacheError",
    "ChunkLogEvent",
    "ErrorCode",
    "ExecError",
    "ExitStatus",
    "Exited",
    "FilesError",
    "ForkOptions",
    "GcResult",
    "GvproxyError",
    "ImageConfig",
    "LiveMount",
    "LogEvent",
    "MachinenError",
    "MemoryStats",
    "MkinitramfsError",
    "Mount",
    "MountError",
    "OnLog",
    "OnOutputListener",
    "Output",
    "ParseError",
    "PhaseLogEvent",
    "PidStatus",
    "PortForward",
    "ProvisionError",
    "PtyVmHandle",
    "RegistryEntry",
    "RegistryError",
    "ReplayDone",
    "Resized",
    "RestoreOptions",
    "SandboxEntry",
    "SandboxError",
    "Sandboxes",
    "SecretsError",
    "SessionEvent",
    "SessionInfo",
    "SnapshotError",
    "SnapshotOptions",
    "SnapshotResult",
    "Supervisor",
    "TerminalSession",
    "VmHandle",
    "VsockExec",
    "VsockExecOptions",
    "VsockExecPtyHandle",
    "VsockExecPtyResult",
    "VsockExecResult",
    "VsockFiles",
    "VsockSecrets",
    "VsockWinsize",
    "WinsizeError",
    "WriteFileOptions",
    "attach",
    "auto_size_memory_mib",
    "boot",
    "boot_pty",
    "boot_snapshot_path",
    "build_write_file_cmd",
    "build_write_file_cmds",
    "check_fork_backpressure",
    "detached_log_root",
    "ensure_rootfs_image",
    "format_machinen_error",
    "is_machinen_error",
    "list",
    "mark_rootfs_image_clean",
    "read_balloon_stats",
    "read_host_free_bytes",
    "read_host_rss_bytes",
    "read_host_rss_bytes_multi",
    "read_host_total_bytes",
    "registry_root",
    "resolve_base_dtb",
    "resolve_base_kernel",
    "resolve_base_rootfs",
    "resolve_mke2fs",
    "restore",
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
