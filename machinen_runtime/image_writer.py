"""Write a rootfs tarball: our config first, then an archive's bytes, compressed as the name says.

The config comes first so that a reader finds it without unpacking the rest. The same input gives
the same bytes: neither gzip nor zstd gets a name or a time. The file appears under its name when
it is whole, and not at all otherwise.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.gc_orphans import unfinished_path
from machinen_runtime.image_config import ImageConfig
from machinen_runtime.machines import confinement_wanted
from vmm.confined_tool import Confines, start_confined

CONFIG_MEMBER = "./machinen-config.json"
GZIP_LEVEL = 3
"""*Measured* on a Debian root: level 6 makes it 4 % smaller in almost three times the time."""
_GZIP_WINDOW = 31  # zlib.h: a window of 32 KiB, with a gzip header


class Compressor(Protocol):
    """Takes the bytes of a tar archive, writes a file."""

    def write(self, data: bytes, /) -> object:
        """Compress some more."""
        ...

    def finish(self) -> None:
        """Write what is still held back."""
        ...

    def abandon(self) -> None:
        """Stop at once. Nothing happens after `finish`."""
        ...


class NewImage:
    """A tarball that is being written beside its final name. Blocks: for a worker thread.

    Raises:
        ProvisionError: ROOTFS_IMG_TOOL_MISSING (no zstd for a name that ends with .zst).
        OSError: the disk is full, and so on.
    """

    def __init__(self, out: Path, config: ImageConfig | None) -> None:
        self._out = out
        self._temporary = unfinished_path(out)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = open(os.open(self._temporary, flags, 0o644), "wb")  # noqa: SIM115
        self._compressor: Compressor = _Plain(self._file)
        try:
            self._compressor = compressor_for(out.name, self._file)
            if config is not None:
                self.write(config_member(config))
        except BaseException:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Add some of the archive's bytes."""
        self._compressor.write(data)

    def commit(self) -> None:
        """Let the whole file take the place of what was at its name."""
        self._compressor.finish()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self._out)

    def discard(self) -> None:
        """Remove what was written. Nothing happens after `commit`."""
        self._compressor.abandon()
        with suppress(OSError):  # a full disk, which was reported already
            self._file.close()
        self._temporary.unlink(missing_ok=True)


def config_member(config: ImageConfig) -> bytes:
    """`machinen-config.json` as a tar member: a header and padded text."""
    text = json.dumps(config.to_json(), ensure_ascii=False, sort_keys=True).encode()
    member = tarfile.TarInfo(CONFIG_MEMBER)
    member.size, member.mode = len(text), 0o644
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member, io.BytesIO(text))
        end = tar.offset
    return buffer.getvalue()[:end]  # without the blocks that end an archive


def compressor_for(name: str, file: BinaryIO) -> Compressor:
    """What writes into `file` the compression that the ending of `name` stands for."""
    if name.endswith((".zst", ".tzst")):
        return _Zstd(file)
    return _Plain(file) if name.endswith(".tar") else _Gzip(file)


class _Plain:
    """No compression."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write

    def finish(self) -> None:
        """Nothing is held back."""

    def abandon(self) -> None:
        """Nothing runs."""


class _Gzip:
    """gzip, without the time that the module of that name writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def write(self, data: bytes, /) -> object:
        """Compress some more."""
        return self._file.write(self._packer.compress(data))

    def finish(self) -> None:
        """Write the rest and the checksum."""
        self._file.write(self._packer.flush())

    def abandon(self) -> None:
        """Nothing runs."""


class _Zstd:
    """The program zstd, on all processors."""

    def __init__(self, file: BinaryIO) -> None:
        program = shutil.which("zstd")
        if program is None:
            message = "a name that ends with .zst needs zstd: install the package zstd, or use .gz"
            raise ProvisionError(ErrorCode.ROOTFS_IMG_TOOL_MISSING, message)
        self._process = start_confined(
            [program, "-q", "-c", "-T0", "-"],
            Confines(wanted=confinement_wanted()),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin

    def write(self, data: bytes, /) -> object:
        """Compress some more."""
        return self._pipe.write(data)

    def finish(self) -> None:
        """Let it write the rest; OSError if it failed."""
        self._pipe.close()
        if self._process.wait() != 0:
            raise OSError(f"zstd exited with {self._process.returncode}: is the disk full?")

    def abandon(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # what it had not read belongs to a file nobody wants
            self._pipe.close()
