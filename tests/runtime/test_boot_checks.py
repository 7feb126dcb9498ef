"""boot() says the first thing that is wrong, in the promised order, before it starts anything."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime import boot_checks
from machinen_runtime.boot import boot
from machinen_runtime.boot_checks import FIXED_HERE, NOT_FOR_US, checked_boot_options, memory_of
from machinen_runtime.bundle import IMG_DIR, INVENTORY_FILE, META_FILE, write_meta
from machinen_runtime.bundle_check import resolve_images, with_sums
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.launch_bundle import BundleLaunch
from machinen_runtime.option_types import LiveMount, Mount, PortForward
from machinen_runtime.options import BootOptions, RestoreOptions
from machinen_runtime.pids import child_pids
from tests.runtime.test_bundle import write_bundle
from vmm.arch import AMD64, ARM64


@dataclass
class Started:
    """The programs that were started, and the children there were before."""

    programs: list[str] = field(default_factory=list[str])
    children: list[int] = field(default_factory=lambda: child_pids(os.getpid()))


@pytest.fixture
def started(machinen_home: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """Counts every process this one starts, by whatever name of subprocess."""
    seen = Started()
    real = subprocess.Popen.__init__

    def init(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        seen.programs.append(str(args))
        real(self, args, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", init)
    return seen


@pytest.fixture
def busy_port() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def wrong_options(busy_port: int) -> list[tuple[ErrorCode, dict[str, Any]]]:
    """Each wrong option and its code, in the order in which they must be told."""
    twice = [PortForward(host_port=1234, guest_port=80)] * 2
    busy = [PortForward(host_port=busy_port, guest_port=80)]
    return [
        (ErrorCode.BOOT_PORT_FORWARD_CONFLICT, {"port_forward": twice}),
        (
            ErrorCode.BOOT_PORT_FORWARD_INVALID,
            {"port_forward": busy, "vmm_env": {"MACHINEN_NET_SOCKET": "/x"}},
        ),
        (ErrorCode.BOOT_PORT_FORWARD_IN_USE, {"port_forward": busy}),
        (ErrorCode.BOOT_VMM_MISSING, {"binary": "/absent/vmm"}),
        (ErrorCode.BOOT_MEMORY_INVALID, {"memory": 100}),
        (ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, {"snapshot": "/absent/bundle"}),
        (ErrorCode.BOOT_CMD_WITHOUT_IMAGE, {"root_disk": True}),
        (ErrorCode.BOOT_KERNEL_NOT_FOUND, {"kernel": "/absent/vmlinux"}),
        (ErrorCode.BOOT_DTB_NOT_FOUND, {"dtb": "/absent/virt.dtb"}),
        (
            ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND,
            {"live_mounts": [LiveMount(host="/absent", guest="/mnt/x")]},
        ),
        (ErrorCode.BOOT_CWD_INVALID, {"guest_cwd": "relative"}),
        (ErrorCode.BOOT_IMAGE_NOT_FOUND, {"image": "/absent/image.tar"}),
        (ErrorCode.BOOT_CMD_MISSING, {"cmd": []}),
        (ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, {"mount": Mount(host="/absent", guest="/mnt/y")}),
        (ErrorCode.BOOT_OPTION_INVALID, {"vmm_env": {"MACHINEN_VSOCK": "in:1978:/x"}}),
        (ErrorCode.BOOT_OPTION_INVALID, {"cpus": 0}),
    ]


async def refused(started: Started, options: dict[str, Any]) -> MachinenError:
    with pytest.raises(MachinenError) as caught:
        await boot(**options)
    assert started.programs == []
    assert child_pids(os.getpid()) == started.children
    return caught.value


@pytest.mark.provokes(
    ErrorCode.BOOT_VMM_MISSING,
    ErrorCode.BOOT_IMAGE_NOT_FOUND,
    ErrorCode.BOOT_SNAPSHOT_NOT_FOUND,
    ErrorCode.BOOT_KERNEL_NOT_FOUND,
    ErrorCode.BOOT_DTB_NOT_FOUND,
    ErrorCode.BOOT_CMD_WITHOUT_IMAGE,
    ErrorCode.BOOT_CMD_MISSING,
    ErrorCode.BOOT_CWD_INVALID,
    ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND,
    ErrorCode.BOOT_PORT_FORWARD_INVALID,
    ErrorCode.BOOT_PORT_FORWARD_CONFLICT,
    ErrorCode.BOOT_PORT_FORWARD_IN_USE,
    ErrorCode.BOOT_MEMORY_INVALID,
    ErrorCode.BOOT_OPTION_INVALID,
)
async def test_the_earlier_of_two_wrong_options_is_told(started: Started, busy_port: int) -> None:
    wrong = wrong_options(busy_port)
    for first, (code, options) in enumerate(wrong):
        error = await refused(started, options)
        assert error.code is code, options
        for _, others in wrong[first + 1 :]:
            excluded = {*options, "image"} if "root_disk" in options else set(options)
            if not excluded & set(others):
                error = await refused(started, {**others, **options})
                assert error.code is code, f"{options} before {others}"


def tree_bundle(directory: Path) -> Path:
    """A bundle of engine criu, whole, whose images CRIU could not read."""
    whole = write_bundle(directory)
    bundle = directory / "bundle"
    images = bundle / IMG_DIR
    images.mkdir()
    (images / INVENTORY_FILE).write_bytes(b"registers")
    (images / "pages-1.img").write_bytes(bytes(4096))
    files = {f"{IMG_DIR}/{path.name}": path.stat().st_size for path in images.iterdir()}
    meta = replace(whole, engine="criu", files=files, layers=[], state="", ram_image="")
    (bundle / META_FILE).unlink()
    write_meta(bundle, with_sums(bundle, meta))
    return bundle


def truncate(bundle: Path) -> None:
    os.truncate(bundle / IMG_DIR / "pages-1.img", 4095)


def edit_images(bundle: Path) -> None:
    (bundle / IMG_DIR / "pages-1.img").write_bytes(b"x" * 4096)


def edit_meta(bundle: Path) -> None:
    path = bundle / META_FILE
    path.write_text(path.read_text().replace('"cpus":1', '"cpus":2'))


def other_format(bundle: Path) -> None:
    path = bundle / META_FILE
    path.write_text(path.read_text().replace('"format":2', '"format":1'))


def other_engine(bundle: Path) -> None:
    shutil.rmtree(bundle)
    write_bundle(bundle.parent)


def no_images(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.mkdir()


@pytest.mark.provokes(ErrorCode.BOOT_SNAPSHOT_INVALID)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (truncate, "has 4095 bytes instead of 4096"),
        (edit_images, "pages-1.img was changed"),
        (edit_meta, "its own checksum does not fit"),
        (other_format, "format 1, this version reads 2"),
        (other_engine, r"restore\(\)"),
        (no_images, "inventory.img is missing"),
    ],
)
async def test_a_bundle_to_go_on_with_is_checked_as_for_a_restore(
    started: Started, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    bundle = tree_bundle(tmp_path)
    assert resolve_images(bundle) == bundle / IMG_DIR
    spoil(bundle)
    error = await refused(started, {"snapshot": bundle.name, "cwd": tmp_path})
    assert error.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert re.search(reason, str(error))


async def test_a_bundle_without_its_meta_is_no_directory_of_images(
    started: Started, tmp_path: Path
) -> None:
    bundle = tree_bundle(tmp_path)
    (bundle / META_FILE).unlink()
    error = await refused(started, {"snapshot": bundle})
    assert error.code is ErrorCode.BOOT_SNAPSHOT_NOT_FOUND
    assert resolve_images(bundle / IMG_DIR) == bundle / IMG_DIR, "nor a bundle"


async def test_every_check_is_needed(
    started: Started, busy_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is that of CHECKS: turned round, the table above is wrong."""
    monkeypatch.setattr(boot_checks, "CHECKS", tuple(reversed(boot_checks.CHECKS)))
    error = await refused(started, {"binary": "/absent/vmm", "memory": 100})
    assert error.code is ErrorCode.BOOT_MEMORY_INVALID


async def test_a_busy_port_names_address_port_and_holder(started: Started, busy_port: int) -> None:
    forward = PortForward(host_port=busy_port, guest_port=80)
    error = await refused(started, {"port_forward": [forward]})
    assert f"127.0.0.1:{busy_port}" in str(error)
    assert f"pid {os.getpid()}" in str(error)


def test_an_address_that_is_not_ours_is_refused(machinen_home: Path) -> None:
    forward = PortForward(host_port=8080, guest_port=80, host_addr="192.0.2.1")
    with pytest.raises(MachinenError) as caught:
        checked_boot_options({"port_forward": [forward]})
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_INVALID


def test_a_free_port_is_free_after_the_check(machinen_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    checked_boot_options({"port_forward": [PortForward(host_port=port, guest_port=80)]})
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("name", sorted({*NOT_FOR_US, *FIXED_HERE}))
def test_a_variable_that_would_be_ignored_is_refused(machinen_home: Path, name: str) -> None:
    with pytest.raises(MachinenError, match=name) as caught:
        checked_boot_options({"vmm_env": {name: "x"}})
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


def test_preset_memory_wins_and_is_checked(machinen_home: Path) -> None:
    chosen = checked_boot_options({"vmm_env": {"MACHINEN_MEMORY": "768"}, "memory": 1024})
    assert memory_of(chosen) == 768
    assert memory_of(BootOptions()) is None
    for preset in ("1G", "", "-1", "100", "²"):
        with pytest.raises(MachinenError) as caught:
            checked_boot_options({"vmm_env": {"MACHINEN_MEMORY": preset}})
        assert caught.value.code is ErrorCode.BOOT_MEMORY_INVALID


def test_a_device_tree_is_for_arm64(
    machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "virt.dtb").touch()
    options = {"dtb": "virt.dtb", "cwd": tmp_path}
    monkeypatch.setattr(boot_checks, "host_arch", lambda: AMD64)
    with pytest.raises(MachinenError, match="arm64") as caught:
        checked_boot_options(options)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID
    monkeypatch.setattr(boot_checks, "host_arch", lambda: ARM64)
    assert checked_boot_options(options).dtb == "virt.dtb"


def test_an_option_that_does_not_exist_is_a_type_error(machinen_home: Path) -> None:
    with pytest.raises(TypeError, match="memroy"):
        checked_boot_options({"memroy": 1024})


def test_more_arguments_go_along_a_restore_but_a_device_tree_does_not(tmp_path: Path) -> None:
    options = RestoreOptions(snap_dir=tmp_path, args=["-device", "edu"])
    assert BundleLaunch.from_options(tmp_path, options).extra_args == ("-device", "edu")
    with pytest.raises(MachinenError, match="dtb"):
        BundleLaunch.from_options(tmp_path, RestoreOptions(snap_dir=tmp_path, dtb="x"))
