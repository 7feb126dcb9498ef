"""The peer of a cold boot: plain QEMU, by hand, to its agent's HELLO.

Same argv, kernel, initramfs, disk and network as `boot()`; no monitor, no runtime.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from pathlib import Path

from machinen_runtime.assets import resolve_base_disk, resolve_base_kernel, resolve_modules_dir
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.machines import machine_for, resolve_passt, resolve_qemu_binary
from machinen_runtime.options import auto_size_memory_mib
from machinen_runtime.overlay_template import ensure_overlay_template
from vmm.disks import create_overlay
from vmm.frames import FrameDecoder, FrameType, GuestHello, Hello
from vmm.mux import HELLO_RETRY_S
from vmm.qemu import running_qemu
from vmm.spec import DiskSpec, VmSpec

BOOT_TIMEOUT_S = 120


def boot_plain_qemu_ms() -> float:
    """Milliseconds from starting QEMU to the agent's HELLO; QEMU is gone on return.

    Raises:
        TimeoutError: the agent did not answer within BOOT_TIMEOUT_S.
    """
    with tempfile.TemporaryDirectory(prefix="mnb-") as directory:
        spec = _spec(Path(directory))
        overlay = os.path.join(directory, "disk-1.qcow2")
        create_overlay(str(ensure_overlay_template(Path(spec.disk.base))), overlay)
        started = time.monotonic()
        with running_qemu(spec, [spec.disk.base, overlay]) as qemu:
            qemu.qmp_socket.recv(65536)  # the greeting: QEMU's other sockets exist by now
            with socket.socket(socket.AF_UNIX) as channel:
                channel.connect(qemu.channel_path)
                _meet_agent(channel, started + BOOT_TIMEOUT_S)
            return (time.monotonic() - started) * 1000


def _spec(directory: Path) -> VmSpec:
    base = resolve_base_disk()
    return VmSpec(
        id="plain",
        name=None,
        hostname="plain",
        run_dir=str(directory),
        state_dir=str(directory),
        qemu_binary=resolve_qemu_binary(),
        kernel=str(resolve_base_kernel()),
        initrd=str(ensure_initramfs(resolve_modules_dir().parent)),
        machine=machine_for(memory_mib=auto_size_memory_mib()),
        disk=DiskSpec(base=str(base), layers=[], overlay_template=None),
        passt_binary=resolve_passt(),
    )


def _meet_agent(channel: socket.socket, deadline: float) -> None:
    """Greet until the agent answers: QEMU drops what is written while nobody has the port open."""
    nonce = int.from_bytes(os.urandom(8), "little")
    decoder = FrameDecoder()
    channel.settimeout(HELLO_RETRY_S)
    while time.monotonic() < deadline:
        hello = Hello(
            nonce=nonce,
            realtime_ns=time.time_ns(),
            entropy=os.urandom(32),
            hostname="plain",
            name="plain",
        )
        channel.sendall(hello.encode())
        try:
            data = channel.recv(65536)
        except TimeoutError:
            continue
        if not data:
            raise ConnectionError("QEMU closed the channel before the agent answered")
        for frame in decoder.feed(data):
            if frame.type is FrameType.HELLO and GuestHello.decode(frame.payload).nonce == nonce:
                return
    raise TimeoutError(f"the agent did not answer within {BOOT_TIMEOUT_S} s")
