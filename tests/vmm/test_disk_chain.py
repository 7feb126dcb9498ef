"""One disk's layers: their names, and a freeze that succeeds or leaves everything as it was."""

from __future__ import annotations

from typing import Any, cast

import pytest

from vmm.disk_chain import DiskChain
from vmm.errors import VmmError
from vmm.qmp import Qmp


class FakeQmp:
    """Notes what is asked, and refuses `refused`."""

    def __init__(self, *refused: str) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._refused = refused

    async def execute(self, command: str, arguments: dict[str, Any]) -> None:
        self.asked.append((command, arguments))
        if command in self._refused:
            raise VmmError("QMP_REFUSED", f"no {command}")

    @property
    def commands(self) -> list[str]:
        return [command for command, _ in self.asked]


def chain(*layers: str) -> DiskChain:
    return DiskChain("layer", "disk", "/templates/empty", ["/base.ext4", *layers])


async def push(disk: DiskChain, qmp: FakeQmp, path: str) -> None:
    await disk.open_next(cast("Qmp", qmp), path)
    await disk.push(cast("Qmp", qmp))


def test_layers_are_named_by_their_place_above_the_base() -> None:
    disk = chain("/one", "/two")
    assert disk.next_path("/state") == "/state/disk-3.qcow2"
    assert disk.names(disk.layers) == ["disk-1.qcow2", "disk-2.qcow2"]
    assert disk.names(disk.layers[:1]) == []


async def test_a_freeze_puts_a_writable_layer_on_the_newest() -> None:
    disk, qmp = chain("/one"), FakeQmp()
    await push(disk, qmp, "/state/disk-2.qcow2")
    assert qmp.commands == ["blockdev-add", "blockdev-snapshot"]
    added, snapshot = (arguments for _, arguments in qmp.asked)
    assert (added["node-name"], added["read-only"], added["driver"]) == ("layer2", False, "qcow2")
    assert added["backing"] is None, "blockdev-snapshot sets it; the file names none"
    assert added["file"]["filename"] == "/state/disk-2.qcow2"
    assert snapshot == {"node": "layer1", "overlay": "layer2"}
    assert disk.layers == ["/base.ext4", "/one", "/state/disk-2.qcow2"]
    await push(disk, qmp, "/state/disk-3.qcow2")
    assert qmp.asked[-1][1] == {"node": "layer2", "overlay": "layer3"}


async def test_a_layer_that_qemu_cannot_open_changes_nothing() -> None:
    disk, qmp = chain("/one"), FakeQmp("blockdev-add")
    with pytest.raises(VmmError, match="no blockdev-add"):
        await push(disk, qmp, "/state/disk-2.qcow2")
    assert qmp.commands == ["blockdev-add"]
    assert disk.layers == ["/base.ext4", "/one"]


@pytest.mark.parametrize("also", [(), ("blockdev-del",)])
async def test_a_layer_that_was_not_pushed_is_taken_away_again(also: tuple[str, ...]) -> None:
    disk, qmp = chain("/one"), FakeQmp("blockdev-snapshot", *also)
    with pytest.raises(VmmError, match="no blockdev-snapshot"):
        await push(disk, qmp, "/state/disk-2.qcow2")
    assert disk.layers == ["/base.ext4", "/one"]
    for _ in range(2):
        await disk.close_next(cast("Qmp", qmp))
    assert qmp.commands == ["blockdev-add", "blockdev-snapshot", "blockdev-del"]
    assert qmp.asked[-1][1] == {"node-name": "layer2"}


async def test_a_layer_that_was_pushed_stays() -> None:
    disk, qmp = chain("/one"), FakeQmp()
    await push(disk, qmp, "/state/disk-2.qcow2")
    await disk.close_next(cast("Qmp", qmp))
    assert "blockdev-del" not in qmp.commands
