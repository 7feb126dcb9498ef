"""The shared directory on the host, and the one way to reach anything in it.

Every path is walked afresh from the root's descriptor, and no component may be a link, so the walk
cannot leave the root whatever the host or the guest does to the tree meanwhile: openat2 with
RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, or an equal walk where the kernel has no openat2 or a
container forbids it. Links are answered to the guest as links; its own kernel follows them, in
its own world.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from vmm.errors import VmmError
from vmm.fuse_syscalls import open_beneath

DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
ANY: Final = os.O_PATH | os.O_NOFOLLOW
_MAX_PATH_BYTES: Final = 4000
"""Below PATH_MAX: deeper places are walked in steps."""
_ESCAPES: Final = frozenset({errno.EXDEV, errno.ELOOP, errno.ENOTDIR})
"""What a link on the way answers, or a file where a directory was."""


class ContainedRoot:
    """A directory that nothing asked of it leaves."""

    def __init__(self, root: Path, *, use_openat2: bool = True) -> None:
        """Open the root; it may be a link itself.

        Raises:
            VmmError: MOUNT_PATH_INVALID if it is no absolute path of a directory.
        """
        if not root.is_absolute() or "\0" in str(root):
            raise VmmError(
                "MOUNT_PATH_INVALID", f"a live mount needs an absolute host directory, not {root}"
            )
        try:
            self.fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise VmmError(
                "MOUNT_PATH_INVALID", f"cannot share {root}: {error.strerror}; name a directory"
            ) from error
        self._use_openat2 = use_openat2
        self.status = os.fstat(self.fd)

    def close(self) -> None:
        """Close the root; nothing can be reached any more."""
        os.close(self.fd)

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor of a path below the root; b"" is the root itself. The caller closes it.

        Raises:
            OSError: ENOENT also for a path that would lead out or through a link.
        """
        if not path:
            return os.dup(self.fd)
        try:
            if self._use_openat2:
                return self._open_steps(_long_steps(path), flags)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise
            self._use_openat2 = False
        return self._open_steps(path.split(b"/"), flags)

    def _open_steps(self, steps: list[bytes], flags: int) -> int:
        """Open one step after the other, each in the directory before it."""
        current = self.fd
        try:
            for step in steps[:-1]:
                below = self._open_step(current, step, DIRECTORY)
                self._leave(current)
                current = below
            return self._open_step(current, steps[-1], flags)
        finally:
            self._leave(current)

    def _leave(self, fd: int) -> None:
        if fd != self.fd:
            os.close(fd)

    def _open_step(self, directory_fd: int, step: bytes, flags: int) -> int:
        try:
            if self._use_openat2:
                return open_beneath(directory_fd, step, flags)
            return os.open(step, flags, dir_fd=directory_fd)
        except OSError as error:
            if error.errno in _ESCAPES:
                raise OSError(errno.ENOENT, "a path that leads out of the root") from error
            raise


def _long_steps(path: bytes) -> list[bytes]:
    """The path in as few pieces as the kernel takes."""
    steps: list[bytes] = []
    while len(path) > _MAX_PATH_BYTES:
        step, _, rest = path[:_MAX_PATH_BYTES].rpartition(b"/")
        steps.append(step)
        path = rest + path[_MAX_PATH_BYTES:]
    return [*steps, path]
