"""The records that options and the registry share: port forwards and mounts.

Apart from `options.py` so that `machinen ls`, which reads them, starts fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from machinen_runtime.errors import BootError, ErrorCode

StrPath: TypeAlias = str | os.PathLike[str]
MountMode: TypeAlias = Literal["ro", "rw"]


def placed(path: StrPath, cwd: StrPath | None) -> Path:
    """The absolute path that an option means; a relative one starts from the option `cwd`."""
    return Path(cwd or "", path).absolute()


class OptionRecord:
    """Base of the records of options: one unpacks into the keywords it is made of.

    So a record may be made and checked in one place and used in another: `await boot(**options)`.
    """

    __slots__ = ()

    def keys(self) -> Iterator[str]:
        """The names of the options, for `**`."""
        return (field.name for field in fields(self))  # pyright: ignore[reportArgumentType]

    def __getitem__(self, name: str) -> Any:
        """The value of one option, for `**`; KeyError if there is none of that name."""
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward:
    """One TCP port of the host that leads into the guest."""

    host_port: int
    """1 to 65535; below 1024 needs a privilege."""
    guest_port: int
    """1 to 65535, on the guest's 127.0.0.1."""
    host_addr: str = "127.0.0.1"
    """The host's address to listen on."""

    def __post_init__(self) -> None:
        for port in (self.host_port, self.guest_port):
            validate_port(port)
        if not self.host_addr or "\0" in self.host_addr:
            raise BootError(
                ErrorCode.BOOT_PORT_FORWARD_INVALID,
                f"not an address to listen on: {self.host_addr!r}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host directory copied into the guest: writes stay in the VM and its snapshots."""

    host: StrPath
    guest: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "guest", validate_mount_guest(self.guest))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMount:
    """A host directory shown in the guest as it is; with "rw" the guest's writes land on it."""

    host: StrPath
    guest: str
    mode: MountMode = "rw"

    def __post_init__(self) -> None:
        object.__setattr__(self, "guest", validate_mount_guest(self.guest))
        if self.mode not in ("ro", "rw"):
            raise BootError(
                ErrorCode.BOOT_MOUNT_INVALID,
                f"the mode of a live mount is 'ro' or 'rw', not {self.mode!r}",
            )


def validate_mount_guest(guest: str) -> str:
    """The guest path of a mount without trailing slashes: absolute and strictly under `/mnt/`."""
    stripped = guest.rstrip("/")
    parts = PurePosixPath(stripped).parts
    if not stripped.startswith("/mnt/") or ".." in parts or "\0" in guest:
        raise BootError(
            ErrorCode.BOOT_MOUNT_INVALID,
            f"a mount goes to a path under /mnt/, such as /mnt/workspace, not {guest!r}",
        )
    return stripped


def validate_port(port: int) -> int:
    """Return `port` if it is one of TCP, else BOOT_PORT_FORWARD_INVALID."""
    if not is_whole(port) or not 1 <= port <= 65535:
        raise BootError(
            ErrorCode.BOOT_PORT_FORWARD_INVALID,
            f"a port is a number from 1 to 65535, not {port!r}",
        )
    return port


def is_whole(value: object) -> bool:
    """Whether `value` is an int; to Python, True is one too."""
    return isinstance(value, int) and not isinstance(value, bool)
