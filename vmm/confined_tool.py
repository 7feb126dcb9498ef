"""Start a program on bytes of strangers: tar, mke2fs, mksquashfs, zstd, qemu-img.

It sees what everybody may read in `/usr`, its inputs and its outputs, and no other file (Landlock);
it reaches nobody and keeps of root's rights those about files (seccomp, capabilities); it finds
nothing of the user in its environment and leaves no core. All of that belongs to a thread, so a
thread of its own takes it on and starts the program: nothing runs between fork and exec, which
other threads would make unsafe, and no launcher has to start first.

Who asks says whether confinement is wanted at all (`MACHINEN_CONFINE`); without it the environment
and the core stay as said. What a kernel cannot do is left out; `machinen doctor` says it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vmm import landlock, privileges, seccomp
from vmm.landlock import Rule, Ruleset

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_LANGUAGE = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
_SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/mke2fs.conf"),
    *("/etc/alternatives", "/dev/urandom", "/dev/zero", "/proc/filesystems", "/proc/meminfo"),
    *("/proc/cpuinfo", "/sys/devices/system"),
)
_BESIDE_PROGRAM = ("lib", "lib64", "libexec", "share")
_CAPABILITIES = frozenset(
    {
        *(privileges.CAP_CHOWN, privileges.CAP_DAC_OVERRIDE, privileges.CAP_DAC_READ_SEARCH),
        *(privileges.CAP_FOWNER, privileges.CAP_FSETID, privileges.CAP_SETPCAP),
        *(privileges.CAP_MKNOD, privileges.CAP_SETFCAP),
    }
)
"""What root needs to unpack an image as it is: owners, devices, capabilities of files."""
_WITHOUT_CORE = 'ulimit -c 0 && exec "$0" "$@"'
LEAST_ABI = 2
"""Landlock 1 (Linux 5.13) lets nobody make a hard link to another directory, as archives do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confines:
    """The files that a tool may use besides what everybody may read in the system."""

    wanted: bool
    """False: the tool keeps all rights of the user. No default, so that nobody forgets to ask."""
    reads: Sequence[str | Path] = ()
    """Files and directories with all below them."""
    writes: Sequence[str | Path] = ()
    """Files that are there, and directories in which it may make and remove anything."""
    fakeroot: bool = False
    """It runs under fakeroot, which ends its helper by a signal and may speak TCP with it."""


def start_confined(
    argv: Sequence[str],
    confines: Confines,
    *,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """The running tool, which is the caller's to wait for.

    Raises:
        FileNotFoundError: there is no such program.
        OSError: it cannot be started, or the kernel refuses what it says it can do.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(2, "no such program", argv[0])
    abi = landlock.landlock_abi() if confines.wanted else 0
    ruleset: Ruleset | None = None
    if abi >= LEAST_ABI:
        ruleset = Ruleset(tool_rules(program, confines), tcp=confines.fakeroot, abi=abi)
    results: list[subprocess.Popen[bytes] | BaseException] = []

    def start() -> None:
        try:
            if confines.wanted:
                _confine_thread(ruleset, confines)
            results.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", _WITHOUT_CORE, program, *argv[1:]],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=tool_environment(),
                )
            )
        except BaseException as error:  # it is raised where it was asked for
            results.append(error)

    thread = threading.Thread(target=start, name="confined-tool")
    try:
        thread.start()
        thread.join()
    finally:
        if ruleset is not None:
            ruleset.close()
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return result


def run_confined(
    argv: Sequence[str],
    confines: Confines,
    *,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.PIPE,
    data: bytes | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the tool to its end, `data` on its standard input; raises as `start_confined` does.

    Raises:
        CalledProcessError: it failed; `stderr` says how, in English.
    """
    source = stdin if data is None else subprocess.PIPE
    with start_confined(argv, confines, stdin=source, stdout=stdout) as process:
        try:
            out, complaint = process.communicate(data)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(list(argv), process.returncode, out, complaint)
    done.check_returncode()
    return done


def complaint_of(error: subprocess.CalledProcessError) -> str:
    """What a tool that failed said about it."""
    return bytes(error.stderr or b"").decode("utf-8", "replace").strip()


def tool_environment() -> dict[str, str]:
    """Where programs and temporary files are, and English; nothing else of the user's."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {**kept, **_LANGUAGE}


def tool_rules(program: str, confines: Confines) -> list[Rule]:
    """The files that this program sees."""
    real = os.path.realpath(program)
    prefix = os.path.dirname(os.path.dirname(real))
    libraries = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    programs = [*landlock.SYSTEM_PATHS, "/sbin", program, real, *libraries]
    programs += [os.path.join(prefix, each) for each in _BESIDE_PROGRAM]
    rules = [Rule(path, landlock.READ_AND_RUN) for path in programs]
    rules += [Rule(os.fspath(each), landlock.READ) for each in (*_SYSTEM_FILES, *confines.reads)]
    rules += [Rule(os.fspath(each), landlock.CHANGE) for each in confines.writes]
    rules.append(Rule("/dev/null", landlock.READ_AND_WRITE))
    return rules


def _confine_thread(ruleset: Ruleset | None, confines: Confines) -> None:
    """Hold this thread, and what it starts, to what a tool may do."""
    privileges.allow_no_new_privileges()
    privileges.keep_capabilities(_CAPABILITIES)
    if ruleset is not None:
        ruleset.restrict()
    if seccomp.knows_machine():
        machine = os.uname().machine
        seccomp.install_filter(seccomp.tool_filter(machine, fakeroot=confines.fakeroot))
