"""How a standby becomes somebody: one message on its Unix socket, from whoever takes it.

The standby speaks first, GREETING, so that a taker knows it lives before it hands anything over.
The taker: `u32 size, JSON`, little-endian, and beside its first byte descriptors (SCM_RIGHTS,
unix(7)): those of NAMES in that order, and for a VM with a terminal those of STDIO. The JSON is an
object of `spec` (vmm/spec.py), `env` and `umask`, as a monitor would have inherited them.

Whose standby it is, is decided before anybody connects: CLAIM_SOCKET is renamed to TAKEN_SOCKET,
and of several takers only one can.
"""

from __future__ import annotations

import array
import json
import os
import socket
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from vmm.errors import VmmError
from vmm.spec import VmSpec, parse_spec
from vmm.status import adopt

CLAIM_SOCKET = "claim.sock"
TAKEN_SOCKET = "taken.sock"
GREETING = b"machinen standby 1\n"
MAX_CLAIM_BYTES = 16 << 20
"""More than a workload's environment and the monitor's together ever have, execve(2)."""
NAMES = ("status", "lifeline", "directory")
STDIO = ("console", "input", "output")
_SIZE = struct.Struct("<I")
_MAX_DESCRIPTORS = len(NAMES) + len(STDIO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who a standby shall be. The descriptors are by name, and whoever received it closes them."""

    spec: VmSpec
    env: Mapping[str, str]
    umask: int
    descriptors: Mapping[str, int]


def encode_claim(spec: VmSpec, env: Mapping[str, str], umask: int) -> bytes:
    """The bytes of a claim; the descriptors go beside them."""
    text = json.dumps({"spec": json.loads(spec.to_json()), "env": dict(env), "umask": umask})
    payload = text.encode()
    return _SIZE.pack(len(payload)) + payload


def decode_claim(payload: bytes, descriptors: list[int]) -> Claim:
    """The claim in a JSON text and the descriptors that came with it.

    Raises:
        VmmError: SPEC_INVALID, with what is wrong. The descriptors stay the caller's.
    """
    names = _names_of(descriptors)
    try:
        value = cast("dict[str, Any]", json.loads(payload))
        spec = parse_spec(json.dumps(value["spec"]).encode())
        env, umask = value["env"], value["umask"]
        if not _is_environment(env) or not isinstance(umask, int) or not 0 <= umask <= 0o777:
            raise ValueError("no environment, or no umask")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise VmmError("SPEC_INVALID", f"cannot use the claim: {error}") from error
    return Claim(
        spec=adopt(spec, names),
        env=env,
        umask=umask,
        descriptors=names,
    )


def _names_of(descriptors: list[int]) -> dict[str, int]:
    """The descriptors by name.

    Raises:
        VmmError: SPEC_INVALID: too few, too many, or a working directory that is none.
    """
    names: list[str] = [*NAMES, *(STDIO if len(descriptors) > len(NAMES) else ())]
    if len(descriptors) != len(names):
        raise VmmError("SPEC_INVALID", f"a claim comes with {len(descriptors)} descriptors")
    found = dict(zip(names, descriptors, strict=True))
    if not stat.S_ISDIR(os.fstat(found["directory"]).st_mode):
        raise VmmError("SPEC_INVALID", "the working directory of a claim is none")
    return found


def _is_environment(value: object) -> bool:
    """Whether a process can have it, environ(7)."""
    if not isinstance(value, dict):
        return False
    items = cast("dict[Any, Any]", value).items()
    return all(
        isinstance(key, str)
        and isinstance(text, str)
        and key
        and "=" not in key
        and "\0" not in key + text
        for key, text in items
    )


class ClaimReader:
    """Reads one claim off a connected, non-blocking socket, as it comes."""

    def __init__(self, connected: socket.socket) -> None:
        self._connected = connected
        self._data = b""
        self._descriptors: list[int] = []

    def read(self) -> Claim | None:
        """The claim once it is whole; None: there is more to come. Its descriptors are the
        caller's then.

        Raises:
            BlockingIOError: nothing has come.
            VmmError: SPEC_INVALID: it is none, or it ended too early.
            OSError: the connection broke.
        """
        data, descriptors = self._receive()
        self._descriptors += descriptors
        self._data += data
        if not data:
            raise VmmError("SPEC_INVALID", "the claim ended too early")
        if len(self._data) < _SIZE.size:
            return None
        (size,) = _SIZE.unpack_from(self._data)
        if size > MAX_CLAIM_BYTES or len(self._data) > _SIZE.size + size:
            raise VmmError("SPEC_INVALID", "the claim is too long")
        if len(self._data) < _SIZE.size + size:
            return None
        claim = decode_claim(self._data[_SIZE.size :], self._descriptors)
        self._descriptors = []
        return claim

    def close(self) -> None:
        """Close the descriptors of a claim that did not become whole."""
        while self._descriptors:
            with suppress(OSError):
                os.close(self._descriptors.pop())

    def _receive(self) -> tuple[bytes, list[int]]:
        room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        data, ancillary, flags, _ = self._connected.recvmsg(1 << 18, room, socket.MSG_CMSG_CLOEXEC)
        found = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
        descriptors = found.tolist()
        if (
            flags & socket.MSG_CTRUNC
            or len(self._descriptors) + len(descriptors) > _MAX_DESCRIPTORS
        ):
            for descriptor in descriptors:
                os.close(descriptor)
            raise VmmError("SPEC_INVALID", "a claim comes with too many descriptors")
        return data, descriptors
