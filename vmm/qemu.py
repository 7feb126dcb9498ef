"""Start, watch and kill the QEMU process of one VM.

QEMU and passt get their sockets by descriptor: nothing to find, nothing to wait for, nothing to
remove. QEMU is killed by the kernel when the monitor dies (PR_SET_PDEATHSIG, through setpriv(1));
passt ends with QEMU's connection. This module is imported before anything heavy so that QEMU starts
while Python is still importing.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from vmm.disks import MountFiles
from vmm.errors import VmmError
from vmm.machine import Endpoints, qemu_argv
from vmm.spec import VmSpec

CHANNEL_SOCKET = "channel.sock"


@dataclass(slots=True)
class QemuProcess:
    """A running QEMU and our ends of what it was given."""

    process: subprocess.Popen[bytes]
    pidfd: int
    """Readable when QEMU has ended."""
    qmp_socket: socket.socket
    console_socket: socket.socket
    stderr_fd: int
    channel_path: str
    layers: list[str]
    """Disk layers from the raw base to the writable overlay."""
    passt_pidfd: int | None = None
    """Readable when passt has ended; None without it."""
    mount: MountFiles | None = None

    @property
    def pid(self) -> int:
        """The process id; ours to signal until it is reaped."""
        return self.process.pid

    def exit_status(self) -> int | None:
        """Exit code, negative signal number, or None while QEMU runs."""
        return self.process.poll()

    def kill(self) -> None:
        """End QEMU at once; harmless if it has ended."""
        self.process.kill()


@contextmanager
def running_qemu(
    spec: VmSpec, layers: list[str], mount: MountFiles | None = None
) -> Generator[QemuProcess]:
    """Run QEMU for the length of the block; leaving the block kills it and reaps it.

    Raises:
        VmmError: QEMU_START_FAILED if a program is missing.
    """
    with ExitStack() as stack:
        qmp_ours, qmp_theirs = _socket_pair(stack)
        console_ours, console_theirs = _socket_pair(stack)
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, stderr_read)
        inherited = [qmp_theirs.fileno(), console_theirs.fileno()]
        network, passt_pidfd = _start_passt(spec, stack)
        if network is not None:
            inherited.append(network.fileno())
        endpoints = Endpoints(
            qmp_fd=qmp_theirs.fileno(),
            console_fd=console_theirs.fileno(),
            channel_path=os.path.join(spec.run_dir, CHANNEL_SOCKET),
            layers=layers,
            network_fd=network.fileno() if network else None,
            mount_lower=mount.lower if mount else None,
            mount_layers=mount.layers if mount else [],
        )
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *qemu_argv(spec, endpoints)]
        try:
            process = _spawn(argv, inherited, stderr_write)
        finally:
            os.close(stderr_write)
        stack.callback(process.wait)
        stack.callback(process.kill)
        pidfd = os.pidfd_open(process.pid)
        stack.callback(os.close, pidfd)
        for theirs in (qmp_theirs, console_theirs, network):
            if theirs is not None:
                theirs.close()
        yield QemuProcess(
            process=process,
            pidfd=pidfd,
            qmp_socket=qmp_ours,
            console_socket=console_ours,
            stderr_fd=stderr_read,
            channel_path=endpoints.channel_path,
            layers=layers,
            passt_pidfd=passt_pidfd,
            mount=mount,
        )


def _socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return ours, theirs


def _spawn(argv: list[str], inherited: list[int], stderr: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            pass_fds=inherited,
            start_new_session=True,  # the terminal's Ctrl-C is for the client, not for the machine
        )
    except OSError as error:
        raise VmmError("QEMU_START_FAILED", f"cannot start {argv[0]}: {error.strerror}") from error


def _start_passt(spec: VmSpec, stack: ExitStack) -> tuple[socket.socket | None, int | None]:
    """Start passt on one end of a socket pair and return QEMU's end, and a pidfd of passt.

    Close it once QEMU has it: passt ends when nobody holds it any more.
    """
    if spec.machine.network != "full" or spec.passt_binary is None:
        return None, None
    qemu_end, passt_end = _socket_pair(stack)
    argv = passt_argv(spec.passt_binary, passt_end.fileno())
    process = _spawn(argv, [passt_end.fileno()], subprocess.DEVNULL)
    passt_end.close()
    stack.callback(_end_passt, process)
    pidfd = os.pidfd_open(process.pid)
    stack.callback(os.close, pidfd)
    return qemu_end, pidfd


def passt_argv(binary: str, socket_fd: int) -> list[str]:
    """User-mode networking on a connected socket, with the addresses init.c configures.

    The guest cannot reach the host's loopback, and nothing outside reaches the guest: port
    forwards go over the channel.
    """
    return [
        *(binary, "--quiet", "--foreground", "--fd", str(socket_fd)),
        *("--address", "10.0.2.15", "--netmask", "24", "--gateway", "10.0.2.2"),
        *("--dns-forward", "10.0.2.3", "--no-map-gw", "--ipv4-only"),
        *("--no-dhcp", "--tcp-ports", "none", "--udp-ports", "none"),
    ]


def _end_passt(process: subprocess.Popen[bytes]) -> None:
    """passt ends by itself when QEMU closes its end; do not wait for it longer than a moment."""
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
