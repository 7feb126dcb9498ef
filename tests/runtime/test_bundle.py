"""Bundles that are whole are read; torn, edited and foreign ones are refused with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.bundle import (
    META_FILE,
    VM_DIR,
    SnapshotMeta,
    meta_from_object,
    meta_of_report,
    meta_sum,
    read_bundle,
    write_meta,
)
from machinen_runtime.bundle_check import check_bundle, open_bundle, with_sums
from machinen_runtime.bundle_notes import NOTES_FILE, BundleNotes, read_notes
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.paths import cache_root
from machinen_runtime.shelf import read_meta
from vmm.requests import SnapshotReport
from vmm.spec import MachineSpec

MACHINE = MachineSpec(arch="amd64", accel="tcg", machine_type="q35", cpu_model="max", memory_mib=64)
FILES = {"state": b"devices", "ram.img": bytes(4096), "disk-1.qcow2": b"layer"}


def write_bundle(directory: Path) -> SnapshotMeta:
    """A whole bundle in `directory`/bundle, on a base beside it."""
    base, bundle = directory / "base.ext4", directory / "bundle"
    base.write_bytes(bytes(100))
    (bundle / VM_DIR).mkdir(parents=True)
    for name, data in FILES.items():
        (bundle / VM_DIR / name).write_bytes(data)
    report = SnapshotReport(
        directory=str(bundle / VM_DIR),
        id="abcd",
        name="web",
        machine={**vars_of(MACHINE)},
        qemu_version="10.0.0",
        base=str(base),
        layers=["disk-1.qcow2"],
        state="state",
        ram_image="ram.img",
        ram_copied_bytes=4096,
        paused_ms=1.0,
        quiesced=True,
        phases={},
    )
    meta = with_sums(
        bundle,
        meta_of_report(
            report,
            source_pid=42,
            source_started_at=1000.0,
            source_image="/images/web.tar",
            snapped_at=2000,
            machinen="0.1.0",
        ),
    )
    write_meta(bundle, meta)
    return meta


def vars_of(machine: MachineSpec) -> dict[str, Any]:
    return {name: getattr(machine, name) for name in MachineSpec.__dataclass_fields__}


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Remembered checksums and searched disks are those of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MACHINEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MACHINEN_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path)
    return tmp_path / "bundle"


def edit(bundle: Path, **changes: object) -> None:
    """Change keys of meta.json as its writer would, checksum and all; None removes one."""
    raw = {**json.loads((bundle / META_FILE).read_text()), **changes}
    raw = {key: value for key, value in raw.items() if value is not None}
    raw["sum"] = meta_sum(raw)
    (bundle / META_FILE).write_text(json.dumps(raw))


def refusal_of(bundle: Path) -> BootError:
    with pytest.raises(BootError) as caught:
        open_bundle(bundle)
    return caught.value


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    meta = write_bundle(tmp_path)
    assert read_bundle(tmp_path / "bundle") == meta
    assert meta.machine == MACHINE
    assert meta.files == {f"{VM_DIR}/{name}": len(data) for name, data in FILES.items()}
    assert set(meta.sums) == set(meta.files)
    assert (meta.source_name, meta.source_pid, meta.source_image) == ("web", 42, "/images/web.tar")


def test_a_bundle_that_was_moved_is_still_whole(bundle: Path, tmp_path: Path) -> None:
    bundle.rename(tmp_path / "elsewhere")
    assert read_bundle(tmp_path / "elsewhere").state == "state"


def test_its_json_is_in_camel_case(bundle: Path) -> None:
    raw = json.loads((bundle / META_FILE).read_text())
    assert {"sourceName", "sourcePid", "snappedAt", "qemuVersion", "baseDisk"} <= set(raw)
    assert raw["format"] == 2
    assert raw["engine"] == "vmstate"


def test_meta_is_written_once(bundle: Path) -> None:
    with pytest.raises(FileExistsError):
        write_meta(bundle, read_bundle(bundle))


def test_what_a_later_version_adds_is_passed_over(bundle: Path) -> None:
    edit(bundle, mood="good")
    assert read_bundle(bundle).state == "state"


def test_a_machine_that_does_not_say_has_devices_of_virtio_1(bundle: Path) -> None:
    machine = {key: value for key, value in vars_of(MACHINE).items() if key != "modern_virtio"}
    edit(bundle, machine=machine)
    assert read_bundle(bundle).machine.modern_virtio


# -- no bundle ------------------------------------------------------------------------------------


def test_a_directory_that_is_none_has_no_snapshot(tmp_path: Path) -> None:
    assert refusal_of(tmp_path / "absent").code is ErrorCode.BOOT_SNAPSHOT_NOT_FOUND
    assert refusal_of(tmp_path).code is ErrorCode.BOOT_SNAPSHOT_NOT_FOUND


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000, b" " * (2 << 20) + b"{}"],
    ids=["empty", "open", "list", "null", "bytes", "object", "deep", "huge"],
)
@pytest.mark.provokes(ErrorCode.BOOT_SNAPSHOT_INVALID)
def test_a_meta_that_is_none_is_refused(bundle: Path, text: bytes) -> None:
    (bundle / META_FILE).write_bytes(text)
    assert refusal_of(bundle).code is ErrorCode.BOOT_SNAPSHOT_INVALID


def test_another_format_is_named(bundle: Path) -> None:
    edit(bundle, format=1)
    refusal = refusal_of(bundle)
    assert refusal.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert "format 1, this version reads 2" in str(refusal)


# -- torn -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / VM_DIR / name).unlink()
    refusal = refusal_of(bundle)
    assert refusal.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert f"{name} is missing" in str(refusal)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_size_is_named(bundle: Path, name: str) -> None:
    os.truncate(bundle / VM_DIR / name, 3)
    assert f"{name} has 3 bytes instead of" in str(refusal_of(bundle))


def test_a_directory_in_place_of_a_file_is_not_one(bundle: Path) -> None:
    (bundle / VM_DIR / "state").unlink()
    (bundle / VM_DIR / "state").mkdir()
    assert "is missing" in str(refusal_of(bundle))


SPOILS: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "other": lambda base: os.truncate(base, 99),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_base_that_is_not_the_same_says_what_to_do(
    bundle: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "base.ext4")
    refusal = refusal_of(bundle)
    assert refusal.code is ErrorCode.BOOT_IMAGE_NOT_FOUND
    assert "copy " in str(refusal)
    assert "base.ext4" in str(refusal)
    assert "blake2b-256:" in str(refusal)


# -- edited ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["state", "ramImage"])
@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/passwd", "/etc/passwd", "a/b", 5, None])
def test_a_name_that_leads_elsewhere_is_refused(bundle: Path, key: str, name: object) -> None:
    files = {**{f"{VM_DIR}/{name}": len(data) for name, data in FILES.items()}, f"vm/{name}": 0}
    edit(bundle, **{key: name, "files": files})
    assert refusal_of(bundle).code is ErrorCode.BOOT_SNAPSHOT_INVALID


@pytest.mark.parametrize("name", ["../base.ext4", "/etc/passwd", "..", "nul\0"])
def test_no_file_outside_of_the_bundle_is_looked_at(bundle: Path, name: str) -> None:
    edit(bundle, files={**{f"vm/{name}": len(data) for name, data in FILES.items()}, name: 100})
    assert refusal_of(bundle).code is ErrorCode.BOOT_SNAPSHOT_INVALID


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": ["../disk"]},
        {"layers": "disk-1.qcow2"},
        {"layers": 5},
        {"layers": [["disk-1.qcow2"]]},
        {"files": None},
        {"files": {}},
        {"files": []},
        {"files": "state ram.img disk-1.qcow2"},
        {"files": {"vm/state": "7", "vm/ram.img": 4096, "vm/disk-1.qcow2": 5}},
        {"machine": None},
        {"machine": {}},
        {"machine": {**vars_of(MACHINE), "firmware": "x"}},
        {"machine": {**vars_of(MACHINE), "memory_mib": "64"}},
        {"machine": {**vars_of(MACHINE), "memory_mib": -1}},
        {"machine": {**vars_of(MACHINE), "cpus": 0}},
        {"machine": {**vars_of(MACHINE), "cpu_model": ["max"]}},
        {"machine": {**vars_of(MACHINE), "accel": "xen"}},
        {"machine": {**vars_of(MACHINE), "network": "all"}},
        {"machine": {**vars_of(MACHINE), "root_in_ram": 1}},
        {"machine": {**vars_of(MACHINE), "root_in_ram": True}},
        {"machine": {**vars_of(MACHINE), "modern_virtio": "no"}},
        {"machine": {**vars_of(MACHINE), "arch": "vax"}},
        {"baseDisk": 5},
        {"baseDisk": None},
        {"sourceName": 5},
        {"engine": "criu2"},
    ],
)
def test_an_edited_meta_is_refused(bundle: Path, changes: dict[str, object]) -> None:
    edit(bundle, **changes)
    assert refusal_of(bundle).code is ErrorCode.BOOT_SNAPSHOT_INVALID


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@given(key=st.sampled_from(sorted(SnapshotMeta.__dataclass_fields__)), value=json_values)
def test_any_nonsense_in_any_field_is_an_ordinary_refusal(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    directory = tmp_path_factory.mktemp("bundle")
    first, *rest = key.split("_")
    camel = first + "".join(part.capitalize() for part in rest)
    meta = write_bundle(directory)
    (directory / "bundle" / META_FILE).unlink()
    raw = json.loads(meta.to_json()) | {camel: value}
    raw["sum"] = meta_sum(raw)
    (directory / "bundle" / META_FILE).write_text(json.dumps(raw))
    try:
        read_bundle(directory / "bundle")
    except BootError:
        return


def test_an_object_without_keys_of_ours_is_no_meta() -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        meta_from_object({"format": 2})


def test_a_meta_survives_its_own_json(tmp_path: Path) -> None:
    meta = replace(write_bundle(tmp_path), source_name=None, layers=[])
    assert meta_from_object(json.loads(meta.to_json())) == meta


# -- contents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_one_flipped_byte_of_any_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    write_bundle(directory)
    path = directory / "bundle" / VM_DIR / name
    contents = bytearray(path.read_bytes())
    contents[data.draw(st.integers(0, len(contents) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(contents)
    refusal = refusal_of(directory / "bundle")
    assert refusal.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert f"{VM_DIR}/{name} was changed" in str(refusal)


@given(data=st.data())
def test_one_flipped_byte_of_the_meta_never_changes_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    meta = write_bundle(directory)
    path = directory / "bundle" / META_FILE
    contents = bytearray(path.read_bytes())
    contents[data.draw(st.integers(0, len(contents) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(contents)
    try:
        found = read_bundle(directory / "bundle")
    except BootError:
        return
    assert found == meta


@given(cut=st.integers(0, 2000))
def test_a_truncated_meta_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    directory = tmp_path_factory.mktemp("cut")
    write_bundle(directory)
    path = directory / "bundle" / META_FILE
    size = path.stat().st_size
    os.truncate(path, min(cut, size - 1))
    assert refusal_of(directory / "bundle").code is ErrorCode.BOOT_SNAPSHOT_INVALID


def test_an_edited_meta_is_known_by_its_checksum(bundle: Path) -> None:
    text = (bundle / META_FILE).read_text()
    (bundle / META_FILE).write_text(text.replace('"web"', '"bew"'))
    assert "checksum does not fit" in str(refusal_of(bundle))


def test_a_symbolic_link_is_no_file_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / VM_DIR / "state").rename(tmp_path / "state")
    (bundle / VM_DIR / "state").symlink_to(tmp_path / "state")
    assert "is a symbolic link" in str(refusal_of(bundle))


@pytest.mark.provokes(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND)
def test_nobody_waits_for_whoever_writes_into_a_fifo(bundle: Path) -> None:
    for name in (META_FILE, NOTES_FILE):
        (bundle / name).unlink(missing_ok=True)
        os.mkfifo(bundle / name)
    assert refusal_of(bundle).code is ErrorCode.BOOT_SNAPSHOT_NOT_FOUND
    assert read_meta(bundle) is None
    assert read_notes(bundle) == BundleNotes()


def test_a_linked_directory_is_not_followed(bundle: Path, tmp_path: Path) -> None:
    (bundle / VM_DIR).rename(tmp_path / "elsewhere")
    (bundle / VM_DIR).symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in str(refusal_of(bundle))


def test_only_a_bundle_just_written_may_go_without_checksums(bundle: Path) -> None:
    edit(bundle, sums={})
    assert "has no checksums" in str(refusal_of(bundle))
    meta, base = open_bundle(bundle, trusted=True)
    assert base == Path(meta.base_disk)


def test_the_base_disk_is_found_by_content_wherever_it_lies(bundle: Path, tmp_path: Path) -> None:
    cache = cache_root() / "rootfs"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "other.img").write_bytes(bytes(99) + b"x")  # of the right size, but another one
    moved = (tmp_path / "base.ext4").rename(cache / "moved.img")
    assert open_bundle(bundle)[1] == moved
    moved.unlink()
    assert refusal_of(bundle).code is ErrorCode.BOOT_IMAGE_NOT_FOUND
    assert check_bundle(bundle).base_disk is None


def test_a_check_reads_all_again_whatever_is_remembered(bundle: Path) -> None:
    path = bundle / VM_DIR / "ram.img"
    os.utime(path, (1000, 1000))
    assert open_bundle(bundle)[0].engine == "vmstate"
    with open(path, "r+b") as file:
        file.write(b"x")
    os.utime(path, (1000, 1000))  # as a careful forger would
    with pytest.raises(BootError) as caught:
        check_bundle(bundle)
    assert "ram.img was changed" in str(caught.value)


def test_limits_of_the_source_travel_and_are_checked(tmp_path: Path) -> None:
    meta = replace(write_bundle(tmp_path), limits={"cpus": 0.5})
    assert meta_from_object(json.loads(meta.to_json())).limits == {"cpus": 0.5}
    for wrong in ({"cpus": -1}, {"disks": 1}, [1]):
        raw = {**json.loads(meta.to_json()), "limits": wrong}
        with pytest.raises(ValueError, match="limit"):
            meta_from_object({**raw, "sum": meta_sum(raw)})
