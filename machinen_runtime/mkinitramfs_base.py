"""A root filesystem tarball as the first layer of an initramfs: plain, gz, bz2, xz or zst.

It is uncompressed into a temporary file of which the archive takes its data, so that no owner or
device node has to be made on the host and big roots do not fill memory.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from machinen_runtime.errors import ErrorCode, MkinitramfsError
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.mkinitramfs_tree import Excluded, Tree
from machinen_runtime.option_types import StrPath
from vmm.confined_tool import Confines, complaint_of, run_confined

COPY_BYTES = 1 << 20
MAGIC_BYTES = 4
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
"""By the first two bytes of a file."""


@contextmanager
def base_laid(tree: Tree, base: StrPath | None, excluded: Excluded) -> Generator[None]:
    """Lay a tarball into `tree`; write the archive within the block, while its data is there.

    Raises:
        MkinitramfsError: MKINITRAMFS_BASE_EXTRACT_FAILED if it cannot be read, or holds what an
            archive cannot.
    """
    if base is None:
        yield
        return
    with tempfile.NamedTemporaryFile(prefix="machinen-base-", suffix=".tar") as plain:
        try:
            _uncompress(base, plain.name)
            with tarfile.open(plain.name) as archive:
                tree.lay_tarball(archive, plain.name, excluded)
        except (
            OSError,
            EOFError,
            ValueError,
            tarfile.TarError,
            lzma.LZMAError,
            subprocess.CalledProcessError,
        ) as error:
            raise MkinitramfsError(
                ErrorCode.MKINITRAMFS_BASE_EXTRACT_FAILED,
                f"cannot unpack the base {os.fspath(base)}: {_reason(error)}",
            ) from error
        yield


def _uncompress(base: StrPath, plain: str) -> None:
    with open(base, "rb") as file:
        magic = file.read(MAGIC_BYTES)
    with open(plain, "wb") as target:
        if magic == ZSTD_MAGIC:
            confines = Confines(wanted=confinement_wanted())
            with open(base, "rb") as source:
                run_confined(["zstd", "-dcq"], confines, stdin=source, stdout=target)
            return
        with OPENERS.get(magic[:2], open)(base, "rb") as source:
            shutil.copyfileobj(source, target, COPY_BYTES)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return complaint_of(error) or str(error)
    return str(error)
