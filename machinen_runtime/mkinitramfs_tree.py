"""The tree that becomes an initramfs: host directories and tarballs, one laid over the other.

What is laid later wins; a path leads through the symbolic links that are there, as it does when
tar(1) or the kernel unpack, so `lib/x` over a base whose `lib` is a link to `usr/lib` does not
replace the link. Files stay where they are until the archive is written.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from machinen_runtime.cpio import CpioEntry, FileSlice, directory

MAX_LINKS = 40
"""As many symbolic links as Linux follows in one path, path_resolution(7)."""

Excluded = Callable[[str], bool]


def matching(patterns: Iterable[str]) -> Excluded:
    """Whether one of the fnmatch `patterns` matches a path relative to the guest's root."""
    wanted = list(patterns)
    return lambda path: any(fnmatchcase(path, pattern) for pattern in wanted)


def named(names: Iterable[str]) -> Excluded:
    """Whether the last part of a path is one of `names`."""
    wanted = frozenset(names)
    return lambda path: posixpath.basename(path) in wanted


class Tree:
    """Entries by their path, without a leading slash."""

    def __init__(self) -> None:
        self._entries: dict[str, CpioEntry] = {}

    def entries(self) -> list[CpioEntry]:
        """All entries, sorted: a directory comes before what is in it."""
        return [self._entries[name] for name in sorted(self._entries, key=os.fsencode)]

    def put(self, entry: CpioEntry) -> None:
        """Add an entry, with the directories above it; ValueError for a path that leads nowhere."""
        name = self._real_name(entry.name)
        self._make_parents(name)
        old = self._entries.get(name)
        is_directory = stat.S_ISDIR(entry.mode)
        if old is not None and is_directory and self._leads_to_directory(old):
            if stat.S_ISDIR(old.mode):
                self._entries[name] = replace(entry, name=name)
            return
        if old is not None and stat.S_ISDIR(old.mode) and not is_directory:
            self._remove_below(name)
        self._entries[name] = replace(entry, name=name)

    def lay_directory(
        self, source: Path, target: str = "", excluded: Excluded = lambda _: False
    ) -> None:
        """Lay what is in a host directory at `target`, owned by root.

        Raises:
            OSError: something in it cannot be read. ValueError: it does not fit the format.
        """
        if target:
            self.put(directory(target))
        for path, info in walk(source, target, excluded):
            host = source / posixpath.relpath(path, target or ".")
            entry = host_entry(path, host, info)
            if entry is not None:
                self.put(entry)

    def lay_tarball(
        self, archive: tarfile.TarFile, plain: str, excluded: Excluded = lambda _: False
    ) -> None:
        """Lay the members of an uncompressed tarball at `plain`; they keep their owners.

        Raises:
            ValueError: a member's path leads out of the root, or it is of a kind we do not know.
        """
        for member in archive:
            path = clean_path(member.name)
            if path and not _excluded_with_parents(path, excluded):
                self._lay_member(path, member, plain)

    def _lay_member(self, path: str, member: tarfile.TarInfo, plain: str) -> None:
        if member.islnk():
            self._link(path, clean_path(member.linkname))
            return
        kinds = {
            tarfile.DIRTYPE: stat.S_IFDIR,
            tarfile.SYMTYPE: stat.S_IFLNK,
            tarfile.CHRTYPE: stat.S_IFCHR,
            tarfile.BLKTYPE: stat.S_IFBLK,
            tarfile.FIFOTYPE: stat.S_IFIFO,
        }
        kind = stat.S_IFREG if member.isreg() else kinds.get(member.type)
        if kind is None or member.issparse():
            raise ValueError(f"{member.name}: a kind of file we cannot pack")
        data: bytes | FileSlice = b""
        if kind == stat.S_IFREG:
            data = FileSlice(path=plain, offset=member.offset_data, size=member.size)
        elif kind == stat.S_IFLNK:
            data = os.fsencode(member.linkname)
        is_device = kind in (stat.S_IFCHR, stat.S_IFBLK)
        self.put(
            CpioEntry(
                name=path,
                mode=kind | (0o777 if kind == stat.S_IFLNK else member.mode & 0o7777),
                data=data,
                device=(member.devmajor, member.devminor) if is_device else (0, 0),
                uid=member.uid,
                gid=member.gid,
            )
        )

    def _link(self, path: str, target: str) -> None:
        """Another name for a file that is in the tree already."""
        name = self._real_name(target) if target else ""
        first = self._entries.get(name)
        if first is None:
            raise ValueError(f"{path}: a hard link to {target}, which is not there")
        if first.link_key is None:
            first = self._entries[name] = replace(first, link_key=("tar", name))
        self.put(replace(first, name=path))

    def _real_name(self, path: str, followed: int = 0) -> str:
        """`path` with the links in the directories above its last part resolved."""
        done = ""
        parts = path.split("/")
        for index, part in enumerate(parts[:-1]):
            done = posixpath.join(done, part)
            entry = self._entries.get(done)
            if entry is not None and stat.S_ISLNK(entry.mode):
                if followed >= MAX_LINKS:
                    raise ValueError(f"{path}: too many symbolic links")
                target = self._target(done, entry)
                rest = "/".join(parts[index + 1 :])
                return self._real_name(posixpath.join(target, rest), followed + 1)
        return path

    def _target(self, name: str, entry: CpioEntry) -> str:
        """Where a symbolic link leads, below the root whatever it says."""
        assert isinstance(entry.data, bytes)
        joined = posixpath.join("/", posixpath.dirname(name), os.fsdecode(entry.data))
        return posixpath.normpath(joined).lstrip("/")

    def _leads_to_directory(self, entry: CpioEntry) -> bool:
        for _ in range(MAX_LINKS):
            if not stat.S_ISLNK(entry.mode):
                return stat.S_ISDIR(entry.mode)
            found = self._entries.get(self._target(entry.name, entry))
            if found is None:
                return False
            entry = found
        return False

    def _make_parents(self, name: str) -> None:
        parent = posixpath.dirname(name)
        if not parent:
            return
        old = self._entries.get(parent)
        if old is None:
            self._make_parents(parent)
            self._entries[parent] = directory(parent)
        elif not stat.S_ISDIR(old.mode):
            self._entries[parent] = directory(parent)

    def _remove_below(self, name: str) -> None:
        for path in [each for each in self._entries if each.startswith(name + "/")]:
            del self._entries[path]


def walk(source: Path, target: str, excluded: Excluded) -> Iterator[tuple[str, os.stat_result]]:
    """What is in a host directory, sorted, as paths below `target`; links are not followed."""
    with os.scandir(source) as found:
        items = sorted(found, key=lambda item: os.fsencode(item.name))
    for item in items:
        path = posixpath.join(target, item.name)
        if excluded(path):
            continue
        info = item.stat(follow_symlinks=False)
        yield path, info
        if stat.S_ISDIR(info.st_mode):
            yield from walk(Path(item.path), path, excluded)


def host_entry(path: str, host: Path, info: os.stat_result) -> CpioEntry | None:
    """The entry for a file of the host; None for a socket, which no archive can hold."""
    mode = info.st_mode
    if stat.S_ISSOCK(mode):
        return None
    data: bytes | FileSlice = b""
    if stat.S_ISREG(mode):
        data = FileSlice(path=str(host), size=info.st_size)
    elif stat.S_ISLNK(mode):
        data = os.fsencode(os.readlink(host))
    is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
    return CpioEntry(
        name=path,
        mode=mode,
        data=data,
        device=(os.major(info.st_rdev), os.minor(info.st_rdev)) if is_device else (0, 0),
        link_key=(info.st_dev, info.st_ino) if stat.S_ISREG(mode) and info.st_nlink > 1 else None,
    )


def clean_path(name: str) -> str:
    """`./usr/bin` → `usr/bin`; ValueError if it leads out of the root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{name!r} leads out of the root")
    return "/".join(parts)


def _excluded_with_parents(path: str, excluded: Excluded) -> bool:
    parts = path.split("/")
    return any(excluded("/".join(parts[:count])) for count in range(1, len(parts) + 1))
