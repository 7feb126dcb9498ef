"""A passt that ends while its VM runs gets a successor, a few times in a row at most."""

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
    """Start passt again whenever it has ended, until QEMU has, or it ended too often in a row.

    Without passt the guest's card is silent; all that goes over the channel goes on.
    """
    in_a_row = 0
    while True:
        began = clock()
        if passt.pidfd is not None:
            await anyio.wait_readable(passt.pidfd)
        in_a_row = 0 if clock() - began >= STABLE_S else in_a_row
        if in_a_row == len(DELAYS_S):
            break
        await sleep(DELAYS_S[in_a_row])  # it also ends with QEMU, which we hear of after it
        if not is_qemu_alive():
            return
        in_a_row += 1
        how = passt.end()
        try:
            passt.start()
        except OSError as error:
            log(f"passt has ended ({how}) and cannot be started again: {error}")
        else:
            log(f"passt has ended ({how}); another one is the guest's way out now")
    log("passt ends again and again: the guest's card is dead; a fork or restore has a new one")
