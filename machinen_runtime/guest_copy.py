"""Copy a file or a directory into a guest or out of it, the way cp(1) names things.

A target that is a directory takes the source under the source's name; any other target becomes the
copy. A single file appears under its name when it is whole; so does a directory that was not there
before on the host. Modes are kept, links in directories stay links.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import anyio
from anyio import to_thread
from anyio.abc import ByteReceiveStream

from machinen_runtime.channel_exec import VsockExec
from machinen_runtime.channel_files import OnBytes, VsockFiles
from machinen_runtime.errors import ErrorCode, FilesError
from machinen_runtime.option_types import StrPath
from machinen_runtime.options import WriteFileOptions
from machinen_runtime.paths import remove_tree
from machinen_runtime.write_file import write_guest_stream

_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say whose files can be read and cannot be sent, sendfile(2)."""
Kind = Literal["none", "file", "directory"]

_KIND_SCRIPT = '[ -d "$1" ] && echo directory && exit; [ -e "$1" ] && echo file || echo none'


async def copy_into(
    vsock_path: str | os.PathLike[str],
    source: StrPath,
    guest_path: str,
    *,
    recursive: bool = False,
    excludes: Sequence[str] = (),
    on_bytes: OnBytes = lambda size: None,
) -> str:
    """Copy the host's `source` to `guest_path`, and return where it is then.

    Directories above it are made. `SOURCE/.` copies what is in it.

    Raises:
        FilesError: FILES_HOST_DIR_NOT_FOUND, FILES_TRANSFER_FAILED (also for a directory without
            `recursive`), FILES_AGENT_UNAVAILABLE (retryable).
        ExecError: EXEC_NONZERO_EXIT if the guest could not write the file.
    """
    source, text = Path(source), os.fspath(source)
    kind = _host_kind(source)
    if kind == "none":
        raise FilesError(ErrorCode.FILES_HOST_DIR_NOT_FOUND, f"there is no {source} to copy")
    target = guest_path
    if not text.endswith(("/.", "/..")) and text not in (".", ".."):
        inside = guest_path.endswith("/") or await guest_kind(vsock_path, guest_path) == "directory"
        target = posixpath.join(guest_path, source.name) if inside else guest_path
    if kind == "directory":
        _require(recursive, source)
        await VsockFiles.push(vsock_path, source, target, excludes=excludes, on_bytes=on_bytes)
        return target
    file = _FileStream(source, on_bytes)
    try:
        options = WriteFileOptions(mode=file.mode)
        if await file.put(vsock_path, target, options):
            return target
        await write_guest_stream(vsock_path, target, file, options, exec_timeout_ms=None)
    finally:
        await file.aclose()
    return target


async def copy_out(
    vsock_path: str | os.PathLike[str],
    guest_path: str,
    target: StrPath,
    *,
    recursive: bool = False,
    excludes: Sequence[str] = (),
    on_bytes: OnBytes = lambda size: None,
) -> Path:
    """Copy `guest_path` to the host's `target`, and return where it is then.

    Raises:
        FilesError: FILES_TRANSFER_FAILED (also for a directory without `recursive`, and for what
            does not exist), FILES_AGENT_UNAVAILABLE (retryable).
    """
    target, text = Path(target), os.fspath(target)
    kind = await guest_kind(vsock_path, guest_path)
    if kind == "none":
        raise _failed(f"there is no {guest_path} in the guest")
    if kind == "directory":
        _require(recursive, guest_path)
    contents_only = guest_path.endswith("/.") or not guest_path.strip("/")
    name = posixpath.basename(guest_path.rstrip("/"))
    into_target = kind == "directory" and contents_only
    if not into_target and (_host_kind(target) == "directory" or text.endswith("/")):
        target = target / name
    if kind == "directory" and _host_kind(target) == "directory":
        await VsockFiles.pull(vsock_path, guest_path, target, excludes=excludes, on_bytes=on_bytes)
        return target
    with _staged(target) as staging:
        await VsockFiles.pull(vsock_path, guest_path, staging, excludes=excludes, on_bytes=on_bytes)
        whole = staging if kind == "directory" else _only_file(staging)
        try:
            os.replace(whole, target)
        except OSError as error:
            raise _failed(f"cannot put {target} in its place: {error.strerror}") from error
    return target


async def guest_kind(vsock_path: str | os.PathLike[str], guest_path: str) -> Kind:
    """What is at `guest_path`, links followed; ExecError if the guest does not answer."""
    result = await VsockExec.run(vsock_path, ["/bin/sh", "-c", _KIND_SCRIPT, "kind", guest_path])
    match result.stdout.strip():
        case "directory" | "file" | "none" as kind:
            return kind
        case _:
            raise _failed(f"the guest cannot say what {guest_path} is: {result.stderr.strip()}")


@contextmanager
def _staged(target: Path) -> Generator[Path]:
    """An empty directory beside `target`; gone afterwards unless it was moved away."""
    staging = target.with_name(f".machinen-cp-{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir(mode=0o700)
    except OSError as error:
        raise _failed(f"cannot write to {target.parent}: {error.strerror}") from error
    try:
        yield staging
    finally:
        remove_tree(staging)


def _only_file(directory: Path) -> Path:
    """The one plain file the guest was asked for: it may have sent anything."""
    entries = list(directory.iterdir())
    if len(entries) != 1 or not stat.S_ISREG(entries[0].lstat().st_mode):
        raise _failed("the guest did not send the plain file it was asked for")
    return entries[0]


def _host_kind(path: Path) -> Kind:
    if path.is_dir():
        return "directory"
    return "file" if path.exists() else "none"


def _require(recursive: bool, what: Path | str) -> None:
    if not recursive:
        raise _failed(f"{what} is a directory: copy it with -r")


class _FileStream(ByteReceiveStream):
    """A file of the host as a stream; reading happens in a thread, a disk may be slow."""

    def __init__(self, path: Path, on_bytes: OnBytes) -> None:
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise _failed(f"cannot read {path}: {error.strerror}") from error
        self._on_bytes = on_bytes
        self._status = os.fstat(self._file.fileno())
        self.mode = stat.S_IMODE(self._status.st_mode) & 0o777

    async def put(
        self, vsock_path: str | os.PathLike[str], guest_path: str, options: WriteFileOptions
    ) -> bool:
        """Write it into the guest past this process; False if that is not worth it, or no way."""
        from machinen_runtime.put_file import LEAST_BYTES, put_guest_file

        if not stat.S_ISREG(self._status.st_mode) or self._status.st_size < LEAST_BYTES:
            return False
        descriptor = self._file.fileno()
        try:
            if await put_guest_file(vsock_path, guest_path, descriptor, options, self._on_bytes):
                return True
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise _failed(f"cannot read the file: {error.strerror}") from error
        self._file.seek(0)
        return False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes of the file."""
        data = await to_thread.run_sync(self._file.read, max_bytes)
        if not data:
            raise anyio.EndOfStream
        self._on_bytes(len(data))
        return data

    async def aclose(self) -> None:
        """Close the file."""
        self._file.close()


def _failed(message: str) -> FilesError:
    return FilesError(ErrorCode.FILES_TRANSFER_FAILED, message)
