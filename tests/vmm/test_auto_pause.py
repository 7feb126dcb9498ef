"""Sleep and waking of one VM: when it falls asleep, what wakes it, who has the last word."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from tests.vmm.test_operations import Vm
from vmm.auto_pause import MAX_IDLE_MS, MIN_IDLE_MS, AutoPause
from vmm.errors import VmmError
from vmm.mux import ChannelMux


class Mux:
    """What the sleep asks of the channel."""

    def __init__(self) -> None:
        self.is_sending = self.is_receiving = False
        self._sent = self._received = 0
        self.on_post: Any = None

    @property
    def bytes_sent(self) -> int:
        """More each time one looks, while it is sending."""
        self._sent += self.is_sending
        return self._sent

    @property
    def bytes_received(self) -> int:
        """More each time one looks, while it is receiving."""
        self._received += self.is_receiving
        return self._received

    def post(self) -> None:
        """A frame for the guest."""
        if self.on_post is not None:
            self.on_post()


class Sleeper:
    """A VM with a policy."""

    def __init__(self, vm: Vm) -> None:
        self.vm, self.mux, self.is_working, self._used_s = vm, Mux(), False, 0.0
        self.policy = AutoPause(cast("ChannelMux", self.mux), vm.operations, self._used)

    def _used(self) -> float:
        self._used_s += self.is_working
        return self._used_s

    async def auto_pause(self, idle_ms: object) -> None:
        await self.policy.handlers()["auto_pause"]({"idle_ms": idle_ms})

    async def becomes(self, state: str, *, asleep: bool = False) -> None:
        with anyio.fail_after(60):
            while (self.vm.operations.state, self.vm.operations.is_asleep) != (state, asleep):
                await anyio.sleep(0.01)


@asynccontextmanager
async def sleeper(directory: Path, *, start: bool = True) -> AsyncGenerator[Sleeper]:
    vm = Vm(directory)
    this = Sleeper(vm)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(this.policy.run)
            if start:
                vm.operations.start(vm)
            yield this
            tasks.cancel_scope.cancel()
    finally:
        vm.close()


async def test_a_vm_sleeps_when_nothing_happens_and_a_frame_wakes_it(tmp_path: Path) -> None:
    async with sleeper(tmp_path) as this:
        await this.auto_pause(MIN_IDLE_MS)
        for _ in range(2):
            await this.becomes("paused", asleep=True)
            this.mux.post()
            await this.becomes("running")
        assert this.vm.commands == ["stop", "cont"] * 2
        assert this.vm.times_told == 2
        status = await this.vm.do("status")
        assert (status.auto_pause_ms, status.asleep) == (MIN_IDLE_MS, False)


@pytest.mark.parametrize("what", ["sends", "receives", "works"])
async def test_one_in_use_stays_awake(tmp_path: Path, what: str) -> None:
    async with sleeper(tmp_path) as this:
        used = {"sends": this.mux, "receives": this.mux, "works": this}[what]
        flag = {"sends": "is_sending", "receives": "is_receiving", "works": "is_working"}[what]
        setattr(used, flag, True)
        await this.auto_pause(MIN_IDLE_MS)
        await anyio.sleep(2.5 * MIN_IDLE_MS / 1000)
        assert this.vm.commands == []
        setattr(used, flag, False)
        await this.becomes("paused", asleep=True)


@pytest.mark.parametrize("verb", ["resume", "rename", "stop"])
async def test_verbs_find_it_awake(tmp_path: Path, verb: str) -> None:
    async with sleeper(tmp_path) as this:
        await this.auto_pause(MIN_IDLE_MS)
        await this.becomes("paused", asleep=True)
        if verb == "rename":  # the guest of this test cannot be told; it is asked, awake
            with pytest.raises(AttributeError):
                await this.vm.do("rename", name="other", hostname="other")
        else:
            await this.vm.do(verb)
        assert this.vm.commands[:2] == ["stop", "cont"]
        if verb == "stop":
            assert this.vm.process.wait() == -15  # by its own power-off, not killed


async def test_who_pauses_it_while_it_sleeps_has_the_last_word(tmp_path: Path) -> None:
    async with sleeper(tmp_path) as this:
        await this.auto_pause(MIN_IDLE_MS)
        await this.becomes("paused", asleep=True)
        await this.vm.do("pause")
        assert not this.vm.operations.is_asleep
        this.mux.post()
        await anyio.wait_all_tasks_blocked()
        assert this.vm.operations.state == "paused"
        await this.vm.do("resume")
        await this.becomes("paused", asleep=True)  # and the policy goes on


async def test_no_policy_any_more_wakes_it_for_good(tmp_path: Path) -> None:
    async with sleeper(tmp_path) as this:
        await this.auto_pause(MIN_IDLE_MS)
        await this.becomes("paused", asleep=True)
        await this.auto_pause(None)
        await this.becomes("running")
        await anyio.sleep(1.5 * MIN_IDLE_MS / 1000)
        assert this.vm.operations.state == "running"


async def test_a_snapshot_of_one_that_sleeps_leaves_it_asleep(tmp_path: Path) -> None:
    async with sleeper(tmp_path) as this:
        await this.auto_pause(MIN_IDLE_MS)
        await this.becomes("paused", asleep=True)
        await this.vm.do("snapshot", directory=str(tmp_path / "b"), leave_running=True)
        assert (this.vm.operations.state, this.vm.operations.is_asleep) == ("paused", True)
        this.mux.post()
        await this.becomes("running")


async def test_one_that_boots_does_not_fall_asleep(tmp_path: Path) -> None:
    async with sleeper(tmp_path, start=False) as this:
        await this.auto_pause(MIN_IDLE_MS)
        await anyio.sleep(2 * MIN_IDLE_MS / 1000)
        assert this.vm.commands == []


@pytest.mark.parametrize("idle_ms", [0, MIN_IDLE_MS - 1, MAX_IDLE_MS + 1, 1.5e3, "60", True])
async def test_what_is_no_time_is_refused(tmp_path: Path, idle_ms: object) -> None:
    async with sleeper(tmp_path) as this:
        with pytest.raises(VmmError) as caught:
            await this.auto_pause(idle_ms)
        assert caught.value.code == "PARAMS_INVALID"
