"""What a monitor reports when it cannot do what it was asked, as it travels over control.sock."""

from __future__ import annotations

from typing import Any


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


def first_error(group: BaseExceptionGroup[VmmError]) -> VmmError:
    """The error that ended the VM, of possibly several that followed from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, VmmError)
    return error
