"""Archives from a stranger: what is good is kept, nothing outside is touched."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machinen_runtime.tar_extract import UnsafeArchiveError, extract_tar
from tests.runtime.oci_images import sparse_bomb


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def archive(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writer:
        for one in members:
            info, data = one if isinstance(one, tuple) else (one, b"")
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    buffer.seek(0)
    return buffer


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("untouched")
    target = tmp_path / "target"
    target.mkdir()
    return target


def test_files_directories_and_links_come_out(target: Path) -> None:
    extract_tar(
        archive(
            member("./", tarfile.DIRTYPE, mode=0o750),
            member("./a/b", tarfile.DIRTYPE, mode=0o500, mtime=1000),
            (member("./a/b/file", mode=0o4751, mtime=2000), b"contents"),
            member("./link", tarfile.SYMTYPE, linkname="/etc/passwd"),
            member("./hard", tarfile.LNKTYPE, linkname="./a/b/file"),
            (member("x" * 120 + "/" + "y" * 120), b"long"),
        ),
        target,
    )
    file = target / "a/b/file"
    assert file.read_bytes() == b"contents"
    assert (file.stat().st_mode & 0o7777, file.stat().st_mtime) == (0o751, 2000)
    assert ((target / "a/b").stat().st_mode & 0o777, (target / "a/b").stat().st_mtime) == (
        0o500,
        1000,
    )
    assert target.stat().st_mode & 0o777 == 0o750
    assert os.readlink(target / "link") == "/etc/passwd"
    assert (target / "hard").stat().st_ino == file.stat().st_ino
    assert (target / ("x" * 120) / ("y" * 120)).read_bytes() == b"long"


def test_what_is_there_is_replaced(target: Path) -> None:
    (target / "file").symlink_to("../outside/secret")
    (target / "link").write_text("old")
    extract_tar(
        archive((member("file"), b"new"), member("link", tarfile.SYMTYPE, linkname="file")), target
    )
    assert not (target / "file").is_symlink()
    assert (target / "link").read_text() == "new"


def test_devices_and_fifos_are_left_out(target: Path) -> None:
    extract_tar(archive(member("null", tarfile.CHRTYPE), member("pipe", tarfile.FIFOTYPE)), target)
    assert list(target.iterdir()) == []


ATTACKS: dict[str, Callable[[], io.BytesIO]] = {
    "absolute": lambda: archive((member("/tmp/evil"), b"x")),
    "dotdot": lambda: archive((member("a/../../outside/secret"), b"x")),
    "through a link": lambda: archive(
        member("a", tarfile.SYMTYPE, linkname="../outside"), (member("a/secret"), b"x")
    ),
    "a directory over a link": lambda: archive(
        member("a", tarfile.SYMTYPE, linkname="../outside"),
        member("a", tarfile.DIRTYPE, mode=0o777),
    ),
    "a hard link outside": lambda: archive(
        member("a", tarfile.LNKTYPE, linkname="../outside/secret"), (member("a"), b"x")
    ),
    "a hard link through a link": lambda: archive(
        member("a", tarfile.SYMTYPE, linkname="../outside"),
        member("b", tarfile.LNKTYPE, linkname="a/secret"),
    ),
    "a file over a directory": lambda: archive(member("a", tarfile.DIRTYPE), (member("a"), b"x")),
    "no name": lambda: archive((member("."), b"x")),
    "cut short": lambda: io.BytesIO(archive((member("a"), bytes(5000))).getvalue()[:3000]),
    "a giant header": lambda: io.BytesIO(
        member("x", tarfile.XHDTYPE, size=1 << 33).tobuf(tarfile.GNU_FORMAT) + bytes(4096)
    ),
    "a sparse bomb": lambda: io.BytesIO(sparse_bomb(1 << 50)),
    "an old sparse bomb": lambda: old_sparse_bomb(),
    "a sparse map that breaks off": lambda: io.BytesIO(old_sparse_bomb(more=True).read(512)),
    "no archive": lambda: io.BytesIO(b"hello" * 500),
}


def old_sparse_bomb(*, more: bool = False) -> io.BytesIO:
    """GNU tar's own kind of header: it has the extents and the size in it, and says if there are
    more of them."""
    header = bytearray(member("bomb", tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"%011o\0" % (1 << 32)
    header[482] = more
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return io.BytesIO(bytes(header) + bytes(1024))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(target: Path, attack: str) -> None:
    with pytest.raises(UnsafeArchiveError):
        extract_tar(ATTACKS[attack](), target)
    outside = target.parent / "outside"
    assert (outside / "secret").read_text() == "untouched"
    assert outside.stat().st_mode & 0o777 == 0o755
    assert not Path("/tmp/evil").exists()
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= 5000


def test_a_link_that_was_there_is_not_followed(target: Path) -> None:
    (target / "a").symlink_to("../outside")
    with pytest.raises(UnsafeArchiveError):
        extract_tar(archive((member("a/secret"), b"x")), target)
    assert (target.parent / "outside" / "secret").read_text() == "untouched"


@given(st.binary(min_size=512, max_size=2048))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_noise_is_refused_or_harmless(target: Path, noise: bytes) -> None:
    try:
        extract_tar(io.BytesIO(noise), target)
    except (UnsafeArchiveError, OSError):
        return
