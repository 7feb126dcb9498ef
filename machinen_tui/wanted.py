"""What dialogs ask the runtime for: one frozen record an operation, and the options it becomes.

Empty means the runtime's default. The records check nothing: `forms.py` lets the runtime's own
options do that while somebody types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from machinen_runtime.option_types import LiveMount, Mount, PortForward
from vmm.limits import Limits

MEMORY_PATIENCE_MS = 600_000
Engine = Literal["vmstate", "criu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """A sandbox to boot."""

    name: str = ""
    image: str = ""
    """Path of a tarball, an OCI layout or archive; empty: the base."""
    cmd: Sequence[str] = ()
    memory_mib: int | None = None
    cpus: int | None = None
    limits: Limits | None = None
    """The most it may take of this machine."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    network: str | Sequence[str] = "full"
    """`full`, `none`, or the hosts it may reach."""
    ports: Sequence[PortForward] = ()
    mount: Mount | None = None
    live_mounts: Sequence[LiveMount] = ()
    root_in_ram: bool = False
    """What the guest writes lies in its memory, not on a disk."""
    stays: bool = True
    """It runs on when the application is left; else it ends with it."""
    waits: bool = False
    """For memory of this machine, if there is too little now."""

    def options(self) -> dict[str, Any]:
        """Keywords of `boot()` but the name: only what differs from its defaults."""
        given: dict[str, Any] = {
            "image": Path(self.image) if self.image else None,
            "cmd": list(self.cmd),
            "memory": self.memory_mib,
            "cpus": self.cpus,
            "limits": self.limits,
            "env": dict(self.env),
            "network": self.network if self.network != "full" else None,
            "port_forward": list(self.ports),
            "mount": self.mount,
            "live_mounts": list(self.live_mounts),
        }
        root = {"root_disk": False} if self.root_in_ram else {}
        return {"detached": self.stays, **root, **_queue(self.waits), **_without_empty(given)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFork:
    """Siblings of a running sandbox."""

    count: int = 1
    name: str = ""
    """Of one; several are called `name-1`, `name-2`, …"""
    keep: str = ""
    """Keep the snapshot they are made from in this absolute directory; empty: it goes with
    them."""
    engine: Engine = "vmstate"
    lazy: bool | None = None
    """Read memory when it is touched, or all before it runs; None: the engine's own way."""
    tcp_keep: bool = False
    network: str | Sequence[str] = ""
    """Empty: as the source's."""
    ports: Sequence[PortForward] = ()
    live_mounts: Sequence[LiveMount] = ()
    limits: Limits | None = None
    """Of each of them; None: the source's."""
    waits: bool = False
    """For memory of this machine, if there is too little now."""

    def options(self) -> dict[str, Any]:
        """Keywords of `fork_many()` but count and name."""
        given: dict[str, Any] = {
            "out_dir": Path(self.keep) if self.keep else None,
            "network": self.network,
            "port_forward": list(self.ports),
            "live_mounts": list(self.live_mounts),
        }
        given |= {"lazy": self.lazy, "tcp_keep": self.tcp_keep or None, "limits": self.limits}
        common = {"detached": True, "engine": self.engine, **_queue(self.waits)}
        return {**common, **_without_empty(given)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedSnapshot:
    """A bundle of a running sandbox."""

    directory: str = ""
    """Where it goes; empty: a place of its own in our directory."""
    engine: Engine = "vmstate"
    runs_on: bool = True
    tcp_close: bool = False
    """Close established connections in the copy; engine criu only."""

    def options(self) -> dict[str, Any]:
        """Keywords of `snapshot()` but the directory."""
        given = {"engine": self.engine, "leave_running": self.runs_on}
        return {**given, "tcp_close": True} if self.tcp_close else given


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRestore:
    """A sandbox that goes on from a bundle."""

    bundle: Path
    name: str = ""
    lazy: bool | None = None
    """Read memory when it is touched, or all before it runs; None: the engine's own way."""
    network: str | Sequence[str] = ""
    """Empty: as it was."""
    ports: Sequence[PortForward] = ()
    live_mounts: Sequence[LiveMount] = ()
    """Other host directories for the bundle's live mounts, by guest path."""
    limits: Limits | None = None
    """None: what it had."""
    waits: bool = False
    """For memory of this machine, if there is too little now."""

    def options(self) -> dict[str, Any]:
        """Keywords of `restore()` but the name."""
        given: dict[str, Any] = {
            "lazy": self.lazy,
            "network": self.network,
            "port_forward": list(self.ports),
            "live_mounts": list(self.live_mounts),
            "limits": self.limits,
        }
        return {
            "snap_dir": self.bundle,
            "detached": True,
            **_queue(self.waits),
            **_without_empty(given),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCopy:
    """A file or a directory to copy into a guest or out of it, as cp(1) names things."""

    into_guest: bool
    host: str
    guest: str
    excludes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedImage:
    """An image to build: a base, what is done to it, and what a sandbox of it runs."""

    out: Path
    base: str = ""
    copies: Sequence[tuple[Path, str]] = ()
    """Files and directories of this machine, and where they go in the guest."""
    script: Path | None = None
    """Run in the guest after the copies; or `command`."""
    command: Sequence[str] = ()
    cmd: Sequence[str] = ()
    """Baked in: what a sandbox of the image runs."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Baked in, and set while the script or the command runs."""
    memory_mib: int | None = None

    def options(self) -> dict[str, Any]:
        """Keywords of `provision()` but its hooks."""
        given: dict[str, Any] = {
            "base": Path(self.base) if self.base else None,
            "cmd": list(self.cmd),
            "env": dict(self.env),
            "memory": self.memory_mib,
        }
        return {"out": self.out, **_without_empty(given)}


def _queue(waits: bool) -> dict[str, Any]:
    return {"wait_for_memory_ms": MEMORY_PATIENCE_MS} if waits else {}


def _without_empty(options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` without what is absent or empty."""
    return {name: value for name, value in options.items() if value not in (None, "", [], {})}
