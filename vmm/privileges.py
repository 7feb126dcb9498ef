"""What a process of ours may not do any more: capabilities, new privileges, core dumps.

prctl(2), capabilities(7), capset(2), through libc. Numbers are those of linux/prctl.h and
linux/capability.h.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID = range(5)
CAP_SETGID, CAP_SETUID, CAP_SETPCAP = 6, 7, 8
CAP_NET_BIND_SERVICE = 10
CAP_MKNOD, CAP_SETFCAP = 27, 31
MONITOR_CAPS = frozenset(
    {
        *(CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID),
        *(CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_BIND_SERVICE),
    }
)
"""What root's monitor keeps: files of others (bundles, live mounts), ports below 1024; the rest is
for its children, who get rid of what they have, passt of being root too."""

_PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAP = 63

libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), all of whose arguments are longs.

    Raises:
        OSError: as prctl says.
    """
    longs = [ctypes.c_long(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return checked(libc.prctl(option, *longs), f"prctl {option}")


def checked(result: int, what: str) -> int:
    """The result of a call into libc; OSError if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def die_with_parent(parent: int) -> None:
    """Get SIGKILL when the parent, which shall be `parent`, ends; end at once if it has ended."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def allow_no_new_privileges() -> None:
    """From here on no program that is run has more rights than we do."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_core_dumps() -> None:
    """A core would hold the guest's memory, or a workload's secrets."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep_capabilities(kept: Iterable[int]) -> None:
    """Lose every capability that is not in `kept`, for good; we gain none.

    Raises:
        OSError: the kernel refuses; cannot be.
    """
    wanted = sum(1 << cap for cap in set(kept))
    if has_capability(CAP_SETPCAP):
        for cap in range(_LAST_CAP + 1):
            if not _is_in_bounding_set(cap):
                break
            if not wanted >> cap & 1:
                prctl(_PR_CAPBSET_DROP, cap)
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _, permitted, _ = _capabilities()
    left = permitted & wanted
    _set_capabilities(left, left, 0)


def _is_in_bounding_set(cap: int) -> bool:
    """Whether it is there to be dropped; False past the last one the kernel knows."""
    return libc.prctl(_PR_CAPBSET_READ, *(ctypes.c_long(each) for each in (cap, 0, 0, 0))) >= 0


def has_capability(cap: int) -> bool:
    """Whether this capability is in effect."""
    return bool(_capabilities()[0] >> cap & 1)


@contextmanager
def without_capabilities() -> Generator[None]:
    """In this block this thread has the rights of its user id alone."""
    effective, permitted, inheritable = _capabilities()
    _set_capabilities(0, permitted, inheritable)
    try:
        yield
    finally:
        _set_capabilities(effective, permitted, inheritable)


def readable_without_capabilities(paths: Iterable[str]) -> bool:
    """Whether our user id suffices to read all of `paths` that exist."""
    existing = [path for path in paths if os.path.lexists(path)]
    with without_capabilities():
        return all(os.access(path, os.R_OK, effective_ids=True) for path in existing)


def leave_groups() -> None:
    """Root belongs to its own group alone from here on; nobody else could leave one."""
    if has_capability(CAP_SETGID):
        os.setgroups([])


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _capabilities() -> tuple[int, int, int]:
    """This thread's effective, permitted and inheritable capabilities as bits."""
    data = (ctypes.c_uint32 * 6)()
    header = _Header(_CAPABILITY_VERSION_3, 0)
    checked(libc.capget(ctypes.byref(header), data), "capget")
    effective, permitted, inheritable = (data[n] | data[n + 3] << 32 for n in range(3))
    return effective, permitted, inheritable


def _set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    words = (effective, permitted, inheritable)
    low, high = [word & 0xFFFFFFFF for word in words], [word >> 32 for word in words]
    header = _Header(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(*low, *high)
    checked(libc.capset(ctypes.byref(header), data), "capset")


def read_status(pid: int) -> dict[str, str]:
    """The fields of /proc/<pid>/status, proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
