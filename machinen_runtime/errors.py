"""What can go wrong, as stable codes for programs and sentences for people.

The codes are those of the API declaration; the last group is ours. Codes that our design cannot
reach are kept, so that callers can name them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeGuard


class ErrorCode(StrEnum):
    """Every code a `MachinenError` may carry. Values equal names; both are stable."""

    BOOT_VMM_MISSING = "BOOT_VMM_MISSING"
    BOOT_VMM_PACKAGE_BROKEN = "BOOT_VMM_PACKAGE_BROKEN"
    BOOT_IMAGE_NOT_FOUND = "BOOT_IMAGE_NOT_FOUND"
    BOOT_SNAPSHOT_NOT_FOUND = "BOOT_SNAPSHOT_NOT_FOUND"
    BOOT_KERNEL_NOT_FOUND = "BOOT_KERNEL_NOT_FOUND"
    BOOT_DTB_NOT_FOUND = "BOOT_DTB_NOT_FOUND"
    BOOT_CMD_WITHOUT_IMAGE = "BOOT_CMD_WITHOUT_IMAGE"
    BOOT_CMD_MISSING = "BOOT_CMD_MISSING"
    BOOT_CWD_INVALID = "BOOT_CWD_INVALID"
    BOOT_MOUNT_INVALID = "BOOT_MOUNT_INVALID"
    BOOT_MOUNT_HOST_NOT_FOUND = "BOOT_MOUNT_HOST_NOT_FOUND"
    BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN = "BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN"
    BOOT_PORT_FORWARD_INVALID = "BOOT_PORT_FORWARD_INVALID"
    BOOT_PORT_FORWARD_CONFLICT = "BOOT_PORT_FORWARD_CONFLICT"
    BOOT_PORT_FORWARD_NO_GVPROXY = "BOOT_PORT_FORWARD_NO_GVPROXY"
    BOOT_PORT_FORWARD_IN_USE = "BOOT_PORT_FORWARD_IN_USE"
    BOOT_PACK_FAILED = "BOOT_PACK_FAILED"
    BOOT_TIMEOUT = "BOOT_TIMEOUT"
    BOOT_DETACHED_READINESS_FAILED = "BOOT_DETACHED_READINESS_FAILED"
    BOOT_MEMORY_INVALID = "BOOT_MEMORY_INVALID"
    BOOT_LIMIT_UNAVAILABLE = "BOOT_LIMIT_UNAVAILABLE"
    FORK_MEMORY_BACKPRESSURE = "FORK_MEMORY_BACKPRESSURE"
    BOOT_MOUNTDISK_TOOL_MISSING = "BOOT_MOUNTDISK_TOOL_MISSING"
    EXEC_VSOCK_UNAVAILABLE = "EXEC_VSOCK_UNAVAILABLE"
    EXEC_AGENT_UNAVAILABLE = "EXEC_AGENT_UNAVAILABLE"
    EXEC_AGENT_TIMEOUT = "EXEC_AGENT_TIMEOUT"
    EXEC_NONZERO_EXIT = "EXEC_NONZERO_EXIT"
    EXEC_PROTOCOL = "EXEC_PROTOCOL"
    SNAPSHOT_NO_DISK = "SNAPSHOT_NO_DISK"
    SNAPSHOT_DUMP_FAILED = "SNAPSHOT_DUMP_FAILED"
    SNAPSHOT_TIMEOUT = "SNAPSHOT_TIMEOUT"
    PROVISION_BASE_NOT_FOUND = "PROVISION_BASE_NOT_FOUND"
    PROVISION_KERNEL_NOT_FOUND = "PROVISION_KERNEL_NOT_FOUND"
    PROVISION_DTB_NOT_FOUND = "PROVISION_DTB_NOT_FOUND"
    PROVISION_ASSETS_DIR_INVALID = "PROVISION_ASSETS_DIR_INVALID"
    PROVISION_INSTALL_HOOK_FAILED = "PROVISION_INSTALL_HOOK_FAILED"
    PROVISION_DISK_TOO_SMALL = "PROVISION_DISK_TOO_SMALL"
    ROOTFS_IMG_TOOL_MISSING = "ROOTFS_IMG_TOOL_MISSING"
    REGISTRY_VM_NOT_FOUND = "REGISTRY_VM_NOT_FOUND"
    REGISTRY_NAME_IN_USE = "REGISTRY_NAME_IN_USE"
    FILES_HOST_DIR_NOT_FOUND = "FILES_HOST_DIR_NOT_FOUND"
    FILES_AGENT_UNAVAILABLE = "FILES_AGENT_UNAVAILABLE"
    MOUNT_PATH_INVALID = "MOUNT_PATH_INVALID"
    MOUNT_PATH_ESCAPE = "MOUNT_PATH_ESCAPE"
    MOUNT_SERVER_BIN_MISSING = "MOUNT_SERVER_BIN_MISSING"
    MOUNT_SERVER_SPAWN_FAILED = "MOUNT_SERVER_SPAWN_FAILED"
    SECRETS_VALUE_INVALID = "SECRETS_VALUE_INVALID"
    SECRETS_AGENT_UNAVAILABLE = "SECRETS_AGENT_UNAVAILABLE"
    WINSIZE_AGENT_UNAVAILABLE = "WINSIZE_AGENT_UNAVAILABLE"
    SANDBOX_ID_DUPLICATE = "SANDBOX_ID_DUPLICATE"
    SANDBOX_ID_UNKNOWN = "SANDBOX_ID_UNKNOWN"
    CACHE_BIND_FAILED = "CACHE_BIND_FAILED"
    GVPROXY_NOT_FOUND = "GVPROXY_NOT_FOUND"
    GVPROXY_EXPOSE_FAILED = "GVPROXY_EXPOSE_FAILED"
    GVPROXY_PORT_IN_USE = "GVPROXY_PORT_IN_USE"
    GVPROXY_INSTALL_FAILED = "GVPROXY_INSTALL_FAILED"
    GVPROXY_SPAWN_FAILED = "GVPROXY_SPAWN_FAILED"
    MKINITRAMFS_BUNDLE_INVALID = "MKINITRAMFS_BUNDLE_INVALID"
    MKINITRAMFS_WORKSPACE_INVALID = "MKINITRAMFS_WORKSPACE_INVALID"
    MKINITRAMFS_WORKSPACE_TOO_LARGE = "MKINITRAMFS_WORKSPACE_TOO_LARGE"
    MKINITRAMFS_BASE_EXTRACT_FAILED = "MKINITRAMFS_BASE_EXTRACT_FAILED"
    MKINITRAMFS_INIT_MISSING = "MKINITRAMFS_INIT_MISSING"
    PARSE_FLAG_UNKNOWN = "PARSE_FLAG_UNKNOWN"
    PARSE_FLAG_MISSING_VALUE = "PARSE_FLAG_MISSING_VALUE"
    PARSE_FLAG_DUPLICATE = "PARSE_FLAG_DUPLICATE"
    PARSE_FLAG_MALFORMED = "PARSE_FLAG_MALFORMED"
    PARSE_PORT_INVALID = "PARSE_PORT_INVALID"

    BOOT_OPTION_INVALID = "BOOT_OPTION_INVALID"
    REGISTRY_NAME_INVALID = "REGISTRY_NAME_INVALID"
    EXEC_REQUEST_INVALID = "EXEC_REQUEST_INVALID"
    EXEC_CWD_INVALID = "EXEC_CWD_INVALID"
    EXEC_SPAWN_FAILED = "EXEC_SPAWN_FAILED"
    EXEC_SESSION_NOT_FOUND = "EXEC_SESSION_NOT_FOUND"
    EXEC_TOO_MANY_SESSIONS = "EXEC_TOO_MANY_SESSIONS"
    FILES_TRANSFER_FAILED = "FILES_TRANSFER_FAILED"
    BOOT_CMD_FAILED = "BOOT_CMD_FAILED"
    BOOT_SNAPSHOT_INVALID = "BOOT_SNAPSHOT_INVALID"
    VM_DIED = "VM_DIED"
    VM_CONTROL_FAILED = "VM_CONTROL_FAILED"
    SNAPSHOT_NOTE_INVALID = "SNAPSHOT_NOTE_INVALID"
    SNAPSHOT_PINNED = "SNAPSHOT_PINNED"
    CRASH_NOT_FOUND = "CRASH_NOT_FOUND"
    METRICS_SOCKET_INVALID = "METRICS_SOCKET_INVALID"
    METRICS_SOCKET_IN_USE = "METRICS_SOCKET_IN_USE"
    HOST_REFUSED = "HOST_REFUSED"


class MachinenError(Exception):
    """Base of every error we raise on purpose. Keep what caused it: `raise … from error`."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        retryable: bool = False,
        cause: BaseException | None = None,
    ) -> None:
        super().__init__(message)
        if cause is not None:
            self.__cause__ = cause
        self.code = code
        self.retryable = retryable
        """True if the same call may succeed later, false if the request itself is wrong."""


class BootError(MachinenError):
    """A VM could not be started, restored or forked."""


class ExecError(MachinenError):
    """A command in a guest could not be run, or failed where success was asked for."""


class SnapshotError(MachinenError):
    """A snapshot could not be taken."""


class ProvisionError(MachinenError):
    """An image or base asset is missing or could not be built."""


class RegistryError(MachinenError):
    """A VM could not be found by name or pid, or a name is taken."""


class FilesError(MachinenError):
    """Files could not be copied into or out of a guest."""


class MountError(MachinenError):
    """A live mount was asked for something it must refuse."""


class SecretsError(MachinenError):
    """Secrets could not be handed to a guest."""


class WinsizeError(MachinenError):
    """A window size could not be handed to a guest."""


class SandboxError(MachinenError):
    """A sandbox id is unknown or taken."""


class CacheError(MachinenError):
    """A cache could not be used."""


class GvproxyError(MachinenError):
    """Kept from the declaration; our network does not use gvproxy."""


class MetricsError(MachinenError):
    """The figures of sandboxes cannot be served."""


class MkinitramfsError(MachinenError):
    """An initramfs could not be packed."""


class ParseError(MachinenError):
    """A command line could not be understood."""


def is_machinen_error(error: object, code: ErrorCode | None = None) -> TypeGuard[MachinenError]:
    """Whether `error` is one of ours and, if `code` is given, carries that code."""
    return isinstance(error, MachinenError) and (code is None or error.code is code)


def format_machinen_error(error: MachinenError) -> str:
    """`(CODE): message`, then a line `  caused by: …` per cause. A cycle ends the text.

    A cause that says word for word what is said above it has no line of its own.
    """
    lines = [f"({error.code}): {error}"]
    seen: set[int] = {id(error)}
    said = str(error)
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if (text := str(cause) or type(cause).__name__) != said:
            lines.append(f"  caused by: {text}")
        said = text
        cause = cause.__cause__
    return "\n".join(lines)
