"""`machinen install`: kernel, modules, base root and base disk, step by step and resumable.

A step is done when its record in `.steps/` has today's recipe and its outputs are as it left them.
Outputs are written under a temporary name and renamed, so an interrupted run leaves whole files and
temporary directories, and the next run removes the latter. Nothing is fetched when all is done.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from machinen_runtime.assets import (
    DEFAULT_RELEASE,
    META,
    MODULES_DIR,
    MODULES_LIST,
    MOUNT_MODULES_DIR,
    ROOTFS_DISK,
    ROOTFS_TARBALL,
    default_base_dir,
)
from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.install_apt import OnProgress, PrivateApt, find_mirror
from machinen_runtime.install_kernel import (
    INITRAMFS_MODULES,
    MOUNT_MODULES,
    collect_modules,
    extract_kernel,
)
from machinen_runtime.install_progress import StepReport
from machinen_runtime.install_rootfs import GUEST_FILES, PACKAGES, build_base_root
from machinen_runtime.install_workdir import enterable_dir
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.paths import ensure_private_dir, write_atomically
from machinen_runtime.rootfs_image import DEFAULT_MIN_SIZE_BYTES, build_rootfs_image
from vmm.arch import host_arch
from vmm.confined_tool import Confines, complaint_of, run_confined

_RECIPE_VERSION = 1
"""Raised when a step comes to do something else, so that machines with the old result redo it."""

STEPS = {
    "kernel": "Kernel and modules",
    "root": "Base root",
    "disk": "Base disk",
    "mounts": "Modules for mounts",
}
"""Each step's name and what people call it, in order; a later one uses what an earlier one made."""

MIN_DISK_BYTES = DEFAULT_MIN_SIZE_BYTES
_STEPS_DIR = ".steps"
_KERNEL_TREE = ".kernel"
_MODULES_VERSION = "version"
_MODULES_TREE = "usr/lib/modules"
_TMP_PREFIX = ".tmp-"


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What an install found or made."""

    base_dir: Path
    changed: bool
    """False if everything was there already."""
    meta: dict[str, Any]
    """The contents of meta.json."""


def install(
    *, release: str = DEFAULT_RELEASE, force: bool = False, console: Console | None = None
) -> InstallResult:
    """Make sure the base of `release` is complete; builds what is missing.

    Args:
        force: build everything again, with the packages of today.
        console: where progress is drawn; standard error by default.

    Raises:
        ProvisionError: what failed, and whether trying again may help; retryable also while
            another install is at work.
    """
    base_dir = default_base_dir(release)
    if not force and is_complete(base_dir, release):
        return InstallResult(base_dir, False, read_meta(base_dir))
    ensure_private_dir(base_dir)
    with install_lock(base_dir), StepReport(console or Console(stderr=True)) as report:
        _remove_temporaries(base_dir)
        if force:
            shutil.rmtree(base_dir / _STEPS_DIR, ignore_errors=True)
        with _temporary_dir(base_dir) as work_dir:
            _Installer(base_dir, release, report).run(work_dir)
    return InstallResult(base_dir, True, read_meta(base_dir))


def is_complete(base_dir: Path, release: str = DEFAULT_RELEASE) -> bool:
    """Whether every step of the base is done. Compares sizes and times only."""
    return all(is_step_done(base_dir, step, release) for step in STEPS) and bool(
        read_meta(base_dir)
    )


def read_meta(base_dir: Path) -> dict[str, Any]:
    """meta.json, or nothing if it is missing or torn."""
    try:
        meta = json.loads((base_dir / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}  # pyright: ignore[reportUnknownVariableType]


@contextmanager
def install_lock(base_dir: Path) -> Generator[None]:
    """Hold the lock of one base; the kernel frees it if we die. Raises if another run holds it."""
    with (base_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ProvisionError(
                ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
                f"another `machinen install` is at work (pid {lock.read().strip() or '?'}): "
                "wait for it to finish",
                retryable=True,
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


class _Installer:
    """One run over one base directory, under its lock."""

    def __init__(self, base_dir: Path, release: str, report: StepReport) -> None:
        self._base_dir = base_dir
        self._release = release
        self._report = report
        self._arch = host_arch()
        self._kernel_tree = base_dir / _KERNEL_TREE

    def run(self, work_dir: Path) -> None:
        """Do what is not done yet. `work_dir`: an empty directory beside the base."""
        done = {step: is_step_done(self._base_dir, step, self._release) for step in STEPS}
        # The root holds the kernel's modules, so both are made from one unpacked package.
        if done["root"] or self._kernel_tree.is_dir():
            self._step("kernel", done["kernel"], self._make_kernel, work_dir)
        else:
            self._step("kernel", False, self._make_kernel, work_dir)
        self._step("root", done["kernel"] and done["root"], self._make_root, work_dir)
        base_done = done["kernel"] and done["root"]
        self._step("disk", base_done and done["disk"], self._make_disk, work_dir)
        self._step("mounts", base_done and done["mounts"], self._make_mount_modules, work_dir)
        shutil.rmtree(self._kernel_tree, ignore_errors=True)
        self._write_meta()

    def _step(
        self,
        name: str,
        done: bool,
        make: Callable[[Path, OnProgress], Sequence[str]],
        work_dir: Path,
    ) -> None:
        title = STEPS[name]
        if done:
            self._report.already_done(title)
            return
        record = self._base_dir / _STEPS_DIR / f"{name}.json"
        record.unlink(missing_ok=True)
        with self._report.step(title) as on_progress:
            outputs = make(work_dir, on_progress)
        described = {output: _describe(self._base_dir / output) for output in outputs}
        ensure_private_dir(record.parent)
        _write_json(record, {"recipe": _recipe(name, self._release), "outputs": described})

    def _make_kernel(self, work_dir: Path, on_progress: OnProgress) -> Sequence[str]:
        tree = self._fetch_kernel(work_dir, on_progress)
        (vmlinuz,) = tree.glob("boot/vmlinuz-*")
        kernel_version = vmlinuz.name.removeprefix("vmlinuz-")
        kernel = work_dir / self._arch.kernel_file
        kernel.write_bytes(extract_kernel(vmlinuz.read_bytes(), self._arch.name))
        modules_dir = work_dir / MODULES_DIR
        _write_modules(modules_dir, collect_modules(tree / _MODULES_TREE / kernel_version))
        (modules_dir / _MODULES_VERSION).write_text(f"{kernel_version}\n", encoding="utf-8")
        outputs = [kernel.name, *(f"{MODULES_DIR}/{path.name}" for path in modules_dir.iterdir())]
        for new in (tree, kernel, modules_dir):
            self._publish(new)
        return outputs

    def _fetch_kernel(self, work_dir: Path, on_progress: OnProgress) -> Path:
        """Debian's current cloud kernel, unpacked below `work_dir`."""
        apt = PrivateApt(work_dir / "apt", self._release, self._arch.name)
        apt.update(find_mirror())
        on_progress(0.2)
        packages = work_dir / "packages"
        packages.mkdir()
        name = apt.concrete_kernel(self._arch.kernel_package)
        package = apt.download(name, packages, lambda share: on_progress(0.2 + share * 0.6))
        tree = work_dir / _KERNEL_TREE
        tree.mkdir()
        _run(["dpkg-deb", "--extract", str(package), str(tree)], package, tree)
        on_progress(0.9)
        return tree

    def _make_root(self, work_dir: Path, on_progress: OnProgress) -> Sequence[str]:
        mirror = find_mirror()
        apt = PrivateApt(work_dir / "apt", self._release, self._arch.name)
        tarball = work_dir / ROOTFS_TARBALL
        with enterable_dir(self._base_dir.name) as enterable:
            build_base_root(
                tarball,
                release=self._release,
                mirror=apt.update(mirror),
                kernel_tree=self._kernel_tree,
                kernel_version=installed_kernel_version(self._base_dir),
                work_dir=enterable,
                on_progress=on_progress,
            )
        self._publish(tarball)
        return [ROOTFS_TARBALL]

    def _make_disk(self, work_dir: Path, on_progress: OnProgress) -> Sequence[str]:
        """Each build has a name of its own, linked from a fixed one: overlays record the former."""
        new = work_dir / ROOTFS_DISK
        build_rootfs_image(
            self._base_dir / ROOTFS_TARBALL,
            new,
            min_size_bytes=MIN_DISK_BYTES,
            on_phase=lambda phase, ms: on_progress(0.5 if phase == "tar-extract" else 0.8),
        )
        disk = new.rename(work_dir / f"rootfs-{secrets.token_hex(8)}.ext4")
        disk.chmod(0o444)
        self._publish(disk)
        link = work_dir / ROOTFS_DISK
        link.symlink_to(disk.name)
        self._publish(link)
        return [ROOTFS_DISK]

    def _make_mount_modules(self, work_dir: Path, on_progress: OnProgress) -> Sequence[str]:
        """From the unpacked kernel, or from the base root, which has all modules too."""
        tree = self._kernel_tree
        if not tree.is_dir():
            tree = work_dir / "root-modules"
            tree.mkdir()
            tarball = self._base_dir / ROOTFS_TARBALL
            wanted = ["--wildcards", f"*{_MODULES_TREE}/*"]
            _run(
                ["tar", "-xf", str(tarball), "-C", str(tree), "--no-same-owner", *wanted],
                tarball,
                tree,
            )
        on_progress(0.8)
        version = installed_kernel_version(self._base_dir)
        modules_dir = work_dir / MOUNT_MODULES_DIR
        _write_modules(modules_dir, collect_modules(tree / _MODULES_TREE / version, MOUNT_MODULES))
        outputs = [f"{MOUNT_MODULES_DIR}/{path.name}" for path in modules_dir.iterdir()]
        self._publish(modules_dir)
        return outputs

    def _publish(self, new: Path) -> None:
        """Move a finished file or directory to its place in the base."""
        target = self._base_dir / new.name
        if target.is_dir() and not target.is_symlink():
            target.rename(new.with_name(new.name + ".old"))
        new.replace(target)

    def _write_meta(self) -> None:
        outputs = {
            name: {"sha256": output["sha256"], "size_bytes": output["size_bytes"]}
            for step in STEPS
            for name, output in _read_record(self._base_dir, step)["outputs"].items()
        }
        meta = {
            "schema_version": 1,
            "release": self._release,
            "arch": self._arch.name,
            "kernel_version": installed_kernel_version(self._base_dir),
            "disk": (self._base_dir / ROOTFS_DISK).resolve().name,
            "assets": dict(sorted(outputs.items())),
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "made_by": f"machinen {_own_version()}",
        }
        _write_json(self._base_dir / META, meta)


def _write_modules(directory: Path, modules: dict[str, bytes]) -> None:
    """Each module as a file, and their loading order."""
    directory.mkdir()
    for name, data in modules.items():
        (directory / f"{name}.ko").write_bytes(data)
    load_list = "".join(f"{name}.ko\n" for name in modules)
    (directory / MODULES_LIST).write_text(load_list, encoding="utf-8")


def _own_version() -> str:
    try:
        return version("machinen")
    except PackageNotFoundError:
        return "from a source tree"


def installed_kernel_version(base_dir: Path) -> str:
    """The release of the installed guest kernel, as `uname -r` will say in the guest."""
    return (base_dir / MODULES_DIR / _MODULES_VERSION).read_text(encoding="utf-8").strip()


def is_step_done(base_dir: Path, step: str, release: str) -> bool:
    """Whether the step's record fits today's recipe and its outputs."""
    try:
        record = _read_record(base_dir, step)
        return record["recipe"] == _recipe(step, release) and all(
            _is_unchanged(base_dir / name, output) for name, output in record["outputs"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _recipe(step: str, release: str) -> str:
    """A hash of all that decides what a step makes, other than the packages of the day."""
    ingredients = {
        "kernel": INITRAMFS_MODULES,
        "root": (*PACKAGES, *sorted(GUEST_FILES.items())),
        "disk": (),
        "mounts": MOUNT_MODULES,
    }[step]
    text = json.dumps([_RECIPE_VERSION, step, release, ingredients])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_record(base_dir: Path, step: str) -> dict[str, Any]:
    return json.loads((base_dir / _STEPS_DIR / f"{step}.json").read_text(encoding="utf-8"))


def _describe(path: Path) -> dict[str, Any]:
    info = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size_bytes": info.st_size, "mtime_ns": info.st_mtime_ns}


def _is_unchanged(path: Path, described: dict[str, Any]) -> bool:
    """Whether size and time are still as described; the hash would take seconds."""
    info = path.stat()
    return [info.st_size, info.st_mtime_ns] == [described["size_bytes"], described["mtime_ns"]]


def _write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def _temporary_dir(base_dir: Path) -> Generator[Path]:
    with tempfile.TemporaryDirectory(dir=base_dir, prefix=_TMP_PREFIX) as directory:
        yield Path(directory)


def _remove_temporaries(base_dir: Path) -> None:
    for leftover in base_dir.glob(f"{_TMP_PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _run(argv: Sequence[str], source: Path, tree: Path) -> None:
    """Unpack `source` into `tree`, which is there."""
    try:
        run_confined(argv, Confines(wanted=confinement_wanted(), reads=[source], writes=[tree]))
    except FileNotFoundError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED, f"{argv[0]} is missing: install it"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
            f"{argv[0]} failed: {complaint_of(error)[-1000:]}",
        ) from error
