"""Landlock: a process that sees the files it was told of, and no others, landlock(7).

Numbers are those of linux/landlock.h. What a kernel does not know yet is left out: `landlock_abi()`
says how much it knows, and `machinen doctor` shows it.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from vmm.privileges import checked, libc

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""System call numbers, the same on every architecture."""
_ASK_VERSION, _RULE_PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_SOCKET = 1 << 5, 1 << 9
_MAKE_AND_REMOVE = 0b11_1111_1111 << 4
"""Entries of every kind, also to and from another directory."""
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights about files each version knows; later ones know no more that we name."""
_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/bin", "/nix/store", "/gnu/store")
"""Programs, libraries and firmware, as everybody on the machine may read them."""

READ = READ_FILE | READ_DIR
READ_AND_RUN = READ | EXECUTE
READ_AND_WRITE = READ | WRITE_FILE | TRUNCATE
CHANGE = READ_AND_WRITE | _MAKE_AND_REMOVE


@dataclass(frozen=True, slots=True)
class Rule:
    """`rights` to the file at `path`, or to everything below the directory."""

    path: str
    rights: int


def landlock_abi() -> int:
    """The version this kernel has, 1 and up; 0: it has none, or it is switched off."""
    version = libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), _ASK_VERSION)
    return max(0, version)


def abi_notes(abi: int) -> list[str]:
    """What a kernel of this version does not confine, in words."""
    missing = [
        (1, "which files QEMU sees (Linux 5.13)"),
        (3, "emptying files (Linux 6.2)"),
        (4, "TCP (Linux 6.7)"),
        (5, "ioctl on devices (Linux 6.10)"),
        (6, "signals and abstract sockets (Linux 6.12)"),
    ]
    return [what for since, what in missing if abi < since]


class Ruleset:
    """Rules for a process to come. Close it in whoever made it."""

    def __init__(self, rules: Iterable[Rule], *, tcp: bool, abi: int) -> None:
        """Rules about paths that do not exist are left out; `tcp`: leave TCP alone.

        Raises:
            OSError: the kernel refuses.
        """
        self._files = (1 << _FS_BITS[min(abi, max(_FS_BITS))]) - 1
        words = [self._files]
        if abi >= 4:
            words.append(0 if tcp else _BIND_AND_CONNECT_TCP)
        if abi >= 6:
            words.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
        attributes = struct.pack(f"={len(words)}Q", *words)
        size = ctypes.c_size_t(len(attributes))
        made = libc.syscall(ctypes.c_long(_CREATE_RULESET), attributes, size, 0)
        self.descriptor = checked(made, "landlock_create_ruleset")
        try:
            for rule in rules:
                self._add(rule)
        except BaseException:
            self.close()
            raise

    def _add(self, rule: Rule) -> None:
        try:
            beneath = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            rights = rule.rights & self._files
            if not stat.S_ISDIR(os.fstat(beneath).st_mode):
                rights &= _OF_FILES
            attributes = struct.pack("=Qi", rights, beneath)
            call = (ctypes.c_long(_ADD_RULE), self.descriptor, _RULE_PATH_BENEATH, attributes, 0)
            checked(libc.syscall(*call), f"landlock_add_rule {rule.path}")
        finally:
            os.close(beneath)

    def restrict(self) -> None:
        """Hold this thread, and all it starts, to the rules; it must allow no new privileges."""
        call = libc.syscall(ctypes.c_long(_RESTRICT_SELF), self.descriptor, 0)
        checked(call, "landlock_restrict_self")

    def close(self) -> None:
        """Let go of it; who is restricted stays restricted."""
        os.close(self.descriptor)
