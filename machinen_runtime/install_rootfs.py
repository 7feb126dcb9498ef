"""The base root: Debian by mmdebstrap, plus the few files that make it a sandbox."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.install_apt import KEYRING, Mirror, OnProgress
from vmm.tied import tied

PACKAGES = (
    "ca-certificates",
    "criu",
    "htop",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "mount",
    "netbase",
    "passwd",
    "procps",
    "python3",
    "vim-tiny",
)

_STAGES = (
    "running apt-get update",
    "downloading packages",
    "extracting archives",
    "installing essential",
    "installing remaining",
    "running --customize-hook",
    "cleaning package lists",
    "creating tarball",
    "done",
)

_PROMPT = r"""# Interactive shells of root.
case $- in *i*) ;; *) return ;; esac
# bash remembers the host's name, but a forked sandbox gets a new one: read it at every prompt.
# Not with $(<file) in PS1, on which bash 5.2 loops for ever.
PROMPT_COMMAND='read -r HOSTNAME </proc/sys/kernel/hostname'
PS1='\[\e[1;32m\]\u@$HOSTNAME\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]\$ '
HISTCONTROL=ignoreboth
shopt -s checkwinsize histappend
alias ls='ls --color=auto' ll='ls -l' grep='grep --color=auto'
"""

_PROFILE = """# Login shells of root.
[ -n "$BASH_VERSION" ] && [ -f ~/.bashrc ] && . ~/.bashrc
"""

GUEST_FILES = {
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/dpkg/dpkg.cfg.d/machinen": (
        "# A sandbox is thrown away or snapshotted whole; fsync per file only makes it slow.\n"
        "force-unsafe-io\n"
        "path-exclude=/usr/share/man/*\n"
        "path-exclude=/usr/share/doc/*\n"
        "path-include=/usr/share/doc/*/copyright\n"
        "path-exclude=/usr/share/locale/*\n"
        "path-include=/usr/share/locale/locale.alias\n"
    ),
    "etc/hostname": "machinen\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
    "root/.bashrc": _PROMPT,
    "root/.profile": _PROFILE,
}
"""What the base root has beyond its packages; init writes resolv.conf at boot."""


def build_base_root(
    tarball: Path,
    *,
    release: str,
    mirror: Mirror,
    kernel_tree: Path,
    kernel_version: str,
    work_dir: Path,
    on_progress: OnProgress,
) -> None:
    """Write the base root as a gzip tarball.

    Args:
        kernel_tree: the unpacked kernel package; its modules go into the root.
        work_dir: an empty directory; mmdebstrap's user for downloads must be able to enter it.

    Raises:
        ProvisionError: PROVISION_INSTALL_HOOK_FAILED with the end of mmdebstrap's output.
    """
    sources = work_dir / "debian.sources"
    sources.write_text(mirror.sources(release), encoding="utf-8")
    extra = work_dir / "extra.tar"
    write_extra_files(extra, mirror.sources(release), mirror.policy, kernel_tree)
    argv = mmdebstrap_argv(tarball, sources, extra, release, mirror.policy, kernel_version)
    _run_mmdebstrap(argv, work_dir, on_progress)


def mmdebstrap_argv(
    tarball: Path,
    sources: Path,
    extra: Path,
    release: str,
    policy: tuple[str, ...],
    kernel_version: str,
) -> list[str]:
    """mmdebstrap's command line; pure."""
    hooks = [
        'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap',
        'rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*',
        'rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/machine-id',
        f"tar-in {extra} /",
        f'chroot "$1" depmod {kernel_version}',
        'chroot "$1" passwd --delete root',
    ]
    excluded = (
        line.replace("path-", "--dpkgopt=path-")
        for line in GUEST_FILES["etc/dpkg/dpkg.cfg.d/machinen"].splitlines()
        if line.startswith("path-")
    )
    return [
        *("mmdebstrap", "--variant=apt", "--format=tar", f"--keyring={KEYRING}"),
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={line.rstrip(';')}" for line in policy),
        *excluded,
        f"--include={','.join(PACKAGES)}",
        *(f"--customize-hook={hook}" for hook in hooks),
        *(release, str(tarball), str(sources)),
    ]


def write_extra_files(
    archive: Path, sources: str, policy: tuple[str, ...], kernel_tree: Path
) -> None:
    """Our own files and the kernel's modules as a tar, everything owned by root."""
    files = {**GUEST_FILES, "etc/apt/sources.list.d/debian.sources": sources}
    if policy:
        files["etc/apt/apt.conf.d/90machinen-mirror"] = "\n".join(policy) + "\n"
    with tarfile.open(archive, "w") as tar:
        for name, text in files.items():
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
        tar.add(kernel_tree / "usr/lib/modules", "usr/lib/modules", filter=_owned_by_root)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _run_mmdebstrap(argv: list[str], work_dir: Path, on_progress: OnProgress) -> None:
    if shutil.which(argv[0]) is None:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
            "mmdebstrap is missing: install the package mmdebstrap",
        )
    tail: list[str] = []
    with _own_group(argv, {"LC_ALL": "C.UTF-8", "TMPDIR": str(work_dir)}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            tail = [*tail[-29:], line.rstrip()]
            for position, stage in enumerate(_STAGES, start=1):
                if stage in line:
                    on_progress(position / (len(_STAGES) + 1))
    if process.returncode != 0:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
            "mmdebstrap could not build the base root:\n" + "\n".join(tail),
            retryable=True,
        )


@contextmanager
def _own_group(argv: list[str], environ: Mapping[str, str]) -> Generator[subprocess.Popen[str]]:
    """Run a command and whatever it starts for the length of the block; none outlives it or us."""
    # As root mmdebstrap mounts /proc and /sys into its chroot: in namespaces of their own, mounts
    # and processes go with it even if all of us are killed. As a user it does that by itself.
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    as_root = os.geteuid() == 0
    command = [*(isolated if as_root else []), *argv]
    with subprocess.Popen(
        tied(*command, signal="KILL" if as_root else "TERM"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
        finally:
            process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what did not heed its leader's end
