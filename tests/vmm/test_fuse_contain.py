"""Nothing below a shared root leads out of it, with openat2 and without, not even for a moment."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vmm import fuse_raw as raw
from tests.vmm.fuse_raw import filled
from tests.vmm.test_fuse_session import served
from vmm import fuse_syscalls
from vmm.fuse_contain import ANY, DIRECTORY, ContainedRoot
from vmm.fuse_wire import Op


@pytest.fixture(params=[True, False], ids=["openat2", "walk"])
def contained(tmp_path: Path, request: pytest.FixtureRequest) -> Generator[ContainedRoot]:
    root = ContainedRoot(filled(tmp_path), use_openat2=request.param)
    yield root
    root.close()


def inode(fd: int) -> int:
    found = os.fstat(fd).st_ino
    os.close(fd)
    return found


def test_a_path_below_the_root_is_found(contained: ContainedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert inode(contained.open(b"sub/inner", ANY)) == (root / "sub/inner").stat().st_ino
    assert inode(contained.open(b"link", ANY)) == (root / "link").lstat().st_ino
    assert inode(contained.open(b"", ANY)) == root.stat().st_ino


@pytest.mark.parametrize("path", [b"out/secret", b"/etc/passwd"])
def test_a_way_out_is_no_way(contained: ContainedRoot, tmp_path: Path, path: bytes) -> None:
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    with pytest.raises(FileNotFoundError):
        contained.open(path, ANY)


@pytest.mark.parametrize("path", [b"../secret", b"sub/../../secret"])
def test_openat2_knows_no_way_up(tmp_path: Path, path: bytes) -> None:
    """Without it no way up gets that far: names of entries are checked (vmm/fuse_wire.py)."""
    root = ContainedRoot(filled(tmp_path))
    with pytest.raises(FileNotFoundError):
        root.open(path, ANY)
    root.close()


def test_a_link_in_the_middle_is_not_followed_even_inside(contained: ContainedRoot) -> None:
    os.symlink("sub", b"inside", dir_fd=contained.fd)
    with pytest.raises(FileNotFoundError):
        contained.open(b"inside/inner", ANY)
    with pytest.raises(FileNotFoundError):
        contained.open(b"inside", DIRECTORY)


def test_a_path_longer_than_the_kernel_takes_is_walked(contained: ContainedRoot) -> None:
    name = b"d" * 200
    at = os.dup(contained.fd)
    for _ in range(40):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    path = b"/".join([name] * 40)
    assert len(path) > 8000
    before = len(os.listdir("/proc/self/fd"))
    assert inode(contained.open(path, DIRECTORY)) == inode(at)
    with pytest.raises(FileNotFoundError):
        contained.open(path + b"/missing", ANY)
    assert len(os.listdir("/proc/self/fd")) == before - 1


def test_where_openat2_is_forbidden_the_walk_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(directory_fd: int, path: bytes, flags: int) -> int:
        del directory_fd, path, flags
        raise PermissionError(errno.EPERM, "seccomp")

    monkeypatch.setattr("vmm.fuse_contain.open_beneath", forbidden)
    root = ContainedRoot(filled(tmp_path))
    assert inode(root.open(b"sub/inner", ANY)) == (tmp_path / "root/sub/inner").stat().st_ino
    root.close()


@contextmanager
def swapping(root: Path, outside: Path) -> Generator[None]:
    """Meanwhile `sub` is now the directory, now a link to one outside that has the same names."""
    done = threading.Event()

    def swap() -> None:
        (root / "sub-link").symlink_to(outside)
        while not done.is_set():
            fuse_syscalls.rename_at(-100, bytes(root / "sub"), -100, bytes(root / "sub-link"), 2)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("openat2", [True, False], ids=["openat2", "walk"])
async def test_a_directory_swapped_for_a_link_never_leads_out(
    tmp_path: Path, openat2: bool
) -> None:
    root = filled(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "inner").write_bytes(b"SECRET")
    seen: set[bytes] = set()
    errors: set[int] = set()
    async with served(root) as guest:
        contained = guest.session._tree.root  # pyright: ignore[reportPrivateUsage]
        contained._use_openat2 = openat2  # pyright: ignore[reportPrivateUsage]
        sub = (await guest.lookup(b"sub")).node
        inner = (await guest.lookup(b"inner", sub)).node
        with swapping(root, outside):
            for number in range(120):
                opened = await guest.ask(Op.OPEN, inner, raw.open_body(os.O_RDWR))
                errors.add(opened.error)
                if opened.error == 0:
                    read = await guest.good(Op.READ, inner, raw.read_body(opened.handle, 0, 100))
                    seen.add(read.body)
                    await guest.good(Op.RELEASE, inner, raw.release_body(opened.handle))
                name = b"made%d" % number
                for op, body in (
                    (Op.CREATE, raw.create_body(name)),
                    (Op.MKDIR, bytes(8) + b"d" + name + b"\0"),
                    (Op.SYMLINK, b"s" + name + b"\0target\0"),
                    (Op.UNLINK, b"inner2\0"),
                    (Op.LOOKUP, b"inner\0"),
                ):
                    errors.add((await guest.ask(op, sub, body)).error)
    assert seen <= {b"inner"}
    assert errors <= {0, errno.ENOENT, errno.ESTALE, errno.ENOTDIR}
    assert errors & {errno.ENOENT, errno.ESTALE}, "the swap was never seen: the test proves nothing"
    assert 0 in errors
    assert os.listdir(outside) == ["inner"]
    assert (outside / "inner").read_bytes() == b"SECRET"
