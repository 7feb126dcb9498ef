"""Port forwards: a TCP port of the host leads to one on the guest's loopback, over the channel.

They need no network card, come and go while the VM runs, and end with it. A connection that one
side aborts is aborted on the other; one that ends half stays half open.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup, TaskStatus

from vmm.accepting import accept_patiently
from vmm.control import Handler
from vmm.errors import VmmError
from vmm.frames import TCP_PORT_BASE
from vmm.mux import ChannelMux
from vmm.port_holder import describe_holder
from vmm.spec import ForwardSpec
from vmm.vsock_server import HangupWatch, pump

MAX_FORWARDS = 64
MAX_CLIENTS = 128
"""Connections of one forward at a time; further ones wait in the kernel's queue."""
MAX_PORT = 65535

_ABORT = struct.pack("ii", 1, 0)
"""struct linger that makes close(2) send RST, socket(7)."""


class PortForwards:
    """The forwards of one VM. Its tasks live in `tasks`; none of them can fail it."""

    def __init__(self, tasks: TaskGroup, mux: ChannelMux, watch: HangupWatch) -> None:
        self._tasks = tasks
        self._mux = mux
        self._watch = watch
        self._active: dict[tuple[str, int], tuple[ForwardSpec, anyio.CancelScope, anyio.Event]] = {}

    @property
    def active(self) -> list[ForwardSpec]:
        """What listens now, oldest first."""
        return [spec for spec, _, _ in self._active.values()]

    async def add(self, wanted: ForwardSpec) -> ForwardSpec:
        """Listen, and return the forward with its real host port (0 asks for any free one).

        Raises:
            VmmError: PORT_IN_USE, or PORT_FORBIDDEN, naming address and port.
        """
        if len(self._active) >= MAX_FORWARDS:
            message = f"a VM has at most {MAX_FORWARDS} port forwards; remove one first"
            raise VmmError("PORT_FORBIDDEN", message)
        if other := self._active.get((wanted.host_addr, wanted.host_port)):
            where = f"{wanted.host_addr}:{wanted.host_port}"
            message = f"{where} leads to port {other[0].guest_port} of this VM already"
            raise VmmError("PORT_IN_USE", message)
        return await self._tasks.start(self._serve, wanted)

    async def remove(self, host_addr: str, host_port: int) -> None:
        """Stop listening and end the forward's connections; returns when both is done.

        Raises:
            VmmError: FORWARD_UNKNOWN.
        """
        found = self._active.get((host_addr, host_port))
        if found is None:
            message = f"no port forward listens on {host_addr}:{host_port}"
            raise VmmError("FORWARD_UNKNOWN", message)
        _, scope, ended = found
        scope.cancel()
        await ended.wait()

    async def _serve(self, wanted: ForwardSpec, *, task_status: TaskStatus[ForwardSpec]) -> None:
        ended = anyio.Event()
        with anyio.CancelScope() as scope:
            async with listening(wanted) as (spec, listeners), anyio.create_task_group() as tasks:
                key = (spec.host_addr, spec.host_port)
                self._active[key] = (spec, scope, ended)
                try:
                    task_status.started(spec)
                    slots = anyio.Semaphore(MAX_CLIENTS)
                    for listener in listeners:
                        tasks.start_soon(self._accept, listener, spec, slots)
                    await anyio.sleep_forever()
                finally:
                    del self._active[key]
        ended.set()

    async def _accept(
        self, listener: SocketListener, spec: ForwardSpec, slots: anyio.Semaphore
    ) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await slots.acquire()
                client = await accept_patiently(listener)
                tasks.start_soon(self._serve_client, client, spec, slots)

    async def _serve_client(
        self, client: SocketStream, spec: ForwardSpec, slots: anyio.Semaphore
    ) -> None:
        finished = False
        try:
            async with client:
                try:
                    finished = await self._lead(client, TCP_PORT_BASE + spec.guest_port)
                finally:
                    if not finished:
                        abort_on_close(client)
        finally:
            slots.release()

    async def _lead(self, client: SocketStream, port: int) -> bool:
        """Connect `client` with the guest's port; True if both sides finished by themselves."""
        with suppress(VmmError, OSError):
            async with (
                self._watch.watching(client) as gone,
                self._mux.open_stream(port, gone) as stream,
            ):
                return await pump(client, stream, gone)
        return False

    # -- the verbs --------------------------------------------------------------------------------

    def handlers(self) -> dict[str, Handler]:
        """The verbs of control.sock by name."""
        return {"add_forward": self._on_add, "remove_forward": self._on_remove}

    async def _on_add(self, params: dict[str, Any]) -> dict[str, Any]:
        return dataclasses.asdict(await self.add(_forward_of(params)))

    async def _on_remove(self, params: dict[str, Any]) -> dict[str, Any]:
        match params:
            case {"host_addr": str(address), "host_port": int(port)}:
                await self.remove(address, port)
                return {}
            case _:
                raise VmmError("PARAMS_INVALID", "remove_forward needs host_addr and host_port")


def _forward_of(params: dict[str, Any]) -> ForwardSpec:
    match params:
        case {"host_addr": str(address), "host_port": int(host), "guest_port": int(guest)} if (
            0 <= host <= MAX_PORT and 1 <= guest <= MAX_PORT and address
        ):
            return ForwardSpec(host_addr=address, host_port=host, guest_port=guest)
        case _:
            message = "add_forward needs host_addr, host_port (0: any) and guest_port"
            raise VmmError("PARAMS_INVALID", message)


@asynccontextmanager
async def listening(
    wanted: ForwardSpec,
) -> AsyncGenerator[tuple[ForwardSpec, list[SocketListener]]]:
    """Listen for the length of the block; yields the forward with the port it really has."""
    try:
        multi = await anyio.create_tcp_listener(
            local_host=wanted.host_addr, local_port=wanted.host_port
        )
    except (OSError, UnicodeError) as error:
        raise await _refusal(wanted, error) from error
    async with multi:
        port = multi.extra(SocketAttribute.local_port)
        listeners = [each for each in multi.listeners if isinstance(each, SocketListener)]
        yield dataclasses.replace(wanted, host_port=port), listeners


async def _refusal(wanted: ForwardSpec, error: OSError | UnicodeError) -> VmmError:
    """Why the port cannot be had, and who has it."""
    where = f"{wanted.host_addr}:{wanted.host_port}"
    if isinstance(error, UnicodeError | socket.gaierror):
        return VmmError("PORT_FORBIDDEN", f"cannot listen on {where}: not an address of this host")
    reason = os.strerror(error.errno) if error.errno else str(error)
    number = errno.errorcode.get(error.errno or 0, "")
    text = f"cannot listen on {where}: {reason}" + (f" ({number})" if number else "")
    if error.errno != errno.EADDRINUSE:
        return VmmError("PORT_FORBIDDEN", text)
    holder = await anyio.to_thread.run_sync(describe_holder, wanted.host_addr, wanted.host_port)
    return VmmError("PORT_IN_USE", f"{text}, held by {holder}")


def abort_on_close(client: SocketStream) -> None:
    """Let closing reset the connection: the other end shall not take the data for complete."""
    with suppress(OSError):
        raw = client.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
