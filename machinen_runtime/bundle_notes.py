"""What people say about a snapshot: a label, a note, and whether it is pinned.

They lie in `notes.json` in the bundle, beside its meta.json: they travel with it, no checksum
covers them, and a bundle without the file has none. Whoever reads them trusts nothing in them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from machinen_runtime.errors import ErrorCode, SnapshotError
from machinen_runtime.paths import write_atomically
from machinen_runtime.regular_file import open_regular

NOTES_FILE = "notes.json"
META_FILE = "meta.json"
MAX_NOTES_BYTES = 16 * 1024
MAX_LABEL_CHARS = 60
MAX_NOTE_CHARS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleNotes:
    """Empty texts mean that nothing was said."""

    label: str = ""
    note: str = ""
    pinned: bool = False
    """It is deleted only by who says so twice."""
    automatic: bool = False
    """Made by `rewind`, to go back to; the oldest of these go by themselves."""

    def __post_init__(self) -> None:
        _check("label", self.label, MAX_LABEL_CHARS)
        _check("note", self.note, MAX_NOTE_CHARS)

    @property
    def is_kept(self) -> bool:
        """Whether somebody cared for it: it does not go by itself."""
        return self.pinned or not self.automatic


def read_notes(bundle: Path) -> BundleNotes:
    """The notes of a bundle; what is missing or damaged was not said."""
    try:
        with open_regular(bundle / NOTES_FILE) as file:
            raw: object = json.loads(file.read(MAX_NOTES_BYTES + 1))
    except (OSError, ValueError, RecursionError):
        return BundleNotes()
    if not isinstance(raw, dict):
        return BundleNotes()
    values = cast("dict[str, Any]", raw)
    return BundleNotes(
        label=_shown(values.get("label"), MAX_LABEL_CHARS),
        note=_shown(values.get("note"), MAX_NOTE_CHARS),
        pinned=values.get("pinned") is True,
        automatic=values.get("automatic") is True,
    )


def change_notes(bundle: Path, **changes: Any) -> BundleNotes:
    """Say something else about a bundle: fields of `BundleNotes`. The notes as they are then.

    Two at once both count.

    Raises:
        SnapshotError: SNAPSHOT_NOTE_INVALID for a text that is too long or not printable, or a
            directory that is no bundle or cannot be written; nothing has changed then.
    """
    return update_notes(bundle, lambda notes: replace(notes, **changes))


def update_notes(bundle: Path, change: Callable[[BundleNotes], BundleNotes]) -> BundleNotes:
    """Replace the notes by what `change` makes of them; see `change_notes`."""
    if not os.path.isfile(bundle / META_FILE) or os.path.islink(bundle):
        raise _invalid(f"there is no snapshot in {bundle}; `machinen bundles ls` lists them")
    try:
        directory = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _invalid(f"{bundle} cannot be read: {error.strerror}") from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        notes = change(read_notes(bundle))
        write_atomically(bundle / NOTES_FILE, json.dumps(asdict(notes), separators=(",", ":")))
    except OSError as error:
        raise _invalid(f"cannot write {bundle / NOTES_FILE}: {error.strerror}") from error
    finally:
        os.close(directory)
    return notes


def _check(what: str, text: object, limit: int) -> None:
    if not isinstance(text, str) or not text.isprintable():
        raise _invalid(f"a {what} is one line of printable text, not {text!r}")
    if len(text) > limit:
        raise _invalid(f"a {what} has at most {limit} characters, not {len(text)}; shorten it")


def _shown(value: object, limit: int) -> str:
    """A text of the file as it may be drawn: whoever wrote it may have meant harm."""
    return "".join(c for c in value if c.isprintable())[:limit] if isinstance(value, str) else ""


def _invalid(message: str) -> SnapshotError:
    return SnapshotError(ErrorCode.SNAPSHOT_NOTE_INVALID, message)
