"""The packers on a command line: `python -m machinen_runtime.mkinitramfs_cli KIND --out FILE …`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from machinen_runtime import mkinitramfs
from machinen_runtime.errors import ErrorCode, MachinenError, ParseError
from machinen_runtime.option_types import Mount

PACKERS: dict[str, Callable[..., None]] = {
    "bundle": mkinitramfs.mkinitramfs_bundle,
    "tiny-bundle": mkinitramfs.mkinitramfs_tiny_bundle,
    "rootfs": mkinitramfs.mkinitramfs_rootfs,
    "minimal": mkinitramfs.mkinitramfs_minimal,
    "workspace": mkinitramfs.mkinitramfs_workspace,
}
FLAGS: dict[str, dict[str, str]] = {
    "bundle": {
        "--bundle": "bundle",
        "--out": "out",
        "--base": "base",
        "--mount": "mount",
        "--env": "env",
        "--exclude": "excludes",
        "--init": "init_path",
        "--fuse-agent": "fuse_agent_path",
        "--exec-agent": "exec_agent_path",
    },
    "tiny-bundle": {
        "--bundle": "bundle",
        "--out": "out",
        "--env": "env",
        "--mount-guest": "mount_guest",
        "--init": "init_path",
        "--fuse-agent": "fuse_agent_path",
    },
    "rootfs": {
        "--rootfs": "rootfs",
        "--out": "out",
        "--config": "config",
        "--exclude": "excludes",
        "--init": "init_path",
    },
    "minimal": {"--out": "out", "--init": "init_path", "--config": "config"},
    "workspace": {
        "--workspace": "workspace",
        "--out": "out",
        "--mountpoint": "mountpoint",
        "--exclude": "excludes",
        "--max-mb": "max_mb",
    },
}
REQUIRED = {
    "bundle": ("--bundle", "--out"),
    "tiny-bundle": ("--bundle", "--out"),
    "rootfs": ("--rootfs", "--out"),
    "minimal": ("--out",),
    "workspace": ("--workspace", "--out"),
}
REPEATED = {"--exclude", "--env"}


def usage() -> str:
    """The kinds and their flags, a line each."""
    lines = ["usage: python -m machinen_runtime.mkinitramfs_cli KIND FLAG VALUE …"]
    for kind, flags in FLAGS.items():
        shown = [
            flag if flag in REQUIRED[kind] else f"[{flag}]{'*' if flag in REPEATED else ''}"
            for flag in flags
        ]
        lines.append(f"  {kind} {' '.join(shown)}")
    return "\n".join(lines)


def mkinitramfs_cli(argv: Sequence[str]) -> None:
    """Run one packer as `argv` says, for instance `["minimal", "--out", "x.cpio"]`.

    Raises:
        ParseError: PARSE_FLAG_UNKNOWN, PARSE_FLAG_MISSING_VALUE, PARSE_FLAG_DUPLICATE,
            PARSE_FLAG_MALFORMED. MkinitramfsError: what the packer raises.
    """
    kind, *rest = argv or [""]
    if kind not in PACKERS:
        raise ParseError(
            ErrorCode.PARSE_FLAG_MALFORMED,
            f"not a kind of initramfs: {kind!r}; choose of {', '.join(PACKERS)}",
        )
    PACKERS[kind](**_options(kind, rest))


def _options(kind: str, argv: Sequence[str]) -> dict[str, Any]:
    given: dict[str, list[str]] = {}
    words = list(argv)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if flag not in FLAGS[kind]:
            raise ParseError(ErrorCode.PARSE_FLAG_UNKNOWN, f"{kind} has no flag {flag!r}")
        if not equals:
            if not words:
                raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, f"{flag} needs a value")
            value = words.pop(0)
        if flag in given and flag not in REPEATED:
            raise ParseError(ErrorCode.PARSE_FLAG_DUPLICATE, f"{flag} is given twice")
        given.setdefault(flag, []).append(value)
    for flag in REQUIRED[kind]:
        if flag not in given:
            raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, f"{kind} needs {flag}")
    return {FLAGS[kind][flag]: _value(flag, values) for flag, values in given.items()}


def _value(flag: str, values: list[str]) -> Any:
    match flag:
        case "--exclude":
            return values
        case "--env":
            return dict(_pair(flag, value, "=") for value in values)
        case "--mount":
            host, guest = _pair(flag, values[0], ":")
            return Mount(host=host, guest=guest)
        case "--max-mb":
            try:
                return float(values[0])
            except ValueError:
                message = f"{flag} wants a number of MiB, not {values[0]!r}"
                raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message) from None
        case _:
            return values[0]


def _pair(flag: str, value: str, separator: str) -> tuple[str, str]:
    left, found, right = value.partition(separator)
    if not (left and found and (right or separator == "=")):
        message = f"{flag} wants LEFT{separator}RIGHT, not {value!r}"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    return left, right


def main(argv: Sequence[str]) -> int:
    """Run, print an error for people, return the exit code: 0, 1, or 2 for a usage error."""
    if not argv or set(argv) & {"-h", "--help"}:
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        mkinitramfs_cli(argv)
    except MachinenError as error:
        print(f"mkinitramfs: ({error.code}) {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, ParseError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
