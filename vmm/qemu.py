"""Start, watch and kill the QEMU process of one VM.

QEMU gets its sockets by descriptor: nothing to find, nothing to wait for, nothing to remove. It is
killed by the kernel when the monitor dies, and may do little (vmm/confine.py); passt, which starts
when the guest needs it, ends with QEMU's connection. This module is imported before anything heavy
so that QEMU starts while Python is still importing.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from vmm.cgroups import Cgroups, own_cgroups
from vmm.confine import child_environment, confinement
from vmm.disks import MountFiles, own_disks_path
from vmm.errors import VmmError, exhaustion_in, host_refusal, is_exhaustion
from vmm.machine import Endpoints, qemu_argv
from vmm.passt import NETWORK_SOCKET, Passt, listen_for_passt
from vmm.qmp_line import QmpLine
from vmm.ram_shim import shim_environment, usable_shim
from vmm.spec import VmSpec

CHANNEL_SOCKET = "channel.sock"
LEAST_DESCRIPTORS = 64
"""A QEMU with several disks, and layers on them. One that may open too few does not say so: it
accepts no connection, and who waits for its guest would wait for ever."""


@dataclass(slots=True)
class QemuProcess:
    """A running QEMU and our ends of what it was given."""

    process: subprocess.Popen[bytes]
    pidfd: int
    """Readable when QEMU has ended."""
    qmp_socket: socket.socket
    line: QmpLine
    """QMP too, for the moment of a snapshot."""
    console_socket: socket.socket
    stderr_fd: int
    argv: list[str]
    """How it was started."""
    channel_path: str
    layers: list[str]
    """Disk layers from the raw base to the writable overlay."""
    cgroups: Cgroups
    """What holds it within its limits."""
    passt: Passt | None = None
    """The guest's way out; None without it."""
    mount: MountFiles | None = None

    @property
    def pid(self) -> int:
        """The process id; ours to signal until it is reaped."""
        return self.process.pid

    def exit_status(self) -> int | None:
        """Exit code, negative signal number, or None while QEMU runs."""
        return self.process.poll()

    def refusal(self, error: OSError) -> VmmError:
        """Why it cannot be brought up: it has gone, or the host refused us something."""
        if select.select([self.pidfd], [], [], 0)[0]:
            return VmmError("QEMU_GONE", "QEMU went away while it was brought up")
        return host_refusal(error, "the VM cannot be brought up")

    def kill(self) -> None:
        """End QEMU at once; harmless if it has ended."""
        self.process.kill()


@contextmanager
def running_qemu(
    spec: VmSpec, layers: list[str], mount: MountFiles | None = None
) -> Generator[QemuProcess]:
    """Run QEMU for the length of the block; leaving the block kills it and reaps it.

    Raises:
        VmmError: QEMU_START_FAILED if a program is missing, LIMITS_UNAVAILABLE, HOST_REFUSED if it
            may open too few files.
    """
    _require_descriptors()
    with ExitStack() as stack:
        cgroups = stack.enter_context(own_cgroups(spec.cgroups))
        qmp_ours, qmp_theirs = _socket_pair(stack)
        line_ours, line_theirs = _socket_pair(stack)
        console_ours, console_theirs = _socket_pair(stack)
        stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, stderr_read)
        theirs = [qmp_theirs, line_theirs, console_theirs]
        network, passt = _network(spec, stack)
        if network is not None:
            theirs.append(network)
        endpoints = Endpoints(
            qmp_fd=qmp_theirs.fileno(),
            line_fd=line_theirs.fileno(),
            console_fd=console_theirs.fileno(),
            channel_path=os.path.join(spec.run_dir, CHANNEL_SOCKET),
            layers=layers,
            network_fd=network.fileno() if network else None,
            mount_lower=mount.lower if mount else None,
            mount_layers=mount.layers if mount else [],
            ram_shim=_ram_shim(spec),
        )
        try:
            own_disks = own_disks_path(spec.state_dir)
            confine = confinement(spec, endpoints, own_disks, stack)

            def prepare() -> None:
                cgroups.enter()
                confine()

            argv = qemu_argv(spec, endpoints)
            environment = _environment(spec, endpoints.ram_shim)
            inherited = [each.fileno() for each in theirs]
            process = _spawn(argv, inherited, stderr_write, spec, prepare, environment)
        finally:
            os.close(stderr_write)
        stack.callback(process.wait)
        stack.callback(process.kill)
        pidfd = os.pidfd_open(process.pid)
        stack.callback(os.close, pidfd)
        for each in theirs:
            each.close()
        yield QemuProcess(
            process=process,
            pidfd=pidfd,
            qmp_socket=qmp_ours,
            line=QmpLine(line_ours),
            console_socket=console_ours,
            stderr_fd=stderr_read,
            argv=argv,
            channel_path=endpoints.channel_path,
            layers=layers,
            cgroups=cgroups,
            passt=passt,
            mount=mount,
        )


def _require_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_DESCRIPTORS:
        few = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise host_refusal(few, f"QEMU needs {LEAST_DESCRIPTORS} descriptors and may have {most}")


def _ram_shim(spec: VmSpec) -> str | None:
    """What QEMU needs to give back memory of a mapped image, if it shall, and to have its writes
    tracked; None where it cannot."""
    if spec.mapped_image is not None and not spec.give_back:
        return None
    return usable_shim(spec.qemu_binary)


def _environment(spec: VmSpec, ram_shim: str | None) -> dict[str, str] | None:
    environment = child_environment(spec)
    if ram_shim is None:
        return environment
    environment = dict(os.environ) if environment is None else environment
    inherited = environment.get("LD_PRELOAD")
    return environment | shim_environment(ram_shim, spec.mapped_image, inherited)


def why_qemu_ended(failure: VmmError | None, status: int, last_words: bytes) -> VmmError | None:
    """`failure`, or what is behind it where QEMU could not be spoken to, or nobody spoke to it: the
    host ran out of something, as `last_words` say, or somebody killed it."""
    if failure is not None and failure.code not in ("QEMU_START_FAILED", "QEMU_GONE"):
        return failure
    if status and (error := exhaustion_in(last_words.decode("utf-8", "replace"))) is not None:
        return host_refusal(error, "QEMU cannot go on")
    if failure is None or status >= 0:
        return failure
    name = signal.Signals(-status).name
    message = f"QEMU was ended by {name}: by somebody, or by a host that is out of memory"
    return VmmError("QEMU_DIED", message)


def _socket_pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return ours, theirs


def _spawn(
    argv: list[str],
    inherited: list[int],
    stderr: int,
    spec: VmSpec,
    prepare: Callable[[], None],
    environment: dict[str, str] | None,
) -> subprocess.Popen[bytes]:
    """Start QEMU; `prepare` runs in its process first, which is safe: we have one thread yet.

    It begins in `/`: it would take firmware that lies in its working directory before its own.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            pass_fds=inherited,
            preexec_fn=prepare,
            cwd=None if spec.extra_args else "/",
            env=environment,
            start_new_session=True,  # the terminal's Ctrl-C is for the client, not for the machine
        )
    except OSError as error:
        raise _not_started(argv[0], error) from error
    except subprocess.SubprocessError as error:
        message = "QEMU cannot be confined; run `machinen doctor`"
        raise VmmError("QEMU_START_FAILED", message) from error


def _network(spec: VmSpec, stack: ExitStack) -> tuple[socket.socket | None, Passt | None]:
    """What QEMU's network is to be on, if passt shall be its way out: QEMU's listening socket, and
    the passt that nobody has started yet (vmm/passt_watch.py).

    Close the socket once QEMU has it: passt ends when nobody holds their connection any more.
    """
    if spec.machine.network != "full" or spec.passt_binary is None:
        return None, None
    if not os.access(spec.passt_binary, os.X_OK):  # said now, and not at the guest's first packet
        missing = not os.path.exists(spec.passt_binary)
        number = errno.ENOENT if missing else errno.EACCES
        raise _not_started(spec.passt_binary, OSError(number, os.strerror(number)))
    path = os.path.join(spec.run_dir, NETWORK_SOCKET)
    listener = listen_for_passt(path)
    stack.callback(listener.close)
    passt = Passt(spec.passt_binary, path)
    stack.callback(passt.end)
    return listener, passt


def _not_started(program: str, error: OSError) -> VmmError:
    """Why a program of the VM does not run: the host ran out of something, or it is none."""
    if is_exhaustion(error):
        return host_refusal(error, f"{program} cannot be started")
    return VmmError("QEMU_START_FAILED", f"cannot start {program}: {error.strerror}")
