"""Every directory we own, and the variable that moves it.

Short-lived sockets go below the runtime directory (a Unix socket's path may have 107 bytes,
unix(7)), everything big or lasting below `~/.machinen` and the cache. Directories are made 0700 by
whoever first needs them, through `ensure_private_dir`.
"""

from __future__ import annotations

import os
from pathlib import Path

MAX_SOCKET_PATH_BYTES = 107


def ensure_private_dir(path: Path) -> Path:
    """Make `path` and its parents if missing, mode 0700, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, contents: str | bytes) -> None:
    """Write `path`, mode 0600, so that a reader sees the old contents or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(contents.encode("utf-8") if isinstance(contents, str) else contents)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def home_root() -> Path:
    """`~/.machinen`, or `MACHINEN_HOME`: everything below moves with it."""
    return _from_env("MACHINEN_HOME") or Path.home() / ".machinen"


def registry_root_path() -> Path:
    """The registry of live VMs: `~/.machinen/vms`, or `MACHINEN_REGISTRY_DIR`."""
    return _from_env("MACHINEN_REGISTRY_DIR") or home_root() / "vms"


def state_root() -> Path:
    """One directory per live VM with its overlays, console log and stats.

    `~/.machinen/machines`, or `MACHINEN_STATE_DIR`.
    """
    return _from_env("MACHINEN_STATE_DIR") or home_root() / "machines"


def bases_root() -> Path:
    """Kernel, modules and base root per release: `~/.machinen/bases`."""
    return home_root() / "bases"


def logs_root() -> Path:
    """Boot logs of detached VMs: `~/.machinen/logs`, or `MACHINEN_DETACHED_LOG_DIR`."""
    return _from_env("MACHINEN_DETACHED_LOG_DIR") or home_root() / "logs"


def crashes_root() -> Path:
    """Reports of sandboxes that ended unexpectedly: `~/.machinen/crashes`.

    `MACHINEN_CRASHES_DIR` moves it.
    """
    return _from_env("MACHINEN_CRASHES_DIR") or home_root() / "crashes"


def snapshots_root() -> Path:
    """Where snapshots go that nobody named a place for: `~/.machinen/snapshots`.

    `MACHINEN_SNAPSHOTS_DIR` moves it.
    """
    return _from_env("MACHINEN_SNAPSHOTS_DIR") or home_root() / "snapshots"


def cache_root() -> Path:
    """What can be made again: `~/.cache/machinen`.

    `XDG_CACHE_HOME` moves the part before `machinen`, `MACHINEN_CACHE_DIR` the whole.
    """
    if explicit := _from_env("MACHINEN_CACHE_DIR"):
        return explicit
    return (_from_env("XDG_CACHE_HOME") or Path.home() / ".cache") / "machinen"


def runtime_root() -> Path:
    """Sockets, one directory per live VM: `$XDG_RUNTIME_DIR/machinen`.

    By default below `/run/user/<uid>`, or `/tmp` where that is missing; `MACHINEN_RUNTIME_DIR`
    overrides.
    """
    if explicit := _from_env("MACHINEN_RUNTIME_DIR"):
        return explicit
    if xdg := _from_env("XDG_RUNTIME_DIR"):
        return xdg / "machinen"
    run_user = Path(f"/run/user/{os.getuid()}")
    if run_user.is_dir() and os.access(run_user, os.W_OK):
        return run_user / "machinen"
    return Path(f"/tmp/machinen-{os.getuid()}")


def remove_tree(path: Path) -> bool:
    """Remove a file or a directory with all in it; False if something of it is still there."""
    import shutil  # here: every command imports this file, few remove a tree

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return False
    return not os.path.lexists(path)


def is_ours(path: Path) -> bool:
    """Whether `path` lies strictly below a directory of ours or the one for temporary files.

    What a registry file names is only ever removed if it does: the file may be damaged.
    """
    try:
        if not path.is_absolute() or path.name in ("", ".."):
            return False
        real = path.parent.resolve() / path.name
        own = (home_root(), state_root(), logs_root(), cache_root(), runtime_root())
        roots = [root.resolve() for root in own]
        if any(real == root or real in root.parents for root in (*roots, registry_root_path())):
            return False
        temporary = Path(os.environ.get("TMPDIR") or "/tmp").resolve()
        return any(root in real.parents for root in (*roots, temporary))
    except (OSError, RuntimeError, ValueError):
        return False


def _from_env(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value).absolute() if value else None
