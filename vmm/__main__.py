"""`machinen-vmm [--detached] SPEC.json | -`: run one VM and exit with what happened to it.
`machinen-vmm --nest FD`: be the process that monitors are forked from (vmm/nest.py).

The spec comes from a file or from standard input. QEMU starts before the event loop is even
imported: the two take about equally long. While no spec has come yet, the imports are done first.
Exit statuses: vmm/requests.py.
"""

from __future__ import annotations

import gc

if __name__ == "__main__":
    gc.disable()  # what is imported stays: looking for garbage among it takes a tenth of a start

import dataclasses
import os
import resource
import select
import shutil
import signal
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from vmm.confine import confine_monitor
from vmm.disks import ROOT_STEM, own_disks_path, prepare_chain, prepare_mount
from vmm.errors import VmmError, host_refusal, is_exhaustion
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess, running_qemu
from vmm.requests import EXIT_MONITOR_FAILED, EXIT_QEMU_START_FAILED, EXIT_SPEC_INVALID
from vmm.spec import VmSpec, parse_spec
from vmm.standby_slot import give_up_slot, template_in_use, wait_for_leisure
from vmm.status import adopt, report
from vmm.template import check_template

if TYPE_CHECKING:
    from vmm.standby import Taken

MAX_DESCRIPTORS = 16384
"""64 forwards with 128 clients each, all streams of the guest, and as much again."""


def main() -> int:
    """Entry point of `machinen-vmm`."""
    heed_signals()
    arguments, ends = sys.argv[1:], None
    if arguments[:1] == ["--detached"]:
        del arguments[0]
        if os.fork():
            os._exit(0)  # the starter waits for this process only; init will be our parent
    if arguments[:1] == ["--nest"] and len(arguments) == 2:
        from vmm.nest import wait_hatched

        if (ends := wait_hatched(int(arguments[1]))) is None:
            return 0
        heed_signals()
        arguments = ["-"]
    if len(arguments) != 1:
        print("usage: machinen-vmm [--detached] SPEC.json | -", file=sys.stderr)  # noqa: T201
        return EXIT_SPEC_INVALID
    try:
        text = read_input(arguments[0])
        if not text:
            return 0  # started ahead of time, and not needed after all
        spec = with_pid(parse_spec(text), os.getpid())
    except (VmmError, OSError) as error:
        print(f"machinen-vmm: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_SPEC_INVALID
    return live(spec) if ends is None else live_hatched(spec, ends)


def live(spec: VmSpec) -> int:
    """Run the VM to its end; the status to exit with."""
    report(spec, {"event": "started", "pid": os.getpid(), "name": spec.name})
    try:
        with _own_directories(spec):
            return run(spec)
    except (VmmError, OSError) as error:
        report_failure(spec, error)
        return EXIT_QEMU_START_FAILED


def live_hatched(spec: VmSpec, ends: dict[str, int]) -> int:
    """As `live`, of a process that is not its starter's child: it has to say how it ended."""
    spec, status = adopt(spec, ends), EXIT_MONITOR_FAILED
    try:
        status = live(spec)
    finally:
        report(spec, {"event": "ended", "status": status})
    return status


def heed_signals() -> None:
    """Undo what our starter may have handed down: signals it ignores or blocks.

    Under `nohup`, or in a script's `&`, SIGHUP or SIGINT is ignored; where SIGCHLD is, nobody could
    tell how QEMU ended. Programs that we start inherit all this from us.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def read_input(source: str) -> bytes:
    """The spec's text.

    On standard input it may still be to come, and the wait is used to import.
    """
    if source != "-":
        return Path(source).read_bytes()
    if not select.select([sys.stdin], [], [], 0)[0]:
        import vmm.monitor  # noqa: F401  # pyright: ignore[reportUnusedImport]
    return sys.stdin.buffer.read()


def allow_descriptors() -> None:
    """As many descriptors as we may have: each client of a port forward holds one.

    The default of 1024 would let anybody who can connect keep `control.sock` from accepting.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(spec: VmSpec) -> int:
    """Start QEMU, then everything around it."""
    allow_descriptors()
    clock = PhaseClock()
    if spec.confine:
        confine_monitor()
    check_template(spec)
    with template_in_use(spec.standby) if spec.standby else nullcontext(ExitStack()) as template:
        return _run_machine(spec, clock, template)


def _run_machine(spec: VmSpec, clock: PhaseClock, template: ExitStack) -> int:
    layers = prepare_disk(spec)
    image_fd = _open_image(spec)
    mount = prepare_mount(spec.mount_disk, spec.state_dir) if spec.mount_disk else None
    with running_qemu(spec, layers, mount) as qemu:
        clock.mark("spawn")
        import anyio

        from vmm.monitor import Monitor

        clock.mark("imports")

        async def live() -> int:
            gc.freeze()  # all that is imported by now stays for good, and is not looked at again
            gc.enable()
            if spec.standby is not None:
                return await stand_by(spec, qemu, image_fd, template)
            return await Monitor(spec, qemu, image_fd, clock).run()

        return anyio.run(live)


async def stand_by(
    spec: VmSpec, qemu: QemuProcess, image_fd: int | None, template: ExitStack
) -> int:
    """Wait until somebody takes the standby, then be the monitor of that VM, and say how it ended:
    it is not its taker's child. A standby that nobody wants ends with 0.
    """
    from vmm.monitor import Monitor
    from vmm.standby import standing_by

    async with standing_by(spec, qemu, image_fd, template) as taken:
        if taken is None:
            return 0
        become(taken)
        vm = with_pid(taken.spec, os.getpid())
        report(vm, {"event": "started", "pid": os.getpid(), "name": vm.name})
        try:
            status = await Monitor(vm, qemu, image_fd, taken.clock, taken.qmp).run()
        except VmmError as error:
            report_failure(vm, error)
            status = EXIT_QEMU_START_FAILED
        report(vm, {"event": "ended", "status": status})
        return status


def become(taken: Taken) -> None:
    """Take over what the taker's child would have inherited of it."""
    claim = taken.claim
    for directory in (taken.spec.run_dir, taken.spec.state_dir):
        os.utime(directory)  # garbage is older: nobody has registered us yet
    os.fchdir(claim.descriptors["directory"])
    os.close(claim.descriptors["directory"])
    os.umask(claim.umask)
    os.environ.clear()
    os.environ.update(claim.env)
    if (console := claim.descriptors.get("console")) is not None:
        os.dup2(console, sys.stderr.fileno(), inheritable=True)
        os.close(console)


def prepare_disk(spec: VmSpec) -> list[str]:
    """Link the frozen layers into our directory; put an empty overlay on top if one is wanted."""
    disk = spec.disk
    if disk.overlay_template is None:
        return [disk.base]
    template = disk.overlay_template
    return prepare_chain(disk.base, disk.layers, template, spec.state_dir, ROOT_STEM)


def with_pid(spec: VmSpec, pid: int) -> VmSpec:
    """Fill the monitor's pid into the names that want it."""
    name = spec.name.replace("{pid}", str(pid)) if spec.name else None
    return dataclasses.replace(spec, name=name, hostname=spec.hostname.replace("{pid}", str(pid)))


def report_failure(spec: VmSpec, error: Exception) -> None:
    """Tell the starter, who waits for a line, that nothing was started."""
    if isinstance(error, OSError) and is_exhaustion(error):
        error = host_refusal(error, "the VM cannot be started")
    if not isinstance(error, VmmError):
        error = VmmError("QEMU_START_FAILED", f"cannot start the VM: {error}")
    report(spec, {"event": "failed", "error": error.to_json(), "console": "", "qemu": ""})
    print(f"machinen-vmm: {error}", file=sys.stderr)  # noqa: T201


def _open_image(spec: VmSpec) -> int | None:
    """Keep the RAM image open.

    The next snapshot builds on it, wherever its name has gone by then.
    """
    if spec.mapped_image is None:
        return None
    return os.open(spec.mapped_image, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def _own_directories(spec: VmSpec) -> Generator[None]:
    """Both directories are made now and go when the VM is gone, and with them what is ours."""
    with ExitStack() as stack:
        if spec.standby is not None:
            stack.callback(give_up_slot, spec.standby)
            wait_for_leisure(spec.standby.patience_s)
        for directory in spec.owned_dirs:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        for directory in (spec.run_dir, spec.state_dir):
            os.mkdir(directory, 0o700)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
        os.mkdir(own_disks_path(spec.state_dir), 0o700)
        yield


if __name__ == "__main__":
    # At once: Python would take apart all that it has imported, which takes a fifth of a start.
    os._exit(main())
