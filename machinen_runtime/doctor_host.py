"""What the host has to offer: directories, memory, disk, limits; and what dead VMs left."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from pathlib import Path

import psutil

from machinen_runtime import paths
from machinen_runtime.doctor_check import Check, CheckStatus
from machinen_runtime.errors import MachinenError
from machinen_runtime.gc import run_gc
from machinen_runtime.memory import available_bytes, read_host_rss_bytes
from machinen_runtime.standby import VARIABLE, least_available_bytes, wanted_count
from machinen_runtime.standbys import list_standbys
from machinen_runtime.template_cache import list_templates
from vmm.requests import VSOCK_SOCKET

_MIB = 1 << 20
_GIB = 1 << 30
_LEAST_MEMORY_BYTES = 512 * _MIB
_LEAST_DISK_BYTES = 256 * _MIB
_GOOD_DISK_BYTES = 2 * _GIB
_LEAST_SHM_BYTES = 64 * _MIB
_LEAST_OPEN_FILES = 256
_GOOD_OPEN_FILES = 1024
_LONGEST_SOCKET = f"12345678/{VSOCK_SOCKET}_4294967295"
"""Below the runtime directory: a VM's id and the socket for what its guest dials."""


def check_host() -> list[Check]:
    """Directories first, then amounts, then leftovers."""
    directories = {
        "registry": paths.registry_root_path(),
        "state directory": paths.state_root(),
        "cache directory": paths.cache_root(),
        "log directory": paths.logs_root(),
        "runtime directory": paths.runtime_root(),
    }
    return [
        *(check_directory(name, path) for name, path in directories.items()),
        check_socket_path(paths.runtime_root()),
        check_disk(paths.state_root()),
        check_memory(psutil.virtual_memory().available),
        check_shared_memory(Path("/dev/shm")),
        check_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        _check_leftovers(),
        check_templates(),
        check_standbys(),
    ]


def check_directory(name: str, path: Path) -> Check:
    """Whether we may make and remove files in `path`, and nobody else may."""
    needed_for = "every sandbox"
    existing = _nearest_existing(path)
    info = existing.stat()
    fix = f"remove {existing}, give it to your user, or set another directory (see README)"
    status: CheckStatus = "ok"
    if not stat.S_ISDIR(info.st_mode):
        status, found = "failed", f"{existing} is no directory"
    elif existing == path and info.st_uid != os.geteuid():
        status, found = "failed", f"{path} belongs to user id {info.st_uid}"
    elif not os.access(existing, os.W_OK | os.X_OK):
        status, found = "failed", f"{existing} may not be written to"
    elif existing == path and info.st_mode & 0o022:
        status, found = "failed", f"others may write to {path}"
        fix = f"chmod go-w {path}"
    else:
        found = str(path) if existing == path else f"{path} (made when needed)"
    return Check(
        name=name,
        status=status,
        found=found,
        needed_for=needed_for,
        fix=None if status == "ok" else fix,
        path=str(path),
    )


def check_socket_path(runtime_root: Path) -> Check:
    """Whether a VM's longest socket path fits the kernel's limit, unix(7)."""
    length = len(os.fsencode(runtime_root / _LONGEST_SOCKET))
    fits = length <= paths.MAX_SOCKET_PATH_BYTES
    return Check(
        name="socket paths",
        status="ok" if fits else "failed",
        found=f"up to {length} of {paths.MAX_SOCKET_PATH_BYTES} bytes",
        needed_for="talking to a sandbox",
        fix=None if fits else "set MACHINEN_RUNTIME_DIR to a directory with a shorter path",
        path=str(runtime_root),
    )


def check_disk(state_root: Path) -> Check:
    """Free space where overlays and snapshots go."""
    free = shutil.disk_usage(_nearest_existing(state_root)).free
    return _amount(
        "free disk",
        free,
        (_LEAST_DISK_BYTES, _GOOD_DISK_BYTES),
        "overlays and snapshots",
        f"free some space, or set MACHINEN_STATE_DIR to a bigger disk than that of {state_root}",
    )


def check_memory(available_bytes: int) -> Check:
    """Memory the host can give without swapping."""
    return _amount(
        "free memory",
        available_bytes,
        (_LEAST_MEMORY_BYTES, 2 * _LEAST_MEMORY_BYTES),
        "the RAM of guests",
        "stop sandboxes or other programs; a sandbox wants 512 MiB at first",
    )


def check_shared_memory(shm: Path) -> Check:
    """Size of the shared-memory file system: containers often get 64 MiB only."""
    try:
        total = shutil.disk_usage(shm).total
    except OSError as error:
        return Check(
            name="shared memory",
            status="warning",
            found=f"{shm}: {error.strerror}",
            needed_for="other programs; our guests' RAM does not live there",
            fix=f"mount a tmpfs on {shm}",
        )
    return _amount(
        "shared memory",
        total,
        (0, _LEAST_SHM_BYTES),
        "other programs; our guests' RAM does not live there",
        f"make {shm} larger (in a container: --shm-size)",
    )


def check_open_files(soft_limit: int) -> Check:
    """How many files one of our processes may have open."""
    if soft_limit == resource.RLIM_INFINITY:
        return Check(
            name="open files", status="ok", found="no limit", needed_for="many streams at once"
        )
    status: CheckStatus = "ok"
    if soft_limit < _GOOD_OPEN_FILES:
        status = "warning" if soft_limit >= _LEAST_OPEN_FILES else "failed"
    return Check(
        name="open files",
        status=status,
        found=f"limit {soft_limit}",
        needed_for="many streams at once",
        fix=None if status == "ok" else f"raise it: ulimit -n {_GOOD_OPEN_FILES}",
    )


def _amount(
    name: str, have_bytes: int, least_and_good: tuple[int, int], needed_for: str, fix: str
) -> Check:
    least, good = least_and_good
    status: CheckStatus = "ok"
    if have_bytes < good:
        status = "warning" if have_bytes >= least else "failed"
    found = f"{have_bytes / _GIB:.1f} GiB"
    return Check(
        name=name,
        status=status,
        found=found,
        needed_for=needed_for,
        fix=None if status == "ok" else fix,
    )


def _check_leftovers() -> Check:
    needed_for = "a tidy disk"
    try:
        dead = run_gc(dry_run=True)
    except (MachinenError, OSError) as error:
        return Check(
            name="leftovers",
            status="warning",
            found=f"cannot tell: {error}",
            needed_for=needed_for,
            fix="run `machinen gc` to see what stands in the way",
        )
    if not dead:
        return Check(name="leftovers", status="ok", found="none", needed_for=needed_for)
    return Check(
        name="leftovers",
        status="warning",
        found=f"of {len(dead)} dead sandbox{'es' if len(dead) > 1 else ''}",
        needed_for=needed_for,
        fix="run `machinen gc`",
    )


def check_templates() -> Check:
    """Whether what warm boots start from is whole: every byte of it is read."""
    found = list_templates(check=True)
    damaged = [each for each in found if each.problem is not None]
    mib = sum(each.size_bytes for each in found) // _MIB
    text = f"{len(found)}, {mib} MiB" if found else "none yet"
    return Check(
        name="templates",
        status="warning" if damaged else "ok",
        found=f"{text}; {len(damaged)} damaged" if damaged else text,
        needed_for="warm boots",
        fix="run `machinen cache prune`" if damaged else None,
    )


def check_standbys() -> Check:
    """Whether machines wait for the next boot, and what they cost."""
    found = list_standbys()
    text = "none now"
    if found:
        mib = sum(read_host_rss_bytes(each.pid) or 0 for each in found) // _MIB
        text = f"{len(found)}, {mib} MiB of memory"
    elif not wanted_count():
        text = f"none: {VARIABLE} is 0"
    elif available_bytes() < 2 * least_available_bytes():
        text = "none: the host has little memory left"
    return Check(name="standbys", status="ok", found=text, needed_for="boots in a blink")


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
