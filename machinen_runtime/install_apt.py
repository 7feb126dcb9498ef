"""Debian packages for the guest, fetched by the host's own apt with sources of their own.

The host's proxies and credentials apply, its package state and pins do not. Which mirror: the one
the host is configured for, or `MACHINEN_DEBIAN_MIRROR` (and `MACHINEN_DEBIAN_SECURITY_MIRROR`), so
nothing here knows a registry by name.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.errors import ErrorCode, ProvisionError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

OnProgress = Callable[[float], None]
"""Told the share that is done, 0.0 to 1.0."""

_STABLE_ALIASES = frozenset({"stable", "oldstable", "testing", "unstable", "sid"})
_RELEASE_URI = re.compile(r"^'([^']*/)dists/([^/']+)/InRelease'", re.MULTILINE)
_MIRROR_POLICY = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where Debian's packages are, for the host and the guest alike."""

    uri: str
    security_uri: str | None
    policy: tuple[str, ...] = ()
    """apt.conf lines the host needs for this mirror, e.g. a frozen one whose dates have passed."""

    def sources(self, release: str) -> str:
        """A deb822 sources file with the release, its updates and its security updates."""
        stanzas = [(self.uri, f"{release} {release}-updates")]
        if self.security_uri is not None:
            stanzas.append((self.security_uri, f"{release}-security"))
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYRING}\n"
            for uri, suites in stanzas
        )


def find_mirror(os_release: Path = Path("/etc/os-release")) -> Mirror:
    """The mirror this host uses for Debian. Raises ProvisionError if it has none."""
    policy = tuple(_run(["apt-config", "dump", "--no-empty", *_MIRROR_POLICY]).splitlines())
    explicit = os.environ.get("MACHINEN_DEBIAN_MIRROR", "")
    if explicit:
        return Mirror(explicit, os.environ.get("MACHINEN_DEBIAN_SECURITY_MIRROR") or None, policy)
    # Knows the sources even where package lists were never fetched, unlike indextargets.
    index_uris = _run(["apt-get", "update", "--print-uris"])
    mirror = pick_mirror(os_release.read_text(encoding="utf-8"), index_uris, policy)
    if mirror is None:
        raise ProvisionError(
            ErrorCode.PROVISION_BASE_NOT_FOUND,
            "this host has no Debian package source to take the guest from: set "
            "MACHINEN_DEBIAN_MIRROR to a mirror's address and run `machinen install` again",
        )
    return mirror


def pick_mirror(os_release: str, index_uris: str, policy: tuple[str, ...] = ()) -> Mirror | None:
    """The Debian mirror among a host's sources; pure.

    Args:
        os_release: the text of os-release(5).
        index_uris: what `apt-get update --print-uris` prints.
    """
    if not re.search(r'^ID="?debian"?$', os_release, re.MULTILINE):
        return None
    codename = re.search(r'^VERSION_CODENAME="?([a-z]+)"?$', os_release, re.MULTILINE)
    own_releases = {*_STABLE_ALIASES, *(codename.groups() if codename else ())}
    main_uri = security_uri = None
    for uri, release in _RELEASE_URI.findall(index_uris):
        if release in own_releases:
            main_uri = main_uri or uri
        elif release.removesuffix("-security") in own_releases and release.endswith("-security"):
            security_uri = security_uri or uri
    return Mirror(main_uri, security_uri, policy) if main_uri else None


class PrivateApt:
    """apt over sources of our own, with all its state in one directory."""

    def __init__(self, work_dir: Path, release: str, arch: str) -> None:
        self._work_dir = work_dir
        self._release = release
        self._arch = arch

    def update(self, mirror: Mirror) -> Mirror:
        """Fetch the package lists; returns the mirror without what it turned out not to have."""
        if not KEYRING.is_file():
            raise ProvisionError(
                ErrorCode.PROVISION_BASE_NOT_FOUND,
                f"{KEYRING} is missing: install the package debian-archive-keyring",
            )
        for name in ("sources", "lists/partial", "cache/archives/partial"):
            (self._work_dir / name).mkdir(parents=True, exist_ok=True)
        (self._work_dir / "status").touch()
        try:
            self._update_from(mirror)
        except ProvisionError:
            if mirror.security_uri is None:
                raise
            mirror = Mirror(mirror.uri, None, mirror.policy)
            self._update_from(mirror)
        return mirror

    def _update_from(self, mirror: Mirror) -> None:
        sources = self._work_dir / "sources" / "machinen.sources"
        sources.write_text(mirror.sources(self._release), encoding="utf-8")
        _run(self._argv("apt-get", "update", "-o", "APT::Update::Error-Mode=any"))

    def concrete_kernel(self, meta_package: str) -> str:
        """The versioned kernel package that `meta_package` depends on."""
        shown = _run(self._argv("apt-cache", "show", "--no-all-versions", meta_package))
        found = re.search(r"^Depends: .*?\b(linux-image-\d[^\s,(|]*)", shown, re.MULTILINE)
        if found is None:
            raise ProvisionError(
                ErrorCode.PROVISION_KERNEL_NOT_FOUND,
                f"{meta_package} in {self._release} names no kernel: the mirror may be incomplete",
            )
        return found.group(1)

    def download(self, package: str, directory: Path, on_progress: OnProgress) -> Path:
        """Fetch one .deb, verified by apt, into `directory` and return its path."""
        shown = _run(self._argv("apt-cache", "show", "--no-all-versions", package))
        size = re.search(r"^Size: (\d+)$", shown, re.MULTILINE)
        size_bytes = int(size.group(1)) if size else 0
        with subprocess.Popen(
            self._argv("apt-get", "download", package),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as apt:
            try:
                while True:
                    try:
                        _, complaint = apt.communicate(timeout=0.2)
                        break
                    except subprocess.TimeoutExpired:
                        on_progress(_bytes_in(directory) / size_bytes if size_bytes else 0.0)
            except BaseException:
                apt.terminate()
                raise
        found = list(directory.glob("*.deb"))
        if apt.returncode != 0 or len(found) != 1:
            raise ProvisionError(
                ErrorCode.PROVISION_KERNEL_NOT_FOUND,
                f"apt could not fetch {package}: {complaint.strip()[-1000:]}",
                retryable=True,
            )
        return found[0]

    def _argv(self, command: str, *arguments: str) -> list[str]:
        work = self._work_dir
        settings = {
            "APT::Architecture": self._arch,
            "APT::Default-Release": "",
            "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
            "Dir::Cache": f"{work}/cache",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{work}/sources",
            "Dir::State::lists": f"{work}/lists",
            "Dir::State::status": f"{work}/status",
        }
        options = [option for key, value in settings.items() for option in ("-o", f"{key}={value}")]
        return [command, "-q", *options, *arguments]


def _bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*.deb*") if path.is_file())


def _run(argv: Sequence[str]) -> str:
    environ = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ
        )
    except FileNotFoundError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_BASE_NOT_FOUND,
            f"{argv[0]} is missing: building the base root needs a host with apt",
        ) from error
    except subprocess.CalledProcessError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_BASE_NOT_FOUND,
            f"{argv[0]} failed (is the network up?): {error.stderr.strip()[-1000:]}",
            retryable=True,
        ) from error
    return done.stdout
