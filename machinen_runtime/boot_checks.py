"""What boot() checks before anything is started, in the order callers may rely on.

A bad port is told before a missing monitor, a path before anything is hashed or copied. The order
is the API's: ports, the monitor, memory, snapshot, root disk, kernel, device tree, live mounts,
guest_cwd, image, cmd, mount; then what is ours. Nothing here starts a process.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.option_shapes import refuse_wrong_types
from machinen_runtime.option_types import LiveMount, Mount, PortForward, StrPath
from machinen_runtime.options import (
    BootOptions,
    validate_cmd,
    validate_forwards,
    validate_guest_cwd,
    validate_memory_mib,
)
from machinen_runtime.root_disk import resolve_image
from machinen_runtime.vmm_binary import resolve_vmm_command
from vmm.arch import ARM64, host_arch
from vmm.port_holder import describe_holder

MEMORY_VARIABLE = "MACHINEN_MEMORY"
NOT_FOR_US = {
    "MACHINEN_DISK": "snapshot",
    "MACHINEN_DTB": "dtb",
    "MACHINEN_INITRD": "image",
    "MACHINEN_KERNEL": "kernel",
    "MACHINEN_MOUNTDISK_LOWER_FD": "mount",
    "MACHINEN_MOUNTDISK_UPPER_FD": "mount",
    "MACHINEN_NET_SOCKET": "network",
    "MACHINEN_ROOTDISK": "root_disk",
}
"""Variables by which the declaration's runtime configures its monitor → the option that does so
here. Ours gets one spec and reads none of them."""
FIXED_HERE = {
    "MACHINEN_STATS_FILE": "the stats file is in the registry entry's `stats_path`",
    "MACHINEN_VSOCK": "the socket is `VmHandle.vsock_path`, and reaches every port",
}
"""Variables that would move what has one place here, and where that is."""


def checked_boot_options(given: Mapping[str, Any]) -> BootOptions:
    """The options of a boot, after every check that needs no work.

    Raises:
        BootError: the first code that applies, in the order above.
        TypeError: an option that does not exist.
    """
    defaults = {item.name: default_of(item) for item in dataclasses.fields(BootOptions)}
    refuse_wrong_types(BootOptions, given)
    options = {**defaults, **given}
    for check in CHECKS:
        check(options)
    return BootOptions(**given)


def default_of(item: dataclasses.Field[Any]) -> Any:
    """The default of an option."""
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return item.default


def memory_of(options: BootOptions) -> int | None:
    """The memory in MiB that `vmm_env` presets, which wins over the option; None: it does not."""
    preset = options.vmm_env.get(MEMORY_VARIABLE)
    return None if preset is None else _preset_mib(preset)


def _preset_mib(preset: str) -> int:
    return validate_memory_mib(int(preset) if preset.isascii() and preset.isdigit() else preset)


def _check_ports(options: Mapping[str, Any]) -> None:
    forwards = validate_forwards(options["port_forward"])
    if forwards and "MACHINEN_NET_SOCKET" in options["vmm_env"]:
        raise BootError(
            ErrorCode.BOOT_PORT_FORWARD_INVALID,
            "MACHINEN_NET_SOCKET in vmm_env and port_forward exclude each other: leave one out",
        )
    probe_ports(forwards)


def probe_ports(forwards: Sequence[PortForward]) -> None:
    """Listen on each host port for a moment.

    Raises:
        BootError: BOOT_PORT_FORWARD_IN_USE naming address, port and who has it;
            BOOT_PORT_FORWARD_INVALID for an address or a port we may not listen on.
    """
    for forward in forwards:
        if forward.host_port:  # 0 asks for any free one
            _probe_port(forward)


def _probe_port(forward: PortForward) -> None:
    address, port = forward.host_addr, forward.host_port
    where = f"{address}:{port}"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = describe_holder(address, port)
            message = f"cannot listen on {where}: {holder} does; choose another port or stop it"
            raise BootError(ErrorCode.BOOT_PORT_FORWARD_IN_USE, message) from error
        message = f"cannot listen on {where}: {error.strerror or error}; choose another"
        raise BootError(ErrorCode.BOOT_PORT_FORWARD_INVALID, message) from error


def _check_monitor(options: Mapping[str, Any]) -> None:
    resolve_vmm_command(options["binary"], options["cwd"])


def _check_memory(options: Mapping[str, Any]) -> None:
    preset = options["vmm_env"].get(MEMORY_VARIABLE)
    if preset is not None:
        _preset_mib(preset)
    elif options["memory"] is not None:
        validate_memory_mib(options["memory"])


def _check_snapshot(options: Mapping[str, Any]) -> None:
    snapshot = options["snapshot"]
    if snapshot is not None and snapshot is not False:
        _require(os.path.exists, options, "snapshot", ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, "snapshot")


def _check_root_disk(options: Mapping[str, Any]) -> None:
    root_disk = options["root_disk"]
    if root_disk is True and options["image"] is None:
        raise BootError(
            ErrorCode.BOOT_CMD_WITHOUT_IMAGE,
            "root_disk=True makes a disk of an image, and there is none: pass image, or leave it"
            " out to boot the base",
        )
    if root_disk is not None and not isinstance(root_disk, bool):
        _require(os.path.isfile, options, "root_disk", ErrorCode.BOOT_IMAGE_NOT_FOUND, "root disk")


def _check_kernel(options: Mapping[str, Any]) -> None:
    if options["kernel"] is not None:
        _require(os.path.isfile, options, "kernel", ErrorCode.BOOT_KERNEL_NOT_FOUND, "kernel")


def _check_dtb(options: Mapping[str, Any]) -> None:
    if options["dtb"] is None:
        return
    _require(os.path.isfile, options, "dtb", ErrorCode.BOOT_DTB_NOT_FOUND, "device tree")
    if host_arch() is not ARM64:
        raise BootError(
            ErrorCode.BOOT_OPTION_INVALID,
            "dtb is for arm64: an amd64 guest has no device tree, leave it out",
        )


def _check_live_mounts(options: Mapping[str, Any]) -> None:
    for mount in options["live_mounts"]:
        _check_host(mount)


def _check_guest_cwd(options: Mapping[str, Any]) -> None:
    if options["guest_cwd"] is not None:
        validate_guest_cwd(options["guest_cwd"])


def _check_image(options: Mapping[str, Any]) -> None:
    resolve_image(options["image"], options["cwd"])


def _check_cmd(options: Mapping[str, Any]) -> None:
    if options["cmd"] is not None:
        validate_cmd(options["cmd"])


def _check_mount(options: Mapping[str, Any]) -> None:
    if options["mount"] is not None:
        _check_host(options["mount"])


def _check_presets(options: Mapping[str, Any]) -> None:
    for name in options["vmm_env"]:
        if name in NOT_FOR_US:
            advice = f"pass the option {NOT_FOR_US[name]} instead"
        elif name in FIXED_HERE:
            advice = FIXED_HERE[name]
        else:
            continue
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, f"{name} in vmm_env has no effect: {advice}")


def _check_host(mount: Mount | LiveMount) -> None:
    if not os.path.isdir(mount.host):
        raise BootError(
            ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND,
            f"no such directory to mount: {os.fspath(mount.host)}",
        )


def _require(
    is_there: Callable[[StrPath], bool],
    options: Mapping[str, Any],
    name: str,
    code: ErrorCode,
    what: str,
) -> None:
    path = os.path.abspath(os.path.join(options["cwd"] or "", options[name]))
    if not is_there(path):
        raise BootError(code, f"there is no {what} at {path}; check the path")


CHECKS: tuple[Callable[[Mapping[str, Any]], None], ...] = (
    _check_ports,
    _check_monitor,
    _check_memory,
    _check_snapshot,
    _check_root_disk,
    _check_kernel,
    _check_dtb,
    _check_live_mounts,
    _check_guest_cwd,
    _check_image,
    _check_cmd,
    _check_mount,
    _check_presets,
)
"""In their order."""
