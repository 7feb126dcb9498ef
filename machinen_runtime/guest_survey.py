"""What a guest says about its files, processes and environment, for a comparison with another.

Commands of the guest's own (GNU find and coreutils, /proc) are run over the exec channel. Whatever
comes back is hostile: it is cut at a limit, parsed by counting, and made printable. Names travel as
bytes between NULs, so that none can be taken for two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import anyio

from machinen_runtime.channel_exec import VsockExec, VsockExecOptions

MAX_ANSWER_BYTES = 4 << 20
MAX_PROCESSES = 4096
MAX_VARIABLES = 4096
SURVEY_TIMEOUT_MS = 60_000
PAGE_BYTES = 4096

CHANGED = r"""
since=$1
set -- /
while read -r _ at kind _; do
  case $at in /|*\\*|/run|/run/*|/proc*|/sys*|/dev*) continue;; esac
  case $kind in ext?|xfs|btrfs|overlay|tmpfs) set -- "$@" "$at";; esac
done </proc/self/mounts
find / -maxdepth 0 -printf '' || exit 3
find "$@" -xdev -newerct "$since" -print0 2>/dev/null
find "$@" -xdev -type d -newerct "$since" -print0 2>/dev/null |
  xargs -0 -r sh -c 'find "$@" -mindepth 1 -maxdepth 1 -print0' sh 2>/dev/null
exit 0
"""
"""Names of inodes that changed after $1 (`@seconds`), and of everything in directories that did:
what was deleted is missing there. Virtual file systems and live mounts are left out."""
FACTS = r"""
xargs -0 -r sh -c 'find "$@" -maxdepth 0 -printf "%y %s %m %U %G %T@\0%l\0%p\0"' sh 2>/dev/null
exit 0
"""
"""Type, size, mode, owner, group, time; target of a link; name: of the names on stdin."""
SUMS = "xargs -0 -r sha256sum -z -b -- 2>/dev/null; exit 0"
PROCESSES = r"""
cd /proc || exit 3
for p in [0-9]*; do
  IFS= read -r line 2>/dev/null <"$p/stat" || continue
  name=${line#*(}
  name=${name%)*}
  set -f
  set -- ${line##*) }
  set +f
  [ "$2" = 2 ] || [ "$p" = 2 ] || [ "$p" = $$ ] && continue
  state=$1 parent=$2
  shift 19
  printf '%s %s %s %s %s\0%s\0' "$p" "$parent" "$state" "$1" "$3" "$name"
  head -c 400 "$p/cmdline" 2>/dev/null | tr '\0' ' '
  printf '\0'
done
"""
"""Fields of proc_pid_stat(5): state is the 3rd, starttime the 22nd, rss the 24th. Threads of the
kernel (children of 2) and this shell are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """What one guest has at a path."""

    kind: str
    """As find(1) has it: `f`, `d`, `l`, …"""
    size_bytes: int
    mode: str
    owner: str
    """`uid:gid`."""
    modified_at: float
    """Seconds since 1970, by the guest's clock."""
    target: str = ""
    """Of a symbolic link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process of a guest."""

    pid: int
    parent_pid: int
    state: str
    started_ticks: int
    """Since the guest's kernel was booted: with the pid it names a process for good."""
    rss_bytes: int
    name: str
    command: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command wrote, at most `MAX_ANSWER_BYTES`."""

    data: bytes
    exit_code: int
    is_cut: bool


async def ask(socket_path: str, script: str, *arguments: str, stdin: bytes = b"") -> Answer:
    """Run a script of the guest's shell. A guest that says too much is not heard to the end.

    Raises:
        ExecError: EXEC_AGENT_UNAVAILABLE and EXEC_AGENT_TIMEOUT (retryable).
    """
    said = bytearray()
    with anyio.CancelScope() as scope:

        def on_stdout(chunk: bytes) -> None:
            said.extend(chunk[: MAX_ANSWER_BYTES - len(said)])
            if len(said) >= MAX_ANSWER_BYTES:
                scope.cancel()

        options = VsockExecOptions(
            on_stdout=on_stdout,
            on_stderr=lambda chunk: None,
            stdin=stdin or None,
            connect_timeout_ms=10_000,
            exec_timeout_ms=SURVEY_TIMEOUT_MS,
        )
        command = ["/bin/sh", "-c", script, "sh", *arguments]
        result = await VsockExec.run(socket_path, command, options)
        return Answer(bytes(said), result.exit_code, False)
    return Answer(bytes(said), 0, True)


async def changed_names(socket_path: str, since_ms: float) -> Answer:
    """Names of what changed after a moment, see `CHANGED`; exit code 3: its find is too plain."""
    return await ask(socket_path, CHANGED, f"@{since_ms / 1000:.3f}")


async def facts_of(socket_path: str, names: Iterable[bytes]) -> dict[bytes, FileFacts]:
    """What a guest has at each of `names`; what is missing is missing."""
    answer = await ask(socket_path, FACTS, stdin=_listed(names))
    return parsed_facts(answer.data)


async def sums_of(socket_path: str, names: Iterable[bytes]) -> dict[bytes, str]:
    """SHA-256 of each file."""
    answer = await ask(socket_path, SUMS, stdin=_listed(names))
    return parsed_sums(answer.data)


async def processes_of(socket_path: str) -> list[ProcessFacts]:
    """The processes of a guest's programs, by pid."""
    return parsed_processes((await ask(socket_path, PROCESSES)).data)


async def environment_of(socket_path: str, pid: int) -> dict[str, str]:
    """The environment a process of the guest was started with."""
    script = 'head -c 262144 "/proc/$1/environ" 2>/dev/null; exit 0'
    return parsed_environment((await ask(socket_path, script, str(pid))).data)


# -- parsing --------------------------------------------------------------------------------------


def parsed_names(data: bytes) -> set[bytes]:
    """Absolute paths between NULs; a last one without its NUL was cut off."""
    return {name for name in data.split(b"\0")[:-1] if _is_path(name)}


def parsed_facts(data: bytes) -> dict[bytes, FileFacts]:
    """What `FACTS` writes; what does not parse is passed over."""
    found: dict[bytes, FileFacts] = {}
    for line, target, name in _groups(data, 3):
        parts = line.split(b" ")
        if len(parts) != 6 or not _is_path(name):
            continue
        kind, size, mode, uid, gid, modified = (printable(part) for part in parts)
        size_bytes, modified_at = _number(size), _seconds(modified)
        if size_bytes is None or modified_at is None or len(mode) > 8:
            continue
        owner = f"{_number(uid) or 0}:{_number(gid) or 0}"
        found[name] = FileFacts(kind=kind[:1], size_bytes=size_bytes, mode=mode, owner=owner,
                                modified_at=modified_at, target=printable(target))  # fmt: skip
    return found


def parsed_sums(data: bytes) -> dict[bytes, str]:
    """What `sha256sum -z -b` writes: 64 digits, ` *`, the name, NUL."""
    found: dict[bytes, str] = {}
    for record in data.split(b"\0")[:-1]:
        if len(record) > 66 and record[64:66] in (b" *", b"  ") and _is_path(record[66:]):
            found[record[66:]] = printable(record[:64])
    return found


def parsed_processes(data: bytes) -> list[ProcessFacts]:
    """What `PROCESSES` writes."""
    found: list[ProcessFacts] = []
    for line, name, command in _groups(data, 3)[:MAX_PROCESSES]:
        parts = line.decode("ascii", "replace").split(" ")
        if len(parts) != 5:
            continue
        numbers = [_number(part) for part in (parts[0], parts[1], parts[3], parts[4])]
        pid, parent, started, pages = numbers
        if pid is None or parent is None or started is None or pages is None:
            continue
        found.append(
            ProcessFacts(pid=pid, parent_pid=parent, state=printable(parts[2].encode())[:1],
                         started_ticks=started, rss_bytes=pages * PAGE_BYTES,
                         name=printable(name), command=printable(command).strip())
        )  # fmt: skip
    return found


def parsed_environment(data: bytes) -> dict[str, str]:
    """`NAME=VALUE` between NULs."""
    pairs = [record.partition(b"=") for record in data.split(b"\0")[:MAX_VARIABLES]]
    return {printable(name): printable(value) for name, sign, value in pairs if name and sign}


def printable(data: bytes) -> str:
    """Bytes of a guest as text that may be drawn: all else is spelled `\\x1b`, `\\u202e`."""
    text = data.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _groups(data: bytes, size: int) -> list[Sequence[bytes]]:
    """Records of `size` parts, each part ended by a NUL."""
    parts = data.split(b"\0")[:-1]
    return [parts[at : at + size] for at in range(0, len(parts) - size + 1, size)]


def _is_path(name: bytes) -> bool:
    return name.startswith(b"/") and len(name) < 4096


def _listed(names: Iterable[bytes]) -> bytes:
    return b"".join(name + b"\0" for name in names)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _seconds(text: str) -> float | None:
    whole, _, fraction = text.partition(".")
    if _number(whole) is None or (fraction and _number(fraction[:18]) is None):
        return None
    return float(f"{whole}.{fraction[:9] or 0}")
