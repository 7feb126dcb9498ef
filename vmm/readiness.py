"""Call a function each time a socket is readable, at the least cost the event loop allows.

A request of a live mount waits for this twice: asyncio calls the function straight from its loop,
where waiting in a task would take two system calls and a change of tasks each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from socket import socket

import anyio


async def each_time_readable(source: socket, take: Callable[[], bool]) -> None:
    """Call `take` whenever `source` is readable, until it returns False or raises.

    Raises:
        Exception: what `take` raised.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio's
        go_on = True
        while go_on:
            await anyio.wait_readable(source)
            go_on = take()
    else:
        await _from_the_loop(loop, source, take)


async def _from_the_loop(
    loop: asyncio.AbstractEventLoop, source: socket, take: Callable[[], bool]
) -> None:
    ended = anyio.Event()
    failures: list[Exception] = []

    def on_readable() -> None:
        try:
            if take():
                return
        except Exception as error:  # raised below, where somebody can catch it
            failures.append(error)
        loop.remove_reader(source)
        ended.set()

    loop.add_reader(source, on_readable)
    try:
        await ended.wait()
    finally:
        with suppress(ValueError):  # it was closed meanwhile
            loop.remove_reader(source)
    if failures:
        raise failures[0]
