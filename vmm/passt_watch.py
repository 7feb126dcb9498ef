"""passt starts when the guest sends something, and one that ends gets a successor when the guest
sends again, a few times in a row at most.

Most guests never use their network, and passt is a fifth of what an idle one costs. Bytes of the
guest's first frame wait in the socket, so none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from vmm.passt import Passt

DELAYS_S = (0.1, 0.5, 2.0, 8.0, 30.0)
"""Before each successor of one that did not live: a broken passt shall not keep the host busy."""
STABLE_S = 60.0
"""One that lived this long was not broken: the next is its first successor again."""


async def keep_passt(
    passt: Passt,
    is_qemu_alive: Callable[[], bool],
    log: Callable[[str], None],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> None:
    """Start passt when the guest sends something, and again whenever it has ended, until QEMU has,
    or it ended too often in a row.

    Without passt the guest's card is silent; all that goes over the channel goes on.
    """
    in_a_row = 0
    while True:
        how, lived_s = await _serve(passt, clock)
        in_a_row = 0 if lived_s >= STABLE_S else in_a_row
        if in_a_row == len(DELAYS_S):
            break
        await sleep(DELAYS_S[in_a_row])  # it also ends with QEMU, which we hear of after it
        if not is_qemu_alive():
            return
        in_a_row += 1
        log(how)
    passt.hang_up()
    log("passt ends again and again: the guest's card is dead; a fork or restore has a new one")


async def _serve(passt: Passt, clock: Callable[[], float]) -> tuple[str, float]:
    """Connect, wait for the guest, start passt, wait for its end: what to log of that, and how long
    it has lived."""
    try:
        passt.connect()
        assert passt.connection is not None
        await anyio.wait_readable(passt.connection)
        if not passt.is_wanted():
            passt.hang_up()
            return "QEMU has hung up; passt waits for it again", 0.0
        passt.start()
    except OSError as error:
        return f"passt cannot be started, which is tried again: {error}", 0.0
    began = clock()
    assert passt.pidfd is not None
    await anyio.wait_readable(passt.pidfd)
    how = f"passt has ended ({passt.end()}); the guest's next packet starts another one"
    return how, clock() - began
