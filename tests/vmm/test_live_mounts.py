"""Live mounts over a channel whose guest breaks its streams, or loses them at a bad moment."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio

from tests.fakes import until
from tests.vmm.fake_guest import GuestPort, HostFrame, greeted
from vmm import fuse_wire as wire
from vmm.frames import FrameType
from vmm.live_mounts import LiveMounts
from vmm.mount_requests import MOUNTS_PORT
from vmm.spec import LiveMountSpec

GUEST = "/mnt/src"
HEADER = f"FUSE rw {len(GUEST)}\n{GUEST}".encode()
BROKEN = struct.pack("<II", 3, 0)
"""A message shorter than its own header."""


class Relay:
    """The guest's end of the one mount's streams."""

    def __init__(self, port: GuestPort) -> None:
        self._port = port
        self.stream = 0

    async def attached(self) -> None:
        """Take the next stream and mount it."""
        opened = await self.frame(FrameType.OPEN)
        assert opened.number == MOUNTS_PORT
        self.stream = opened.stream
        await self._port.send(FrameType.ACCEPT, self.stream)
        assert (await self.frame(FrameType.DATA)).payload == HEADER
        await self.say(b"OK\n")

    async def frame(self, kind: FrameType) -> HostFrame:
        """The next of this kind; credits and ends of old streams are passed over."""
        with anyio.fail_after(60):
            while (found := await self._port.next()).type is not kind:
                pass
        return found

    async def say(self, data: bytes) -> None:
        await self._port.send(FrameType.DATA, self.stream, data)

    async def lose(self) -> None:
        await self._port.send(FrameType.EOF, self.stream)


@asynccontextmanager
async def mounted(directory: Path) -> AsyncGenerator[tuple[LiveMounts, Relay, list[str]]]:
    """One live mount, attached; its guest; what is logged."""
    root, notes = directory / "root", list[str]()
    root.mkdir()
    spec = LiveMountSpec(host=str(root), guest=GUEST)
    async with greeted(directory) as (mux, port):
        with closing(LiveMounts([spec], mux, notes.append)) as mounts:
            async with anyio.create_task_group() as tasks:
                relay = Relay(port)
                tasks.start_soon(mounts.attach, tasks)
                await relay.attached()
                yield mounts, relay, notes
                tasks.cancel_scope.cancel()


async def test_a_stream_that_the_guest_breaks_is_logged_and_begins_anew(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, relay, notes):
        await relay.say(BROKEN)
        await relay.attached()
        assert len(notes) == 1
        assert f"the live mount {GUEST} begins anew: the guest broke" in notes[0]


async def test_a_stream_that_is_lost_says_nothing_and_begins_anew(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, relay, notes):
        await relay.lose()
        await relay.attached()
        assert notes == []


async def test_a_guest_that_breaks_every_stream_is_given_up(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (_, relay, notes):
        for _ in range(5):
            await relay.say(BROKEN)
            await relay.attached()
        await relay.say(BROKEN)
        await until(lambda: len(notes) == 7, timeout_s=60)
        assert notes[-1] == f"the live mount {GUEST} was lost too often; it stays away"


async def test_a_hold_dies_with_its_stream(tmp_path: Path) -> None:
    async with mounted(tmp_path) as (mounts, relay, _):
        hold, go = wire.control(wire.Control.HOLD), wire.control(wire.Control.GO)
        async with anyio.create_task_group() as tasks:
            await until(lambda: GUEST in mounts.save())  # attached at the host's end, too
            tasks.start_soon(hold_once, mounts)
            assert (await relay.frame(FrameType.DATA)).payload == hold
            await relay.lose()
        await relay.attached()
        async with anyio.create_task_group() as tasks:
            await until(lambda: GUEST in mounts.save())  # attached at the host's end, too
            tasks.start_soon(hold_once, mounts)
            assert (await relay.frame(FrameType.DATA)).payload == hold, "and nothing before it"
            await relay.say(wire.control(wire.HELD))
            assert (await relay.frame(FrameType.DATA)).payload == go


async def hold_once(mounts: LiveMounts) -> None:
    async with mounts.held():
        pass
