"""What a rewind that fails puts back: the old VM's ports and whether it runs. No VM."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.option_types import PortForward
from machinen_runtime.registry_entry import RegistryEntry

rewind = import_module("machinen_runtime.rewind")  # the package's name is the function's

OLD = RegistryEntry(pid=1, socket_path="/old/vsock.sock", started_at=1.0)
NEW = RegistryEntry(pid=2, socket_path="/new/vsock.sock", started_at=2.0)
PORTS = [PortForward(host_port=port, guest_port=80) for port in (8080, 8081)]


class Ports:
    """Which host ports lead into whom; a VM in `dead` refuses everything."""

    def __init__(self) -> None:
        self.of: dict[int, list[PortForward]] = {OLD.pid: list(PORTS), NEW.pid: []}
        self.dead: set[int] = set()

    def _living(self, entry: RegistryEntry) -> list[PortForward]:
        if entry.pid in self.dead:
            raise BootError(ErrorCode.VM_DIED, "it ended")
        return self.of[entry.pid]

    async def listed(self, entry: RegistryEntry) -> list[PortForward]:
        return list(self._living(entry))

    async def add(self, entry: RegistryEntry, wanted: PortForward) -> PortForward:
        self._living(entry).append(wanted)
        return wanted

    async def remove(self, entry: RegistryEntry, host_port: int, host_addr: str) -> None:
        ports = self._living(entry)
        gone = [
            each for each in ports if (each.host_port, each.host_addr) == (host_port, host_addr)
        ]
        if not gone:
            raise BootError(ErrorCode.BOOT_PORT_FORWARD_INVALID, "there is none")
        ports.remove(gone[0])


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Ports:
    ports = Ports()
    monkeypatch.setattr(rewind, "list_forwards", ports.listed)
    monkeypatch.setattr(rewind, "add_forward", ports.add)
    monkeypatch.setattr(rewind, "remove_forward", ports.remove)
    return ports


async def test_the_ports_lead_into_the_new_vm(ports: Ports) -> None:
    async with rewind._forwards_moved(OLD, NEW):
        pass
    assert ports.of == {OLD.pid: [], NEW.pid: PORTS}


@pytest.mark.parametrize("new_dies", [False, True])
async def test_after_a_failure_every_port_leads_into_the_old_vm_again(
    ports: Ports, new_dies: bool
) -> None:
    async def fail() -> None:
        async with rewind._forwards_moved(OLD, NEW):
            if new_dies:
                ports.dead.add(NEW.pid)
            raise ValueError("a caller's own")

    with pytest.raises(ValueError, match="a caller"):
        await fail()
    assert ports.of[OLD.pid] == PORTS


@pytest.mark.parametrize("state", ["running", "paused"])
async def test_after_a_failure_the_old_vm_runs_if_it_ran(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    asked: list[str] = []

    class Monitor:
        """Keeps what it is asked."""

        def __init__(self, run_dir: Path) -> None:
            assert run_dir == Path("/old")

        async def status(self) -> SimpleNamespace:
            return SimpleNamespace(state=state)

        async def pause(self) -> None:
            asked.append("pause")

        async def resume(self) -> None:
            asked.append("resume")

    monkeypatch.setattr(rewind, "MonitorClient", Monitor)
    with pytest.raises(ValueError, match="a caller"):
        async with rewind._standing_still(OLD):
            raise ValueError("a caller's own")
    assert asked == (["pause", "resume"] if state == "running" else ["pause"])
