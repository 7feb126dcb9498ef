"""Guests with two processors, both at work: copied, kept, paused, booted warm."""

from __future__ import annotations

import base64
import json
import os
import random
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.restore import restore
from tests.vm import drawer, scribblers
from tests.vm.conftest import MEMORY_MIB

pytestmark = [pytest.mark.vm, pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")]

TWO: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none", "cpus": 2}
WAIT = "for i in $(seq 1200); do {0} && exit 0; sleep 0.1; done; exit 1"
MOMENTS = (1, 2)


# Before there is `busy`, whose two processors never rest.
async def test_no_program_runs_in_a_copy_before_the_copy_is_its_own(tmp_path: Path) -> None:
    """Programs on both processors draw from the kernel as fast as they can, by system call and by
    vDSO; the image of the memory tells how many draws there were at the moment of the copy. What is
    drawn after it is drawn once, in source, fork and a second copy."""
    marks = {kind: os.urandom(32) for kind in drawer.KINDS}
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(await boot(name="drawing", **TWO))
        await source.write_file("/root/drawer.py", Path(drawer.__file__).read_bytes())
        for kind, mark in marks.items():
            run = f"setsid python3 /root/drawer.py {kind} {mark.hex()}"
            await source.exec(f"{run} </dev/null >/root/{kind} 2>&1 &")
        await source.exec(WAIT.format("[ -e /run/drawing-vdso -a -e /run/drawing-call ]"))
        bundle = tmp_path / "bundle"
        fork = await source.fork(name="drawing-1", out_dir=bundle)
        again = await restore(snap_dir=bundle, name="drawing-2")
        copies = [await stack.enter_async_context(each) for each in (fork, again)]
        for kind, mark in marks.items():
            done = draws_in(bundle / "vm" / "ram.img", mark)
            after: list[set[bytes]] = []
            for vm in (source, *copies):
                await vm.exec(WAIT.format(f"[ -e /run/drawn-{kind} ]"))
                told = await vm.exec(f"base64 -w0 /run/drawn-{kind}")
                drawn = base64.b64decode(told.stdout)
                # One draw more may have been made, and not been counted yet.
                each = [drawn[at : at + 16] for at in range((done + 1) * 16, len(drawn), 16)]
                assert len(each) > 1000
                after.append(set(each))
            assert not after[0] & after[1] | after[1] & after[2] | after[0] & after[2]


def draws_in(image: Path, mark: bytes) -> int:
    """The count behind `mark`, at the start of a page of guest memory."""
    data, at, found = image.read_bytes(), -1, list[int]()
    while (at := data.find(mark, at + 1)) >= 0:
        if at % 4096 == 0:
            found.append(struct.unpack_from("<Q", data, at + len(mark))[0])
    (count,) = found
    return count


@pytest.fixture(scope="module")
async def busy(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A guest whose two processors write memory."""
    async with await boot(name="two", **TWO) as vm:
        await vm.write_file("/root/scribblers.py", Path(scribblers.__file__).read_bytes())
        await vm.exec("setsid python3 /root/scribblers.py </dev/null >/root/log 2>&1 &")
        await vm.exec(WAIT.format("[ -e /run/scribbling ]"))
        yield vm


async def found_in(vm: VmHandle) -> dict[str, Any]:
    """What the scribblers found after they have stood still once more."""
    told = await vm.exec(
        "n=$(($(ls /run/found-* 2>/dev/null | wc -l) + 1)); "
        "kill -USR1 $(pgrep -o -f scribblers.py$); "
        f"({WAIT.format('[ -e /run/found-$n ]')}) && cat /run/found-$n"
    )
    found = json.loads(told.stdout)
    assert [each["torn"] for each in found["pages"]] == [0, 0]
    assert all(each["rounds"] <= 1 for each in found["pages"])
    assert found["total"] == sum(found["counts"])
    return found


async def check_copy(copy: VmHandle) -> None:
    """It is whole at the moment it was made, and goes on on both processors."""
    first = await found_in(copy)
    assert (await copy.exec("nproc; hostname")).stdout.split() == ["2", copy.name]
    second = await found_in(copy)
    for before, after in zip(first["counts"], second["counts"], strict=True):
        assert after > before > 0


async def test_copies_of_busy_processors_are_whole(busy: VmHandle) -> None:
    dice = random.Random(2)
    for moment, count in enumerate(MOMENTS):
        await anyio.sleep(dice.random() / 2)  # which moment it is, is the test's input
        async with AsyncExitStack() as stack:
            for copy in await busy.fork_many(count, name=f"two-{moment}"):
                await stack.enter_async_context(copy)
                await check_copy(copy)
    await check_copy(busy)


async def test_a_bundle_and_a_pause_keep_both_processors(busy: VmHandle, tmp_path: Path) -> None:
    await busy.pause()
    await busy.snapshot(out_dir=tmp_path / "paused", leave_running=True)
    await busy.resume()
    await check_copy(busy)
    for lazy in (True, False):
        name = f"two-again-{lazy}".lower()
        async with await restore(snap_dir=tmp_path / "paused", name=name, lazy=lazy) as again:
            assert (await again.status()).cpus == 2
            await check_copy(again)
            told = float((await again.exec("date +%s.%N")).stdout)
            assert time.time() - 60 < told < time.time() + 1


async def test_a_second_boot_of_that_kind_is_warm(busy: VmHandle) -> None:
    async with await boot(name="two-warm", **TWO) as vm:
        assert vm.booted == "warm"
        assert (await vm.exec("nproc")).stdout == "2\n"
