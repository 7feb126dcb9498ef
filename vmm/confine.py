"""What QEMU may still do when its guest has taken it over, and what the monitor may.

docs/security.md has the whole picture. QEMU gets: its VM's own files and no others (Landlock), no
capability, no way to more rights, no connection to anybody and no signal to anybody (seccomp), an
environment without the user's secrets, no core dump. All of it is in force before its first
instruction. What this kernel cannot do is said in the VM's console log and by `machinen doctor`.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from vmm import landlock, privileges, seccomp
from vmm.accel import KVM_DEVICE
from vmm.landlock import Rule, Ruleset
from vmm.machine import Endpoints
from vmm.spec import KEPT_VARIABLES, VmSpec

MAX_QEMU_DESCRIPTORS = 1024
SYSTEM_FILES = (
    *("/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero"),
    *("/proc/filesystems", "/proc/meminfo", "/proc/sys/vm", "/proc/cpuinfo"),
    *("/sys/devices/system", "/sys/kernel/mm", "/sys/module"),
)
"""What libc and QEMU look at as they start."""
BESIDE_BINARY = ("lib", "lib64", "libexec", "share")
"""Where a QEMU that was installed elsewhere keeps its libraries and firmware."""


def qemu_rules(spec: VmSpec, endpoints: Endpoints, own_disks: str) -> list[Rule]:
    """The files QEMU sees; pure. It writes to the newest layers alone, which lie in `own_disks`."""
    prefix = os.path.dirname(os.path.dirname(spec.qemu_binary))
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    programs = [*landlock.SYSTEM_PATHS, spec.qemu_binary, *filter(None, libraries)]
    programs += [os.path.join(prefix, each) for each in BESIDE_BINARY]
    rules = [Rule(path, landlock.READ_AND_RUN) for path in programs]
    rules += [Rule(path, landlock.READ) for path in (*SYSTEM_FILES, *guest_files(spec, endpoints))]
    if endpoints.ram_shim is not None:
        rules.append(Rule(endpoints.ram_shim, landlock.READ))
    rules.append(Rule("/dev/null", landlock.READ_AND_WRITE))
    rules.append(Rule(own_disks, landlock.READ_AND_WRITE))
    rules.append(Rule(spec.run_dir, landlock.MAKE_SOCKET))
    if spec.machine.accel == "kvm":
        rights = landlock.READ_AND_WRITE | landlock.IOCTL_DEVICE
        rules.append(Rule(str(KVM_DEVICE), rights))
    return rules


def guest_files(spec: VmSpec, endpoints: Endpoints) -> list[str]:
    """What the guest is made of, and QEMU only reads."""
    files = [*endpoints.layers, *endpoints.mount_layers]
    if endpoints.mount_lower is not None:
        files.append(endpoints.mount_lower)
    if spec.restore is None:
        files += [spec.kernel, spec.initrd, *filter(None, [spec.dtb])]
    else:
        files += [spec.restore.state, spec.restore.ram_image]
    return files


def needs_network(spec: VmSpec) -> bool:
    """Whether QEMU itself is the guest's way out, for want of passt."""
    return spec.machine.network == "full" and spec.passt_binary is None


def child_environment(spec: VmSpec) -> dict[str, str] | None:
    """What QEMU finds in its environment: nothing of the user's. None: all, it is not confined."""
    if not spec.confine:
        return None
    return {name: value for name, value in os.environ.items() if name in KEPT_VARIABLES}


def confinement(
    spec: VmSpec, endpoints: Endpoints, own_disks: str, stack: ExitStack
) -> Callable[[], None]:
    """A function for QEMU's process to call before it becomes QEMU; `stack` ends what it holds.

    QEMU's own further arguments (`extra_args`) name files and sockets that only their author knows:
    such a QEMU loses its rights, but is held to no list of files, and to no list of calls.

    Raises:
        OSError: the kernel refuses what it says it can do.
    """
    parent = os.getpid()
    ruleset: Ruleset | None = None
    kept: frozenset[int] = frozenset()
    if spec.confine:
        kept = kept_capabilities(guest_files(spec, endpoints))
        abi = landlock.landlock_abi()
        if abi and not spec.extra_args:
            rules = qemu_rules(spec, endpoints, own_disks)
            ruleset = Ruleset(rules, tcp=needs_network(spec), abi=abi)
            stack.callback(ruleset.close)

    def confine() -> None:
        privileges.die_with_parent(parent)
        os.umask(0o077)
        if not spec.confine:
            return
        limit_resources()
        privileges.leave_groups()
        privileges.allow_no_new_privileges()
        privileges.keep_capabilities(kept)
        if ruleset is not None:
            ruleset.restrict()
        if not spec.extra_args and seccomp.knows_machine():
            machine, network = os.uname().machine, needs_network(spec)
            seccomp.install_filter(seccomp.qemu_filter(machine, os.getpid(), network=network))

    return confine


def kept_capabilities(files: Iterable[str]) -> frozenset[int]:
    """None; for root's QEMU on files that belong to others, the right to read them."""
    if os.geteuid() != 0 or privileges.readable_without_capabilities(files):
        return frozenset()
    return frozenset({privileges.CAP_DAC_OVERRIDE})


def limit_resources() -> None:
    """No core dump with the guest's memory in it, and no more descriptors than it can use."""
    privileges.forbid_core_dumps()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_QEMU_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        most = min(hard, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def confine_monitor() -> None:
    """The monitor itself: no new privileges, of root's only what its work takes, no core dump."""
    privileges.forbid_core_dumps()
    privileges.allow_no_new_privileges()
    privileges.keep_capabilities(privileges.MONITOR_CAPS)
    if seccomp.knows_machine():
        seccomp.install_filter(seccomp.monitor_filter(os.uname().machine))


def confinement_notes(spec: VmSpec) -> list[str]:
    """What is missing in how this VM's QEMU is confined, for its console log; empty: nothing."""
    if not spec.confine:
        return ["QEMU is not confined: MACHINEN_CONFINE=off"]
    if spec.extra_args:
        return ["QEMU sees all files: it has arguments of its own"]
    notes = [
        f"this kernel does not confine {each}"
        for each in landlock.abi_notes(landlock.landlock_abi())
    ]
    if not seccomp.knows_machine():
        notes.append("no list of system calls is known for this processor")
    return notes
