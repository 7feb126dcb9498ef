"""What a monitor reports when it cannot do what it was asked, as it travels over control.sock."""

from __future__ import annotations

import errno
import os
from typing import Any, TypeVar

HOST_REFUSED = "HOST_REFUSED"
"""The code of what `host_refusal` makes."""
_EXHAUSTED = {
    errno.ENOSPC: "there is no space left{where}: free some, or lead it elsewhere (docs/cli.md)",
    errno.EDQUOT: "the disk quota is used up{where}: free some of it, or lead it elsewhere",
    errno.EMFILE: "this process may not open more files: raise its limit (`ulimit -n`)",
    errno.ENFILE: "this host cannot open more files: end programs, or raise fs.file-max",
    errno.EAGAIN: "no more processes may be started: end some, or raise the limit (`ulimit -u`)",
    errno.ENOMEM: "this host has no memory left: stop a sandbox, or end other programs",
}
"""What runs out, and what to do about it."""
_NO_THREAD = "can't start new thread"
"""What Python says where clone(2) says EAGAIN."""

Failure = TypeVar("Failure", bound=Exception)


class VmmError(Exception):
    """A request or a start that failed: a stable code, a sentence, and whether to try again.

    Codes are the monitor's own (`QEMU_START_FAILED`, `SNAPSHOT_FAILED`, …); the runtime turns them
    into its error family, see machinen_runtime/monitor_client.py.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable

    def to_json(self) -> dict[str, Any]:
        """The error as an object: code, message, retryable."""
        return {"code": self.code, "message": str(self), "retryable": self.retryable}

    @classmethod
    def from_json(cls, value: object) -> VmmError:
        """The error a reply carried; anything malformed becomes `PROTOCOL`."""
        match value:
            case {"code": str(code), "message": str(message)}:
                return cls(code, message, retryable=bool(value.get("retryable")))  # pyright: ignore
            case _:
                return cls("PROTOCOL", f"the monitor sent an error nobody can read: {value!r}")


def first_error(group: BaseExceptionGroup[Failure]) -> Failure:
    """The error that ended the VM, of possibly several that followed from it."""
    error: BaseExceptionGroup[Failure] | Failure = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def is_exhaustion(error: OSError) -> bool:
    """Whether the host ran out of something: space, descriptors, processes, memory."""
    return error.errno in _EXHAUSTED


def as_os_error(error: object) -> OSError | None:
    """What the host refused, as the kernel would have put it; None: it is another error."""
    if isinstance(error, OSError):
        return error
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return None


def exhaustion_in(words: str) -> OSError | None:
    """What the host ran out of, if the last line that a program of others printed ends with that
    (`qemu_thread_create: Resource temporarily unavailable`)."""
    ending = words.rstrip().rpartition("\n")[2]
    for number in _EXHAUSTED:
        if ending.endswith(os.strerror(number)):
            return OSError(number, os.strerror(number))
    return None


def host_refusal(error: OSError, doing: str) -> VmmError:
    """HOST_REFUSED for what the operating system would not do; retryable if something ran out.

    `doing` says what for: "the VM cannot be started".
    """
    path = str(error.filename) if error.filename else ""
    where = f" for {path}" if path else ""
    reason = _EXHAUSTED.get(error.errno or 0, "{reason}{where}: correct that, then try again")
    sentence = reason.format(where=where, reason=error.strerror or str(error) or "it failed")
    return VmmError(HOST_REFUSED, f"{doing}: {sentence}", retryable=is_exhaustion(error))
