"""Which pages of guest RAM were written since the last snapshot: the kernel keeps the list.

QEMU's RAM is registered with a userfaultfd of QEMU's own (vmm/private_ram.c opens it) for write
protection that the kernel lifts by itself (UFFD_FEATURE_WP_ASYNC, Linux 6.7): a page that was
protected and is not any more was written in between. Nobody is woken, a write after a snapshot
costs one fault of the processor's. Sources: Documentation/admin-guide/mm/userfaultfd.rst,
linux/userfaultfd.h.

So the next image is the last one and what was written since, and most of that is copied while the
guest runs: what it writes meanwhile is found and copied again once it stands still.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from dataclasses import dataclass, replace

from vmm.ram_pages import PAGE_BYTES, RamMap, Run, scan_written

_UFFD_API, _UFFDIO_API, _UFFDIO_REGISTER = 0xAA, 0xC018AA3F, 0xC020AA00
_FEATURE_PAGEFAULT_FLAG_WP, _FEATURE_WP_ASYNC = 1 << 0, 1 << 15
_REGISTER_MODE_WP = 1 << 1
_API_ARG, _REGISTER_ARG = struct.Struct("<3Q"), struct.Struct("<4Q")
_PIDFD_GETFD = 438
_LINK = "anon_inode:[userfaultfd]"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _LastImage:
    """What the last snapshot wrote: open, and as it was when it was written."""

    descriptor: int
    modified_ns: int
    size: int


class WriteTracker:
    """Tracks the QEMU `pid`, which is our child. Close it with the VM."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._userfault: int | None = None
        self._refused = False
        self._last: _LastImage | None = None

    def close(self) -> None:
        """Let go of what is open; the kernel stops to track with QEMU's end."""
        self._forget()
        if self._userfault is not None:
            os.close(self._userfault)
            self._userfault = None

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last.descriptor)
            self._last = None

    def keep(self, image: int) -> None:
        """Build the next image on this one, which holds all that was written until now.

        It is kept open, so its room on the disk is given back with the next one, or with the VM.
        """
        self._forget()
        if self._userfault is None:
            return
        status = os.fstat(image)
        self._last = _LastImage(os.dup(image), status.st_mtime_ns, status.st_size)

    def take_base(self) -> int | None:
        """The last image, for the caller to close; None if there is none, or it was changed.

        It is forgotten: if no new one is kept, the next begins with all there is.
        """
        last, self._last = self._last, None
        if last is None:
            return None
        status = os.fstat(last.descriptor)
        if (status.st_mtime_ns, status.st_size) == (last.modified_ns, last.size):
            return last.descriptor
        os.close(last.descriptor)
        return None

    def protect(self, ram: RamMap) -> list[Run] | None:
        """What was written since the last call: at the first, all pages QEMU has of its own.

        None if the kernel does not track, or QEMU came without the means.
        """
        if not self._begin(ram):
            return None
        return scan_written(ram, protect=True)

    def written(self, ram: RamMap) -> list[Run]:
        """What was written since `protect`, which must have told something."""
        return scan_written(ram, protect=False)

    def _begin(self, ram: RamMap) -> bool:
        """Have the kernel track all of guest RAM from now on."""
        if self._userfault is not None:
            return True
        if self._refused:
            return False
        self._refused = True
        userfault = self._take_descriptor()
        if userfault is None:
            return False
        features = _FEATURE_PAGEFAULT_FLAG_WP | _FEATURE_WP_ASYNC
        where = _REGISTER_ARG.pack(ram.start, ram.size, _REGISTER_MODE_WP, 0)
        try:
            fcntl.ioctl(userfault, _UFFDIO_API, bytearray(_API_ARG.pack(_UFFD_API, features, 0)))
            fcntl.ioctl(userfault, _UFFDIO_REGISTER, bytearray(where))
            scan_written(replace(ram, size=PAGE_BYTES), protect=False)
        except OSError:  # before Linux 6.7
            os.close(userfault)
            return False
        self._userfault = userfault
        return True

    def _take_descriptor(self) -> int | None:
        """Our own copy of QEMU's userfaultfd, pidfd_getfd(2)."""
        for name in os.listdir(f"/proc/{self._pid}/fd"):
            try:
                if os.readlink(f"/proc/{self._pid}/fd/{name}") != _LINK:
                    continue
            except FileNotFoundError:  # closed meanwhile
                continue
            pidfd = os.pidfd_open(self._pid)
            try:
                descriptor = _libc.syscall(_PIDFD_GETFD, pidfd, int(name), 0)
            finally:
                os.close(pidfd)
            return descriptor if descriptor >= 0 else None
        return None
