"""`machinen-vmm --nest FD`: a process that has imported all that a monitor needs, and forks them.

Importing costs a monitor more than all else it does until its guest answers, and all monitors
import the same. Siblings of one fork come from one nest: what they only read they share. A nest has
no thread, no event loop and no VM; it ends when the other end of its socket closes, as it does when
its client ends, however that ends.

The socket keeps packets apart (SOCK_SEQPACKET, unix(7)). Each packet is one byte that says nothing,
and asks for one monitor; beside it come that monitor's ends of its pipes (SCM_RIGHTS), those of
NEST_ENDS in this order, and for a VM with a terminal those of NEST_STDIO (vmm/status.py).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

from vmm.errors import host_refusal
from vmm.status import NEST_ENDS, NEST_STDIO

NEEDED = ("anyio._backends._asyncio", "vmm.monitor", "vmm.passt_watch", "vmm.crash")
"""What a monitor imports sooner or later; the rest only few do."""
MAX_ENDS = len(NEST_ENDS) + len(NEST_STDIO)


def wait_hatched(descriptor: int) -> dict[str, int] | None:
    """Fork a monitor for each request: this returns in every one of them, with its ends by name.

    None: in the nest itself, when nobody wants another.
    """
    for module in NEEDED:
        import_module(module)
    gc.collect()
    gc.freeze()  # or the collector would write to every page the siblings share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the kernel reaps
    with socket.socket(fileno=descriptor) as requests:
        while True:
            _, ends, _, _ = socket.recv_fds(requests, 1, MAX_ENDS, socket.MSG_CMSG_CLOEXEC)
            if not ends:
                return None
            names = dict[str, int](zip((*NEST_ENDS, *NEST_STDIO), ends, strict=False))
            try:
                if os.fork() == 0:
                    break
            except OSError as error:
                _refuse(names, error)
            for each in ends:
                os.close(each)
    _move_in(names)
    return names


def _refuse(names: dict[str, int], error: OSError) -> None:
    """Tell whoever asked for a monitor that there is none."""
    refusal = host_refusal(error, "the VM cannot be started")
    line = {"event": "failed", "error": refusal.to_json(), "console": "", "qemu": ""}
    with suppress(OSError):
        os.write(names["status"], json.dumps(line).encode() + b"\n")


def _move_in(names: dict[str, int]) -> None:
    """Be a process as if it had been started with these ends: a session, and standard streams."""
    os.setsid()
    os.dup2(names["spec"], sys.stdin.fileno(), inheritable=False)
    os.close(names.pop("spec"))
    if (console := names.get("console")) is not None:
        os.dup2(console, sys.stderr.fileno(), inheritable=True)
        os.close(console)
