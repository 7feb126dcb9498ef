"""`machinen bundles check`: whole, torn and homeless snapshots, for people and for programs; and
what a lazy restore of engine criu is made of."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.bundle import VM_DIR, read_bundle, write_meta
from machinen_runtime.bundle_check import with_sums
from machinen_runtime.bundle_mounts import LAZY_DIR
from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from machinen_runtime.option_types import LiveMount
from machinen_runtime.restore_criu import Images
from tests.runtime.test_bundle import write_bundle
from tests.runtime.test_cli import MACHINEN, machinen

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def bundle(machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole bundle of engine vmstate with its base disk, and a cache of its own."""
    monkeypatch.setenv("MACHINEN_CACHE_DIR", str(tmp_path / "cache"))
    write_bundle(tmp_path)
    return tmp_path / "bundle"


def tear(bundle: Path) -> None:
    """Change a byte, leaving size and times: only reading tells."""
    path = bundle / VM_DIR / "ram.img"
    before = path.stat()
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def results_of(*bundles: Path, code: int) -> list[dict[str, Any]]:
    """What --json says of them; its shape, its `ok` and the exit code agree."""
    done = await machinen("bundles", "check", "--json", *map(str, bundles))
    assert (done.returncode, done.stderr) == (code, b"")
    value = json.loads(done.stdout)
    assert value.pop("schema_version") == 1
    assert shape_mismatches(value, SHAPES["bundles check"]) == []
    assert value["ok"] == (code == 0)
    return value["results"]


async def test_a_whole_bundle_is_ok_and_says_what_wrote_it(bundle: Path, tmp_path: Path) -> None:
    (result,) = await results_of(bundle, code=0)
    assert (result["snap_dir"], result["code"], result["engine"]) == (str(bundle), None, "vmstate")
    assert (result["machinen_version"], result["qemu_version"]) == ("0.1.0", "10.0.0")
    assert result["size_bytes"] == sum(read_bundle(bundle).files.values())
    assert result["base_disk"] == str(tmp_path / "base.ext4")
    done = await machinen("bundles", "check", str(bundle))
    said = f"{bundle}: ok, engine vmstate, machinen 0.1.0, QEMU 10.0.0, 3 files; base disk "
    assert (done.returncode, done.stdout.decode()) == (0, f"{said}{tmp_path / 'base.ext4'}\n")


async def test_one_bad_bundle_fails_the_check_and_the_others_are_told(bundle: Path) -> None:
    nothing = bundle.parent / "nothing"
    good, missing = await results_of(bundle, nothing, code=1)
    assert (good["ok"], missing["ok"]) == (True, False)
    assert (missing["code"], missing["engine"]) == ("BOOT_SNAPSHOT_NOT_FOUND", None)


async def test_a_changed_byte_is_found_though_size_and_times_are_kept(bundle: Path) -> None:
    assert (await results_of(bundle, code=0))[0]["ok"]
    tear(bundle)
    (result,) = await results_of(bundle, code=1)
    assert result["code"] == "BOOT_SNAPSHOT_INVALID"
    assert "ram.img was changed" in result["message"]
    done = await machinen("bundles", "check", str(bundle))
    assert done.returncode == 1
    assert f"{bundle}: (BOOT_SNAPSHOT_INVALID) " in done.stdout.decode()


async def test_without_its_base_disk_a_machine_cannot_go_on(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "base.ext4").unlink()
    (result,) = await results_of(bundle, code=1)
    assert (result["code"], result["engine"]) == ("BOOT_IMAGE_NOT_FOUND", "vmstate")
    assert "copy " in result["message"]


async def test_without_a_directory_the_command_line_is_not_understood(machinen_home: Path) -> None:
    done = await anyio.run_process([*MACHINEN, "bundles", "check"], check=False)
    assert done.returncode == 2
    assert b"(PARSE_FLAG_MISSING_VALUE)" in done.stderr


async def test_a_process_tree_can_do_without_its_own_base_disk(
    bundle: Path, tmp_path: Path
) -> None:
    images = bundle / "img"
    images.mkdir()
    (images / "inventory.img").write_bytes(b"registers")
    known = read_bundle(bundle)
    meta = replace(known, engine="criu", files={"img/inventory.img": 9}, qemu_version="")
    meta = replace(meta, layers=[], state="", ram_image="")
    meta = with_sums(bundle, meta)
    (bundle / "meta.json").unlink()
    write_meta(bundle, meta)
    (tmp_path / "base.ext4").unlink()
    (result,) = await results_of(bundle, code=0)
    assert (result["engine"], result["base_disk"], result["qemu_version"]) == ("criu", None, None)
    done = await machinen("bundles", "check", str(bundle))
    assert done.stdout.endswith(b"base disk none on this host: restore it with --image\n")


async def test_eager_and_lazy_are_refused_together(bundle: Path) -> None:
    done = await machinen("restore", str(bundle), "--eager", "--lazy", "--detach")
    assert done.returncode == 2
    assert b"(PARSE_FLAG_MALFORMED)" in done.stderr


async def test_images_of_a_lazy_restore_stay_and_are_counted(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "pages-1.img").write_bytes(bytes(3 * 4096))
    (tmp_path / "pages-2.img").write_bytes(bytes(4096))
    (tmp_path / "pagemap-1.img").write_bytes(bytes(9 * 4096))
    shown = Images.shown(tmp_path)
    assert shown.lazy_pages_total == 4
    assert shown.live_mounts == (LiveMount(host=tmp_path, guest=LAZY_DIR, mode="ro"),)
    assert shown.workload().cmd[1:] == ["--wait", "--lazy", LAZY_DIR]
    put_in = Images.of(tmp_path, memory_mib=512)
    assert (put_in.lazy_pages_total, put_in.live_mounts) == (None, ())
    assert "--lazy" not in put_in.workload().cmd
