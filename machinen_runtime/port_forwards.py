"""Port forwards of a running VM: add, remove, list; the registry's entry follows.

The monitor is who listens, so it is asked first, and what it says is the truth. The entry is for
`machinen ls`, which asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyio import to_thread

from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.option_types import PortForward, validate_port
from machinen_runtime.registry import update
from machinen_runtime.registry_entry import RegistryEntry

Forwards = tuple[PortForward, ...]


async def add_forward(entry: RegistryEntry, wanted: PortForward | int) -> PortForward:
    """Lead a host port into the VM; a number is a guest port, for which any free one is taken.

    Raises:
        BootError: BOOT_PORT_FORWARD_IN_USE naming who has it, BOOT_PORT_FORWARD_INVALID, VM_DIED.
    """
    if isinstance(wanted, PortForward):
        params = _params(wanted.host_addr, wanted.host_port, wanted.guest_port)
    else:
        params = _params("127.0.0.1", 0, validate_port(wanted))
    added = _forward(await _monitor(entry).add_forward(params))
    await _update(entry, lambda forwards: (*_without(forwards, added), added))
    return added


async def remove_forward(entry: RegistryEntry, host_port: int, host_addr: str) -> None:
    """Stop a forward and end its connections.

    Raises:
        BootError: BOOT_PORT_FORWARD_INVALID if there is none, VM_DIED.
    """
    gone = PortForward(host_port=host_port, guest_port=1, host_addr=host_addr)
    await _monitor(entry).remove_forward({"host_addr": host_addr, "host_port": host_port})
    await _update(entry, lambda forwards: _without(forwards, gone))


async def list_forwards(entry: RegistryEntry) -> list[PortForward]:
    """What listens for the VM now, as its monitor says."""
    return [_forward(each) for each in (await _monitor(entry).status()).port_forward]


def _without(forwards: Forwards, gone: PortForward) -> Forwards:
    place = (gone.host_addr, gone.host_port)
    return tuple(each for each in forwards if (each.host_addr, each.host_port) != place)


async def _update(entry: RegistryEntry, change: Callable[[Forwards], Forwards]) -> None:
    def changed(current: RegistryEntry) -> RegistryEntry:
        return replace(current, port_forward=change(current.port_forward))

    await to_thread.run_sync(update, entry, changed)


def _monitor(entry: RegistryEntry) -> MonitorClient:
    return MonitorClient(Path(entry.socket_path).parent)


def _params(host_addr: str, host_port: int, guest_port: int) -> dict[str, Any]:
    return {"host_addr": host_addr, "host_port": host_port, "guest_port": guest_port}


def _forward(raw: dict[str, Any]) -> PortForward:
    return PortForward(
        host_port=raw["host_port"], guest_port=raw["guest_port"], host_addr=raw["host_addr"]
    )
