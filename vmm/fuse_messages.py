"""Cuts a stream of bytes into FUSE messages, each of which begins with its own length.

A whole message is handed out as a view, without copying where it came in one piece. The buffer
never grows beyond one message and one piece: a length no message can have breaks the stream.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmm import fuse_wire as wire


class FuseStreamError(Exception):
    """The guest sent what is no message."""


class MessageBuffer:
    """What came and is not yet a whole message."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, piece: bytes) -> Iterator[memoryview]:
        """The messages that are whole now; valid until the next call.

        Raises:
            FuseStreamError: a length below the header's or above the largest request's.
        """
        if self._pending:
            self._pending += piece
            if len(self._pending) < _message_bytes(self._pending):
                return
            data, self._pending = self._pending, bytearray()
        else:
            data = piece
        view = memoryview(data)
        while len(view) >= 4:
            size = _message_bytes(view)
            if len(view) < size:
                break
            yield view[:size]
            view = view[size:]
        self._pending = bytearray(view)

    @property
    def is_empty(self) -> bool:
        """True between messages."""
        return not self._pending


def _message_bytes(data: bytearray | memoryview) -> int:
    """The length the message announces; 4 while even that is missing."""
    if len(data) < 4:
        return 4
    size = int.from_bytes(data[:4], "little")
    is_request = wire.IN_HEADER.size <= size <= wire.MAX_MESSAGE_BYTES
    if not is_request and size != wire.CONTROL_BYTES:
        raise FuseStreamError(f"a message of {size} bytes")
    return size
