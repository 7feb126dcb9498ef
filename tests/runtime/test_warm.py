"""Warm boots: which template fits, how one is made, and that none ever stands in a boot's way."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from machinen_runtime import templates
from machinen_runtime.bundle_check import check_bundle
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.gc import run_gc
from machinen_runtime.launch import TEMPLATE_TIMEOUT_MS, LaunchRequest, TemplateUnusableError
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_runtime.template_cache import list_templates, prune_templates
from machinen_runtime.template_key import template_key
from machinen_runtime.warm import LOCKED, launch_warm
from tests.runtime.warm_boots import MACHINE_SUM, RAM, STEPS, FakeStart, make_request
from vmm.spec import WorkloadSpec


@pytest.fixture
def request_of(machinen_home: Path) -> LaunchRequest:
    return make_request(machinen_home)


@pytest.fixture
def start() -> FakeStart:
    return FakeStart()


def left_behind() -> list[str]:
    """What lies beside whole templates and their locks."""
    names = [path.name for path in templates.templates_root().iterdir()]
    return sorted(name for name in names if len(name.removesuffix(".lock")) != 32)


async def made(request: LaunchRequest, start: FakeStart) -> Path:
    """The path of the template of `request`, which is made."""
    await launch_warm(request, start)
    return templates.template_path(template_key(request))


# -- making and using -----------------------------------------------------------------------------


async def test_the_first_boot_keeps_a_template_and_the_next_starts_from_it(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await launch_warm(request_of, start)
    assert start.last.booted == "cold"
    assert start.last.restore is None
    assert start.last.cold_reason == "there was no template of this machine"
    (kept,) = list_templates(check=True)
    assert kept.problem is None
    assert left_behind() == []

    await launch_warm(replace(request_of, name="other", workload=WorkloadSpec(cmd=["x"])), start)
    warm_request = start.last
    assert warm_request.booted == "warm"
    assert warm_request.cold_reason is None
    assert warm_request.restore is not None
    assert warm_request.restore.template
    assert warm_request.restore.machine_sum == MACHINE_SUM
    assert Path(warm_request.restore.ram_image).read_bytes() == RAM
    assert [Path(layer).name for layer in warm_request.disk_layers] == ["disk-1.qcow2"]
    assert warm_request.template_dir is None
    assert (warm_request.name, warm_request.workload) == ("other", WorkloadSpec(cmd=["x"]))
    assert kept.key in warm_request.note


async def test_a_template_says_nothing_of_whose_boot_made_it(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    path = await made(replace(request_of, name="secret-project"), start)
    assert "secret-project" not in (path / "meta.json").read_text()
    assert check_bundle(path).meta.source_name is None


def change_of(**changes: Any) -> Callable[[LaunchRequest], LaunchRequest]:
    return lambda request: replace(request, **changes)


def machine_with(**changes: Any) -> Callable[[LaunchRequest], LaunchRequest]:
    return lambda request: replace(request, machine=replace(request.machine, **changes))


def rewritten(name: str) -> Callable[[LaunchRequest], LaunchRequest]:
    def change(request: LaunchRequest) -> LaunchRequest:
        path = request.base_disk.parent / name
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.write_bytes(data)
        return request

    return change


@pytest.mark.parametrize(
    "change",
    [
        machine_with(memory_mib=128),
        machine_with(cpus=2),
        machine_with(network="full"),
        machine_with(mount_disk=True),
        machine_with(cpu_model="qemu64"),
        change_of(disk_size_bytes=1 << 30),
        change_of(initrd=Path("/cache/other.img")),
        change_of(vmm_command=["/opt/monitor"]),
        change_of(vmm_env={"LD_PRELOAD": "/x.so"}),
        rewritten("vmlinux"),
        rewritten("base.ext4"),
        rewritten("qemu"),
    ],
)
async def test_another_machine_or_other_contents_have_another_template(
    request_of: LaunchRequest, change: Callable[[LaunchRequest], LaunchRequest]
) -> None:
    before = template_key(request_of)
    assert template_key(change(request_of)) != before


@pytest.mark.parametrize(
    "change",
    [
        change_of(name="other"),
        change_of(workload=WorkloadSpec(cmd=["sh"], env={"A": "b"})),
        change_of(port_forward=[PortForward(host_port=8080, guest_port=80)]),
        change_of(live_mounts=[LiveMount(host="/tmp", guest="/mnt/x")]),
        change_of(detached=True, snapshottable=False),
        machine_with(network="allowlist"),
    ],
)
async def test_what_is_handed_over_later_is_served_by_the_same_template(
    request_of: LaunchRequest, change: Callable[[LaunchRequest], LaunchRequest]
) -> None:
    assert template_key(change(request_of)) == template_key(request_of)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_of(extra_args=["-s"]), "arguments of its own"),
        (change_of(dtb=Path("/x.dtb")), "device tree"),
        (change_of(kernel=Path("/no/such/kernel")), "/no/such/kernel"),
    ],
)
async def test_what_no_template_can_serve_is_booted_cold(
    request_of: LaunchRequest,
    start: FakeStart,
    change: Callable[[LaunchRequest], LaunchRequest],
    words: str,
) -> None:
    await launch_warm(change(request_of), start)
    assert start.last.template_dir is None
    assert words in (start.last.cold_reason or "")
    assert words in start.last.note


# -- damage ---------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["meta.json", "vm/state", "vm/ram.img", "vm/disk-1.qcow2"])
async def test_a_damaged_template_is_noticed_and_made_again(
    request_of: LaunchRequest,
    start: FakeStart,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    path = await made(request_of, start)
    await launch_warm(request_of, start)  # its sums are remembered
    assert start.last.booted == "warm"
    damage(path / name)
    (listed,) = list_templates(check=True)
    assert listed.problem is not None
    await launch_warm(request_of, start)
    assert start.last.booted == "cold"
    assert "damaged" in (start.last.cold_reason or "")
    await launch_warm(request_of, start)
    assert start.last.booted == "warm"
    assert left_behind() == []


async def test_a_guest_that_does_not_come_up_is_booted_cold_and_its_template_made_again(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await made(request_of, start)
    start.before = fail_warm
    for round_number in range(1, templates.MAX_FAILURES + 1):
        await launch_warm(request_of, start)
        assert [each.booted for each in start.asked[-2:]] == ["warm", "cold"]
        assert "QEMU said no" in (start.last.cold_reason or "")
        assert "second line" not in start.last.note
        makes_another = round_number < templates.MAX_FAILURES
        assert (start.last.template_dir is not None) is makes_another
        assert len(list_templates()) == makes_another
    await launch_warm(request_of, start)
    assert start.last.template_dir is None
    assert "cache prune" in start.last.note

    templates.forget_unmade()
    start.before = None
    await launch_warm(request_of, start)
    await launch_warm(request_of, start)
    assert start.last.booted == "warm"


async def test_a_guest_that_comes_up_makes_failures_of_before_forgotten(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await made(request_of, start)
    for _ in range(templates.MAX_FAILURES):
        start.before = fail_warm
        await launch_warm(request_of, start)
        start.before = None
        await launch_warm(request_of, start)
        assert start.last.booted == "warm"


async def fail_warm(request: LaunchRequest) -> None:
    if request.restore is not None:
        raise TemplateUnusableError(ErrorCode.VM_DIED, "QEMU said no\nsecond line")


async def test_a_command_that_fails_is_not_the_templates_fault(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await made(request_of, start)

    async def fail(_: LaunchRequest) -> None:
        raise BootError(ErrorCode.BOOT_CMD_FAILED, "no such program")

    start.before = fail
    asked = len(start.asked)
    with pytest.raises(BootError) as caught:
        await launch_warm(request_of, start)
    assert caught.value.code is ErrorCode.BOOT_CMD_FAILED
    assert len(start.asked) == asked + 1
    assert len(list_templates()) == 1


# -- making fails ---------------------------------------------------------------------------------


async def test_a_boot_that_fails_or_is_cancelled_leaves_no_half_template(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    async def fail(_: LaunchRequest) -> None:
        raise BootError(ErrorCode.VM_DIED, "a panic")

    start.before = fail
    with pytest.raises(BootError):
        await launch_warm(request_of, start)
    assert left_behind() == []

    async def hang(_: LaunchRequest) -> None:
        scope.cancel()
        await anyio.sleep_forever()

    start.before = hang
    with anyio.CancelScope() as scope:
        await launch_warm(request_of, start)
    assert scope.cancelled_caught
    assert left_behind() == []
    start.before = None
    assert (await made(request_of, start)).is_dir()


async def test_a_full_disk_costs_the_template_and_not_the_boot(
    request_of: LaunchRequest, start: FakeStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(templates, "write_meta", full)
        await launch_warm(request_of, start)
    assert start.last.booted == "cold"
    assert list_templates() == []
    assert left_behind() == []
    with monkeypatch.context() as patch:
        patch.setattr(templates, "new_staging", full)
        await launch_warm(request_of, start)
    assert start.last.template_dir is None
    assert (await made(request_of, start)).is_dir()


async def test_a_monitor_that_writes_no_template_is_no_problem(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    start.writes = False
    await launch_warm(request_of, start)
    assert list_templates() == []
    assert left_behind() == []


@pytest.mark.parametrize("step", ["the guest boots", *STEPS])
async def test_a_maker_that_is_killed_leaves_what_the_next_one_removes(
    machinen_home: Path, request_of: LaunchRequest, start: FakeStart, step: str
) -> None:
    for cleaner in ("next boot", "gc"):
        argv = [sys.executable, "-m", "tests.runtime.warm_boots", str(machinen_home), step]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as maker:
            assert maker.stdout is not None
            assert maker.stdout.readline() == b"here\n"
            maker.send_signal(signal.SIGKILL)
        was_published = step == "it is in its place"
        assert bool(left_behind()) is not was_published
        if cleaner == "gc":
            run_gc()
            assert left_behind() == []
        await launch_warm(request_of, start)
        assert start.last.booted == ("warm" if was_published else "cold")
        assert left_behind() == []
        assert len(list_templates(check=True)) == 1
        assert list_templates(check=True)[0].problem is None
        prune_templates(everything=True)


# -- at the same time -----------------------------------------------------------------------------


async def test_of_two_boots_at_once_one_makes_the_template(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    async def another_meanwhile(_: LaunchRequest) -> None:
        start.before = None
        await launch_warm(request_of, start)
        assert start.last.template_dir is None
        assert start.last.cold_reason == LOCKED
        assert list_templates() == []

    start.before = another_meanwhile
    await launch_warm(request_of, start)
    assert len(start.asked) == 2
    assert len(list_templates()) == 1


async def test_a_template_that_a_vm_starts_from_right_now_is_not_removed(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    path = await made(request_of, start)

    async def prune_meanwhile(_: LaunchRequest) -> None:
        assert prune_templates(everything=True) == []
        assert (path / "vm/state").is_file()
        with pytest.raises(TimeoutError), anyio.fail_after(0):
            await anyio.lowlevel.checkpoint()

    start.before = prune_meanwhile
    await launch_warm(request_of, start)
    assert start.last.booted == "warm"
    assert len(prune_templates(everything=True)) == 1
    assert [*templates.templates_root().iterdir()] == []


async def test_a_lock_whose_file_was_removed_meanwhile_is_no_lock(
    request_of: LaunchRequest, start: FakeStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = template_key(request_of)
    samestat, seen = os.path.samestat, list[bool]()

    def removed_once(one: os.stat_result, other: os.stat_result) -> bool:
        seen.append(samestat(one, other))
        return len(seen) > 1 and seen[-1]

    monkeypatch.setattr(os.path, "samestat", removed_once)
    with templates.template_lock(key, exclusive=True) as locked:
        assert locked
        assert len(seen) == 2
        with templates.template_lock(key, exclusive=False) as second:
            assert not second


async def test_where_no_lock_can_be_made_boots_are_cold(
    machinen_home: Path, request_of: LaunchRequest, start: FakeStart
) -> None:
    templates.templates_root().parent.mkdir(parents=True)
    templates.templates_root().write_text("in the way")
    await launch_warm(request_of, start)
    assert start.last.booted == "cold"
    assert start.last.template_dir is None


# -- what they cost -------------------------------------------------------------------------------


async def several(request: LaunchRequest, start: FakeStart, count: int) -> list[str]:
    """Keys of templates, the one used last first."""
    keys: list[str] = []
    for number in range(count):
        each = replace(request, machine=replace(request.machine, memory_mib=64 + number))
        await launch_warm(each, start)
        keys.insert(0, template_key(each))
        os.utime(templates.templates_root() / f"{keys[0]}.lock", (1e9 + number, 1e9 + number))
    return keys


async def test_the_longest_unused_templates_go_first(
    request_of: LaunchRequest, start: FakeStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("machinen_runtime.template_cache.DEFAULT_MAX_UNUSED_DAYS", 1e9)
    keys = await several(request_of, start, 4)
    listed = list_templates()
    assert [each.key for each in listed] == keys
    room = sum(each.size_bytes for each in listed[:2])
    would_go = prune_templates(max_bytes=room, dry_run=True)
    assert [each.key for each in would_go] == keys[2:]
    assert len(list_templates()) == 4
    prune_templates(max_bytes=room)
    assert [each.key for each in list_templates()] == keys[:2]

    monkeypatch.setenv("MACHINEN_TEMPLATES_MAX_MIB", "0")
    await launch_warm(request_of, start)
    assert [each.key for each in list_templates()] == [template_key(request_of)]


async def test_a_template_nobody_used_for_long_goes(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await several(request_of, start, 2)
    fresh = replace(request_of, machine=replace(request_of.machine, memory_mib=1024))
    await launch_warm(fresh, start)
    assert [each.key for each in list_templates()] == [template_key(fresh)]


async def test_the_command_line_lists_checks_and_prunes(
    request_of: LaunchRequest, start: FakeStart, capsys: pytest.CaptureFixture[str]
) -> None:
    from machinen_runtime.cli import main

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(argv)
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    assert run("cache", "ls")[::2] == (0, "(no templates yet: the next boot makes one)\n")
    path = await made(request_of, start)
    code, out, _ = run("cache", "ls", "--check")
    assert code == 0
    assert path.name[:12] in out
    assert "(base)" in out
    flip(path / "vm/ram.img")
    assert run("cache", "ls")[0] == 0
    code, out, _ = run("cache", "ls", "--check")
    assert code == 1
    assert "vm/ram.img was changed" in out
    assert run("cache", "prune", "--max-mib", "-1")[0] == 2
    assert run("cache", "prune", "--all", "--dry-run")[1].startswith("would remove 1 templates")
    assert run("cache", "prune", "--all")[1].startswith("removed 1 templates")
    assert run("cache", "prune")[2] == "(nothing to remove)\n"


async def test_the_warm_limit_holds_for_the_guests_answer_alone(
    request_of: LaunchRequest, start: FakeStart
) -> None:
    await made(request_of, start)
    await launch_warm(replace(request_of, boot_timeout_ms=10), start)
    assert start.last.boot_timeout_ms == 10
    await launch_warm(request_of, start)
    assert start.last.boot_timeout_ms == TEMPLATE_TIMEOUT_MS
