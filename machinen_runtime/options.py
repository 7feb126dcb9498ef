"""The options of boot, restore, fork, snapshot and write_file: frozen, checked when made.

Names and defaults mirror the API declaration. What only the host can tell later (is the port free,
is there an image) is checked by whoever launches the VM.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from machinen_runtime.errors import BootError, ErrorCode, ExecError, SnapshotError
from machinen_runtime.log_events import OnLog
from machinen_runtime.network_option import NetworkMode as NetworkMode
from machinen_runtime.network_option import NetworkOption as NetworkOption
from machinen_runtime.network_option import validate_network
from machinen_runtime.option_shapes import refuse_wrong_types
from machinen_runtime.option_types import LiveMount as LiveMount
from machinen_runtime.option_types import Mount as Mount
from machinen_runtime.option_types import OptionRecord as OptionRecord
from machinen_runtime.option_types import PortForward as PortForward
from machinen_runtime.option_types import StrPath as StrPath
from machinen_runtime.option_types import is_whole
from machinen_runtime.registry_names import validate_name
from vmm.limits import Limits as Limits
from vmm.limits import check_limits

MEMORY_FLOOR_MIB = 512
MEMORY_AUTO_CAP_MIB = 4096
MAX_MEMORY_MIB = 1 << 20
"""A typing error such as bytes for MiB shall not reach QEMU: one TiB is the most we take."""
MAX_CPUS = 64
DEFAULT_WAIT_TIMEOUT_MS = 60_000
DEFAULT_SNAPSHOT_TIMEOUT_MS = 90_000
DEFAULT_MOUNT_UPPER_BYTES = 4 << 30

SnapshotEngine: TypeAlias = Literal["vmstate", "criu"]


def auto_size_memory_mib(host_bytes: int | None = None) -> int:
    """The ceiling when none is asked for: half the host, at most 4096, at least 512 MiB."""
    if host_bytes is None:
        host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(MEMORY_FLOOR_MIB, min(host_bytes // 2 // (1 << 20), MEMORY_AUTO_CAP_MIB))


def validate_memory_mib(mib: object) -> int:
    """Return `mib` if a guest can run with that many MiB, else BOOT_MEMORY_INVALID."""
    if isinstance(mib, int) and is_whole(mib) and MEMORY_FLOOR_MIB <= mib <= MAX_MEMORY_MIB:
        return mib
    raise BootError(
        ErrorCode.BOOT_MEMORY_INVALID,
        f"memory must be a whole number of MiB, at least {MEMORY_FLOOR_MIB}, not {mib!r}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOptions(OptionRecord):
    """What boot, restore and fork have in common."""

    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """The workload's environment, over the image's own."""
    guest_cwd: str | None = None
    """The workload's directory, absolute. None: the image's own, or root's home."""
    name: str | None = None
    """What `attach(name=…)` finds it by; parts joined by `/`. Unique among the live."""
    mount: Mount | None = None
    """A host directory copied into the guest, at a path under /mnt."""
    mount_disk_upper_size_bytes: int = DEFAULT_MOUNT_UPPER_BYTES
    """Room for what the guest writes below `mount`, sparse; a multiple of 4096 bytes."""
    live_mounts: Sequence[LiveMount] = ()
    """Host directories shown in the guest as they are, each at a path under /mnt."""
    port_forward: Sequence[PortForward] = ()
    """TCP ports of the host that lead into the guest; each host port once."""
    root_disk: bool | StrPath | None = None
    """A raw ext4 image to boot from instead of one made of `image`, or True or None for that.
    False: the disk is only read, what the guest writes lies in its memory: at most half of it."""
    root_disk_size_bytes: int | None = None
    """Size of the root disk; it is sparse. None: 2 GiB, or 2.5 times the tree if that is more."""
    memory: int | None = None
    """The RAM ceiling in MiB. None: `auto_size_memory_mib()`, or the bundle's for a restore."""
    cpus: int = 1
    """Virtual CPUs. A restored VM has those of its bundle."""
    limits: Limits | None = None
    """The most it may take of the host: processor time, memory, disk traffic. What is not said is
    unlimited for boot(), and as before for what was running. Ours."""
    network: NetworkOption | None = None
    """"full": the guest reaches the outside. "none": it reaches nothing. A list of hosts: these, by
    HTTP and HTTPS (docs/network.md). None: "full" for boot(), the bundle's for the others. Ours."""
    detached: bool = False
    """Let the VM outlive this process."""
    pdeathsig: bool = True
    """Let the VM die with this process; a detached VM never does."""
    timeout_ms: float | None = DEFAULT_WAIT_TIMEOUT_MS
    """How long `wait()` waits; None: forever."""
    forked_from: str | None = None
    """The bundle this VM comes from, for `machinen ls`; restore() sets it."""
    binary: StrPath | None = None
    """The monitor to run. None: `MACHINEN_VMM`, or our own."""
    cwd: StrPath | None = None
    """What relative paths in these options start from. None: this process's directory."""
    args: Sequence[str] = ()
    """More arguments for QEMU. A VM that has some can only be restored with the same."""
    kernel: StrPath | None = None
    """The guest's kernel. None: `resolve_base_kernel()`."""
    dtb: StrPath | None = None
    """A device tree, on arm64 only. None: QEMU makes one."""
    vmm_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment of the monitor on the host, over ours; the guest does not see it."""
    wait_for_memory_ms: float | None = 0
    """How long to wait, in a queue with others, until the host has memory to spare; None: as long
    as it takes. Then FORK_MEMORY_BACKPRESSURE. 0: a fork is refused at once. Ours."""
    on_wait: Callable[[str], None] | None = None
    """Told in a sentence what it waits for, whenever that changes. Ours."""
    on_log: OnLog | None = None
    """Called with phases and exec output as they come; the console as `VmHandle.stderr` is read."""

    def __post_init__(self) -> None:
        refuse_wrong_types(type(self), dict(self))
        _freeze(self, "port_forward", validate_forwards(self.port_forward))
        if self.memory is not None:
            validate_memory_mib(self.memory)
        if not is_whole(self.cpus) or not 1 <= self.cpus <= MAX_CPUS:
            raise _invalid(f"cpus must be a number from 1 to {MAX_CPUS}, not {self.cpus!r}")
        if self.limits is not None:
            validate_limits(self.limits)
        if self.network is not None:
            _freeze(self, "network", validate_network(self.network))
        if self.name is not None:
            validate_name(self.name)
        _freeze(self, "timeout_ms", _validate_timeout(self.timeout_ms))
        waits = self.wait_for_memory_ms
        if waits is not None and not waits >= 0:
            raise _invalid(f"wait_for_memory_ms must be 0 or more, or None, not {waits!r}")
        _freeze(self, "env", validate_env(self.env))
        _freeze(self, "vmm_env", validate_env(self.vmm_env))
        _freeze(self, "args", tuple(self.args))
        _validate_sizes(self)
        _freeze(self, "live_mounts", _validate_mounts(self.mount, self.live_mounts, self.cwd))
        if self.guest_cwd is not None:
            validate_guest_cwd(self.guest_cwd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOptions(LaunchOptions):
    """Options of `boot()`: the common ones, an image and what to run in it."""

    image: StrPath | None = None
    """A rootfs tarball. None: the base that `machinen install` made."""
    cmd: Sequence[str] | None = None
    """argv of the workload. None: the image's own, or a login shell in the base."""
    snapshot: StrPath | Literal[False] | None = None
    """False: this VM cannot be snapshotted or forked. A path: CRIU images to go on with, a tar, a
    directory of them, or a bundle of engine "criu", which is checked first (then `cmd` stays
    unset, or is a command that does what machinen-restore does)."""
    warm: bool = True
    """Start from a template where one fits, instead of booting the kernel again."""

    def __post_init__(self) -> None:
        # Zero-argument super() does not work here: slots=True makes a second class.
        LaunchOptions.__post_init__(self)
        if self.cmd is not None:
            _freeze(self, "cmd", validate_cmd(self.cmd))
        if isinstance(self.snapshot, bool):
            if self.snapshot:
                raise _invalid("snapshot is False or the path of a tar of CRIU images, not True")
        elif self.snapshot is not None:
            _freeze(self, "snapshot", Path(self.snapshot))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions(LaunchOptions):
    """Options of `restore()`: the common ones and a bundle."""

    snap_dir: StrPath
    """The bundle's directory."""
    image: StrPath | None = None
    """The rootfs tarball to use instead of the one the bundle names."""
    lazy: bool | None = None
    """Read pages when they are touched, instead of all before the guest runs on. None: the engine's
    own way, which is True for "vmstate" and False for "criu". With "criu" the bundle has to stay
    where it is; a fork without `out_dir` keeps one of its own until its VM ends."""

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        _freeze(self, "snap_dir", Path(self.snap_dir))


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkOptions(LaunchOptions):
    """Options of `fork()`: those of a restore, but ports are not inherited, wait() is patient."""

    out_dir: StrPath | None = None
    """Keep the bundle here. None: it goes when the last fork made from it goes."""
    image: StrPath | None = None
    """As for `restore()`."""
    lazy: bool | None = None
    """As for `restore()`."""
    engine: SnapshotEngine = "vmstate"
    """As for `snapshot()`. Ours."""
    tcp_keep: bool = False
    """Keep established TCP connections in the fork, though its peers know only the source's."""
    free_memory_threshold: float = 0.01
    """Refuse the fork if less than this part of the host's memory is free; ≤ 0: never refuse."""
    timeout_ms: float | None = None
    """How long the fork's `wait()` waits; None: forever."""

    def __post_init__(self) -> None:
        LaunchOptions.__post_init__(self)
        _validate_engine(self.engine)
        if self.out_dir is not None:
            _freeze(self, "out_dir", Path(self.out_dir))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOptions(OptionRecord):
    """Options of `snapshot()`."""

    out_dir: StrPath
    """Where the bundle goes: absent, or an empty directory."""
    engine: SnapshotEngine = "vmstate"
    """"vmstate": the whole machine. "criu": the workload's processes alone."""
    dump_cmd: str = "/sbin/machinen-dump"
    """The helper in the guest; engine "criu" only."""
    timeout_ms: float = DEFAULT_SNAPSHOT_TIMEOUT_MS
    """How long it may take; the VM runs on if it takes longer."""
    on_log: OnLog | None = None
    """Called with the phases, besides the handle's own."""
    leave_running: bool = False
    """Let the VM run on; otherwise it ends when the bundle is written."""
    tcp_close: bool = False
    """Let established TCP connections break in what is restored. Engine "criu" keeps them unless
    this is set; with "vmstate" connections to the outside are dead in the copy in any case."""

    def __post_init__(self) -> None:
        refuse_wrong_types(type(self), dict(self))
        _freeze(self, "out_dir", Path(self.out_dir))
        _validate_engine(self.engine)
        if not self.dump_cmd or "\0" in self.dump_cmd:
            raise _invalid(f"dump_cmd is a command of the guest, not {self.dump_cmd!r}")
        if not self.timeout_ms > 0:
            raise SnapshotError(
                ErrorCode.SNAPSHOT_TIMEOUT, f"timeout_ms must be positive, not {self.timeout_ms!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFileOptions(OptionRecord):
    """Options of `write_file()`."""

    mode: int | None = None
    """Permission bits of the file, 0 to 0o7777. None: as they are, or the guest's umask."""
    recursive: bool = True
    """Make the directories above it."""
    append: bool = False
    """Add to the file instead of replacing it."""

    def __post_init__(self) -> None:
        refuse_wrong_types(type(self), {"recursive": self.recursive, "append": self.append})
        if self.mode is not None and (not is_whole(self.mode) or not 0 <= self.mode <= 0o7777):
            raise ExecError(
                ErrorCode.EXEC_REQUEST_INVALID,
                f"mode must be a number from 0 to 0o7777, not {self.mode!r}",
            )


def _validate_engine(engine: object) -> None:
    if engine not in ("vmstate", "criu"):
        raise _invalid(f"engine is 'vmstate' or 'criu', not {engine!r}")


def validate_guest_cwd(guest_cwd: str) -> str:
    """Return `guest_cwd` if a guest can change to it: absolute, no NUL; else BOOT_CWD_INVALID."""
    if not guest_cwd.startswith("/") or "\0" in guest_cwd:
        raise BootError(
            ErrorCode.BOOT_CWD_INVALID, f"guest_cwd must be an absolute path, not {guest_cwd!r}"
        )
    return guest_cwd


def validate_limits(limits: Limits) -> Limits:
    """Return `limits` if they can be used, else BOOT_OPTION_INVALID."""
    try:
        check_limits(limits)
    except ValueError as error:
        raise _invalid(str(error)) from error
    return limits


def validate_env(env: Mapping[str, str]) -> dict[str, str]:
    """A copy of `env` whose keys can be set and whose text can cross the channel."""
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            raise _invalid(f"not the name of an environment variable: {key!r}")
        if "\0" in value:
            raise _invalid(f"the environment variable {key} contains a NUL")
    return dict(env)


def validate_forwards(forwards: Sequence[PortForward]) -> tuple[PortForward, ...]:
    """The forwards as a tuple; BOOT_PORT_FORWARD_CONFLICT if a host port is there twice."""
    seen: set[int] = set()
    for forward in forwards:
        if forward.host_port in seen:
            raise BootError(
                ErrorCode.BOOT_PORT_FORWARD_CONFLICT,
                f"host port {forward.host_port} is forwarded twice; give each forward its own",
            )
        seen.add(forward.host_port)
    return tuple(forwards)


def validate_cmd(cmd: Sequence[str]) -> tuple[str, ...]:
    """The argv as a tuple; BOOT_CMD_MISSING if it is no list of strings, or empty."""
    if isinstance(cmd, str):
        raise BootError(
            ErrorCode.BOOT_CMD_MISSING, f'cmd is a list such as ["sh", "-c", …], not {cmd!r}'
        )
    if not cmd or not cmd[0]:
        raise BootError(ErrorCode.BOOT_CMD_MISSING, "cmd is empty; name a program, or leave it out")
    for argument in cmd:
        if "\0" in argument:
            raise BootError(ErrorCode.BOOT_CMD_MISSING, f"cmd contains a NUL: {argument!r}")
    return tuple(cmd)


def _validate_timeout(timeout_ms: float | None) -> float | None:
    if timeout_ms is None or timeout_ms == math.inf:
        return None
    if not timeout_ms > 0:
        raise _invalid(f"timeout_ms must be positive, or None for no limit, not {timeout_ms!r}")
    return timeout_ms


def _validate_sizes(options: LaunchOptions) -> None:
    upper = options.mount_disk_upper_size_bytes
    if upper <= 0 or upper % 4096:
        raise BootError(
            ErrorCode.BOOT_MOUNT_INVALID,
            f"mount_disk_upper_size_bytes must be a positive multiple of 4096, not {upper}",
        )
    root = options.root_disk_size_bytes
    if root is not None and root <= 0:
        raise _invalid(f"root_disk_size_bytes must be positive, not {root}")


def _validate_mounts(
    mount: Mount | None, live: Sequence[LiveMount], cwd: StrPath | None
) -> tuple[LiveMount, ...]:
    """Each at a place of its own: nothing in a live mount, for it would wait for itself."""
    every: list[Mount | LiveMount] = [*([mount] if mount else []), *live]
    for index, one in enumerate(every):
        for other in every[:index]:
            if one.guest == other.guest:
                raise _mount_invalid(f"two mounts go to {one.guest}; give each its own")
            if isinstance(other, LiveMount) and _lie_in_each_other(one.guest, other.guest):
                raise _mount_invalid(f"{one.guest} and the live mount {other.guest} overlap")
            if other.guest.startswith(f"{one.guest}/"):
                raise _mount_invalid(f"{one.guest} would hide the mount at {other.guest}")
        if not os.path.isdir(os.path.join(cwd or "", one.host)):
            raise BootError(
                ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, f"no such directory to mount: {one.host}"
            )
    return tuple(live)


def _lie_in_each_other(first: str, second: str) -> bool:
    return first.startswith(f"{second}/") or second.startswith(f"{first}/")


def _mount_invalid(message: str) -> BootError:
    return BootError(ErrorCode.BOOT_MOUNT_INVALID, message)


def _freeze(options: object, name: str, value: Any) -> None:
    """Store the checked form of a field; frozen dataclasses allow it in no other way."""
    object.__setattr__(options, name, value)


def _invalid(message: str) -> BootError:
    return BootError(ErrorCode.BOOT_OPTION_INVALID, message)
