"""file_difference(): how one file differs in two VMs, line by line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from machinen_runtime.compare import not_paused, one_error
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.guest_survey import ask, printable
from machinen_runtime.registry_entry import RegistryEntry

MAX_FILE_BYTES = 256 << 10
"""So much of a file is read from each guest."""
MAX_LINES = 5000
"""So many lines of it are compared: to find common ones takes time that grows with their square."""
CONTEXT_LINES = 3
PROBE_BYTES = 8192
"""A file with a NUL among its first bytes is not text (as grep(1) and diff(1) see it)."""
READ = r"""
xargs -0 sh -c '
  if [ -h "$1" ]; then printf l; readlink -n -- "$1"
  elif [ -f "$1" ]; then printf f; head -c "$0" -- "$1"
  elif [ -d "$1" ]; then printf d
  elif [ -e "$1" ]; then printf o
  else printf n
  fi' "$1"
"""
"""One letter, then the contents of the file or the target of the link whose name is on stdin."""
KINDS = {"f": "a file", "d": "a directory", "o": "no file", "n": "not there"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDifference:
    """How one path differs in the VMs `a` and `b`."""

    a: RegistryEntry
    b: RegistryEntry
    path: str
    """As it may be drawn."""
    same: bool
    """Of what was looked at: see `cut`."""
    binary: bool = False
    cut: bool = False
    """Larger than 256 KiB or 5000 lines, and only the beginning compared."""
    lines: list[str] = field(default_factory=list[str])
    """As `diff -u` has them; control characters of a guest are spelled out."""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """What one guest has there."""

    kind: str
    data: bytes

    @property
    def is_text(self) -> bool:
        """Whether it may be shown by lines."""
        return b"\0" not in self.data[:PROBE_BYTES]


async def file_difference(a: RegistryEntry, b: RegistryEntry, path: str | bytes) -> TextDifference:
    """How the file at `path` differs in two running VMs.

    A path that only one of them has differs from an empty file. A symbolic link is not followed,
    its target is compared.

    Raises:
        BootError: VM_CONTROL_FAILED if one of them is paused or is the other, if `path` does not
            begin with a slash, or if neither has a file there.
        ExecError: EXEC_AGENT_UNAVAILABLE, EXEC_AGENT_TIMEOUT (retryable).
    """
    if a.pid == b.pid:
        raise BootError(ErrorCode.VM_CONTROL_FAILED, "that is one sandbox; name two")
    name = os.fsencode(path)
    if not name.startswith(b"/") or b"\0" in name:
        message = f"{path!r}: name the file by its whole path in the guest, from / on"
        raise BootError(ErrorCode.VM_CONTROL_FAILED, message)
    found: dict[int, GuestFile] = {}

    async def read(side: int, entry: RegistryEntry) -> None:
        await not_paused(entry)
        answer = await ask(entry.socket_path, READ, str(MAX_FILE_BYTES + 1), stdin=name + b"\0")
        found[side] = GuestFile(answer.data[:1].decode("ascii", "replace"), answer.data[1:])

    async with one_error(), anyio.create_task_group() as tasks:
        for side, entry in enumerate((a, b)):
            tasks.start_soon(read, side, entry)
    return await anyio.to_thread.run_sync(compared, a, b, printable(name), found[0], found[1])


def compared(
    a: RegistryEntry, b: RegistryEntry, path: str, one: GuestFile, other: GuestFile
) -> TextDifference:
    """How what two guests have at `path` differs.

    Raises:
        BootError: VM_CONTROL_FAILED if neither is a file or a link.
    """
    if {one.kind, other.kind} <= {"d", "o", "n", ""}:
        kinds = " and ".join(KINDS.get(each.kind, "unknown") for each in (one, other))
        raise BootError(ErrorCode.VM_CONTROL_FAILED, f"{path} is no file to compare: {kinds}")
    labels = [f"{entry.name or entry.pid}:{path}" for entry in (a, b)]
    if one.kind in "dol" or other.kind in "dol":
        said = [_said(each) for each in (one, other)]
        return TextDifference(
            a=a, b=b, path=path, same=said[0] == said[1],
            lines=_unified([said[0]], [said[1]], labels),
        )  # fmt: skip
    if not (one.is_text and other.is_text):
        return TextDifference(
            a=a, b=b, path=path, same=one.data == other.data, binary=True,
            cut=max(len(one.data), len(other.data)) > MAX_FILE_BYTES,
            lines=list(_of_bytes(one.data, other.data)),
        )  # fmt: skip
    (ours, ours_cut), (theirs, theirs_cut) = lines_of(one.data), lines_of(other.data)
    return TextDifference(
        a=a, b=b, path=path, same=ours == theirs, cut=ours_cut or theirs_cut,
        lines=_unified(ours, theirs, labels),
    )  # fmt: skip


def _said(found: GuestFile) -> str:
    return f"-> {printable(found.data)}" if found.kind == "l" else KINDS.get(found.kind, "unknown")


def lines_of(data: bytes) -> tuple[list[str], bool]:
    """The lines of a guest's file as they may be drawn, and whether there are more."""
    *lines, last = data[:MAX_FILE_BYTES].split(b"\n")
    has_more = len(data) > MAX_FILE_BYTES
    if last:
        lines += [last] if has_more else [last, b"\\ no newline at the end"]
    cut = has_more or len(lines) > MAX_LINES
    return [printable(line.expandtabs()) for line in lines[:MAX_LINES]], cut


def _unified(ours: list[str], theirs: list[str], labels: list[str]) -> list[str]:
    return list(difflib.unified_diff(ours, theirs, *labels, n=CONTEXT_LINES, lineterm=""))


def _of_bytes(ours: bytes, theirs: bytes) -> Iterator[str]:
    if ours == theirs:
        return
    pairs = zip(ours, theirs, strict=False)
    same = next((at for at, (x, y) in enumerate(pairs) if x != y), min(len(ours), len(theirs)))
    sizes = [f"{len(each)}" if len(each) <= MAX_FILE_BYTES else f"over {MAX_FILE_BYTES}"
             for each in (ours, theirs)]  # fmt: skip
    yield f"no text: {sizes[0]} and {sizes[1]} bytes, the first that differs is byte {same + 1}"
