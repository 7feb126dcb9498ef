"""PostgreSQL for guests: Debian's packages, fetched by this host's apt and unpacked for a push.

The base's own apt would take a guest under TCG minutes: it installs what a server needs beside the
programs (perl, locales, a compiler for queries). Here are the programs and the libraries that the
base lacks.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from machinen_runtime.assets import DEFAULT_RELEASE, resolve_base_rootfs
from machinen_runtime.install_apt import PrivateApt, find_mirror
from vmm.arch import host_arch

WANTED = "postgresql"
LEFT_OUT = re.compile(r"perl|llvm|libz3|locales|l10n|gdbm|-common|ssl-cert|ucf|utils|adduser")
"""What only Debian's wrappers and just-in-time compilation want."""
NOT_COPIED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/postgresql/*/man")


class _Apt(PrivateApt):
    """The host's apt, told what the base has."""

    def fetch(self, wanted: str, installed: bytes, directory: Path) -> None:
        """Download `wanted` and what it needs beyond `installed`, but what is LEFT_OUT."""
        (self._work_dir / "status").write_bytes(installed)
        plan = ["install", "--no-install-recommends", "--print-uris", "-y", wanted]
        shown = _output(self._argv("apt-get", *plan))
        names = [name for name in re.findall(r"^'[^']*/([^_/']+)_", shown, re.MULTILINE)]
        kept = [name for name in names if not LEFT_OUT.search(name) and name != wanted]
        _output(self._argv("apt-get", "download", *kept), directory)


def put_postgres(directory: Path, scratch: Path) -> None:
    """Fill `directory` with what PostgreSQL adds to the base's root; `scratch` is for packages."""
    apt = _Apt(scratch / "apt", DEFAULT_RELEASE, host_arch().name)
    apt.update(find_mirror())
    status = ["tar", "-xOf", resolve_base_rootfs(), "./var/lib/dpkg/status"]
    packages = scratch / "packages"
    packages.mkdir()
    installed = subprocess.run(status, check=True, capture_output=True).stdout
    apt.fetch(WANTED, installed, packages)
    for package in packages.iterdir():
        _output(["dpkg-deb", "--extract", str(package), str(directory)])
    for pattern in (*NOT_COPIED, "usr/lib/postgresql/*/lib/bitcode"):
        for path in directory.glob(pattern):
            shutil.rmtree(path)


def _output(argv: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=cwd).stdout
