"""Where the parts of a container image lie: an OCI layout directory, or an archive of one.

`docker save` writes an archive, too; older ones have only a `manifest.json`. Nothing here is
trusted: parts are bounded, and whoever reads a blob checks its digest. Source: OCI image-spec,
image-layout.md.
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from machinen_runtime.regular_file import open_regular
from machinen_runtime.tar_extract import BoundedTarInfo, UnsafeArchiveError

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
DOCKER_MANIFEST = "manifest.json"
MAX_JSON_BYTES = 4 << 20
_MAX_MEMBERS = 10_000
_FIRST_MEMBER = re.compile(
    r"(?:\./)?(?:blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}(?:\.json)?)"
    r"(?:/.*)?"
)
"""How the archives that skopeo, podman and docker write begin; a rootfs tarball does not."""


class Store(Protocol):
    """Parts by their names inside a layout."""

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        ...

    def open(self, name: str) -> BinaryIO:
        """The part, to read. Raises UnsafeArchiveError if there is none."""
        ...


@contextmanager
def open_store(path: Path) -> Generator[Store | None]:
    """The container image at `path` for the length of the block; None: it is something else."""
    if path.is_dir():
        store = _Directory(path)
        yield store if store.has(LAYOUT_FILE) or store.has(INDEX_FILE) else None
        return
    if not _may_be_archive(path):
        yield None
        return
    with tarfile.open(path, "r:*", tarinfo=BoundedTarInfo) as archive:
        store = _Archive(archive)
        yield store if store.has(INDEX_FILE) or store.has(DOCKER_MANIFEST) else None


def read_part(store: Store, name: str) -> bytes:
    """A part of at most 4 MiB. Raises UnsafeArchiveError."""
    with store.open(name) as part:
        data = part.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise UnsafeArchiveError(f"{name} is larger than {MAX_JSON_BYTES} bytes")
    return data


def _may_be_archive(path: Path) -> bool:
    """Look at the first name alone: nobody wants to unpack a rootfs tarball for this."""
    try:
        with tarfile.open(path, "r:*", tarinfo=BoundedTarInfo) as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, OSError, ValueError, UnsafeArchiveError):
        return False  # whoever unpacks it will say what is wrong
    return first is not None and _FIRST_MEMBER.fullmatch(first.name) is not None


class _Directory:
    """An OCI layout directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return (self._root / name).is_file()

    def open(self, name: str) -> BinaryIO:
        """The part, to read."""
        try:
            # What a link leads to is checked by its digest or as JSON.
            return open_regular(self._root / name)
        except OSError as error:
            what = f"{name} is no file" if error.errno == errno.EINVAL else f"it lacks {name}"
            raise UnsafeArchiveError(what) from error


class _Archive:
    """The same in a tar archive; links of old `docker save` archives lead to other members."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in archive:
                if len(self._members) >= _MAX_MEMBERS:
                    raise UnsafeArchiveError(f"more than {_MAX_MEMBERS} files")
                self._members[os.path.normpath(member.name)] = member
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise UnsafeArchiveError(f"the archive is damaged: {error}") from error

    def has(self, name: str) -> bool:
        """Whether there is a part of that name."""
        return self._find(name) is not None

    def open(self, name: str) -> BinaryIO:
        """The part, to read."""
        member = self._find(name)
        part = self._archive.extractfile(member) if member is not None else None
        if part is None:
            raise UnsafeArchiveError(f"it lacks {name}")
        return part  # pyright: ignore[reportReturnType]  # an ExFileObject is a BufferedReader

    def _find(self, name: str) -> tarfile.TarInfo | None:
        member = self._members.get(os.path.normpath(name))
        if member is not None and member.issym():
            target = os.path.join(os.path.dirname(os.path.normpath(name)), member.linkname)
            member = self._members.get(os.path.normpath(target))
        return member if member is not None and member.isreg() else None
