"""A standby: a machine from its template that is nobody yet, until somebody takes it.

It starts when the host has nothing better to do, rehearses what every boot does (vmm/rehearsal.py),
stops its guest and waits on a socket for a claim (vmm/claim.py). From there on it is the monitor of
that VM and of no other. It ends by itself when nobody comes, when its template goes, when the host
runs short of memory, and when somebody withdrew its socket but never came.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from vmm.claim import CLAIM_SOCKET, GREETING, Claim, ClaimReader
from vmm.console import read_last_words
from vmm.device_state import bring_back
from vmm.errors import VmmError, first_error
from vmm.machine import machine_sum
from vmm.peers import is_trusted
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp, qmp_session
from vmm.rehearsal import rehearse
from vmm.spec import VmSpec, file_identity
from vmm.standby_slot import give_up_slot

CLAIM_TIMEOUT_S = 2.0
"""Whoever connects has this long to say who the VM shall be."""
LOOK_AROUND_S = 5.0
"""How often it looks whether it is still wanted: memory tells nobody that it becomes scarce."""
LOOKS = 8
"""But so many times at least."""
BACKLOG = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A standby that is somebody now, and the QMP session it has with its QEMU."""

    claim: Claim
    spec: VmSpec
    qmp: Qmp
    clock: PhaseClock
    """Begun when the claim came."""


@asynccontextmanager
async def standing_by(
    spec: VmSpec, qemu: QemuProcess, image_fd: int | None, template: ExitStack
) -> AsyncGenerator[Taken | None]:
    """Be a standby until somebody takes it: yields what it became, None if nobody wants it.

    `template` is closed when nothing of the template is read any more.

    Raises:
        VmmError: the machine did not come up.
    """
    assert spec.standby is not None
    async with qmp_session(qemu.qmp_socket) as qmp:
        taken: Taken | None = None
        failure: VmmError | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_signalled, tasks.cancel_scope)
                tasks.start_soon(_until_qemu_ends, qemu, tasks.cancel_scope)
                tasks.start_soon(read_last_words, qemu.stderr_fd)  # it would wait for a reader
                await bring_back(spec, qemu, qmp, image_fd, PhaseClock())
                template.close()
                await rehearse(qmp, qemu.channel_path)
                with _listening(spec) as listener:
                    tasks.start_soon(_until_unwanted, spec, tasks.cancel_scope)
                    taken = await _wait_taken(spec, listener, qmp)
                tasks.cancel_scope.cancel()
        except* VmmError as group:
            failure = first_error(group)
        if failure is not None:
            raise failure
        if taken is not None:
            give_up_slot(spec.standby)
        yield taken


def adopt(own: VmSpec, claimed: VmSpec) -> VmSpec:
    """The VM a standby becomes: who it is comes from the claim, what it is made of stays.

    Raises:
        VmmError: SPEC_INVALID: the claim wants another machine.
    """
    fits = (
        claimed.id == own.id
        and claimed.restore is not None
        and claimed.restore.template
        and (claimed.confine, claimed.give_back) == (own.confine, own.give_back)
        and claimed.standby is None
        and claimed.template_dir is None
        and claimed.mount_disk is None
        and not (claimed.extra_args or claimed.dtb or claimed.owned_dirs or claimed.cgroups)
        and bool(claimed.passt_binary) == bool(own.passt_binary)
        and machine_sum(claimed) == machine_sum(own)
    )
    if not fits:
        raise VmmError("SPEC_INVALID", "the claim wants another machine than this standby is")
    return replace(
        claimed,
        run_dir=own.run_dir,
        state_dir=own.state_dir,
        qemu_binary=own.qemu_binary,
        passt_binary=own.passt_binary,
        kernel=own.kernel,
        initrd=own.initrd,
        disk=own.disk,
        restore=own.restore,
    )


def _listening(spec: VmSpec) -> socket.socket:
    """The socket for claims: that it is there says that the standby is ready."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        path = os.path.join(spec.run_dir, CLAIM_SOCKET)
        hidden = f"{path}.new"  # under its own name nobody finds it before it listens
        listener.bind(hidden)
        os.chmod(hidden, 0o600)
        listener.listen(BACKLOG)
        os.rename(hidden, path)
    except BaseException:
        listener.close()
        raise
    return listener


async def _wait_taken(spec: VmSpec, listener: socket.socket, qmp: Qmp) -> Taken:
    """Serve who connects, one after the other, until one of them takes the standby."""
    while True:
        await anyio.wait_readable(listener)
        try:
            connected, _ = listener.accept()
        except OSError:  # it has gone again
            continue
        with connected:
            if not is_trusted(connected):
                continue
            clock = PhaseClock()
            claim = await _receive(connected)
            if claim is None:
                continue
            try:
                return Taken(claim=claim, spec=adopt(spec, claim.spec), qmp=qmp, clock=clock)
            except VmmError:
                for descriptor in claim.descriptors.values():
                    os.close(descriptor)


async def _receive(connected: socket.socket) -> Claim | None:
    """The claim on a connection; None if none comes in time, or what comes is none."""
    connected.setblocking(False)
    reader = ClaimReader(connected)
    try:
        with anyio.move_on_after(CLAIM_TIMEOUT_S):
            connected.send(GREETING)
            while True:
                await anyio.wait_readable(connected)
                with suppress(BlockingIOError):
                    if (claim := reader.read()) is not None:
                        return claim
    except (VmmError, OSError):
        return None
    finally:
        reader.close()
    return None


# -- why a standby ends by itself -----------------------------------------------------------------


async def _until_signalled(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()


async def _until_qemu_ends(qemu: QemuProcess, scope: anyio.CancelScope) -> None:
    await anyio.wait_readable(qemu.pidfd)
    scope.cancel()


async def _until_unwanted(spec: VmSpec, scope: anyio.CancelScope) -> None:
    """Look around now and then; a socket that was withdrawn is somebody's, who may still come."""
    standby = spec.standby
    assert standby is not None
    ends_at = time.monotonic() + standby.idle_s
    was_withdrawn = False
    while time.monotonic() < ends_at:
        await anyio.sleep(min(LOOK_AROUND_S, standby.idle_s / LOOKS))
        withdrawn = file_identity(os.path.join(spec.run_dir, CLAIM_SOCKET)) is None
        if withdrawn and was_withdrawn:
            break
        was_withdrawn = withdrawn
        if file_identity(standby.template) != standby.template_identity:
            break
        if available_bytes() < standby.least_available_bytes:
            break
    scope.cancel()


def available_bytes() -> int:
    """MemAvailable, proc_meminfo(5)."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
