"""Container images: which one is meant, what it runs, how layers merge, and hostile ones."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.image_config import ImageConfig, read_image_config
from machinen_runtime.oci_image import read_oci_image, write_merged_tarball
from machinen_runtime.oci_layers import MAX_HOLES_BYTES, merge_layers
from machinen_runtime.rootfs_image import ensure_rootfs_image
from machinen_runtime.tar_extract import UnsafeArchiveError
from tests.runtime.oci_images import (
    Layer,
    archive_layout,
    image_config,
    layer_tar,
    sparse_bomb,
    write_docker_save,
    write_layout,
)

SETTINGS: dict[str, Any] = {
    "Entrypoint": ["/app"],
    "Cmd": ["--serve", "a b"],
    "Env": ["PATH=/bin", "A=b=c", "EMPTY="],
    "WorkingDir": "/srv/new",
    "User": "1000:web",
}
CONFIG = ImageConfig(
    cmd=("/app", "--serve", "a b"),
    env={"PATH": "/bin", "A": "b=c", "EMPTY": ""},
    cwd="/srv/new",
    user="1000:web",
)
LAYERS = [layer_tar({"app": b"1", "etc/old": b"x"}), layer_tar({"app": b"2", "etc/.wh.old": b""})]


@pytest.fixture(autouse=True)
def home(machinen_home: Path) -> Path:
    return machinen_home


def merged(tmp_path: Path, *layers: Layer | bytes) -> dict[str, tarfile.TarInfo]:
    paths: list[Path] = []
    for index, layer in enumerate(layers):
        path = tmp_path / f"layer-{index}"
        path.write_bytes(layer if isinstance(layer, bytes) else layer_tar(layer))
        paths.append(path)
    target = tmp_path / "merged.tar"
    target.unlink(missing_ok=True)
    merge_layers(paths, target)
    with tarfile.open(target) as tar:
        return {member.name: member for member in tar}


def content(tmp_path: Path, name: str) -> bytes:
    with tarfile.open(tmp_path / "merged.tar") as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


# -- layers ---------------------------------------------------------------------------------------


def test_the_upper_layer_wins_and_whiteouts_hide(tmp_path: Path) -> None:
    lower: Layer = {"a": b"1", "gone": b"1", "dir/x": b"1", "dir/y": b"1", "deep/a/b": b"1"}
    upper: Layer = {"a": b"22", ".wh.gone": b"", "dir/.wh.x": b"", ".wh.deep": b"", "deep/new": b""}
    found = merged(tmp_path, lower, upper)
    assert list(found) == [".", "./a", "./deep", "./deep/new", "./dir", "./dir/y"]
    assert content(tmp_path, "./a") == b"22"


def test_an_opaque_directory_hides_only_what_is_below_it(tmp_path: Path) -> None:
    found = merged(
        tmp_path, {"d/old": b"1", "d/sub/old": b""}, {"d/new": b"2", "d/.wh..wh..opq": b""}
    )
    assert list(found) == [".", "./d", "./d/new"]


def test_links_of_the_image_are_followed_inside_the_image(tmp_path: Path) -> None:
    lower: Layer = {"usr/lib": None, "lib": "usr/lib", "up": "../../../usr", "abs": "/usr"}
    found = merged(tmp_path, lower, {"lib/a": b"1", "up/b": b"1", "abs/c": b"1"})
    assert {"./usr/lib/a", "./usr/b", "./usr/c", "./lib", "./up", "./abs"} <= set(found)
    assert found["./lib"].issym()


def test_hard_links_keep_their_contents_when_one_name_changes(tmp_path: Path) -> None:
    path = tmp_path / "lower.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("z")
        tar.addfile(member)
        link = tarfile.TarInfo("b")
        link.type, link.linkname = tarfile.LNKTYPE, "z"
        tar.addfile(link)
        link.name = "c"
        tar.addfile(link)
    found = merged(tmp_path, path.read_bytes(), {"z": b"new"})
    assert found["./b"].isreg()
    assert found["./c"].islnk()
    assert found["./c"].linkname == "./b"
    assert content(tmp_path, "./z") == b"new"


@pytest.mark.parametrize(
    "layer",
    [
        {"../escape": b""},
        {"a/../../b": b""},
        {"x": "x", "x/y": b""},
        {"f": b"", "f/under": b""},
        {"n" * 256: b""},
    ],
)
def test_what_no_layer_may_hold_is_refused(tmp_path: Path, layer: Layer) -> None:
    with pytest.raises(UnsafeArchiveError):
        merged(tmp_path, layer)


def test_sparse_files_are_filled_but_no_bomb(tmp_path: Path) -> None:
    assert merged(tmp_path, sparse_bomb(5000))["./bomb"].size == 5000
    assert content(tmp_path, "./bomb") == bytes(5000)
    with pytest.raises(UnsafeArchiveError, match="sparse"):
        merged(tmp_path, sparse_bomb(MAX_HOLES_BYTES // 2), sparse_bomb(MAX_HOLES_BYTES // 2 + 1))
    assert not (tmp_path / "merged.tar").exists()


def test_a_hard_link_to_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("passwd")
        link.type, link.linkname = tarfile.LNKTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UnsafeArchiveError, match="links to no file"):
        merged(tmp_path, path.read_bytes())


NAMES = st.lists(
    st.sampled_from(["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c"]), min_size=1, max_size=4
).map("/".join)
CONTENTS = st.one_of(st.none(), st.just(b"x"), st.sampled_from(["a", "/b", "../..", "b/c", "."]))


@given(st.lists(st.dictionaries(NAMES, CONTENTS, max_size=6), min_size=1, max_size=3))
def test_whatever_layers_hold_the_result_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, layers: list[Layer]
) -> None:
    try:
        found = merged(tmp_path_factory.mktemp("layers"), *layers)
    except UnsafeArchiveError:
        return
    links = {name for name, member in found.items() if member.issym()}
    for name in found:
        parts = name.split("/")
        assert parts[0] == "."
        assert ".." not in parts
        assert not any(part.startswith(".wh.") for part in parts)
        assert not any("/".join(parts[:end]) in links for end in range(1, len(parts)))


@given(st.binary(max_size=2000))
def test_noise_is_no_layer(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    try:
        merged(tmp_path_factory.mktemp("layers"), noise)
    except UnsafeArchiveError:
        return


# -- which image, and what it runs ----------------------------------------------------------------


def test_a_layout_says_what_to_run(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", LAYERS, **SETTINGS)
    assert read_image_config(layout) == CONFIG


@pytest.mark.parametrize("kind", ["layout", "archive", "archive.gz", "docker"])
def test_every_form_of_one_image_is_one_disk(tmp_path: Path, kind: str) -> None:
    layout = write_layout(tmp_path / "layout", LAYERS, **SETTINGS)
    image = {
        "layout": lambda: layout,
        "archive": lambda: archive_layout(layout, tmp_path / "a.tar"),
        "archive.gz": lambda: archive_layout(layout, tmp_path / "a.tar.gz", "w:gz"),
        "docker": lambda: write_docker_save(tmp_path / "d.tar", LAYERS, **SETTINGS),
    }[kind]()
    assert read_image_config(image) == CONFIG
    disk = ensure_rootfs_image(image, size_bytes=16 << 20)
    assert disk == ensure_rootfs_image(layout, size_bytes=16 << 20)
    listing = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "cat /app", str(disk)], check=True, capture_output=True
    ).stdout
    assert listing == b"2"
    directory = subprocess.run(
        ["/usr/sbin/debugfs", "-R", "stat /srv/new", str(disk)], capture_output=True, text=True
    ).stdout
    assert "directory" in directory, "docker makes the working directory, too"


def test_of_several_images_one_is_named(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", LAYERS, ref="one", Cmd=["one"])
    write_layout(layout, LAYERS, ref="two", Cmd=["two"])
    with pytest.raises(BootError, match="one, two") as caught:
        read_oci_image(layout)
    assert caught.value.code is ErrorCode.BOOT_PACK_FAILED
    found = read_oci_image(Path(f"{layout}:two"))
    assert found is not None
    assert found.config.cmd == ("two",)
    with pytest.raises(BootError, match="one, two"):
        read_oci_image(Path(f"{layout}:three"))


def test_an_image_for_another_processor_is_refused(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", LAYERS)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0]["platform"] = {"os": "linux", "architecture": "s390x"}
    (layout / "index.json").write_text(json.dumps(index))
    with pytest.raises(BootError, match="no image"):
        read_oci_image(layout)


def test_a_rootfs_tarball_is_none(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(layer_tar({"./etc/motd": b"", "manifest.json": b"[]"}))
    assert read_oci_image(tmp_path / "root.tar") is None


def test_a_blob_with_other_contents_is_refused(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", LAYERS)
    image = read_oci_image(layout)
    assert image is not None
    blob = layout / image.layers[1][0]
    blob.write_bytes(blob.read_bytes() + b"x")
    with pytest.raises(BootError, match="digest"):
        write_merged_tarball(layout, tmp_path / "merged.tar")


def test_a_layer_that_is_not_its_diff_id_is_refused(tmp_path: Path) -> None:
    image = write_docker_save(tmp_path / "d.tar", LAYERS)
    good = image.read_bytes()
    image.write_bytes(good.replace(LAYERS[0][512:514], b"9\0", 1))
    with pytest.raises(BootError, match="digest"):
        ensure_rootfs_image(image)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["manifests", "digest", "platform", "annotations", "mediaType", "layers"])


@given(st.dictionaries(KEYS, JSON) | JSON)
def test_any_json_is_an_image_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    layout = tmp_path_factory.mktemp("layout")
    (layout / "index.json").write_text(json.dumps(value))
    with pytest.raises(BootError) as caught:
        read_oci_image(layout)
    assert caught.value.code is ErrorCode.BOOT_PACK_FAILED


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(SETTINGS, JSON)))
def test_any_settings_are_a_config_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, settings: dict[str, Any]
) -> None:
    layout = write_layout(tmp_path_factory.mktemp("layout"), [], **settings)
    assert image_config([], **settings)
    try:
        read_oci_image(layout)
    except BootError as error:
        assert error.code is ErrorCode.BOOT_PACK_FAILED  # noqa: PT017
