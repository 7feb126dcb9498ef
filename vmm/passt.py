"""The passt of one VM: a process that is the guest's way out, on a connection to QEMU's socket.

QEMU listens and takes one connection at a time (`-netdev stream,server=on`), so that a passt that
has ended can have a successor. passt ends by itself when QEMU does. This module is imported before
anything heavy, see vmm/qemu.py; vmm/passt_watch.py is what makes use of it.
"""

from __future__ import annotations

import os
import socket
import subprocess

NETWORK_SOCKET = "network.sock"
BACKLOG = 4
"""QEMU takes a successor's connection when it has seen the end of the old one."""
END_TIMEOUT_S = 0.5


def listen_for_passt(path: str) -> socket.socket:
    """The socket to give to QEMU: it can be connected to from now on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class Passt:
    """Starts passt on QEMU's socket at `socket_path`, and starts it again.

    `pidfd` is readable when it has ended.
    """

    def __init__(self, binary: str, socket_path: str) -> None:
        self.binary = binary
        self._socket_path = socket_path
        self._process: subprocess.Popen[bytes] | None = None
        self.pidfd: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Connect to QEMU's socket and leave the connection to a new passt.

        Raises:
            OSError: there is no such program, or QEMU listens no more.
        """
        self.end()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            connection.connect(self._socket_path)
            connection.setblocking(True)
            self._process = subprocess.Popen(
                passt_argv(self.binary, connection.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[connection.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C is for the client
            )
        self.pidfd = os.pidfd_open(self._process.pid)

    def end(self) -> str:
        """Make sure that it has ended, and say how; it goes when QEMU closes its end."""
        if self._process is None:
            return "it was not started"
        try:
            status = self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if self.pidfd is not None:
            os.close(self.pidfd)
        self._process, self.pidfd = None, None
        return f"signal {-status}" if status < 0 else f"status {status}"


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
