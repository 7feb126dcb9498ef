"""The peers of boots, forks and restores: QEMU started by hand, with the argv a monitor would use.

Same kernel, initramfs, disk and devices; no monitor, no runtime, no registry, nothing confined.
What is made beforehand (directories, overlays) is not on the clock.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.plain_agent import PlainAgent
from machinen_runtime.assets import resolve_base_disk, resolve_base_kernel, resolve_modules_dir
from machinen_runtime.bundle import VM_DIR, read_bundle
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.machines import machine_for, resolve_passt, resolve_qemu_binary
from machinen_runtime.options import auto_size_memory_mib
from machinen_runtime.overlay_template import ensure_overlay_template
from vmm.disks import ROOT_STEM, create_overlay, own_disks_path, prepare_chain
from vmm.qemu import QemuProcess, running_qemu
from vmm.spec import DiskSpec, RestoreSpec, VmSpec
from vmm.stats import cpu_seconds

BOOT_TIMEOUT_S = 120
SAVED = "bench"
"""What the snapshot inside a disk is called."""


class PlainQmp:
    """QMP by hand: one command, one answer."""

    def __init__(self, connected: socket.socket) -> None:
        self._lines = connected.makefile("rwb")
        self._lines.readline()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """What QEMU returns.

        Raises:
            RuntimeError: it refused.
        """
        self._send(command, arguments)
        while True:
            answer = self._read()
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    def load(self, state: str) -> None:
        """Load the devices of a machine that waits for them."""
        events_on = [{"capability": "events", "state": True}]
        self.execute("migrate-set-capabilities", capabilities=events_on)
        self._send("migrate-incoming", {"uri": f"file:{state}"})
        while (status := self._read().get("data", {}).get("status")) != "completed":
            if status == "failed":
                raise RuntimeError(f"QEMU cannot load {state}")

    def _send(self, command: str, arguments: dict[str, Any]) -> None:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._lines.flush()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("QEMU went away")
        return json.loads(line)


@dataclass(frozen=True, slots=True)
class Took:
    """What one start took: milliseconds to the first answer, seconds of processor of QEMU."""

    answer_ms: float
    cpu_s: float
    pid: int
    """QEMU's, which runs on in the block."""


def boot_plain_qemu_ms() -> float:
    """Milliseconds from starting QEMU to the agent's HELLO; QEMU is gone on return.

    Raises:
        TimeoutError: the agent did not answer within BOOT_TIMEOUT_S.
    """
    with tempfile.TemporaryDirectory(prefix="mnb-") as directory:
        spec, layers = _cold(directory)
        started = time.monotonic()
        with running_qemu(spec, layers) as qemu:
            PlainQmp(qemu.qmp_socket)  # QEMU's other sockets exist by now
            with _agent(qemu) as agent:
                agent.meet(BOOT_TIMEOUT_S)
                return (time.monotonic() - started) * 1000


@contextmanager
def restored(bundle: Path, question: Sequence[str] = ("true",)) -> Generator[Took]:
    """A machine that goes on from `bundle`, until the end of the block; what its start took, to the
    end of the command `question`.
    """
    with tempfile.TemporaryDirectory(prefix="mnb-") as directory:
        spec, layers = _copy_of(bundle, directory)
        with _started(spec, layers, question) as took:
            yield took


@contextmanager
def _started(
    spec: VmSpec, layers: list[str], question: Sequence[str] = ("true",)
) -> Generator[Took]:
    started = time.monotonic()
    with running_qemu(spec, layers) as qemu:
        qmp = PlainQmp(qemu.qmp_socket)
        if spec.restore is not None:
            qmp.load(spec.restore.state)
        with _agent(qemu) as agent:  # connected first, as a monitor is (vmm/device_state.py)
            if spec.restore is not None:
                qmp.execute("cont")
            agent.meet(BOOT_TIMEOUT_S)
            agent.run(*question)
            yield Took((time.monotonic() - started) * 1000, cpu_seconds(qemu.pid), qemu.pid)


class SavedMachine:
    """A machine of `memory_mib` in a disk's own snapshot (`savevm`), to be started by `-loadvm`.

    It lies in `directory`, and has no network: savevm is about memory, devices and disk.
    """

    def __init__(self, directory: Path, memory_mib: int) -> None:
        directory.mkdir()
        spec, self._layers = _cold(str(directory), network="none", memory_mib=memory_mib)
        with running_qemu(spec, self._layers) as qemu:
            qmp = PlainQmp(qemu.qmp_socket)
            with _agent(qemu) as agent:
                agent.meet(BOOT_TIMEOUT_S)
                agent.run("true")
            said = qmp.execute("human-monitor-command", **{"command-line": f"savevm {SAVED}"})
            if said.strip():
                raise RuntimeError(f"savevm: {said.strip()}")
        self._spec = replace(spec, extra_args=["-loadvm", SAVED])

    def answer_ms(self) -> float:
        """Milliseconds from starting QEMU to the first answer."""
        with _started(self._spec, self._layers) as took:
            return took.answer_ms


def _agent(qemu: QemuProcess) -> PlainAgent:
    return PlainAgent(qemu.channel_path)


def _cold(
    directory: str, *, network: Literal["full", "none"] = "full", memory_mib: int | None = None
) -> tuple[VmSpec, list[str]]:
    base = resolve_base_disk()
    machine = machine_for(memory_mib=memory_mib or auto_size_memory_mib(), network=network)
    spec = VmSpec(
        kernel=str(resolve_base_kernel()),
        initrd=str(ensure_initramfs(resolve_modules_dir().parent)),
        machine=machine,
        disk=DiskSpec(base=str(base), layers=[], overlay_template=None),
        **_common(directory),
    )
    return spec, [str(base), _overlay(base, directory)]


def _copy_of(bundle: Path, directory: str) -> tuple[VmSpec, list[str]]:
    meta, files = read_bundle(bundle), bundle / VM_DIR
    base, own = Path(meta.base_disk), [str(files / layer) for layer in meta.layers]
    spec = VmSpec(
        kernel="",
        initrd="",
        machine=meta.machine,
        disk=DiskSpec(base=str(base), layers=own, overlay_template=None),
        restore=RestoreSpec(state=str(files / meta.state), ram_image=str(files / meta.ram_image)),
        **_common(directory),
    )
    template = str(ensure_overlay_template(base))
    return spec, prepare_chain(str(base), own, template, directory, ROOT_STEM)


def _common(directory: str) -> dict[str, Any]:
    return {
        "id": "plain",
        "name": None,
        "hostname": "plain",
        "run_dir": directory,
        "state_dir": directory,
        "qemu_binary": resolve_qemu_binary(),
        "passt_binary": resolve_passt(),
        "confine": False,
    }


def _overlay(base: Path, directory: str) -> str:
    own = own_disks_path(directory)
    os.makedirs(own, exist_ok=True)
    overlay = os.path.join(own, "disk-1.qcow2")
    create_overlay(str(ensure_overlay_template(base)), overlay)
    return overlay
