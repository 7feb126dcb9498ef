"""The packers: byte for byte what cpio(1) writes, layers in their order, and every refusal."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.cpio import CpioEntry, FileSlice, build_cpio, character_device, regular_file
from machinen_runtime.errors import BootError, ErrorCode, MkinitramfsError, ParseError
from machinen_runtime.mkinitramfs import (
    mkinitramfs_bundle,
    mkinitramfs_minimal,
    mkinitramfs_rootfs,
    mkinitramfs_tiny_bundle,
    mkinitramfs_workspace,
)
from machinen_runtime.mkinitramfs_cli import mkinitramfs_cli
from machinen_runtime.mkinitramfs_tree import Tree, clean_path
from machinen_runtime.option_types import Mount
from tests.runtime.newc_tree import NAMES, golden, make_tree
from tests.runtime.test_cpio import parse_newc


def packed(path: Path) -> dict[str, bytes]:
    """Name → data of what an archive holds."""
    return {name: entry[1] for name, entry in parse_newc(path.read_bytes()).items()}


@pytest.fixture
def init(tmp_path: Path) -> Path:
    path = tmp_path / "my-init"
    path.write_bytes(b"#!/bin/true\n")
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    (root / "rootfs" / "etc").mkdir(parents=True)
    (root / "rootfs" / "etc" / "who").write_text("bundle")
    (root / "machinen-config.json").write_text('{"cmd": ["true"],\n "env": {"A": "bundle"}}')
    return root


def tarball(path: Path, *members: tarfile.TarInfo, **files: str) -> Path:
    """A gzip tarball of `members` and of files by name, `__` for a slash."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member)
        for name, text in files.items():
            member = tarfile.TarInfo("./" + name.replace("__", "/"))
            member.size, member.uid, member.gid = len(text), 33, 34
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


# -- the bytes ------------------------------------------------------------------------------------


def test_the_archive_is_the_one_cpio_writes(tmp_path: Path) -> None:
    make_tree(tmp_path)
    tree = Tree()
    tree.lay_directory(tmp_path)
    program = shutil.which("cpio")
    if program is not None and (tmp_path / "a").stat().st_nlink == 3:  # not so on every file system
        argv = [program, "-o", "-H", "newc", "--reproducible", "-R", "0:0", "--quiet"]
        listed = "\n".join(NAMES).encode() + b"\n"
        done = subprocess.run(argv, cwd=tmp_path, input=listed, capture_output=True, check=True)
        assert build_cpio(tree.entries()) == done.stdout
    tree.put(character_device("null", 1, 3, 0o666))
    assert build_cpio(tree.entries()) == golden()


def test_equal_trees_make_equal_archives(tmp_path: Path, init: Path) -> None:
    for name in ("one", "two"):
        make_tree(tmp_path / name)
        mkinitramfs_rootfs(rootfs=tmp_path / name, out=tmp_path / f"{name}.cpio", init_path=init)
    assert (tmp_path / "one.cpio").read_bytes() == (tmp_path / "two.cpio").read_bytes()
    assert [path.name for path in tmp_path.glob(".new-*")] == []


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
        lambda part: part not in (".", "..", "TRAILER!!!")
    ),
    min_size=1,
    max_size=3,
).map("/".join)


@given(st.dictionaries(names, st.binary(max_size=40), max_size=8))
def test_whatever_is_put_in_comes_back(files: dict[str, bytes]) -> None:
    tree = Tree()
    for name, data in files.items():
        tree.put(regular_file(name, data))
    read = parse_newc(build_cpio(tree.entries()))
    for name, (mode, data, _) in read.items():
        if stat.S_ISREG(mode):
            assert files[name] == data
    kept = [name for name in files if not any(each.startswith(name + "/") for each in files)]
    assert set(kept) <= set(read)


@given(st.text(max_size=40))
def test_a_cleaned_path_never_leads_out(name: str) -> None:
    try:
        cleaned = clean_path(name)
    except ValueError:
        assert ".." in name.split("/")
    else:
        assert not cleaned.startswith("/")
        assert not {"..", ".", ""} & set(cleaned.split("/")) - ({""} if not cleaned else set())


def test_a_file_that_shrinks_while_it_is_packed_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12")
    entry = CpioEntry(
        name="file", mode=stat.S_IFREG, data=FileSlice(path=str(tmp_path / "file"), size=5)
    )
    with pytest.raises(ValueError, match="shorter"):
        build_cpio([entry])


# -- layers ---------------------------------------------------------------------------------------


def test_a_bundle_lies_over_the_mount_and_the_mount_over_the_base(
    tmp_path: Path, bundle: Path, init: Path
) -> None:
    base = tarball(
        tmp_path / "base.tar.gz",
        etc__who="base",
        etc__base="base",
        mnt__work__who="base",
        mnt__work__old="base",
        agent="stale",
    )
    work = tmp_path / "work"
    work.mkdir()
    (work / "who").write_text("mount")
    (bundle / "rootfs" / "mnt" / "work").mkdir(parents=True)
    (bundle / "rootfs" / "mnt" / "work" / "mine").write_text("bundle")
    out = tmp_path / "out.cpio"
    mkinitramfs_bundle(
        bundle=bundle,
        out=out,
        base=base,
        mount=Mount(host=work, guest="/mnt/work"),
        env={"A": "packer", "B": "packer"},
        init_path=init,
        exec_agent_path=init,
        fuse_agent_path=init,
    )
    files = packed(out)
    assert files["etc/who"] == b"bundle"
    assert files["etc/base"] == b"base"
    assert files["mnt/work/who"] == b"mount"
    assert files["mnt/work/old"] == b"base"
    assert files["mnt/work/mine"] == b"bundle"
    assert json.loads(files["machinen-config.json"])["env"] == {"A": "bundle", "B": "packer"}
    assert files["init"] == files["agent"] == files["fuse-agent"] == init.read_bytes()
    entries = parse_newc(out.read_bytes())
    assert entries["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert list(entries) == sorted(entries)


def test_without_more_env_the_config_stays_as_it_is(
    tmp_path: Path, bundle: Path, init: Path
) -> None:
    out = tmp_path / "out.cpio"
    mkinitramfs_bundle(bundle=bundle, out=out, init_path=init, exec_agent_path=init)
    assert packed(out)["machinen-config.json"] == (bundle / "machinen-config.json").read_bytes()


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_base_keeps_owners_links_and_devices(
    tmp_path: Path, bundle: Path, init: Path, compress: Callable[[bytes], bytes]
) -> None:
    null = tarfile.TarInfo("dev/null")
    null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
    members = (null, link("usr/lib", "", tarfile.DIRTYPE), link("lib", "usr/lib"))
    made = tarball(tmp_path / "x.gz", *members, var__www__page="hi")
    base = tmp_path / "base"
    base.write_bytes(compress(gzip.decompress(made.read_bytes())))
    (bundle / "rootfs" / "lib").mkdir()
    (bundle / "rootfs" / "lib" / "x.so").write_text("x")
    out = tmp_path / "out.cpio"
    mkinitramfs_bundle(bundle=bundle, out=out, base=base, init_path=init, exec_agent_path=init)
    archive = out.read_bytes()
    entries = parse_newc(archive)
    assert stat.S_ISLNK(entries["lib"][0])
    assert entries["usr/lib/x.so"][1] == b"x"
    assert entries["dev/null"][2] == (1, 3)
    at = archive.index(b"var/www/page") - 110
    assert (archive[at + 22 : at + 30], archive[at + 30 : at + 38]) == (b"00000021", b"00000022")


def test_a_hard_link_of_the_base_stays_one_file(tmp_path: Path, bundle: Path, init: Path) -> None:
    base = tmp_path / "base.tar"
    with tarfile.open(base, "w") as archive:
        member = tarfile.TarInfo("bin/one")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"one"))
        archive.addfile(link("bin/two", "bin/one", tarfile.LNKTYPE))
    out = tmp_path / "out.cpio"
    mkinitramfs_bundle(bundle=bundle, out=out, base=base, init_path=init, exec_agent_path=init)
    assert packed(out)["bin/one"] == b""
    assert packed(out)["bin/two"] == b"one"


def test_excludes_are_patterns_of_paths(tmp_path: Path, init: Path) -> None:
    root = tmp_path / "root"
    for name in ("usr/share/doc/x", "usr/share/man", "var/cache/big"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    out = tmp_path / "out.cpio"
    excludes = ["usr/share/doc", "var/*"]
    mkinitramfs_rootfs(rootfs=root, out=out, excludes=excludes, init_path=init)
    files = [name for name in packed(out) if not name.startswith(("dev", "init"))]
    assert files == ["usr", "usr/share", "usr/share/man", "var"]


def test_a_socket_is_left_out(tmp_path: Path, init: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "sock"))
        mkinitramfs_rootfs(rootfs=root, out=tmp_path / "o", init_path=init)
    assert "sock" not in packed(tmp_path / "o")


def test_a_minimal_archive_has_init_a_console_and_the_config(tmp_path: Path, init: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text("{}")
    mkinitramfs_minimal(out=tmp_path / "o", init_path=init, config=config)
    assert list(packed(tmp_path / "o")) == ["dev", "dev/console", "init", "machinen-config.json"]


def test_without_a_path_the_init_is_ours(tmp_path: Path) -> None:
    mkinitramfs_minimal(out=tmp_path / "o")
    assert packed(tmp_path / "o")["init"].startswith(b"\x7fELF")


def test_a_tiny_bundle_tells_the_guest_the_time_and_where_to_mount(
    tmp_path: Path, bundle: Path, init: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    out = tmp_path / "o"
    mkinitramfs_tiny_bundle(bundle=bundle, out=out, mount_guest="/mnt/work/", init_path=init)
    files = packed(out)
    assert files["etc/machinen-boot-epoch"] == b"1234567890\n"
    assert files["etc/machinen-mountdisk-guest"] == b"/mnt/work\n"
    assert "etc/who" not in files
    assert parse_newc(out.read_bytes())["tmp"][0] == stat.S_IFDIR | 0o1777
    with pytest.raises(BootError) as caught:
        mkinitramfs_tiny_bundle(bundle=bundle, out=out, mount_guest="/home", init_path=init)
    assert caught.value.code is ErrorCode.BOOT_MOUNT_INVALID


def test_a_workspace_leaves_out_what_can_be_made_again(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name in ("src/main.py", ".git/HEAD", "src/__pycache__/main.pyc", "node_modules/x"):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("x")
    mkinitramfs_workspace(workspace=work, out=tmp_path / "o")
    assert list(packed(tmp_path / "o")) == ["workspace", "workspace/src", "workspace/src/main.py"]
    mkinitramfs_workspace(workspace=work, out=tmp_path / "o", mountpoint="w", excludes=["src"])
    assert [*packed(tmp_path / "o")] == [
        *("w", "w/.git", "w/.git/HEAD", "w/node_modules", "w/node_modules/x")
    ]


# -- refusals -------------------------------------------------------------------------------------


def refused(code: ErrorCode, packer: Callable[..., None], **options: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(options["out"]).parent.glob("*")}
    with pytest.raises(MkinitramfsError) as caught:
        packer(**options)
    assert caught.value.code is code
    after = {path: path.stat().st_mtime_ns for path in Path(options["out"]).parent.glob("*")}
    assert after == before, "an archive that failed leaves nothing"


@pytest.mark.provokes(ErrorCode.MKINITRAMFS_BUNDLE_INVALID)
def test_a_bundle_without_a_readable_config_is_refused(tmp_path: Path, bundle: Path) -> None:
    code, out = ErrorCode.MKINITRAMFS_BUNDLE_INVALID, tmp_path / "o"
    refused(code, mkinitramfs_bundle, bundle=tmp_path / "absent", out=out)
    for text in ("{", "[]", '{"env": []}', "[" * 100_000):
        (bundle / "machinen-config.json").write_text(text)
        refused(code, mkinitramfs_bundle, bundle=bundle, out=out, env={"A": "1"})
    (bundle / "machinen-config.json").unlink()
    refused(code, mkinitramfs_tiny_bundle, bundle=bundle, out=out)


def test_a_root_that_is_none_and_a_place_that_cannot_be_written_are_refused(
    tmp_path: Path, init: Path
) -> None:
    code = ErrorCode.MKINITRAMFS_BUNDLE_INVALID
    refused(code, mkinitramfs_rootfs, rootfs=init, out=tmp_path / "o", init_path=init)
    refused(code, mkinitramfs_minimal, out=tmp_path / "absent" / "o", init_path=init)
    refused(code, mkinitramfs_minimal, out=tmp_path / "o", config=tmp_path / "no", init_path=init)


@pytest.mark.provokes(ErrorCode.MKINITRAMFS_INIT_MISSING)
def test_an_init_that_is_not_there_is_missing(tmp_path: Path) -> None:
    code = ErrorCode.MKINITRAMFS_INIT_MISSING
    refused(code, mkinitramfs_minimal, out=tmp_path / "o", init_path=tmp_path / "no")


@pytest.mark.provokes(ErrorCode.MKINITRAMFS_BASE_EXTRACT_FAILED)
def test_a_base_that_is_no_tarball_is_refused(tmp_path: Path, bundle: Path, init: Path) -> None:
    code, base = ErrorCode.MKINITRAMFS_BASE_EXTRACT_FAILED, tmp_path / "base"
    options: dict[str, Any] = {"bundle": bundle, "out": tmp_path / "o", "init_path": init}
    refused(code, mkinitramfs_bundle, base=tmp_path / "absent", **options)
    torn = tarball(tmp_path / "x", etc__who="base" * 10_000).read_bytes()[:-60]
    for junk in (b"no tarball", torn, b"\xfd7zXZ\0junk", b"\x28\xb5\x2f\xfdjunk", b"BZh9junk"):
        base.write_bytes(junk)
        refused(code, mkinitramfs_bundle, base=base, **options)
    for member in (link("../etc/who", "x"), link("a", "nowhere", tarfile.LNKTYPE)):
        tarball(base, member)
        refused(code, mkinitramfs_bundle, base=base, **options)
    tarball(base, link("a", "b"), link("b", "a"), a__x="loop")
    refused(code, mkinitramfs_bundle, base=base, **options)


@pytest.mark.provokes(
    ErrorCode.MKINITRAMFS_WORKSPACE_INVALID, ErrorCode.MKINITRAMFS_WORKSPACE_TOO_LARGE
)
def test_a_workspace_that_is_none_or_too_large_is_refused(tmp_path: Path) -> None:
    work = tmp_path / "work"
    invalid = ErrorCode.MKINITRAMFS_WORKSPACE_INVALID
    refused(invalid, mkinitramfs_workspace, workspace=work, out=tmp_path / "o")
    work.mkdir()
    for options in ({"mountpoint": "../x"}, {"mountpoint": "."}, {"max_mb": float("nan")}):
        refused(invalid, mkinitramfs_workspace, workspace=work, out=tmp_path / "o", **options)
    too_large = ErrorCode.MKINITRAMFS_WORKSPACE_TOO_LARGE
    with (work / "big").open("wb") as file:
        file.truncate(3 << 20)
    refused(too_large, mkinitramfs_workspace, workspace=work, out=tmp_path / "o", max_mb=2)
    refused(too_large, mkinitramfs_workspace, workspace=work, out=tmp_path / "o", max_mb=3)
    mkinitramfs_workspace(workspace=work, out=tmp_path / "o", max_mb=4)


# -- the command line -----------------------------------------------------------------------------


def test_the_command_line_packs(tmp_path: Path, bundle: Path, init: Path) -> None:
    out = tmp_path / "o"
    argv = ["bundle", "--bundle", str(bundle), f"--out={out}", "--init", str(init)]
    mkinitramfs_cli([*argv, "--exec-agent", str(init), "--env", "B=1=2", "--exclude", "etc/*"])
    assert json.loads(packed(out)["machinen-config.json"])["env"] == {"A": "bundle", "B": "1=2"}
    assert "etc/who" not in packed(out)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ([], ErrorCode.PARSE_FLAG_MALFORMED),
        pytest.param(
            ["nonsense"],
            ErrorCode.PARSE_FLAG_MALFORMED,
            marks=pytest.mark.provokes(ErrorCode.PARSE_FLAG_MALFORMED),
        ),
        pytest.param(
            ["minimal", "--nope", "x"],
            ErrorCode.PARSE_FLAG_UNKNOWN,
            marks=pytest.mark.provokes(ErrorCode.PARSE_FLAG_UNKNOWN),
        ),
        pytest.param(
            ["minimal", "--out"],
            ErrorCode.PARSE_FLAG_MISSING_VALUE,
            marks=pytest.mark.provokes(ErrorCode.PARSE_FLAG_MISSING_VALUE),
        ),
        (["minimal"], ErrorCode.PARSE_FLAG_MISSING_VALUE),
        pytest.param(
            ["minimal", "--out", "x", "--out", "y"],
            ErrorCode.PARSE_FLAG_DUPLICATE,
            marks=pytest.mark.provokes(ErrorCode.PARSE_FLAG_DUPLICATE),
        ),
        (["tiny-bundle", "--bundle=b", "--out=x", "--env=A"], ErrorCode.PARSE_FLAG_MALFORMED),
        (["bundle", "--bundle=b", "--out=x", "--mount=a"], ErrorCode.PARSE_FLAG_MALFORMED),
        (["workspace", "--workspace=w", "--out=x", "--max-mb=a"], ErrorCode.PARSE_FLAG_MALFORMED),
    ],
)
def test_a_bad_command_line_is_refused(argv: list[str], code: ErrorCode) -> None:
    with pytest.raises(ParseError) as caught:
        mkinitramfs_cli(argv)
    assert caught.value.code is code


def test_it_runs_as_a_module(tmp_path: Path, init: Path) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "machinen_runtime.mkinitramfs_cli", *argv]
        return subprocess.run(program, capture_output=True, text=True)

    done = run("minimal", "--out", str(tmp_path / "o"), "--init", str(init))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "init" in packed(tmp_path / "o")
    assert run("minimal").returncode == 2
    failed = run("minimal", "--out", str(tmp_path / "o"), "--init", str(tmp_path / "no"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("mkinitramfs: (MKINITRAMFS_INIT_MISSING) ")
    assert "--workspace" in run("--help").stdout
