"""Mounts on the host's side: their images, which ones a VM gets, and what a bundle says of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime import bundle_mounts, cli_mounts, mountdisk_image
from machinen_runtime.bundle_mounts import (
    LiveMountMeta,
    MountDiskMeta,
    check_mount_files,
    live_mounts_from_object,
    mount_disk_from_object,
)
from machinen_runtime.cli_mounts import live_mount_option, make_mount
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, ParseError, ProvisionError
from machinen_runtime.mountdisk_image import (
    ensure_mount_disk_image,
    ensure_mount_disk_upper,
    ensure_upper_base,
    manifest_key,
    mark_mount_disk_image_clean,
    resolve_mksquashfs,
)
from machinen_runtime.mounts import (
    live_mount_specs,
    override_live_mounts,
    prepare_mount_disk,
    resolve_live_mounts,
)
from machinen_runtime.option_types import LiveMount, Mount

MIB = 1 << 20


@pytest.fixture
def tree(machinen_home: Path, tmp_path: Path) -> Path:
    """A directory to mount: a file, a link, a directory with a file."""
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("content")
    (root / "sub" / "inner").write_text("inner")
    (root / "link").symlink_to("file")
    return root


def refused(code: ErrorCode, call: Callable[[], object]) -> str:
    """The words of the error `call` has to raise."""
    with pytest.raises(MachinenError) as caught:
        call()
    assert caught.value.code is code
    return str(caught.value)


# -- the squashfs ---------------------------------------------------------------------------------


def test_a_directory_is_copied_once_and_again_when_it_has_changed(tree: Path) -> None:
    phases: list[str] = []

    def ensured() -> Path:
        phases.clear()
        return ensure_mount_disk_image(
            tree, on_phase=lambda name, _: phases.append(name)
        ).lower_path

    first = ensured()
    assert phases == ["manifest-hash", "mksquashfs"]
    assert ensured() == first
    assert phases == ["manifest-hash"], "what is cached is not made again"
    listing = subprocess.run(
        ["unsquashfs", "-lls", "-n", str(first)], capture_output=True, text=True, check=True
    ).stdout
    assert "squashfs-root/sub/inner" in listing
    assert "root/root" in listing
    assert "link -> file" in listing
    (tree / "file").write_text("CONTENT")
    assert ensured() != first
    assert phases == ["manifest-hash", "mksquashfs"]


def test_an_image_that_was_touched_is_made_again(tree: Path) -> None:
    result = ensure_mount_disk_image(tree)
    good = result.lower_path.read_bytes()
    result.lower_path.write_bytes(b"poison")
    assert ensure_mount_disk_image(tree).lower_path.read_bytes() == good
    result.lower_path.write_bytes(b"vouched for")
    mark_mount_disk_image_clean(result.lower_path)
    assert ensure_mount_disk_image(tree).lower_path.read_bytes() == b"vouched for"
    assert ensure_mount_disk_image(tree, force=True).lower_path.read_bytes() == good


CHANGES: dict[str, Callable[[Path], object]] = {
    "contents": lambda root: (root / "file").write_text("CONTENT"),
    "a name": lambda root: (root / "file").rename(root / "other"),
    "a mode": lambda root: (root / "file").chmod(0o755),
    "a time": lambda root: os.utime(root / "file", ns=(1, 1)),
    "a link": lambda root: ((root / "link").unlink(), (root / "link").symlink_to("sub")),
    "a new file": lambda root: (root / "sub" / "new").touch(),
    "an end": lambda root: (root / "sub" / "inner").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_a_tree_changes_its_key(
    tree: Path, change: Callable[[Path], object]
) -> None:
    before = manifest_key(tree, tree.parent)
    assert manifest_key(tree, tree.parent) == before
    change(tree)
    assert manifest_key(tree, tree.parent) != before


@given(note=st.binary(max_size=200) | st.text().map(lambda text: json.dumps(text).encode()))
def test_whatever_is_remembered_of_a_tree_its_key_is_a_hash(
    tmp_path_factory: pytest.TempPathFactory, note: bytes
) -> None:
    directory = tmp_path_factory.mktemp("noted")
    root, cache = directory / "tree", directory / "cache"
    root.mkdir()
    cache.mkdir()
    key = manifest_key(root, cache)
    (remembered,) = cache.glob("*.key")
    remembered.write_bytes(note)
    assert manifest_key(root, cache) == key


@pytest.mark.provokes(ErrorCode.BOOT_MOUNT_INVALID, ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND)
def test_what_is_no_directory_is_refused(tree: Path) -> None:
    invalid = ErrorCode.BOOT_MOUNT_INVALID
    assert "absolute" in refused(invalid, lambda: ensure_mount_disk_image("tree"))
    assert "no directory" in refused(invalid, lambda: ensure_mount_disk_image(tree / "file"))
    absent = ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND
    assert "absent" in refused(absent, lambda: ensure_mount_disk_image(tree / "absent"))


def test_a_file_that_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tree / "file").encode())

    monkeypatch.setattr(mountdisk_image.hashlib, "file_digest", fail)
    said = refused(ErrorCode.BOOT_MOUNT_INVALID, lambda: ensure_mount_disk_image(tree))
    assert str(tree / "file") in said


def test_a_tree_that_never_rests_is_refused_and_leaves_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mountdisk_image._run  # pyright: ignore[reportPrivateUsage]

    def busy(argv: list[str], reads: list[Path], output: Path) -> None:
        run(argv, reads, output)
        (tree / "file").write_text((tree / "file").read_text() + "more")

    monkeypatch.setattr(mountdisk_image, "_run", busy)
    cache = tree.parent / "cache"
    code = ErrorCode.PROVISION_INSTALL_HOOK_FAILED
    assert "live mount" in refused(code, lambda: ensure_mount_disk_image(tree, cache_dir=cache))
    assert [*cache.glob("*.sqfs")] == []
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def test_a_tool_that_fails_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tree.parent / "mksquashfs"
    broken.write_text("#!/bin/sh\necho disk full >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("MACHINEN_MKSQUASHFS", str(broken))
    assert resolve_mksquashfs() == broken
    cache = tree.parent / "cache"
    with pytest.raises(ProvisionError, match="disk full"):
        ensure_mount_disk_image(tree, cache_dir=cache)
    assert {path.suffix for path in cache.iterdir()} <= {".key", ".lock"}


# -- the upper ------------------------------------------------------------------------------------


def test_an_upper_is_an_empty_sparse_ext4(machinen_home: Path) -> None:
    result = ensure_mount_disk_upper(size_bytes=64 * MIB)
    try:
        assert result.upper_path.stat().st_size == result.size_bytes == 64 * MIB
        assert result.upper_path.stat().st_blocks * 512 < 16 * MIB
        assert result.upper_path.read_bytes()[0x438:0x43A] == b"\x53\xef", "ext4's magic"
    finally:
        result.upper_path.unlink()
    base = ensure_upper_base(64 * MIB)
    made = base.stat().st_mtime_ns
    assert ensure_upper_base(64 * MIB) == base
    assert base.stat().st_mtime_ns == made
    assert ensure_upper_base(32 * MIB) != base


@pytest.mark.parametrize("size", [0, -4096, 4097, 1])
@pytest.mark.provokes(ErrorCode.BOOT_MOUNT_INVALID)
def test_an_uppers_size_is_whole_blocks(machinen_home: Path, size: int) -> None:
    refused(ErrorCode.BOOT_MOUNT_INVALID, lambda: ensure_mount_disk_upper(size_bytes=size))
    refused(ErrorCode.BOOT_MOUNT_INVALID, lambda: ensure_upper_base(size))


def test_an_upper_that_cannot_be_made_leaves_no_file(
    machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, temporary = tmp_path / "mke2fs", tmp_path / "tmp"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    temporary.mkdir()
    monkeypatch.setenv("MACHINEN_MKE2FS", str(broken))
    monkeypatch.setattr(mountdisk_image.tempfile, "tempdir", str(temporary))
    with pytest.raises(ProvisionError):
        ensure_mount_disk_upper(size_bytes=64 * MIB)
    assert [*temporary.iterdir()] == []


# -- which mounts a VM gets -----------------------------------------------------------------------


def test_a_mount_becomes_two_disks_told_to_the_monitor(tree: Path) -> None:
    assert prepare_mount_disk(None, 64 * MIB) is None
    disk = prepare_mount_disk(Mount(host="tree", guest="/mnt/work"), 64 * MIB, tree.parent)
    assert disk is not None
    spec = disk.to_spec()
    assert (spec.guest, spec.layers) == ("/mnt/work", [])
    assert Path(spec.lower) == ensure_mount_disk_image(tree).lower_path
    assert Path(spec.base) == ensure_upper_base(64 * MIB)
    assert Path(spec.overlay_template).read_bytes()[:4] == b"QFI\xfb"


def test_live_mounts_get_absolute_paths_and_the_state_of_the_bundle(tree: Path) -> None:
    (mount,) = resolve_live_mounts([LiveMount(host="tree", guest="/mnt/a", mode="ro")], tree.parent)
    assert mount.host == str(tree)
    (spec,) = live_mount_specs([mount], Path("/bundle/vm/live-mounts.json"))
    assert (spec.host, spec.guest, spec.mode) == (str(tree), "/mnt/a", "ro")
    assert spec.state_file == "/bundle/vm/live-mounts.json"
    assert live_mount_specs([mount], None)[0].state_file is None
    absent = LiveMount(host=str(tree / "absent"), guest="/mnt/a")
    said = refused(ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, lambda: resolve_live_mounts([absent]))
    assert "/mnt/a" in said


@pytest.mark.provokes(ErrorCode.BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN)
def test_an_override_leads_a_mount_of_the_snapshot_elsewhere(tree: Path) -> None:
    recorded = [
        LiveMount(host=str(tree), guest="/mnt/a", mode="ro"),
        LiveMount(host=str(tree), guest="/mnt/b"),
    ]
    other = LiveMount(host=str(tree / "sub"), guest="/mnt/b", mode="ro")
    assert override_live_mounts(recorded, [other]) == (recorded[0], other)
    assert override_live_mounts(recorded, []) == tuple(recorded)
    assert override_live_mounts(None, [other]) == (other,), "a bundle that does not say"
    unknown = [LiveMount(host=str(tree), guest="/mnt/x")]
    code = ErrorCode.BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN
    assert "/mnt/a, /mnt/b" in refused(code, lambda: override_live_mounts(recorded, unknown))
    assert "has none" in refused(code, lambda: override_live_mounts([], unknown))


# -- what a bundle says ---------------------------------------------------------------------------

DISK: dict[str, Any] = {
    "guest": "/mnt/work",
    "lower": "mount-lower.sqfs",
    "upper": "mount-upper.img",
    "layers": ["mount-1.qcow2"],
    "lowerBytes": 10,
    "upperBytes": 20,
}
LIVE: dict[str, Any] = {"guest": "/mnt/a", "host": "/srv", "mode": "ro"}
NONSENSE: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text()
    | st.sampled_from(["/mnt/../etc", "/mnt/a/../../b", "/etc", "rw", "/a\0b", "mount-lower.sqfs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_what_was_written_comes_back() -> None:
    disk = mount_disk_from_object(DISK)
    assert disk is not None
    assert disk.to_object() == DISK
    found = disk.to_disk(Path("/bundle"), Path("/bundle/vm"))
    assert found.lower == Path("/bundle/mount-lower.sqfs")
    assert found.layers == (Path("/bundle/vm/mount-1.qcow2"),)
    (live,) = live_mounts_from_object([LIVE]) or []
    assert live.to_option() == LiveMount(host="/srv", guest="/mnt/a", mode="ro")
    assert mount_disk_from_object(None) is None
    assert live_mounts_from_object(None) is None
    assert live_mounts_from_object([]) == []


@given(key=st.sampled_from(sorted(DISK)), value=NONSENSE)
def test_any_nonsense_about_a_mount_is_refused_or_harmless(key: str, value: object) -> None:
    try:
        disk = mount_disk_from_object({**DISK, key: value})
    except ValueError:
        return
    assert isinstance(disk, MountDiskMeta)
    assert disk.guest.startswith("/mnt/")
    assert ".." not in disk.guest.split("/")
    assert (disk.lower, disk.upper) == ("mount-lower.sqfs", "mount-upper.img")


@given(NONSENSE | st.fixed_dictionaries({key: NONSENSE | st.just(LIVE[key]) for key in LIVE}))
def test_any_nonsense_about_live_mounts_is_refused_or_harmless(value: object) -> None:
    try:
        found = live_mounts_from_object([value])
    except ValueError:
        return
    assert isinstance(found, list)
    for each in found:
        assert isinstance(each, LiveMountMeta)
        assert each.mode in ("ro", "rw")
        assert each.host.startswith("/")
        assert each.guest.startswith("/mnt/")
        assert ".." not in each.guest.split("/")
    if not isinstance(value, list):
        with pytest.raises(ValueError, match="liveMounts"):
            live_mounts_from_object(value if value is not None else 0)


def test_a_base_that_is_torn_or_missing_is_refused(tmp_path: Path) -> None:
    meta = bundle_mounts.mount_disk_from_object(DISK)
    assert meta is not None
    (tmp_path / "mount-lower.sqfs").write_bytes(bytes(10))
    (tmp_path / "mount-upper.img").write_bytes(bytes(20))
    check_mount_files(tmp_path, meta)
    (tmp_path / "mount-upper.img").write_bytes(bytes(19))
    code = ErrorCode.BOOT_SNAPSHOT_INVALID
    assert "19 bytes instead of 20" in refused(code, lambda: check_mount_files(tmp_path, meta))
    (tmp_path / "mount-lower.sqfs").unlink()
    assert "is missing" in refused(code, lambda: check_mount_files(tmp_path, meta))


# -- the command line -----------------------------------------------------------------------------


def live_mounts_of(*texts: str) -> list[LiveMount]:
    """What `--mount-live` makes of these."""
    got: list[list[LiveMount]] = []

    @click.command()
    @live_mount_option("help")
    def verb(live_mounts: list[LiveMount]) -> None:
        got.append(live_mounts)

    argv = [word for text in texts for word in ("--mount-live", text)]
    verb.main(argv, standalone_mode=False)
    return got[0]


def test_mounts_are_read_as_people_write_them() -> None:
    assert make_mount(None) is None
    assert make_mount("/a:b:/mnt/w") == Mount(host="/a:b", guest="/mnt/w")
    assert live_mounts_of(".:/mnt/a", "/x:y:/mnt/b:ro", "/z:/mnt/c:rw") == [
        LiveMount(host=".", guest="/mnt/a", mode="rw"),
        LiveMount(host="/x:y", guest="/mnt/b", mode="ro"),
        LiveMount(host="/z", guest="/mnt/c", mode="rw"),
    ]


@pytest.mark.parametrize("text", ["", ":", "a", ":/mnt/a", "/a:", "/a:ro", "/a:b:ro", ":/mnt/a:ro"])
def test_what_is_no_live_mount_is_refused(text: str) -> None:
    assert "HOST:GUEST" in refused(ErrorCode.PARSE_FLAG_MALFORMED, lambda: live_mounts_of(text))


@given(text=st.text(alphabet="/:arow.m nt\0é", max_size=30) | st.text())
def test_any_text_is_a_mount_or_refused(text: str) -> None:
    for read in (make_mount, cli_mounts._live_mount):  # pyright: ignore[reportPrivateUsage]
        try:
            mount = read(text)
        except MachinenError as error:
            assert isinstance(error, (ParseError, BootError))  # noqa: PT017 (either will do)
        else:
            assert mount is not None
            assert str(mount.host)
            assert f"{mount.host}:{mount.guest}" in text


def test_a_mount_below_mnt_is_all_a_bundle_may_ask_for() -> None:
    with pytest.raises(ValueError, match="/mnt/"):
        live_mounts_from_object([{**LIVE, "guest": "/etc"}])
    with pytest.raises(BootError):
        LiveMount(host="/srv", guest="/etc")
