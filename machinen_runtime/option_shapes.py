"""Whether the values of options are of the types their fields are annotated with.

A caller without a type checker gets one sentence, not an AttributeError from deep below. What is of
the right type and still makes no sense is for the checks of each option.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from machinen_runtime.argument_types import is_sequence
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, RegistryError

MAX_SHOWN_CHARS = 80
LAUNCH_CODES: Mapping[str, ErrorCode] = {
    "cmd": ErrorCode.BOOT_CMD_MISSING,
    "guest_cwd": ErrorCode.BOOT_CWD_INVALID,
    "live_mounts": ErrorCode.BOOT_MOUNT_INVALID,
    "memory": ErrorCode.BOOT_MEMORY_INVALID,
    "mount": ErrorCode.BOOT_MOUNT_INVALID,
    "mount_disk_upper_size_bytes": ErrorCode.BOOT_MOUNT_INVALID,
    "port_forward": ErrorCode.BOOT_PORT_FORWARD_INVALID,
}
"""What a value of a wrong type is refused with by boot, restore and fork; see below for others."""


def refuse_wrong_types(
    record: type[Any],
    given: Mapping[str, Any],
    codes: Mapping[str, ErrorCode] = LAUNCH_CODES,
    refusal: Callable[[str], MachinenError] | None = None,
) -> None:
    """Look at the options `given` for a dataclass; names that it has not are left to itself.

    Raises:
        BootError: the option's code in `codes`, else BOOT_OPTION_INVALID.
        RegistryError: REGISTRY_NAME_INVALID for `name`.
        MachinenError: in place of both what `refusal` makes of the sentence.
    """
    hints, written = _annotations(record)
    for name, value in given.items():
        if name in hints and not is_of_type(value, hints[name]):
            message = _sentence(name, written[name], value)
            raise refusal(message) if refusal else _wrong(name, message, codes)


def is_of_type(value: object, hint: Any) -> bool:
    """Whether `value` is what an annotation says; words of a Literal may be others."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(is_of_type(value, each) for each in arguments)
    if origin is Literal:
        return any(isinstance(value, type(each)) for each in arguments if each is not False) or (
            value is False and False in arguments
        )
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            is_of_type(key, arguments[0]) and is_of_type(each, arguments[1])
            for key, each in cast("Mapping[Any, Any]", value).items()
        )
    if origin is Sequence:
        return _is_sequence(value, arguments[0])
    if origin is Callable:
        return callable(value)
    return _is_plain(value, origin or hint)


def _is_sequence(value: object, item: Any) -> bool:
    return is_sequence(value) and all(
        is_of_type(each, item) for each in cast("Sequence[Any]", value)
    )


def _is_plain(value: object, kind: Any) -> bool:
    """A class, and for numbers what typing takes them for; True is not 1."""
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind is os.PathLike:
        return isinstance(value, os.PathLike) and isinstance(
            os.fspath(cast("os.PathLike[Any]", value)), str
        )
    return isinstance(value, kind)


@cache
def _annotations(record: type[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The types of a dataclass's fields, and how they are written."""
    return get_type_hints(record), {field.name: str(field.type) for field in fields(record)}


def _sentence(name: str, written: str, value: object) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}…"
    return f"{name} takes {written}, not {shown}"


def _wrong(name: str, message: str, codes: Mapping[str, ErrorCode]) -> MachinenError:
    if name == "name":
        return RegistryError(ErrorCode.REGISTRY_NAME_INVALID, message)
    return BootError(codes.get(name, ErrorCode.BOOT_OPTION_INVALID), message)
