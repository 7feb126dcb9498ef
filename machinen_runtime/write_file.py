"""Write one file into a guest.

`VmHandle.write_file` streams the contents into a staged file and renames it over the old one, so
nobody in the guest ever reads half a file. The two `build_` functions are the declaration's: the
same with nothing but command lines, for agents that have no stdin.
"""

from __future__ import annotations

import base64
import os
import posixpath
import secrets
import shlex
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream

from machinen_runtime.argument_types import is_data, is_text
from machinen_runtime.channel_format import refusal
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.options import WriteFileOptions

WRITE_FILE_B64_CHUNK_BYTES = 65_536
"""Keeps each command below Linux' MAX_ARG_STRLEN of 128 KiB."""

MIN_TIMEOUT_MS = 300_000
SLOWEST_PER_MS = 1000
"""Bytes: a guest that takes less than a megabyte a second is given up."""

# $1 target, $2 bytes or "" or "put", $3 mode or "", $4 "append" or "", $5 "parents" or "",
# $6 random suffix.
# The end of the input may come just before the hang-up, which would end rm.
# A hang-up may end the subshell that makes the stage just after it has: both places are tidied.
# Whoever hears the complaints may be gone: SIGPIPE would kill the shell before it has tidied up.
# A lost link looks like the end of the input to cat: so the size is checked, or, where nobody knows
# it beforehand, the random suffix has to come behind the contents, which are cut off before it.
# With "put" for the bytes, somebody else writes the stage, whose path is said, and then says them.
_SCRIPT = r"""
set -eu
target=$(readlink -f -- "$1" || printf %s "$1")
[ ! -d "$target" ] || { echo "$1 is a directory" >&2; exit 1; }
directory=${target%/*}
directory=${directory:-/}
[ -z "$5" ] || [ -d "$directory" ] || mkdir -p -- "$directory"
beside="$directory/.machinen-$6"
stage=$beside
trap 'trap "" HUP TERM INT; rm -f -- "$stage" "$beside"' EXIT
trap 'exit 129' HUP TERM INT
trap '' PIPE
( : > "$stage" ) 2>/dev/null || stage="/tmp/.machinen-$6"
if [ -z "$4" ] && [ -f "$target" ] && [ -d "$directory" ]; then
    cp -p --attributes-only -- "$target" "$stage" 2>/dev/null || :
fi
if [ "$2" = put ]; then
    : >> "$stage"
    printf '%s\n' "$stage"
    IFS= read -r size || { echo "the copy was cut short" >&2; exit 1; }
    set -- "$1" "$size" "$3" "$4" "$5" "$6"
else
    cat > "$stage"
fi
size=$(wc -c < "$stage")
if [ -n "$2" ]; then
    [ "$size" -eq "$2" ] || { echo "only $size of $2 bytes arrived" >&2; exit 1; }
else
    [ "$(tail -c ${#6} -- "$stage")" = "$6" ] || { echo "the input was cut short" >&2; exit 1; }
    truncate -s $((size - ${#6})) -- "$stage"
fi
if [ -n "$4" ]; then
    cat -- "$stage" >> "$target"
    [ -z "$3" ] || chmod "$3" -- "$target"
    exit 0
fi
[ -z "$3" ] || chmod "$3" -- "$stage"
if [ -f "$target" ] || [ ! -e "$target" ]; then
    mv -f -- "$stage" "$target" 2>/dev/null && exit 0
fi
cat -- "$stage" > "$target"
[ -z "$3" ] || chmod "$3" -- "$target"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFilePlan:
    """One command and its input: run it with `contents` as stdin and expect exit code 0."""

    cmd: list[str]
    contents: bytes


def write_file_plan(
    guest_path: str, contents: bytes | str, options: WriteFileOptions | None = None
) -> WriteFilePlan:
    """How to write `contents` to the absolute `guest_path` in one exec.

    Links are followed and an existing file keeps its owner and mode. Devices, files in /proc and
    mount points, which cannot be renamed over, are written in place.
    """
    data = _checked_bytes(guest_path, contents)
    options = options or WriteFileOptions()
    cmd = _command(guest_path, str(len(data)), options, secrets.token_hex(8))
    return WriteFilePlan(cmd=cmd, contents=data)


def put_command(guest_path: str, options: WriteFileOptions, token: str) -> list[str]:
    """A command that says its stage, and does the rest once it hears how many bytes are there.

    Raises:
        ExecError: EXEC_REQUEST_INVALID if the path is not that of a file.
    """
    _checked_bytes(guest_path, b"")
    return _command(guest_path, "put", options, token)


def _command(guest_path: str, size: str, options: WriteFileOptions, token: str) -> list[str]:
    flags = ("append" if options.append else "", "parents" if options.recursive else "")
    mode = "" if options.mode is None else f"{options.mode:o}"
    return ["/bin/sh", "-c", _SCRIPT, "write_file", guest_path, size, mode, *flags, token]


async def write_guest_file(
    vsock_path: str | os.PathLike[str],
    guest_path: str,
    contents: bytes | str,
    options: WriteFileOptions | None = None,
    **exec_options: Any,
) -> None:
    """Write `contents` to `guest_path` in the guest behind `vsock_path`.

    `exec_options` are those of VsockExecOptions but stdin. Raises what VsockExec.run raises, and
    EXEC_NONZERO_EXIT if the guest could not write: no permission, disk full, a directory there.
    """
    plan = write_file_plan(guest_path, contents, options)
    exec_options.setdefault("exec_timeout_ms", MIN_TIMEOUT_MS + len(plan.contents) / SLOWEST_PER_MS)
    await _run(vsock_path, guest_path, plan.cmd, stdin=plan.contents, **exec_options)


async def write_guest_stream(
    vsock_path: str | os.PathLike[str],
    guest_path: str,
    source: ByteReceiveStream,
    options: WriteFileOptions | None = None,
    **exec_options: Any,
) -> None:
    """As `write_guest_file`, but of a stream whose end nobody knows yet; nothing is kept here.

    If reading `source` fails, the file in the guest stays as it was.
    """
    _checked_bytes(guest_path, b"")
    token = secrets.token_hex(8)
    cmd = _command(guest_path, "", options or WriteFileOptions(), token)
    marked = _MarkedStream(source, token.encode())
    try:
        await _run(vsock_path, guest_path, cmd, stdin=marked, **exec_options)
    except ExecError:
        if marked.failure is not None:  # what the guest says is only what follows from it
            raise marked.failure from None
        raise


class _MarkedStream(ByteReceiveStream):
    """A stream and, if it came to its end, a mark behind it."""

    def __init__(self, source: ByteReceiveStream, mark: bytes) -> None:
        self._source = source
        self._mark = mark
        self.failure: Exception | None = None

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes of the source, then the mark."""
        if self.failure is not None or not self._mark:
            raise anyio.EndOfStream
        try:
            return await self._source.receive(max_bytes)
        except anyio.EndOfStream:
            mark, self._mark = self._mark, b""
            return mark
        except Exception as error:  # for the caller, once the guest has seen that it got too little
            self.failure = error
            raise anyio.EndOfStream from error

    async def aclose(self) -> None:
        """Close the source."""
        await self._source.aclose()


async def _run(
    vsock_path: str | os.PathLike[str], guest_path: str, cmd: list[str], **exec_options: Any
) -> None:
    from machinen_runtime.channel_exec import VsockExec, VsockExecOptions

    result = await VsockExec.run(vsock_path, cmd, VsockExecOptions(**exec_options))
    if result.exit_code != 0:
        why = result.stderr.strip() or f"exit code {result.exit_code}"
        raise ExecError(
            ErrorCode.EXEC_NONZERO_EXIT, f"could not write {guest_path} in the guest: {why}"
        )


def build_write_file_cmd(
    guest_path: str, contents: bytes | str, options: WriteFileOptions | None = None, **fields: Any
) -> str:
    """One line for a shell that writes a small file; see `build_write_file_cmds` for the rest.

    Keywords are the fields of `WriteFileOptions`.

    Raises:
        ExecError: EXEC_REQUEST_INVALID if the path is not absolute or the mode is none.
    """
    options = options or WriteFileOptions(**fields)
    encoded = base64.b64encode(_checked_bytes(guest_path, contents)).decode("ascii")
    arrow = ">>" if options.append else ">"
    decode = f"printf %s {shlex.quote(encoded)} | base64 -d {arrow} {shlex.quote(guest_path)}"
    return " && ".join([*_prepare(guest_path, options), decode, *_finish(guest_path, options)])


def build_write_file_cmds(
    guest_path: str, contents: bytes | str, options: WriteFileOptions | None = None, **fields: Any
) -> list[str]:
    """The commands that write a file of any size, each short enough to be one argument (64 KiB).

    Keywords are the fields of `WriteFileOptions`.

    Raises:
        ExecError: EXEC_REQUEST_INVALID if the path is not absolute or the mode is none.
    """
    options = options or WriteFileOptions(**fields)
    encoded = base64.b64encode(_checked_bytes(guest_path, contents)).decode("ascii")
    if len(encoded) <= WRITE_FILE_B64_CHUNK_BYTES:
        return [build_write_file_cmd(guest_path, contents, options)]
    # Named here: `$$` would be another shell's in each command.
    stage = f"/tmp/.machinen-wf.{secrets.token_hex(8)}"
    starts = range(0, len(encoded), WRITE_FILE_B64_CHUNK_BYTES)
    pieces = [encoded[start : start + WRITE_FILE_B64_CHUNK_BYTES] for start in starts]
    arrow = ">>" if options.append else ">"
    decode = f"base64 -d {stage} {arrow} {shlex.quote(guest_path)}"
    return [
        " && ".join([*_prepare(guest_path, options), f": > {stage}"]),
        *(f"printf %s {shlex.quote(piece)} >> {stage}" for piece in pieces),
        " && ".join([decode, f"rm -f {stage}", *_finish(guest_path, options)])
        + f" || {{ rm -f {stage}; exit 1; }}",
    ]


def _prepare(guest_path: str, options: WriteFileOptions) -> list[str]:
    directory = posixpath.dirname(guest_path)
    return [f"mkdir -p {shlex.quote(directory)}"] if options.recursive else []


def _finish(guest_path: str, options: WriteFileOptions) -> list[str]:
    return [] if options.mode is None else [f"chmod {options.mode:03o} {shlex.quote(guest_path)}"]


def _checked_bytes(guest_path: str, contents: bytes | str) -> bytes:
    named = is_text(guest_path) and guest_path.startswith("/") and not guest_path.endswith("/")
    if not named or "\0" in guest_path:
        raise refusal(
            f"write_file needs the absolute path of a file in the guest, not {guest_path!r:.80}"
        )
    if not is_data(contents):
        message = f"write_file takes the contents as bytes or a text, not {contents!r:.80}"
        raise refusal(message)
    try:
        return contents.encode() if isinstance(contents, str) else bytes(contents)
    except UnicodeEncodeError as error:
        message = "the text holds half a surrogate pair, which is no character; pass bytes"
        raise refusal(message) from error
