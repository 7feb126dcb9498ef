"""Start the workload: session `main` of a guest that just booted."""

from __future__ import annotations

import re

from vmm.errors import VmmError
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.spec import WorkloadSpec

EXEC_PORT = 1978
DEFAULT_SIZE = "80x24"
MAX_REPLY_BYTES = 8192
_RUN = re.compile(rb"RUN (\d{1,7})\n")
_OF_TERMINALS = (b"pty=", b"session=", b"attach=")


def workload_request(workload: WorkloadSpec) -> bytes:
    """The RUN request of docs/protocol.md, 3.2: session `main`, as the VM's workload."""
    fields = ["session=main", "workload=1", f"pty={DEFAULT_SIZE}"]
    fields += [f"arg={argument}" for argument in workload.cmd] or ["login=1"]
    fields += [f"env={key}={value}" for key, value in workload.env.items()]
    if workload.cwd is not None:
        fields.append(f"cwd={workload.cwd}")
    if workload.user is not None and workload.cmd:
        fields.append(f"user={workload.user}")
    payload = b"".join(field.encode() + b"\0" for field in fields)
    return b"RUN %d\n" % len(payload) + payload


def is_plain_command(request: bytes) -> bool:
    """Whether this is, whole, a RUN of docs/protocol.md, 3.1, that wants no terminal."""
    head = _RUN.match(request)
    if head is None or len(request) < head.end() + int(head[1]):
        return False
    fields = request[head.end() : head.end() + int(head[1])].split(b"\0")
    return not any(field.startswith(_OF_TERMINALS) for field in fields)


async def start_workload(stream: MuxStream, workload: WorkloadSpec) -> bytes:
    """Ask the agent to start the workload and wait for its word that it did.

    Returns the first replies of the session, whose client `stream` is from now on: a workload that
    ends at once has said all it says by then.

    Raises:
        VmmError: WORKLOAD_FAILED with the agent's reason.
    """
    try:
        await stream.send(workload_request(workload))
        reply = await stream.receive()
        while not _is_whole(reply) and len(reply) < MAX_REPLY_BYTES:
            more = await stream.receive()
            if not more:
                break
            reply += more
    except StreamResetError as error:
        raise VmmError("WORKLOAD_FAILED", f"the guest gave up on the command: {error}") from error
    if reply[:1] not in (b"S", b"O"):  # a session that runs says its size, or speaks already
        reason = reply.partition(b"\n")[2].decode("utf-8", "replace") or "no reason given"
        raise VmmError("WORKLOAD_FAILED", f"the guest could not start the command: {reason}")
    return reply


def _is_whole(reply: bytes) -> bool:
    """Whether the words of a refusal are all there; any other reply is long enough to tell."""
    if reply[:1] != b"F":
        return True
    head = re.match(rb"F (\d{1,5})\n", reply)
    return head is not None and len(reply) >= head.end() + int(head[1])
