"""What an argument is, asked without believing its annotation: callers may have no type checker.

Apart from `option_shapes`, which compares with any annotation, and costs one command of the CLI
more to import than the command takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def is_text(value: object) -> bool:
    """A str."""
    return isinstance(value, str)


def is_path(value: object) -> bool:
    """A str or a path-like object that a file can have as its name: no NUL, no half characters."""
    if not isinstance(value, str | os.PathLike):
        return False
    try:
        return b"\0" not in os.fsencode(value)  # pyright: ignore[reportUnknownArgumentType]
    except UnicodeEncodeError:
        return False


def is_sequence(value: object) -> bool:
    """A sequence; a word is none of words, though Python calls it one."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def is_mapping(value: object) -> bool:
    """A mapping."""
    return isinstance(value, Mapping)


def is_data(value: object) -> bool:
    """Text, or what bytes() copies without a surprise: of a number it would make zeros."""
    return isinstance(value, str | bytes | bytearray | memoryview)
