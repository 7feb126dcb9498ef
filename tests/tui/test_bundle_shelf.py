"""Bundles on disk and what is kept between two runs: files that anybody may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.shelf import delete_snapshot, disk_bytes
from machinen_tui import remembered
from machinen_tui.bundle_shelf import (
    bundle_info,
    bundles_in,
    find_bundles,
)
from machinen_tui.details import bundle_rows
from machinen_tui.form_fields import live_mounts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def make_bundle(path: Path, taken_at: float = 1e12, **meta: Any) -> Path:
    path.mkdir(parents=True)
    (path / "meta.json").write_text(json.dumps({"snappedAt": taken_at, **meta}))
    return path


def test_a_bundle_says_where_it_came_from_and_what_it_needs(tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "web-1", sourceName="web", sourcePid=12, engine="criu",
        machine={"memory_mib": 512, "cpus": 2, "accel": "kvm", "arch": "amd64"},
        mountDisk={"guest": "/mnt/data"},
        liveMounts=[{"host": "/my files", "guest": "/mnt/src", "mode": "ro"}],
    )  # fmt: skip
    info = bundle_info(bundle)
    assert info is not None
    rows = dict(bundle_rows(info, 3 << 20, ""))
    assert rows["source"] == "web (pid 12)"
    assert rows["engine"] == "criu"
    assert rows["machine"] == "512 MiB · 2 cpu · kvm · amd64"
    assert rows["copied in"] == "/mnt/data"
    assert rows["on disk"] == "3M"
    assert [each.host for each in live_mounts(info.live_mounts)] == ["/my files"]


def test_bundles_are_found_in_places_and_by_their_own_path_each_once(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "ours" / "b", 2e12)
    second = make_bundle(tmp_path / "elsewhere" / "a", 1e12)
    (tmp_path / "ours" / "no-bundle").mkdir()
    make_bundle(tmp_path / "ours" / ".b.being-written")
    found = find_bundles([tmp_path / "ours", tmp_path / "elsewhere", second, tmp_path / "gone"])
    assert [info.path for info in found] == [second, first]
    assert [info.path for info in bundles_in(tmp_path / "ours")] == [first]


@given(meta=st.dictionaries(st.sampled_from(["snappedAt", "sourceName", "sourcePid", "engine",
       "machine", "mountDisk", "liveMounts", "sourceStartedAt"]), JSON) | JSON)  # fmt: skip
def test_a_damaged_bundle_is_passed_over_or_drawn_calmly(
    tmp_path_factory: pytest.TempPathFactory, meta: Any
) -> None:
    path = tmp_path_factory.mktemp("bundle")
    (path / "meta.json").write_text(json.dumps(meta))
    info = bundle_info(path)
    if info is not None:
        assert all(text.isprintable() for _, text in bundle_rows(info, None, ""))


def test_only_a_bundle_is_ever_deleted(tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.mkdir()
    (other / "file").touch()
    bundle = make_bundle(tmp_path / "bundle")
    link = tmp_path / "link"
    link.symlink_to(bundle)
    for path in (other, link, tmp_path / "gone"):
        with pytest.raises(BootError) as caught:
            delete_snapshot(path)
        assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert (other / "file").exists()
    assert disk_bytes(bundle) > 0
    delete_snapshot(bundle)
    assert not bundle.exists()


def test_what_is_remembered_is_private_and_survives_damage(tmp_path: Path) -> None:
    assert remembered.read(tmp_path) == {}
    remembered.write(tmp_path, {"boot": {"memory": "512"}})
    file = tmp_path / remembered.FILE_NAME
    assert file.stat().st_mode & 0o777 == 0o600
    assert remembered.texts(remembered.read(tmp_path)["boot"]) == {"memory": "512"}
    file.write_bytes(b"\xff{")
    assert remembered.read(tmp_path) == {}
    remembered.write(tmp_path / "file-in-the-way" / "x", {})
    assert remembered.texts([1]) == {}
    assert remembered.texts({"a": 1, "b": "two"}) == {"b": "two"}
    assert remembered.paths(["/a", "b", 3]) == [Path("/a")]
