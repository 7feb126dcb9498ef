"""Tell a running guest its new name: hostname, /etc/hostname, /etc/hosts, /run/machinen/name.

A HELLO would do it, too, but it begins a new connection and so ends every stream. A command over
the exec service works in any guest that has a shell, also in one that an older version booted.
"""

from __future__ import annotations

import re

import anyio

from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.mux_stream import StreamResetError
from vmm.workload import EXEC_PORT

TELL_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 8192
MAX_TEXT_BYTES = 255
"""What a name or hostname may take in a HELLO (docs/protocol.md, 1)."""

# $1 name, $2 hostname
_SCRIPT = r"""
set -e
mkdir -p /run/machinen
printf '%s\n' "$1" > /run/machinen/.name
mv -f /run/machinen/.name /run/machinen/name
printf '%s' "$2" > /proc/sys/kernel/hostname
printf '%s\n' "$2" > /etc/hostname
kept=$(while IFS= read -r line; do
    case $line in 127.0.1.1[[:space:]]*) ;; *) printf '%s\n' "$line" ;; esac
done < /etc/hosts) || kept='127.0.0.1	localhost'
printf '127.0.1.1\t%s\n%s\n' "$2" "$kept" > /etc/hosts
"""
_EXIT = re.compile(rb"(?:^|\n)X (\d{1,3})\n$")


def rename_request(name: str, hostname: str) -> bytes:
    """The RUN request of docs/protocol.md, 3.1."""
    argv = ["/bin/sh", "-c", _SCRIPT, "rename", name, hostname]
    payload = b"".join(f"arg={argument}".encode() + b"\0" for argument in argv)
    return b"RUN %d\n" % len(payload) + payload


async def tell_guest(mux: ChannelMux, name: str, hostname: str) -> bool:
    """Have the guest take its new name; False if it answered that it cannot (no shell, say).

    Raises:
        VmmError: AGENT_UNAVAILABLE (retryable) if it does not answer in time.
    """
    try:
        with anyio.fail_after(TELL_TIMEOUT_S):
            async with mux.open_stream(EXEC_PORT) as stream:
                await stream.send(rename_request(name, hostname))
                reply = b""
                while len(reply) < MAX_REPLY_BYTES and (more := await stream.receive()):
                    reply += more
    except (TimeoutError, StreamResetError) as error:
        message = "the guest did not answer; its name stays as it was"
        raise VmmError("AGENT_UNAVAILABLE", message, retryable=True) from error
    ended = _EXIT.search(reply)
    return ended is not None and int(ended[1]) == 0
