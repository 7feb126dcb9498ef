"""Every byte of small files, places of large ones: damage is refused or repaired, never believed.

`python -m bench.damage` tries every byte of everything.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from machinen_runtime.bundle import META_FILE, SnapshotMeta, read_bundle, write_meta
from machinen_runtime.bundle_check import open_bundle, with_sums
from machinen_runtime.cached_image import is_clean, mark_clean
from machinen_runtime.content_sum import content_sum, known_sum
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.image_config import ImageConfig, read_image_config
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.overlay_template import ensure_overlay_template
from machinen_runtime.paths import cache_root
from tests.faults.flips import Damage, damages
from vmm.spec import MachineSpec

REFUSED = (
    ErrorCode.BOOT_SNAPSHOT_INVALID,
    ErrorCode.BOOT_SNAPSHOT_NOT_FOUND,
    ErrorCode.BOOT_IMAGE_NOT_FOUND,
)
OLD = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def bundle(tmp_path: Path, machinen_home: Path) -> Path:
    """A small bundle with a file of each kind: sparse RAM, a disk layer, device state."""
    base = tmp_path / "base.img"
    base.write_bytes(os.urandom(9000))
    bundle = tmp_path / "bundle"
    (bundle / "vm").mkdir(parents=True)
    with (bundle / "vm" / "ram.img").open("wb") as ram:
        ram.truncate(3 << 20)
        ram.seek(2 << 20)
        ram.write(os.urandom(5000))
    (bundle / "vm" / "state").write_bytes(os.urandom(6000))
    (bundle / "vm" / "disk-0.qcow2").write_bytes(b"QFI\xfb" + os.urandom(500))
    names = ["vm/state", "vm/ram.img", "vm/disk-0.qcow2"]
    meta = SnapshotMeta(
        snapped_at=1.0,
        qemu_version="10.0.0",
        machine=MachineSpec(
            arch="amd64", accel="tcg", machine_type="q35", cpu_model="max", memory_mib=64
        ),
        base_disk=str(base),
        base_disk_bytes=9000,
        layers=["disk-0.qcow2"],
        state="state",
        ram_image="ram.img",
        files={name: (bundle / name).stat().st_size for name in names},
    )
    for path in [base, *(bundle / name for name in names)]:
        os.utime(path, OLD)
    write_meta(bundle, with_sums(bundle, meta))
    return bundle


def tried_on(path: Path, attempt: Callable[[Damage], None]) -> int:
    """Apply each damage to a whole file, then put it back; how many there were."""
    whole = path.read_bytes()
    count = 0
    for damage in damages(len(whole)):
        damage.apply(path)
        if path.read_bytes() == whole:
            continue
        attempt(damage)
        path.write_bytes(whole)
        os.utime(path, OLD)
        count += 1
    return count


def outcome_of(bundle: Path) -> tuple[SnapshotMeta, Path | None] | BootError:
    """What is read of a bundle, or why it is refused."""
    try:
        return open_bundle(bundle)
    except BootError as error:
        return error


@pytest.mark.parametrize("name", [META_FILE, "vm/state", "vm/ram.img", "vm/disk-0.qcow2"])
def test_a_damaged_bundle_is_refused_and_a_repaired_one_opens(bundle: Path, name: str) -> None:
    whole = open_bundle(bundle)

    def attempt(damage: Damage) -> None:
        opened = outcome_of(bundle)
        if isinstance(opened, BootError):
            assert opened.code in REFUSED, f"{damage}: {opened}"
            assert "bundle" in str(opened), opened
        else:
            assert opened == whole, f"{name} {damage} was believed"
            assert name == META_FILE, f"{name} {damage} was not noticed"

    assert tried_on(bundle / name, attempt) > 100
    assert open_bundle(bundle) == whole


def test_a_damaged_base_disk_is_not_the_one_that_was_recorded(bundle: Path) -> None:
    base = Path(read_bundle(bundle).base_disk)

    def attempt(damage: Damage) -> None:
        with pytest.raises(BootError) as caught:
            open_bundle(bundle)
        assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND, damage

    assert tried_on(base, attempt) > 100


def test_a_damaged_note_about_a_sum_refuses_no_file_that_is_whole(
    machinen_home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"contents")
    os.utime(file, OLD)
    right = known_sum(file)
    (note,) = (cache_root() / "sums").iterdir()

    def attempt(damage: Damage) -> None:
        assert known_sum(file) == right, damage

    assert tried_on(note, attempt) > 100


def test_a_damaged_initramfs_is_packed_again(machinen_home: Path, tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "load").write_text("one.ko\n")
    (modules / "one.ko").write_bytes(os.urandom(1000))
    path = ensure_initramfs(tmp_path, modules)
    whole = content_sum(path)

    def attempt(damage: Damage) -> None:
        assert ensure_initramfs(tmp_path, modules) == path
        assert content_sum(path) == whole, damage

    assert tried_on(path, attempt) > 100


def test_a_damaged_overlay_is_made_again(machinen_home: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(bytes(1 << 20))
    path = ensure_overlay_template(base)
    whole = path.read_bytes()
    for damage in (Damage("flip", 0), Damage("flip", 24), Damage("cut", 100), Damage("grow", 1)):
        damage.apply(path)
        assert ensure_overlay_template(base) == path
        assert path.read_bytes() == whole, damage
    marker = path.with_name(path.name + ".ok")
    Damage("flip", 1).apply(marker)
    assert ensure_overlay_template(base).read_bytes() == whole
    assert is_clean(path)


def test_a_damaged_marker_never_vouches_for_an_image(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"an image")
    os.utime(image, OLD)
    mark_clean(image)
    marker = image.with_name("image.ok")

    def attempt(damage: Damage) -> None:
        meant = json.loads(marker.read_text()) if is_clean(image) else None
        assert meant in (None, [8, OLD[0] * 1_000_000_000]), damage

    assert tried_on(marker, attempt) > 10


def test_a_damaged_image_config_in_the_cache_is_read_again(
    machinen_home: Path, tmp_path: Path
) -> None:
    config = ImageConfig(cmd=("sleep", "60"), env={"A": "b"}, cwd="/srv")
    image = image_with(tmp_path / "image.tar.gz", config)
    assert read_image_config(image) == config
    (note,) = (cache_root() / "image-config").iterdir()

    def attempt(damage: Damage) -> None:
        assert read_image_config(image) == config, damage

    assert tried_on(note, attempt) > 50


def image_with(path: Path, config: ImageConfig) -> Path:
    text = json.dumps(config.to_json()).encode()
    member = tarfile.TarInfo("./machinen-config.json")
    member.size = len(text)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(text))
    os.utime(path, OLD)
    return path
