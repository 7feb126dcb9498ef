"""Extract an archive from a stranger below one directory.

Every component of a name is opened on its own with O_NOFOLLOW, so neither `..` nor a link, whether
from the archive or there before, leads outside; links are made as they are, never followed.
Sources: openat(2), PEP 706.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tarfile import ReadError, TarFile
from typing import BinaryIO, Protocol, Self, cast

COPY_BYTES = 1 << 20
MAX_EXTENSION_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeArchiveError(Exception):
    """The archive is damaged, or names something outside of where it may write."""


class ReadableBytes(Protocol):
    """Where an archive comes from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` and return its size; less at the end alone."""
        ...


class _ForwardFile:
    """The file `tarfile` reads headers from. Contents go past it, from one buffer into a file."""

    def __init__(self, source: ReadableBytes) -> None:
        self._source = source
        self._position = 0
        self._buffer = memoryview(bytearray(COPY_BYTES))

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        """Forward, over what nobody wants."""
        if position < self._position:
            raise UnsafeArchiveError("the archive is damaged: it points back")
        while self._position < position:
            if not self._fill(position - self._position):
                break

    def read(self, size: int) -> bytes:
        pieces: list[memoryview] = []
        while size > 0:
            piece = memoryview(bytearray(min(size, COPY_BYTES)))
            came = self._source.readinto(piece)
            self._position += came
            size -= came
            pieces.append(piece[:came])
            if came < len(piece):
                break
        return b"".join(pieces)

    def copy_to(self, descriptor: int, size: int) -> int:
        """The next `size` bytes into a file; returns how many there were."""
        copied = 0
        while copied < size:
            piece = self._fill(size - copied)
            if not piece:
                break
            copied += len(piece)
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        return copied

    def _fill(self, size: int) -> memoryview:
        came = self._source.readinto(self._buffer[:size])
        self._position += came
        return self._buffer[:came]


class BoundedTarInfo(tarfile.TarInfo):
    """A header whose extensions (long names, pax records) are small: tarfile keeps them whole.

    One that breaks off within them is a tarfile.ReadError, as any other damage.
    """

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        """The next header; tarfile's own readers of sparse maps look beyond their end."""
        try:
            return super().fromtarfile(tarfile)
        except LookupError as error:
            raise ReadError("a header is cut short") from error

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> BoundedTarInfo:
        """Read a header; UnsafeArchiveError if an extension is larger than 1 MiB."""
        info = super().frombuf(buf, encoding, errors)
        if info.type not in tarfile.REGULAR_TYPES and info.size > MAX_EXTENSION_BYTES:
            raise UnsafeArchiveError(f"a header of {info.size} bytes")
        return info


def extract_tar(source: ReadableBytes, target: Path) -> None:
    """Extract all of `source` below the existing directory `target`.

    What lies there afterwards is no larger than what came: sparse members, which our agents never
    send, are refused.

    Modes (without setuid, setgid and sticky bit) and times are kept, owners are not; devices and
    FIFOs are left out.

    Raises:
        UnsafeArchiveError: the archive is not to be trusted; what came before is there.
        OSError: the disk is full, and so on.
    """
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directories: list[tuple[tarfile.TarInfo, list[str]]] = []
    try:
        file = _ForwardFile(source)
        with tarfile.TarFile(fileobj=cast("BinaryIO", file), tarinfo=BoundedTarInfo) as archive:
            for member in archive:
                parts = _parts(member.name)
                if member.isdir():
                    directories.append((member, parts))
                _extract_member(file, member, root, parts)
        # Last, the deepest first: a directory may become read-only, and writing moves its time.
        for member, parts in sorted(directories, key=lambda one: len(one[1]), reverse=True):
            with _opened(root, parts, make=False) as descriptor:
                os.fchmod(descriptor, member.mode & 0o777)
                os.utime(descriptor, (member.mtime, member.mtime))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise UnsafeArchiveError(f"the archive is damaged: {error}") from error
    finally:
        os.close(root)


def _extract_member(
    source: _ForwardFile, member: tarfile.TarInfo, root: int, parts: list[str]
) -> None:
    if member.isdir():
        with _opened(root, parts, make=True):
            return
    if not parts:
        raise UnsafeArchiveError(f"the archive names no file: {member.name!r}")
    if member.issparse():  # some bytes may stand for more zeros than there is disk
        raise UnsafeArchiveError(f"the archive leaves out parts of {member.name!r}")
    with _opened(root, parts[:-1], make=True) as parent:
        name = parts[-1]
        if member.isfile():
            _write_file(source, member, parent, name)
        elif member.issym():
            _clear(parent, name)
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            _link(root, _parts(member.linkname), parent, name)


def _write_file(source: _ForwardFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
    _clear(parent, name)
    descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        if source.copy_to(descriptor, member.size) != member.size:
            raise UnsafeArchiveError(f"the archive ends within {member.name!r}")
        os.fchmod(descriptor, member.mode & 0o777)
        os.utime(descriptor, (member.mtime, member.mtime))
    finally:
        os.close(descriptor)


def _link(root: int, source: list[str], parent: int, name: str) -> None:
    if not source:
        raise UnsafeArchiveError(f"the archive links {name!r} to nothing")
    with _opened(root, source[:-1], make=False) as source_parent:
        _clear(parent, name)
        os.link(
            source[-1], name, src_dir_fd=source_parent, dst_dir_fd=parent, follow_symlinks=False
        )


def _clear(parent: int, name: str) -> None:
    """Remove what is in the way of a new file, unless it is a directory."""
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise UnsafeArchiveError(f"a directory is in the way of the file {name!r}")
        os.unlink(name, dir_fd=parent)


@contextmanager
def _opened(root: int, parts: list[str], *, make: bool) -> Generator[int]:
    """The directory `parts` below `root`, opened step by step."""
    current = os.dup(root)
    try:
        for part in parts:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            try:
                following = os.open(part, _DIRECTORY, dir_fd=current)
            except NotADirectoryError as error:
                raise UnsafeArchiveError(
                    f"the archive goes through {part!r}, which is no directory"
                ) from error
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def _parts(name: str) -> list[str]:
    """The components of a member's name; "" and "." are dropped, as tar does."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeArchiveError(f"the archive names something outside: {name!r}")
    return parts
