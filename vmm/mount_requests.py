"""Ask the guest to mount something: header and answer of port 1977, docs/protocol.md 3.6."""

from __future__ import annotations

import re

from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.spec import LiveMountSpec, MountDiskSpec

MOUNTS_PORT = 1977
MAX_ANSWER_BYTES = 8192
_ERR = re.compile(rb"ERR ([0-9]{1,5})")


async def mount_disks(mux: ChannelMux, spec: MountDiskSpec, *, exchanged: bool) -> None:
    """Let the guest lay the mount's two disks over each other.

    `exchanged`: the guest's kernel has seen others in their place, those of a template.

    Raises:
        VmmError: MOUNT_FAILED with the guest's words, AGENT_UNAVAILABLE.
    """
    path = spec.guest.encode()
    async with mux.open_stream(MOUNTS_PORT) as stream:
        verb = b"DISK new" if exchanged else b"DISK"
        await ask(stream, b"%s %d\n" % (verb, len(path)) + path, spec.guest)


async def attach_live_mount(stream: MuxStream, spec: LiveMountSpec) -> bytes:
    """Ask for a live mount on `stream`; returns what came behind the answer.

    Raises:
        VmmError: MOUNT_FAILED with the guest's words.
    """
    path = spec.guest.encode()
    header = b"FUSE %s %d\n" % (spec.mode.encode(), len(path)) + path
    return await ask(stream, header, spec.guest)


async def ask(stream: MuxStream, header: bytes, guest: str) -> bytes:
    """Send a header and wait for `OK`; returns what came behind it."""
    try:
        await stream.send(header)
        answer = b""
        while b"\n" not in answer:
            answer += await _more(stream, answer, guest)
        line, _, rest = answer.partition(b"\n")
        if line == b"OK":
            return rest
        refusal = _ERR.fullmatch(line)
        size = int(refusal[1]) if refusal else 0
        while len(rest) < size:
            rest += await _more(stream, rest, guest)
    except StreamResetError as error:
        raise _failed(guest, str(error)) from error
    raise _failed(guest, rest[:size].decode("utf-8", "replace") or "no reason given")


async def _more(stream: MuxStream, so_far: bytes, guest: str) -> bytes:
    data = await stream.receive()
    if not data or len(so_far) > MAX_ANSWER_BYTES:
        raise _failed(guest, "it said nothing one can read")
    return data


def _failed(guest: str, reason: str) -> VmmError:
    return VmmError("MOUNT_FAILED", f"the guest could not mount {guest}: {reason}")
