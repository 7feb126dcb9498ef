"""Which layers of a disk become one, and what happens to a merge that does not end by itself."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import disk_merge
from vmm.disk_chain import DiskChain
from vmm.disk_merge import SMALL_BYTES, WORTH_LAYERS, ChainMerger, layers_to_keep
from vmm.errors import VmmError
from vmm.qmp import Qmp

JOB = "merge-layer"


class Said:
    """The events there were."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self._messages = messages

    def __aiter__(self) -> Said:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if not self._messages:
            raise StopAsyncIteration
        return self._messages.pop(0)


class FakeQmp:
    """A QEMU with at most one job of ours; `refused` are commands it does not obey."""

    def __init__(self, *refused: str) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.job: dict[str, Any] | None = None
        self._refused = refused
        self._said: list[dict[str, Any]] = []

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        given = arguments or {}
        self.asked.append((command, given))
        if command in self._refused:
            raise VmmError("QMP_REFUSED", f"no {command}")
        match command:
            case "block-stream":
                self.job = {"id": given["job-id"], "status": "running"}
            case "job-cancel":
                self.end(error="Operation canceled")
            case "query-jobs":
                return [{"id": "another", "status": "running"}, self.job]
            case "job-dismiss":
                assert self.job is not None
                assert self.job["status"] == "concluded"
                self.job = None
            case _:
                assert command == "blockdev-del"
        return {}

    def end(self, **outcome: str) -> None:
        assert self.job is not None
        self.job = {**self.job, "status": "concluded", **outcome}
        self._said.append({"data": {"id": "another", "status": "concluded"}})
        self._said.append({"data": {"id": JOB, "status": "concluded"}})

    @contextmanager
    def events(self, *names: str) -> Generator[Said]:
        assert names == ("JOB_STATUS_CHANGE",)

        yield Said(self._said)

    def of(self, command: str) -> list[dict[str, Any]]:
        return [arguments for each, arguments in self.asked if each == command]


class Disk:
    """A chain of files of these sizes in KiB, the newest empty."""

    def __init__(self, directory: Path, sizes: list[int], qmp: FakeQmp) -> None:
        self.state = directory / "state"
        self.state.mkdir()
        inherited = directory / "elsewhere.qcow2"
        self.files = [inherited, *(self.state / f"disk-{n}.qcow2" for n in range(2, len(sizes)))]
        self.files += [self.state / f"disk-{len(sizes)}.qcow2"]
        for path, kib in zip(self.files, sizes, strict=True):
            path.write_bytes(b"x" * (kib << 10))
        layers = ["/base.ext4", *map(str, self.files)]
        self.chain = DiskChain("layer", "disk", "/empty", layers)
        self.merger = ChainMerger(self.chain, cast("Qmp", qmp), str(self.state))


def test_few_layers_are_left_alone() -> None:
    assert layers_to_keep([]) is None
    assert layers_to_keep([0] * (WORTH_LAYERS - 1)) is None
    assert layers_to_keep([0] * WORTH_LAYERS) == 0


def test_a_large_layer_below_small_ones_stays_until_they_are_as_large() -> None:
    large = 100 * SMALL_BYTES
    assert layers_to_keep([large, *[SMALL_BYTES] * WORTH_LAYERS]) == 1
    assert layers_to_keep([large, *[SMALL_BYTES] * 99]) == 0


@given(st.lists(st.integers(0, 1 << 40), max_size=200))
def test_what_is_copied_is_in_proportion_and_what_stays_is_few(sizes: list[int]) -> None:
    keep = layers_to_keep(sizes)
    if keep is None:
        return
    assert len(sizes) - keep >= WORTH_LAYERS
    if keep:
        assert sizes[keep - 1] > sum(sizes[keep:]) + SMALL_BYTES


def test_a_disk_written_to_forever_keeps_few_layers() -> None:
    sizes: list[int] = []
    copied = written = 0
    for number in range(5000):
        sizes.append((number % 7) << 20)
        written += sizes[-1]
        keep = layers_to_keep(sizes)
        if keep is not None:
            copied += sum(sizes[keep:])
            sizes[keep:] = [sum(sizes[keep:])]
        assert len(sizes) < 3 * WORTH_LAYERS
    assert copied < 12 * written


async def test_a_merge_that_ended_takes_its_layers_and_their_files_away(tmp_path: Path) -> None:
    qmp = FakeQmp()
    disk = Disk(tmp_path, [4] * (WORTH_LAYERS + 1), qmp)
    top = disk.chain.layers[-1]
    await disk.merger.begin()
    (stream,) = qmp.of("block-stream")
    assert (stream["device"], stream["base-node"]) == (f"layer{WORTH_LAYERS + 1}", "layer0")
    assert stream["backing-file"] == ""
    await disk.merger.begin()  # one at a time
    assert len(qmp.of("block-stream")) == 1
    qmp.end()
    await disk.merger.settle()
    assert disk.chain.layers == ["/base.ext4", top]
    deleted = [each["node-name"] for each in qmp.of("blockdev-del")]
    assert deleted == [f"layer{number}" for number in range(WORTH_LAYERS, 0, -1)]
    assert [path.name for path in disk.state.iterdir()] == [Path(top).name]
    assert disk.files[0].exists(), "it is not in our directory"
    assert disk.chain.node(-1) == f"layer{WORTH_LAYERS + 1}"
    assert disk.chain.next_path("/own") == f"/own/disk-{WORTH_LAYERS + 2}.qcow2"
    assert disk.chain.names(disk.chain.layers) == ["disk-1.qcow2"]
    await disk.merger.settle()
    assert len(qmp.of("job-dismiss")) == 1


async def test_a_merge_that_runs_is_given_up_and_all_is_as_it_was(tmp_path: Path) -> None:
    qmp = FakeQmp()
    disk = Disk(tmp_path, [4] * (WORTH_LAYERS + 1), qmp)
    before = list(disk.chain.layers)
    await disk.merger.begin()
    await disk.merger.settle()
    assert qmp.of("job-cancel") == qmp.of("job-dismiss") == [{"id": JOB}]
    assert disk.chain.layers == before
    assert qmp.of("blockdev-del") == []
    await disk.merger.begin()
    assert len(qmp.of("block-stream")) == 2


async def test_a_merge_that_ends_while_it_is_given_up_counts(tmp_path: Path) -> None:
    qmp = FakeQmp()
    disk = Disk(tmp_path, [4] * (WORTH_LAYERS + 1), qmp)
    await disk.merger.begin()
    refuse = VmmError("QMP_REFUSED", "Job 'merge-layer' in state 'concluded' cannot accept")

    class Late(FakeQmp):
        async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
            if command == "job-cancel":
                qmp.end()
                raise refuse
            return await qmp.execute(command, arguments)

        def events(self, *names: str) -> Any:
            return qmp.events(*names)

    disk.merger._qmp = cast("Qmp", Late())  # pyright: ignore[reportPrivateUsage]
    await disk.merger.settle()
    assert len(disk.chain.layers) == 2


@pytest.mark.parametrize("refused", ["block-stream", "blockdev-del"])
async def test_a_qemu_that_refuses_changes_nothing_that_matters(
    tmp_path: Path, refused: str
) -> None:
    qmp = FakeQmp(refused)
    disk = Disk(tmp_path, [4] * (WORTH_LAYERS + 1), qmp)
    await disk.merger.begin()
    if refused == "blockdev-del":
        qmp.end()
    await disk.merger.settle()
    assert len(disk.chain.layers) == (2 if refused == "blockdev-del" else WORTH_LAYERS + 2)


async def test_files_that_are_gone_are_no_reason_to_fail(tmp_path: Path) -> None:
    qmp = FakeQmp()
    disk = Disk(tmp_path, [4] * (WORTH_LAYERS + 1), qmp)
    disk.files[0].unlink()
    await disk.merger.begin()
    await disk.merger.settle()
    assert qmp.asked == []


async def test_a_host_without_room_for_a_copy_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qmp = FakeQmp()
    disk = Disk(tmp_path, [1024] * (WORTH_LAYERS + 1), qmp)
    free = WORTH_LAYERS << 20
    monkeypatch.setattr(disk_merge, "_free_bytes", lambda directory: free)  # pyright: ignore
    await disk.merger.begin()
    assert qmp.asked == []
    free *= 3
    await disk.merger.begin()
    assert len(qmp.of("block-stream")) == 1
