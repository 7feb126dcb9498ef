"""Warm boots from a standby: take one that will do, and see to it that there is another one.

A standby will do for a boot of the same template that would have started its monitor in the same
surroundings: as the same user with the same rights and limits, in the same namespaces and control
groups, with the same of QEMU's environment. All else it is told (vmm/claim.py). Whatever is wrong
with one, the boot goes on as it would have without.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import resource
import secrets
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from machinen_runtime import templates
from machinen_runtime.claimed_monitor import ClaimedMonitor, StandbyGoneError, connect
from machinen_runtime.debug import debug
from machinen_runtime.errors import MachinenError
from machinen_runtime.file_lock import lock_file
from machinen_runtime.launch import LaunchRequest, build_spec
from machinen_runtime.machines import confinement_wanted, give_back_wanted
from machinen_runtime.memory import available_bytes, read_host_total_bytes
from machinen_runtime.monitor_process import vmm_command
from machinen_runtime.paths import ensure_private_dir
from machinen_runtime.pids import process_identity
from machinen_runtime.standbys import (
    Standby,
    end_standby,
    list_standbys,
    standbys_root,
    sweep,
    withdraw,
)
from machinen_runtime.template_start import from_template
from vmm.limits import Limits
from vmm.spec import KEPT_VARIABLES, StandbySpec, VmSpec, file_identity

VARIABLE = "MACHINEN_STANDBY"
DEFAULT_COUNT = 1
MAX_COUNT = 4
"""For one kind of VM."""
MAX_TOTAL = 4
IDLE_S = 600.0
PATIENCE_S = 10.0
DELAY_S = 1.0
"""After a boot, before a process is started at all: its first commands shall not notice."""
LEAST_AVAILABLE_BYTES = 512 << 20
LEAST_AVAILABLE_SHARE = 1 / 16
"""Of the host's memory: below both a standby ends, below twice of both none is made."""
LEAST_DESCRIPTOR = 64
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_RIGHTS = ("Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:", "Mems_al")
_START = 'setsid -- sh -c \'sleep "$0"; exec "$@"\' "$@" <&3 >/dev/null 2>&1 & echo $!'
"""sh(1): what it starts is nobody's child, and a process group of its own with its sleep."""


def wanted_count() -> int:
    """How many standbys there shall be for one kind of VM: MACHINEN_STANDBY, else one."""
    text = os.environ.get(VARIABLE, "")
    return min(int(text), MAX_COUNT) if text.isascii() and text.isdigit() else DEFAULT_COUNT


def is_possible(request: LaunchRequest) -> bool:
    """Whether a standby could be what `request` asks for, which a template can be.

    The disks of a mount are the machine's, a control group holds QEMU from its start, and another
    monitor or one that is not confined may do
    anything with its surroundings.
    """
    return not (
        request.machine.mount_disk
        or request.vmm_command
        or request.owned_dirs
        or request.limits.need_cgroup
        or not confinement_wanted()
    )


def least_available_bytes() -> int:
    """What the host shall have left, in bytes, or its standbys end."""
    share = int(read_host_total_bytes() * LEAST_AVAILABLE_SHARE)
    return max(LEAST_AVAILABLE_BYTES, share)


# -- taking one -----------------------------------------------------------------------------------


async def take_standby(request: LaunchRequest, key: str) -> ClaimedMonitor | None:
    """A standby that becomes what `request` says, made from template `key`; None: there is none."""
    if not wanted_count() or not is_possible(request):
        return None
    match = match_of(request, key)
    for standby in list_standbys():
        if standby.match != match or not withdraw(standby):
            continue
        try:
            connected = await connect(standby)
        except StandbyGoneError as error:
            debug("boot", f"standby {standby.id}: {error}")
            continue
        return ClaimedMonitor(
            standby,
            connected,
            env=request.vmm_env,
            detached=request.detached,
            with_stdio=request.with_stdio,
        )
    return None


def match_of(request: LaunchRequest, key: str) -> str:
    """For which boots a standby will do, as a checksum."""
    options = [request.passt_binary, give_back_wanted()]
    text = json.dumps([key, options, surroundings()])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def surroundings() -> list[str]:
    """What a monitor inherits of us and cannot be told."""
    found = [f"{name}={value}" for name, value in sorted(standby_environment().items())]
    found += [str(standbys_root()), str(os.getpriority(os.PRIO_PROCESS, 0))]
    found += [str(os.sched_getscheduler(0)), Path("/proc/self/oom_score_adj").read_text()]
    for name in _NAMESPACES:
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/ns/{name}"))
    limits = (getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))
    found += [f"{limit}:{resource.getrlimit(limit)}" for limit in sorted(set(limits))]
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    found += [line for line in status.splitlines() if line.startswith(_RIGHTS)]
    for path in ("/proc/self/cgroup", "/proc/self/attr/current"):
        with suppress(OSError):
            found.append(Path(path).read_text(encoding="utf-8", errors="replace"))
    return found


def standby_environment() -> dict[str, str]:
    """What a standby finds in its environment: what QEMU and the linker look at, nothing else."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in KEPT_VARIABLES or name.startswith("LD_")
    }


# -- making one -----------------------------------------------------------------------------------


def ensure_standby(request: LaunchRequest, key: str) -> Standby | None:
    """Start a standby for the next boot like `request`, unless there are as many as there shall be.

    It comes up by itself, a while later. None: none was started. Blocks for some milliseconds, and
    raises nothing: the boot went well without.
    """
    try:
        return _ensure(request, key)
    except (MachinenError, OSError, subprocess.SubprocessError, ValueError) as error:
        debug("boot", f"no standby of template {key}: {error}")
        return None


def _ensure(request: LaunchRequest, key: str) -> Standby | None:
    count = wanted_count()
    if not count or not is_possible(request):
        return None
    if available_bytes() < 2 * least_available_bytes():
        debug("boot", "no standby: the host has little memory left")
        return None
    sweep()
    match = match_of(request, key)
    living = list_standbys()
    if sum(each.match == match for each in living) >= count:
        return None
    others = [each for each in living if each.match != match]
    if len(living) >= MAX_TOTAL and others:
        end_standby(others[0])
    with ExitStack() as stack:
        found = _free_slot(match, count)
        if found is None:
            return None
        slot, slot_fd = found
        stack.callback(os.close, slot_fd)
        stack.callback(_remove_empty, slot, slot_fd)
        if not stack.enter_context(templates.template_lock(key, exclusive=False)):
            return None
        template = templates.open_template(key)
        if template is None:
            return None
        vm_id = secrets.token_hex(4)
        standby = StandbySpec(
            template=str(template.path),
            template_identity=file_identity(str(template.path)) or [],
            template_lock=str(templates.lock_path(key)),
            slot_path=str(slot),
            slot_fd=slot_fd,
            idle_s=IDLE_S,
            least_available_bytes=least_available_bytes(),
            patience_s=PATIENCE_S,
        )
        spec = build_spec(replace(nobody(from_template(request, template)), vm_id=vm_id))
        spec = replace(spec, standby=standby)
        for directory in (spec.run_dir, spec.state_dir):
            ensure_private_dir(Path(directory).parent)
        pid = _spawn(spec, standby, request)
        made = Standby(
            id=vm_id,
            key=key,
            pid=pid,
            process_identity=process_identity(pid),
            made_at=time.time() * 1000,
            slot=slot,
        )
        os.pwrite(slot_fd, made.to_json().encode(), 0)
        return made


def nobody(request: LaunchRequest) -> LaunchRequest:
    """The machine of a request alone, without anything of whoever asks for it."""
    network = "full" if request.machine.network == "full" else "none"
    return replace(
        request,
        name=None,
        machine=replace(request.machine, network=network),
        allow_hosts=(),
        workload=None,
        port_forward=(),
        live_mounts=(),
        live_state=None,
        limits=Limits(),
        origin={},
        note="",
        detached=True,
        with_stdio=False,
    )


def _free_slot(match: str, count: int) -> tuple[Path, int] | None:
    """A slot nobody sits in, locked: its path and its descriptor."""
    for number in range(count):
        path = standbys_root() / f"{match}.{number}"
        if (descriptor := lock_file(path, fcntl.LOCK_EX)) is not None:
            os.truncate(descriptor, 0)
            return path, _high(descriptor)
    return None


def _high(descriptor: int) -> int:
    """The same open file under a number that a shell does not use; the old one is closed."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LEAST_DESCRIPTOR)
    finally:
        os.close(descriptor)


def _remove_empty(slot: Path, descriptor: int) -> None:
    """A slot nobody sits in after all goes again."""
    if os.fstat(descriptor).st_size == 0:
        slot.unlink(missing_ok=True)


def _spawn(spec: VmSpec, standby: StandbySpec, request: LaunchRequest) -> int:
    """Start the monitor as nobody's child; its pid. It inherits the lock of its slot."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            os.set_blocking(write_fd, False)
            text = spec.to_json().encode()
            if os.write(write_fd, text) != len(text):
                raise ValueError("its spec is too long")
        finally:
            os.close(write_fd)
        done = subprocess.run(
            ["sh", "-c", f"exec 3<&0; {_START}", "sh", str(DELAY_S), *vmm_command(), "-"],
            stdin=read_fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[standby.slot_fd],
            cwd="/",
            env={**standby_environment(), **request.vmm_env},
            start_new_session=True,
            check=True,
        )
    finally:
        os.close(read_fd)
    return int(done.stdout)
