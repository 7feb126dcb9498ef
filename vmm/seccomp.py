"""System calls that QEMU and the monitor never need, refused by the kernel, seccomp(2).

QEMU's own `-sandbox` refuses to start programs and to gain rights, once it runs; these lists come
on top and hold from its first instruction. A filter is a small program of classic BPF
(linux/filter.h) over `struct seccomp_data`; numbers are those of asm/unistd_64.h and
asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

from vmm.privileges import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_X32_BIT = 0x40000000
AF_UNIX = 1

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

KERNEL = {
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "quotactl": (179, 60),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "open_by_handle_at": (304, 265),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}
"""Nobody of ours needs these: as (amd64, arm64)."""
QEMU_ALONE = {
    "connect": (42, 203),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
}
"""Nor does QEMU these: it is called, and calls nobody; its files are as the monitor made them."""
OF_ARCHIVES = frozenset(
    {
        *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
        *("setxattr", "lsetxattr", "fsetxattr", "tkill"),
    }
)
"""What unpacking one needs of them."""
OF_FAKEROOT = frozenset({"connect", "kill"})
"""How fakeroot speaks with its helper, and ends it."""
USERFAULTFD = (323, 282)
TRACKER_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK | 1
"""Of the one userfaultfd QEMU may open (vmm/private_ram.c): UFFD_USER_MODE_ONLY, for faults of its
own that the kernel never waits with."""
NETWORK_OF_ITS_OWN = frozenset({"connect"})
"""What it needs where it is the guest's way out itself, for want of passt."""


@dataclass(frozen=True, slots=True)
class Unless:
    """A call that is refused unless its argument `index` (its low 32 bits) is `value`."""

    numbers: tuple[int, int]
    index: int
    value: int


def monitor_filter(machine: str) -> bytes:
    """The program for a monitor and what it starts: passt needs the calls about mounts."""
    return build_filter(machine, list(KERNEL.values()), [Unless(USERFAULTFD, 0, TRACKER_FLAGS)])


def qemu_filter(machine: str, pid: int, *, network: bool) -> bytes:
    """The program for the QEMU that will be process `pid`; `network`: it reaches out by itself."""
    calls = [
        numbers
        for name, numbers in QEMU_ALONE.items()
        if not (network and name in NETWORK_OF_ITS_OWN)
    ]
    conditions = [
        Unless((234, 131), 0, pid),  # tgkill
        Unless((302, 261), 0, 0),  # prlimit64
        Unless(USERFAULTFD, 0, TRACKER_FLAGS),
    ]
    if not network:
        conditions.append(Unless((41, 198), 0, AF_UNIX))  # socket
    return build_filter(machine, [*KERNEL.values(), *calls], conditions)


def tool_filter(machine: str, *, fakeroot: bool) -> bytes:
    """The program for a tool on files of strangers: it calls nobody and ends nobody.

    It may change owners and modes: that is unpacking. `fakeroot`: see vmm/confined_tool.py.
    """
    refused = {name: each for name, each in QEMU_ALONE.items() if name not in OF_ARCHIVES}
    if fakeroot:
        refused = {name: each for name, each in refused.items() if name not in OF_FAKEROOT}
    conditions = [] if fakeroot else [Unless((41, 198), 0, AF_UNIX)]
    return build_filter(machine, [*KERNEL.values(), *refused.values(), USERFAULTFD], conditions)


def build_filter(
    machine: str, calls: list[tuple[int, int | None]], conditions: list[Unless]
) -> bytes:
    """A program that refuses `calls` with EPERM and kills who speaks another architecture's way.

    Raises:
        KeyError: nobody knows the numbers of this `machine` (`uname -m`).
    """
    column = list(_AUDIT_ARCH).index(machine) if machine in _AUDIT_ARCH else -1
    audit_arch = _AUDIT_ARCH[machine]
    lines = [(_LOAD, 0, 0, _ARCH_AT), (_JUMP_EQUAL, 1, 0, audit_arch), (_RETURN, 0, 0, _KILL)]
    lines.append((_LOAD, 0, 0, _NUMBER_AT))
    if machine == "x86_64":
        lines += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _REFUSE)]
    for numbers in calls:
        if (number := numbers[column]) is not None:
            lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for each in conditions:
        lines += [
            (_JUMP_EQUAL, 0, 4, each.numbers[column]),
            (_LOAD, 0, 0, _ARGUMENT_AT + 8 * each.index),
            (_JUMP_EQUAL, 1, 0, each.value),
            (_RETURN, 0, 0, _REFUSE),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install_filter(program: bytes) -> None:
    """Hold this thread, and all it starts, to `program`; it must allow no new privileges."""
    whole = _Program(len(program) // 8, program)
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(whole))


def knows_machine() -> bool:
    """Whether there is a filter for the processor this runs on."""
    return os.uname().machine in _AUDIT_ARCH
