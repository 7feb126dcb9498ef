"""A real monitor in which a process dies at the end of a phase: `MACHINEN_VMM` of these tests.

`python -m tests.faults.faulty_vmm [--detached] -` runs the package vmm, its phase clock watched. At
the end of each phase it looks for a file `<operation>.<phase>.<victim>` in the directory
MACHINEN_TEST_FAULTS, where the operation is `start` or `snapshot` and the victim `monitor`, `qemu`,
`passt` or `client`. Who finds one removes it and kills the victim, and goes on when that is gone.
The file holds the pid of a client. The product has no hook for this.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import vmm.__main__
import vmm.snapshot_vmstate
from machinen_runtime.pids import child_pids
from vmm.phases import PhaseClock

FAULTS = "MACHINEN_TEST_FAULTS"
VICTIMS = ("monitor", "qemu", "passt", "client")


class _Watched(PhaseClock):
    operation = ""

    def mark(self, name: str) -> None:
        super().mark(name)
        for victim in VICTIMS:
            strike(f"{self.operation}.{name}", victim)


class _StartClock(_Watched):
    operation = "start"


class _SnapshotClock(_Watched):
    operation = "snapshot"


def strike(moment: str, victim: str) -> None:
    """Kill `victim` if somebody wants that now."""
    order = Path(os.environ[FAULTS], f"{moment}.{victim}")
    try:
        text = order.read_text()
        order.unlink()
    except FileNotFoundError:
        return  # nobody does, or another monitor was faster
    match victim:
        case "monitor":
            kill(os.getpid())
        case "client":
            kill(int(text))
        case "passt":
            have_killed(order.with_suffix(".wanted"), pid_of("passt"))
        case _:
            kill(pid_of("qemu"))


def pid_of(program: str) -> int:
    """Our child of that name."""
    comms = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in child_pids(os.getpid())}
    return next(pid for pid, comm in comms.items() if comm.startswith(program))


def have_killed(wanted: Path, pid: int) -> None:
    """Wait for the end of a process that is another user's: whoever armed the fault kills it."""
    pidfd = os.pidfd_open(pid)
    wanted.with_suffix(".begun").write_text(str(pid))
    wanted.with_suffix(".begun").rename(wanted)
    select.select([pidfd], [], [])
    os.close(pidfd)


def kill(pid: int) -> None:
    """SIGKILL, and wait until it has taken effect."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def main() -> int:
    """Run the monitor with its clocks watched."""
    vmm.__main__.PhaseClock = _StartClock
    vmm.snapshot_vmstate.PhaseClock = _SnapshotClock
    return vmm.__main__.main()


if __name__ == "__main__":
    sys.exit(main())
