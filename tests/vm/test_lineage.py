"""Families of real machines: rewound, compared, promoted. One boot; the rest are its forks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.bundle_notes import read_notes
from machinen_runtime.compare import compare
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, RegistryError
from machinen_runtime.file_difference import file_difference
from machinen_runtime.handle import VmHandle
from machinen_runtime.lineage import family_tree, parted_at_ms
from machinen_runtime.paths import snapshots_root
from machinen_runtime.port_forwards import list_forwards
from machinen_runtime.promote import plan_promotion, promote
from machinen_runtime.registry import find, live_entries
from machinen_runtime.rewind import rewind
from machinen_runtime.run_many import grouped, run_in_each
from machinen_runtime.shelf import kept_snapshots
from tests.vm.child import MACHINEN

pytestmark = [pytest.mark.vm, pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")]


@asynccontextmanager
async def forked(vm: VmHandle, name: str) -> AsyncGenerator[VmHandle]:
    """A fork that is gone afterwards, whoever has its name then."""
    fork = await vm.fork(name=name, detached=True)
    try:
        yield fork
    finally:
        with anyio.CancelScope(shield=True):
            for entry in live_entries():
                if (entry.name or "").partition("~")[0] == name:
                    await (await attach(pid=entry.pid)).kill()


async def text_in(vm: VmHandle, path: str) -> str:
    return (await vm.exec(["cat", path])).stdout.strip()


async def test_a_rewind_goes_back_and_forth_with_name_ports_and_lineage(
    vm: VmHandle, tmp_path: Path
) -> None:
    async with forked(vm, "rew") as fork:
        await fork.exec("echo old > /root/state")
        await fork.snapshot(out_dir=tmp_path / "old", leave_running=True)
        await fork.exec("echo new > /root/state")
        forward = await fork.add_port_forward(80)
        seen: list[str] = []

        async def before_end(new: VmHandle) -> None:
            seen.append(await text_in(new, "/root/state"))
            assert find(pid=fork.pid).name == f"rew~{fork.pid}"

        back = await rewind(tmp_path / "old", name="rew", before_end=before_end)
        assert seen == ["old"]
        assert back.vm.name == "rew"
        assert find(name="rew").pid == back.vm.pid
        assert (await back.vm.exec("hostname")).stdout == "rew\n"
        assert await list_forwards(back.vm.entry) == [forward]
        assert find(name="rew").port_forward == (forward,)
        with pytest.raises(RegistryError):
            find(pid=fork.pid)

        assert back.undo_dir is not None
        assert read_notes(Path(back.undo_dir)).automatic
        again = await rewind(name="rew")
        assert again.snap_dir == back.undo_dir
        assert await text_in(again.vm, "/root/state") == "new"

        entry = find(name="rew")
        line = [each.pid for each in entry.ancestry]
        assert line == [vm.pid, fork.pid]
        tree = family_tree(live_entries(), kept_snapshots())
        kinds = {node.key: node.kind for node in tree}
        assert kinds[f"vm-{fork.pid}-{fork.entry.started_at:.0f}"] == "gone"
        assert parted_at_ms(entry, vm.entry) == entry.ancestry[0].left_at


@pytest.mark.provokes(ErrorCode.BOOT_SNAPSHOT_INVALID)
async def test_a_rewind_that_fails_leaves_everything_as_it_was(
    vm: VmHandle, tmp_path: Path
) -> None:
    async with forked(vm, "keep") as fork:
        forward = await fork.add_port_forward(81)
        bundle = tmp_path / "b"
        await fork.snapshot(out_dir=bundle, leave_running=True)

        async def refuse(new: VmHandle) -> None:
            raise BootError(ErrorCode.VM_CONTROL_FAILED, "not like this")

        before = {entry.pid for entry in live_entries()}
        with pytest.raises(MachinenError, match="not like this"):
            await rewind(bundle, name="keep", undo=False, before_end=refuse)
        with anyio.move_on_after(60) as scope:

            async def give_up(new: VmHandle) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await rewind(bundle, name="keep", undo=False, before_end=give_up)
        with open(bundle / "vm" / "state", "r+b") as file:
            file.write(b"torn")
        with pytest.raises(BootError) as caught:
            await rewind(bundle, name="keep")
        assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
        assert {entry.pid for entry in live_entries()} == before
        assert find(name="keep").pid == fork.pid
        assert (await fork.exec("echo still here")).stdout == "still here\n"
        assert await list_forwards(fork.entry) == [forward]
        assert not list(snapshots_root().glob("keep-*"))


async def test_two_forks_differ_in_what_was_done_to_them_and_in_nothing_else(
    vm: VmHandle,
) -> None:
    await vm.exec("mkdir -p /root/d; echo x > /root/d/gone; echo same > /root/d/same")
    async with forked(vm, "left") as left, forked(vm, "right") as right:
        await left.exec("cd /root/d; rm gone; echo 1 > 'a\tb'; chmod 600 same")
        await left.exec("setsid sleep 1234 >/dev/null 2>&1 </dev/null &")
        await right.exec("cd /root/d; echo 2 > 'a\tb'; ln -s x link; touch -d @1 same")
        found = await compare(left.entry, right.entry)
        assert found.files_problem == ""
        files = {each.path: each.what for each in found.files if each.path.startswith("/root")}
        assert files == {
            "/root/d/a\\tb": "contents", "/root/d/gone": "only in b", "/root/d/link": "only in b",
            "/root/d/same": "mode",
        }  # fmt: skip
        assert "/etc/hostname" in {each.path for each in found.files}
        (tabbed,) = (each.name for each in found.files if "\\t" in each.path)
        text = await file_difference(left.entry, right.entry, tabbed)
        assert text.lines[-2:] == ["-1", "+2"]
        only = await file_difference(left.entry, right.entry, "/root/d/gone")
        assert only.lines[-1] == "+x"
        argv = [*MACHINEN, "diff", "left", "right", "/root/d/link"]
        assert (await anyio.run_process(argv)).stdout.splitlines()[-2:] == [b"-not there", b"+-> x"]
        commands = [each.a.command for each in found.processes if each.a is not None]
        assert commands == ["sleep 1234"]
        assert found.same_processes > 1
        assert found.same_variables > 0
        assert found.environment == []
        assert found.memory_a.private_pages > 0
        assert found.parted_at_ms is not None
        assert found.parted_at_ms <= left.entry.ancestry[-1].left_at


async def test_one_command_runs_in_many_and_a_fork_is_promoted_over_them(vm: VmHandle) -> None:
    async with forked(vm, "fam") as root:
        siblings = await root.fork_many(2, name="sib", detached=True)
        one, other = siblings
        try:
            await other.exec("echo mine > /root/mark")
            command = "cat /root/mark 2>/dev/null || echo none"
            outcomes = await run_in_each([root.entry, one.entry, other.entry], command)
            groups = [(group.names, group.first.stdout) for group in grouped(outcomes)]
            assert groups == [(["fam", "sib-1"], b"none\n"), (["sib-2"], b"mine\n")]

            family = [each for each in live_entries() if each.pid != vm.pid]
            plan = plan_promotion(find(name="sib-2"), "fam", family)
            assert {each.name for each in plan.others} == {"fam", "sib-1"}
            await one.pause()
            with pytest.raises(BootError) as caught:
                await promote(plan)
            assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
            assert len(live_entries()) == 4
            await one.resume()
            result = await promote(plan)
            assert find(name="fam").pid == other.pid == result.entry.pid
            assert (await other.exec("cat /root/mark; hostname")).stdout == "mine\nfam\n"
            assert {each.name for each in live_entries()} == {"shared", "fam"}
            kept = {each.name: each for each in kept_snapshots()}
            for name, path in result.kept:
                assert str(kept[name].path) == path
                assert kept[name].notes.label == "when sib-2 was promoted"
        finally:
            await other.kill()
            with contextlib.suppress(MachinenError):
                await one.kill()
