"""What a standby's guest does before it stands still: what every boot will ask of it.

Under emulation most of a boot's time goes into translating the guest's code, which QEMU keeps as
long as it runs; and the guest reads its shell from the disk once. So the guest is greeted, runs
`true` with and without a terminal, and is left again, as nobody: it gets entropy, the time and a
host name that is replaced by the first greeting of whoever takes the standby.
"""

from __future__ import annotations

import os
import time

import anyio

from vmm.errors import VmmError
from vmm.frames import HELLO_NEW_EPOCH, HELLO_SET_TIME, Hello
from vmm.mux import ChannelMux
from vmm.mux_stream import StreamResetError
from vmm.qmp import Qmp
from vmm.workload import EXEC_PORT

HOSTNAME = "standby"
TIMEOUT_S = 30.0
COMMANDS = (b"EXEC true\n", b"PTY 80 24 4\ntrue")
ROUNDS = 2
"""The second time nothing is new: it also has the port closed and opened again."""
MAX_REPLY_BYTES = 65536


async def rehearse(qmp: Qmp, channel_path: str) -> None:
    """Let the guest run for a moment, then stop it.

    Raises:
        VmmError: AGENT_UNAVAILABLE if its agent does not answer; QEMU_GONE.
    """
    await qmp.execute("cont")
    with anyio.move_on_after(TIMEOUT_S) as waiting:
        for _ in range(ROUNDS):
            await _visit(channel_path)
    if waiting.cancelled_caught:
        raise VmmError("AGENT_UNAVAILABLE", "the guest's agent did not answer in time")
    await qmp.execute("stop")


async def _visit(channel_path: str) -> None:
    """Connect, greet, run commands, hang up."""
    mux = ChannelMux(_greet, _ignore)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mux.run, channel_path)
        await mux.ready.wait()
        for command in COMMANDS:
            await _run(mux, command)
        tasks.cancel_scope.cancel()


async def _run(mux: ChannelMux, command: bytes) -> None:
    """Run a command to its end. One that the image does not have is no reason to give up."""
    try:
        async with mux.open_stream(EXEC_PORT) as stream:
            await stream.send(command)
            size = 0
            while size < MAX_REPLY_BYTES and (data := await stream.receive()):
                size += len(data)
    except StreamResetError:
        return


def _greet(nonce: int) -> Hello:
    return Hello(
        nonce=nonce,
        realtime_ns=time.time_ns(),
        entropy=os.urandom(32),
        hostname=HOSTNAME,
        name="",
        flags=HELLO_SET_TIME | HELLO_NEW_EPOCH,
    )


def _ignore(_text: str) -> None:
    """What the agent has to say is nobody's yet."""
