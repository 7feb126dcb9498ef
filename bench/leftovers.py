"""What a run left behind: everything the host could still hold of sandboxes that are gone."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

IGNORED_DESCRIPTORS = ("/proc/",)
"""Those that looking makes: the listing itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a run keeps its things: each of them shall be empty after it."""

    registry: Path
    machines: Path
    sockets: Path
    temporary: Path

    def mentions(self, text: str) -> bool:
        """Whether `text` has a path of ours in it."""
        return any(str(getattr(self, item.name)) in text for item in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What is still there, as text; all of it empty is what a run must end with."""

    processes: list[str]
    descriptors: list[str]
    sockets: list[str]
    mounts: list[str]
    files: list[str]
    entries: list[str]

    def rows(self) -> list[tuple[str, list[str]]]:
        """Each kind of thing, and what is left of it."""
        return [
            ("stray processes", self.processes),
            ("stray descriptors", self.descriptors),
            ("stray sockets", self.sockets),
            ("stray mounts", self.mounts),
            ("stray files", self.files),
            ("registry entries", self.entries),
        ]

    @property
    def clean(self) -> bool:
        """Whether nothing is left."""
        return not any(found for _, found in self.rows())


def open_descriptors() -> dict[int, str]:
    """What this process has open: descriptor → what it leads to (proc(5), /proc/self/fd)."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own descriptor is closed by now
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return {
        number: target
        for number, target in found.items()
        if not target.startswith(IGNORED_DESCRIPTORS)
    }


def find_leftovers(
    places: Places, descriptors_before: dict[int, str], children_before: Collection[int] = ()
) -> Leftovers:
    """Look everywhere. Call it when every sandbox has been ended."""
    return Leftovers(
        processes=_processes(places, children_before),
        descriptors=[
            f"{number} → {target}"
            for number, target in open_descriptors().items()
            if number not in descriptors_before
        ],
        sockets=_lines_that_mention(places, Path("/proc/net/unix")),
        mounts=_lines_that_mention(places, Path("/proc/self/mountinfo")),
        files=[
            str(path)
            for root in (places.machines, places.sockets, places.temporary)
            for path in sorted(root.glob("*"))
            if path != places.sockets
        ],
        entries=_entries(places.registry),
    )


def _processes(places: Places, children_before: Collection[int]) -> list[str]:
    """Processes that were told of our places, by argument or environment; new children too."""
    found = [
        f"{child.pid} {child.name()}"
        for child in psutil.Process().children(recursive=True)
        if child.pid not in children_before
    ]
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid == os.getpid():
            continue
        with suppress(psutil.Error):
            told = " ".join([*process.cmdline(), *process.environ().values()])
            if places.mentions(told):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return sorted(set(found))


def _entries(registry: Path) -> list[str]:
    """Registry entries and name pins; the emptied directory of names is no entry."""
    pins = [path for path in (registry / "names").rglob("*") if not path.is_dir()]
    return sorted(str(path) for path in [*registry.glob("[0-9]*"), *pins])


def _lines_that_mention(places: Places, table: Path) -> list[str]:
    return [line.strip() for line in table.read_text().splitlines() if places.mentions(line)]
