"""Warm boots of real guests: one template, from which every VM of a kind becomes somebody else."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime import templates
from machinen_runtime.boot import boot
from machinen_runtime.bundle import META_FILE, read_bundle, write_meta
from machinen_runtime.bundle_check import with_sums
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount, Mount, PortForward
from machinen_runtime.restore import restore
from machinen_runtime.template_cache import list_templates, prune_templates
from tests.vm.conftest import MEMORY_MIB
from vmm.requests import CONSOLE_LOG

pytestmark = pytest.mark.vm

SMALL: dict[str, Any] = {
    "memory": MEMORY_MIB,
    "network": "none",
    "mount_disk_upper_size_bytes": 64 << 20,
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two directories to mount; the second needs more room than the first has."""
    found = {name: tmp_path_factory.mktemp(name) for name in ("first", "second")}
    (found["first"] / "who").write_text("first\n")
    (found["second"] / "who").write_text("second\n")
    (found["second"] / "noise").write_bytes(os.urandom(9_000_000))
    return found


@pytest.fixture(scope="module")
async def first(
    vm_home: Path,
    anyio_backend: str,
    directories: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[VmHandle]:
    """The first boot with an empty cache: its kernel boots, and a template is kept."""
    patch = pytest.MonkeyPatch()
    patch.setenv("MACHINEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    options = {**SMALL, "mount": Mount(host=directories["first"], guest="/mnt/copied")}
    try:
        async with await boot(name="first", env={"SECRET": "of the first"}, **options) as vm:
            yield vm
    finally:
        patch.undo()


async def boot_second(directories: dict[str, Path], **options: Any) -> VmHandle:
    """A VM of the same kind that shall be somebody else."""
    mount = Mount(host=directories["second"], guest="/mnt/copied")
    return await boot(**{**SMALL, "mount": mount, **options})


async def said(vm: VmHandle, command: str) -> str:
    return (await vm.exec(command)).stdout.strip()


def console_of(vm: VmHandle) -> str:
    return Path(vm.entry.cleanup_paths[1], CONSOLE_LOG).read_text()


IDENTITY = """
hostname; cat /etc/hostname /run/machinen/name /proc/sys/kernel/random/boot_id
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
"""


KEPT = "cat /root/kept /dev/shm/kept; hostname"


async def test_the_second_boot_is_warm_and_somebody_else(
    first: VmHandle, directories: dict[str, Path], tmp_path: Path
) -> None:
    assert first.booted == "cold"
    assert first.cold_reason == "there was no template of this machine"
    assert "cold boot: there was no template" in console_of(first)
    assert not (await first.status()).warm
    await first.exec("echo mine > /root/mine")

    (tmp_path / "shown").write_text("live\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with await boot_second(
        directories,
        name="second",
        cmd=["sh", "-c", 'echo "$WHO $PWD" > /run/told; exec sleep 1000'],
        env={"WHO": "second"},
        guest_cwd="/usr",
        live_mounts=[LiveMount(host=tmp_path, guest="/mnt/shown")],
        port_forward=[PortForward(host_port=port, guest_port=8000)],
    ) as second:
        assert second.booted == "warm"
        assert second.cold_reason is None
        status = await second.status()
        assert (status.warm, status.restored, status.state) == (True, False, "running")
        (template,) = list_templates()
        assert f"warm boot from template {template.key}" in console_of(second)

        mine, others = (await said(first, IDENTITY)).split(), (await said(second, IDENTITY)).split()
        assert mine[:3] == ["first"] * 3
        assert others[:3] == ["second"] * 3
        assert not set(mine) & set(others)
        before = time.time()
        assert before - 1 <= float(await said(second, "date +%s.%N")) <= time.time() + 1

        assert await said(second, "cat /run/told") == "second /usr"
        assert await said(second, "cat /mnt/shown/shown /mnt/copied/who") == "live\nsecond"
        size = (directories["second"] / "noise").stat().st_size
        assert await said(second, "stat -c %s /mnt/copied/noise") == str(size)
        assert await said(second, "sha256sum < /mnt/copied/noise") == await host_sum(directories)
        assert await said(first, "cat /mnt/copied/who") == "first"
        await second.exec("echo written > /mnt/copied/new")

        assert await said(second, "ls /root/mine 2>/dev/null || echo none") == "none"
        assert "SECRET" not in await said(
            second, "cat /proc/1/environ /proc/*/environ | tr '\\0' ' '"
        )
        await second.exec("setsid python3 -m http.server 8000 >/dev/null 2>&1 </dev/null &")
        dial = 'import socket; socket.create_connection(("127.0.0.1", 8000))'
        await second.exec(f"until python3 -c '{dial}' 2>/dev/null; do sleep 0.1; done")
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.receive()).startswith(b"HTTP/1.0 200")


async def host_sum(directories: dict[str, Path]) -> str:
    from hashlib import sha256

    return sha256((directories["second"] / "noise").read_bytes()).hexdigest() + "  -"


async def test_what_comes_of_a_warm_boot_needs_its_template_no_more(
    first: VmHandle, directories: dict[str, Path], tmp_path: Path
) -> None:
    async with await boot_second(directories, name="parent") as vm:
        assert vm.booted == "warm"
        await vm.exec("echo kept > /root/kept; echo kept > /dev/shm/kept")
        kept = tmp_path / "templates"
        shutil.copytree(templates.templates_root(), kept)
        assert len(prune_templates(everything=True)) == 1
        async with await vm.fork(name="child") as child:
            assert child.booted is None
            assert (
                await said(child, "cat /root/kept /dev/shm/kept; hostname") == "kept\nkept\nchild"
            )
            assert (await child.status()).restored
        await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
        assert await said(vm, KEPT) == "kept\nkept\nparent"
    async with await restore(snap_dir=tmp_path / "bundle", name="again") as again:
        assert await said(again, KEPT) == "kept\nkept\nagain"
    for path in kept.iterdir():
        shutil.move(path, templates.templates_root() / path.name)


async def test_a_template_qemu_cannot_load_is_made_again_and_the_boot_goes_on(
    first: VmHandle, directories: dict[str, Path]
) -> None:
    (before,) = list_templates()
    spoil_state(Path(before.path))
    async with await boot_second(directories, name="cold", cmd=["sleep", "1000"]) as vm:
        assert vm.booted == "cold"
        assert "did not come up" in (vm.cold_reason or "")
        assert "did not come up" in console_of(vm)
        (made,) = list_templates(check=True)
        assert made.problem is None
        async with await boot_second(directories, name="warm", detached=True) as warm:
            assert warm.booted == "warm"
            assert await said(warm, "hostname; cat /mnt/copied/who") == "warm\nsecond"
            await warm.kill()


def spoil_state(template: Path) -> None:
    """A device state of another kind, with checksums that vouch for it."""
    meta = read_bundle(template)
    state = template / "vm" / meta.state
    data = bytearray(state.read_bytes())
    data[:4096] = bytes(4096)
    state.write_bytes(data)
    (template / META_FILE).unlink()
    write_meta(template, with_sums(template, dataclasses.replace(meta, sums={})))
