"""The passt of one VM: a process that is the guest's way out, on a connection to QEMU's socket.

QEMU listens and takes one connection at a time (`-netdev stream,server=on`), so that a passt that
has ended can have a successor. The connection is ours until the guest sends something: what it
sends waits in the socket, and most guests never do. passt ends by itself when QEMU does. This
module is imported before anything heavy, see vmm/qemu.py; vmm/passt_watch.py makes use of it.
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
    """Connects to QEMU's socket at `socket_path`, and starts passt on the connection; both again
    and again.

    `pidfd` is readable when it has ended.
    """

    def __init__(self, binary: str, socket_path: str) -> None:
        self.binary = binary
        self._socket_path = socket_path
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: socket.socket | None = None
        """Readable when the guest has sent something, or QEMU has hung up; None once it is left to
        passt."""
        self.pidfd: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id; None while there is none."""
        return None if self._process is None else self._process.pid

    def connect(self) -> None:
        """Be connected to QEMU: what the guest sends from here on is kept.

        Raises:
            OSError: QEMU listens no more.
        """
        if self.connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.setblocking(False)
                connection.connect(self._socket_path)
                connection.setblocking(True)  # as passt expects it
            except BaseException:
                connection.close()
                raise
            self.connection = connection

    def is_wanted(self) -> bool:
        """Whether the guest has sent something; False if QEMU has hung up."""
        assert self.connection is not None
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (BlockingIOError, ConnectionResetError):
            return False

    def start(self) -> None:
        """Leave the connection to a new passt; it stays ours if there is none.

        Raises:
            OSError: there is no such program.
        """
        assert self.connection is not None
        descriptor = self.connection.fileno()
        self._process = subprocess.Popen(
            passt_argv(self.binary, descriptor),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # the terminal's Ctrl-C is for the client
        )
        self.pidfd = os.pidfd_open(self._process.pid)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the connection, if it is ours; passt's own is not touched."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def end(self) -> str:
        """Make sure that it has ended, and say how; it goes when QEMU closes its end."""
        self.hang_up()
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
