"""sshd in a guest, and how the host logs in: the peer of exec, and the way of sshfs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.world import World
from machinen_runtime.handle import VmHandle

INSTALL_TIMEOUT_MS: Final = 900_000
INSECURE: Final = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
"""The guest was made a minute ago, and lies behind a forward of 127.0.0.1."""


@asynccontextmanager
async def sshd_in(
    world: World, vm: VmHandle, packages: Sequence[str] = ()
) -> AsyncGenerator[list[str]]:
    """The command line that logs in, `ssh … root@127.0.0.1`, for the length of the block.

    openssh-server and `packages` come from Debian, which needs a network once.
    """
    wanted = " ".join(("openssh-server", *packages))
    world.say(f"installing {wanted} in the guest")
    key = world.directory / "key"
    if not key.exists():
        await world.run_ms(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    await vm.exec(
        "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y "
        f"--no-install-recommends {wanted} && mkdir -p -m 700 /root/.ssh /run/sshd "
        "&& /usr/sbin/sshd",
        exec_timeout_ms=INSTALL_TIMEOUT_MS,
    )
    await vm.write_file("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text())
    forward = await vm.add_port_forward(22)
    try:
        yield login_argv(key, forward.host_port)
    finally:
        await vm.remove_port_forward(forward.host_port)


def login_argv(key: Path, port: int) -> list[str]:
    """How the host's ssh gets in through a port forward."""
    options = [word for option in INSECURE for word in ("-o", option)]
    return ["ssh", "-i", str(key), "-p", str(port), *options, "root@127.0.0.1"]


@asynccontextmanager
async def kept_connection(world: World, login: Sequence[str]) -> AsyncGenerator[list[str]]:
    """The same over one connection that stays open (ssh's ControlMaster), as its users have it."""
    control = str(world.sockets / "ssh")
    shared = [login[0], "-o", f"ControlPath={control}", *login[1:]]
    await world.run_ms([*shared[:-1], "-o", "ControlMaster=yes", "-f", "-N", shared[-1]])
    try:
        yield shared
    finally:
        await world.run_ms([*shared[:-1], "-O", "exit", shared[-1]])
