"""Merge the layers of a container image into one rootfs tarball.

The merge happens in a tree in memory: no name of a layer ever meets this host's file system, so
neither `..` nor links lead anywhere, and links of the image are followed inside the image, as a
container runtime would. Layers and whiteouts: OCI image-spec, layer.md.
"""

from __future__ import annotations

import copy
import tarfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

from machinen_runtime.tar_extract import BoundedTarInfo, UnsafeArchiveError

MAX_ENTRIES = 4_000_000
MAX_HOLES_BYTES = 4 << 30
"""How many zeros the layers of an image may leave out: they are written, so that every packer and
every unpacker agrees on what the image holds."""
MAX_NAME_BYTES = 4096
MAX_PART_BYTES = 255
MAX_LINKS_FOLLOWED = 40
"""As Linux does, path_resolution(7)."""
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_FOREIGN_XATTRS = ("SCHILY.xattr.trusted.overlay.", "SCHILY.xattr.user.overlay.")


class _Inode:
    """A file's header and where its data is; several names may share it."""

    __slots__ = ("archive", "member", "written_as")

    def __init__(self, member: tarfile.TarInfo, archive: tarfile.TarFile | None) -> None:
        self.member = member
        self.archive = archive
        self.written_as: str | None = None


class _Node:
    """A name: a directory has children."""

    __slots__ = ("children", "inode")

    def __init__(self, inode: _Inode, children: dict[str, _Node] | None = None) -> None:
        self.inode = inode
        self.children = children


def merge_layers(layers: Sequence[Path], target: Path, directories: Sequence[str] = ()) -> None:
    """Write the merged tree of uncompressed `layers`, lowest first, to the new tarball `target`.

    Args:
        directories: absolute paths that are made if no layer has them.

    Raises:
        UnsafeArchiveError: a layer is damaged, or breaks the rules of layers.
        OSError: the disk is full, and so on.
    """
    tree = _Tree()
    with ExitStack() as opened:
        try:
            for layer in layers:
                archive = tarfile.open(layer, "r:", tarinfo=BoundedTarInfo)  # noqa: SIM115
                opened.callback(archive.close)
                tree.apply(archive)
            for path in directories:
                tree.make_directory(path)
            with tarfile.open(target, "x", format=tarfile.PAX_FORMAT) as merged:
                for name, node in tree.walk():
                    _write(merged, name, node.inode)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise UnsafeArchiveError(f"a layer is damaged: {error}") from error


class _Tree:
    """What the layers up to now make together."""

    def __init__(self) -> None:
        self._root = _new_directory(".")
        self._entries = 0
        self._holes_bytes = 0

    def apply(self, archive: tarfile.TarFile) -> None:
        """Lay one layer over the tree. Its whiteouts hide what is below it, never its own files."""
        members: list[tuple[tarfile.TarInfo, list[str]]] = []
        for member in archive:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise UnsafeArchiveError(f"more than {MAX_ENTRIES} files")
            self._count_holes(member)
            parts = _parts(member.name)
            if parts and parts[-1].startswith(_WHITEOUT):
                self._hide(parts)
            else:
                members.append((member, parts))
        for member, parts in members:
            self._add(member, parts, archive)

    def _count_holes(self, member: tarfile.TarInfo) -> None:
        if member.issparse():
            self._holes_bytes += member.size
            if self._holes_bytes > MAX_HOLES_BYTES:
                limit = f"more than {MAX_HOLES_BYTES >> 30} GiB"
                raise UnsafeArchiveError(f"the sparse files of the layers have {limit}")

    def make_directory(self, path: str) -> None:
        """Make it and what leads to it, unless something else is there already."""
        try:
            self._directory(_parts(path), make=True)
        except UnsafeArchiveError:
            return  # a file is in the way: the workload will say so itself

    def walk(self) -> Generator[tuple[str, _Node]]:
        """Every name from `./` on, sorted, directories before what is in them."""
        pending = [("./", self._root)]
        while pending:
            name, node = pending.pop()
            yield name, node
            for child_name, child in sorted((node.children or {}).items(), reverse=True):
                pending.append((f"{name.rstrip('/')}/{child_name}", child))

    def _hide(self, parts: list[str]) -> None:
        parent = self._directory(parts[:-1], make=False)
        name = parts[-1]
        if parent is None or parent.children is None:
            return
        if name == _OPAQUE:
            parent.children.clear()
        elif not name.startswith(_WHITEOUT * 2):  # others with a double prefix are aufs' own
            parent.children.pop(name[len(_WHITEOUT) :], None)

    def _add(self, member: tarfile.TarInfo, parts: list[str], archive: tarfile.TarFile) -> None:
        inode = _Inode(member, archive)
        if not parts:
            if member.isdir():
                self._root.inode = inode
            return
        children = self._children(parts[:-1])
        name = parts[-1]
        existing = children.get(name)
        if member.isdir():
            if existing is not None and existing.children is not None:
                existing.inode = inode
            else:
                children[name] = _Node(inode, {})
        elif member.islnk():
            children[name] = _Node(self._linked(member))
        elif member.isfile() or member.issym() or member.isdev():
            children[name] = _Node(inode)
        else:
            raise UnsafeArchiveError(f"{member.name!r} is of an unknown kind: {member.type!r}")

    def _linked(self, member: tarfile.TarInfo) -> _Inode:
        parts = _parts(member.linkname)
        parent = self._directory(parts[:-1], make=False) if parts else None
        found = parent.children.get(parts[-1]) if parent and parent.children else None
        if found is None or found.children is not None:
            raise UnsafeArchiveError(f"{member.name!r} links to no file: {member.linkname!r}")
        return found.inode

    def _children(self, parts: list[str]) -> dict[str, _Node]:
        directory = self._directory(parts, make=True)
        assert directory is not None
        assert directory.children is not None
        return directory.children

    def _directory(self, parts: list[str], *, make: bool) -> _Node | None:
        """The directory `parts`, with the image's own links followed inside the image."""
        trail = [self._root]
        pending = parts[::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            assert children is not None
            child = children.get(part)
            if child is None:
                if not make:
                    return None
                if part.startswith(_WHITEOUT):
                    raise UnsafeArchiveError(f"a layer makes a directory of a whiteout: {part!r}")
                child = children[part] = _new_directory(part)
            if child.inode.member.issym():
                links += 1
                if links > MAX_LINKS_FOLLOWED:
                    raise UnsafeArchiveError(f"too many links on the way to {'/'.join(parts)!r}")
                link = child.inode.member.linkname
                if link.startswith("/"):
                    trail = [self._root]
                pending += [part for part in link.split("/") if part not in ("", ".")][::-1]
            elif child.children is None:
                if not make:
                    return None
                raise UnsafeArchiveError(f"a layer goes through {part!r}, which is no directory")
            else:
                trail.append(child)
        return trail[-1]


def _new_directory(name: str) -> _Node:
    """A directory that no layer describes."""
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    return _Node(_Inode(member, None), {})


def _write(merged: tarfile.TarFile, name: str, inode: _Inode) -> None:
    member = copy.copy(inode.member)
    member.name, member.uname, member.gname = name, "", ""
    member.pax_headers = {
        key: value
        for key, value in inode.member.pax_headers.items()
        if key.startswith(_XATTR) and not key.startswith(_FOREIGN_XATTRS)
    }
    if inode.written_as is not None and not member.isdir():
        member.type, member.linkname, member.size = tarfile.LNKTYPE, inode.written_as, 0
        member.pax_headers = {}
        merged.addfile(member)
        return
    inode.written_as = name
    if not member.isfile():
        member.size = 0
        merged.addfile(member)
        return
    assert inode.archive is not None
    member.type = tarfile.REGTYPE  # also what was sparse
    with inode.archive.extractfile(inode.member) or _no_data(name) as contents:
        merged.addfile(member, contents)


def _no_data(name: str) -> tarfile.ExFileObject:
    raise UnsafeArchiveError(f"{name!r} has no data")


def _parts(name: str) -> list[str]:
    """The components of a member's name; a leading slash, "" and "." are dropped."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    too_long = len(name) > MAX_NAME_BYTES or any(
        len(part.encode("utf-8", "surrogateescape")) > MAX_PART_BYTES for part in parts
    )
    if ".." in parts or "\0" in name or too_long:
        raise UnsafeArchiveError(f"a layer has a name that no image may have: {name!r:.100}")
    return parts
