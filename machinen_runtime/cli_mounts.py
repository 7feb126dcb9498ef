"""The options `--mount` and `--mount-live` of boot, restore and fork."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import Decorator, once
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from machinen_runtime.option_types import LiveMount, Mount, MountMode

mount_option = once(
    "--mount",
    metavar="HOST:GUEST",
    help="Copy a directory into the guest, below /mnt; what is written there stays inside.",
)
"""--mount HOST:GUEST, once; finish its text with `make_mount`."""


def live_mount_option(help_text: str) -> Decorator[Any]:
    """--mount-live HOST:GUEST[:ro|rw], repeatable."""
    return click.option(
        "--mount-live",
        "live_mounts",
        metavar="HOST:GUEST[:ro|rw]",
        multiple=True,
        callback=_parse_live_mounts,
        help=help_text,
    )


def make_mount(text: str | None) -> Mount | None:
    """The option of `--mount`'s text.

    Raises:
        ParseError: PARSE_FLAG_MALFORMED. BootError: BOOT_MOUNT_INVALID for its guest path.
    """
    if text is None:
        return None
    from machinen_runtime.option_types import Mount

    host, separator, guest = text.rpartition(":")
    if not host or not separator or not guest:
        message = f"--mount takes HOST:GUEST, such as .:/mnt/work, not {text!r}"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    return Mount(host=host, guest=guest)


def _parse_live_mounts(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> list[LiveMount]:
    del ctx, param
    return [_live_mount(text) for text in values]


def _live_mount(text: str) -> LiveMount:
    from machinen_runtime.option_types import LiveMount

    head, _, last = text.rpartition(":")
    mode: MountMode = "ro" if last == "ro" else "rw"
    rest = head if last in ("ro", "rw") else text
    host, separator, guest = rest.rpartition(":")
    if not host or not separator or not guest.startswith("/"):
        message = (
            f"--mount-live takes HOST:GUEST or HOST:GUEST:ro, such as .:/mnt/work, not {text!r}"
        )
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    return LiveMount(host=host, guest=guest, mode=mode)
