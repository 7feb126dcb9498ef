"""The engine's order of steps, and what is left when one of them fails."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from tests.vmm.ram_child import ram_child
from tests.vmm.specs import make_spec
from vmm import snapshot_vmstate
from vmm.disks import MountFiles, prepare_mount
from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.snapshot_engine import SnapshotRequest
from vmm.snapshot_vmstate import VmstateEngine
from vmm.spec import MountDiskSpec

SIZE = 4 << 20


class FakeQmp:
    """Does what QEMU would do with the commands a snapshot needs, or refuses one of them."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.nodes = {"layer0", "layer1"}
        self.running = True
        self.refused = ""

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return self.do(command, arguments)

    def do(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        given = arguments or {}
        self.commands.append(command)
        if command == self.refused:
            raise VmmError("QMP_REFUSED", f"QEMU refused {command}")
        match command:
            case "query-status":
                return {"running": self.running}
            case "stop" | "cont":
                self.running = command == "cont"
            case "xen-save-devices-state":
                Path(given["filename"]).write_bytes(b"devices")
            case "blockdev-add":
                if given["node-name"] in self.nodes:
                    raise VmmError("QMP_REFUSED", "Duplicate nodes")
                assert Path(given["file"]["filename"]).read_bytes() == b"an empty overlay"
                self.nodes.add(given["node-name"])
            case "blockdev-del":
                self.nodes.remove(given["node-name"])
            case _:
                assert command == "blockdev-snapshot"
        return {}


class FakeLine:
    """The same QEMU, spoken to by a thread."""

    def __init__(self, qmp: FakeQmp) -> None:
        self._qmp = qmp
        self._sent: tuple[str, dict[str, Any] | None] | None = None

    def begin(self) -> None:
        pass

    def send(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        assert self._sent is None
        self._sent = (command, arguments)

    def wait(self, command: str) -> None:
        assert self._sent is not None
        sent, self._sent = self._sent, None
        assert sent[0] == command
        self._qmp.do(*sent)

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> None:
        self.send(command, arguments)
        self.wait(command)


class FakeMux:
    """Counts what is held."""

    def __init__(self) -> None:
        self.held = False
        self.asked: anyio.Event | None = None
        """Set when a guest that never answers is asked to be quiet."""

    async def quiesce(self, timeout_s: float) -> bool:
        self.held = True
        if self.asked is not None:
            self.asked.set()
            await anyio.sleep_forever()
        return True

    def resume(self) -> None:
        self.held = False


class Source:
    """A VM to be snapshotted: real RAM, a fake QMP."""

    def __init__(
        self, directory: Path, child: subprocess.Popen[bytes], mount: MountDiskSpec | None = None
    ) -> None:
        self.spec = make_spec(directory, mount_disk=mount)
        self.directory = directory
        self.qmp, self.mux = FakeQmp(), FakeMux()
        overlay = Path(self.spec.state_dir, "disk-1.qcow2")
        overlay.write_bytes(b"written by the guest")
        files = prepare_mount(mount, self.spec.state_dir) if mount else None
        line = FakeLine(self.qmp)
        self.qemu = _Qemu(child.pid, line, [self.spec.disk.base, str(overlay)], files)
        self.engine = VmstateEngine(
            self.spec,
            cast("QemuProcess", self.qemu),
            cast("Qmp", self.qmp),
            cast("ChannelMux", self.mux),
            None,
            "10.0.0",
        )

    def request(self, *, leave_running: bool = True, durable: bool = False) -> SnapshotRequest:
        return SnapshotRequest(
            directory=self.directory / "bundle", leave_running=leave_running, durable=durable
        )

    def runs_as_before(self) -> bool:
        """Whether nothing of a failed snapshot is left."""
        files = state_files(self)
        return (
            self.qmp.running
            and not self.mux.held
            and not (self.directory / "bundle").exists()
            and files == ["disk-1.qcow2"]
            and self.qmp.nodes == {"layer0", "layer1"}
            and len(self.qemu.layers) == 2
        )


class _Qemu:
    def __init__(
        self, pid: int, line: FakeLine, layers: list[str], mount: MountFiles | None
    ) -> None:
        self.pid = pid
        self.line = line
        self.layers = layers
        self.mount = mount


@pytest.fixture
def source(tmp_path: Path) -> Generator[Source]:
    with ram_child(SIZE, {0: b"boot", 700: b"counter"}) as child:
        yield Source(tmp_path, child)


@pytest.fixture
def mounted(tmp_path: Path) -> Generator[Source]:
    """A VM with a `mount`, of which one layer is frozen and one is written to."""
    files = [tmp_path / name for name in ("lower", "upper", "frozen", "empty.qcow2")]
    for path in files:
        path.write_bytes(path.name.encode())
    lower, base, frozen, template = map(str, files)
    mount = MountDiskSpec(
        guest="/mnt", lower=lower, base=base, layers=[frozen], overlay_template=template
    )
    with ram_child(SIZE, {}) as child:
        source = Source(tmp_path, child, mount)
        source.qmp.nodes |= {"mount-upper0", "mount-upper1", "mount-upper2"}
        Path(source.spec.state_dir, "own", "mount-2.qcow2").write_bytes(b"written by the guest")
        (tmp_path / "kept").mkdir()
        yield source


def state_files(source: Source) -> list[str]:
    files = (path for path in Path(source.spec.state_dir).rglob("*") if path.is_file())
    return sorted(path.name for path in files)


async def test_a_frozen_mount_is_there_whole_and_the_guest_writes_elsewhere(
    mounted: Source,
) -> None:
    kept = mounted.directory / "kept"
    layers = await mounted.engine.freeze_mount(kept, durable=True)
    assert layers == ["mount-1.qcow2", "mount-2.qcow2"]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        "mount-lower.sqfs": b"lower",
        "mount-upper.img": b"upper",
        "mount-1.qcow2": b"frozen",
        "mount-2.qcow2": b"written by the guest",
    }
    assert mounted.qmp.commands == ["blockdev-add", "blockdev-snapshot"]
    assert "mount-upper3" in mounted.qmp.nodes


@pytest.mark.parametrize("refused", ["blockdev-add", "blockdev-snapshot"])
async def test_a_mount_that_qemu_does_not_freeze_is_as_it_was(
    mounted: Source, refused: str
) -> None:
    kept, before = mounted.directory / "kept", state_files(mounted)
    nodes = set(mounted.qmp.nodes)
    mounted.qmp.refused = refused
    with pytest.raises(VmmError, match=f"refused {refused}") as caught:
        await mounted.engine.freeze_mount(kept, durable=True)
    assert caught.value.code == "SNAPSHOT_FAILED"
    assert [*kept.iterdir()] == []
    assert (state_files(mounted), mounted.qmp.nodes) == (before, nodes)
    mounted.qmp.refused = ""
    assert len(await mounted.engine.freeze_mount(kept, durable=True)) == 2


async def test_a_mount_is_never_kept_among_files_of_others(mounted: Source) -> None:
    kept = mounted.directory / "kept"
    (kept / "mount-upper.img").write_text("mine")
    with pytest.raises(VmmError) as caught:
        await mounted.engine.freeze_mount(kept, durable=True)
    assert caught.value.code == "SNAPSHOT_TARGET_INVALID"
    assert (kept / "mount-upper.img").read_text() == "mine"
    assert mounted.qmp.commands == []


async def test_a_mount_on_a_full_disk_leaves_nothing_and_can_be_kept_later(
    mounted: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, linked = mounted.directory / "kept", snapshot_vmstate.link_layer

    def full(source: str, target: str) -> None:
        if target.endswith("mount-upper.img"):
            raise OSError(28, "No space left on device")
        linked(source, target)

    monkeypatch.setattr(snapshot_vmstate, "link_layer", full)
    with pytest.raises(VmmError, match=f"no space left for {kept}: free some") as caught:
        await mounted.engine.freeze_mount(kept, durable=False)
    assert caught.value.code == "SNAPSHOT_FAILED"
    assert [*kept.iterdir()] == []
    monkeypatch.undo()
    layers = await mounted.engine.freeze_mount(kept, durable=False)
    assert layers == [f"mount-{number}.qcow2" for number in (1, 2, 3)]  # what it froze stays so


async def test_only_a_vm_with_a_mount_has_one_to_freeze(source: Source) -> None:
    with pytest.raises(VmmError) as caught:
        await source.engine.freeze_mount(source.directory, durable=False)
    assert caught.value.code == "PARAMS_INVALID"
    assert source.runs_as_before()


async def test_a_snapshot_holds_memory_devices_and_frozen_disks(source: Source) -> None:
    report = await source.engine.snapshot(source.request(durable=True))
    bundle = source.directory / "bundle"
    ram = (bundle / report.ram_image).read_bytes()
    assert len(ram) == SIZE
    assert ram[700 * 4096 :].startswith(b"counter")
    assert (bundle / report.state).read_bytes() == b"devices"
    assert [(bundle / layer).read_bytes() for layer in report.layers] == [b"written by the guest"]
    assert report.base == source.spec.disk.base
    assert report.ram_copied_bytes >= 2 * 4096
    assert bundle.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in (bundle / "state", bundle / "ram.img")} == {0}


async def test_the_guest_stands_still_only_while_its_state_is_taken(source: Source) -> None:
    report = await source.engine.snapshot(source.request())
    assert source.qmp.commands == [
        "blockdev-add",
        "query-status",
        "stop",
        "xen-save-devices-state",
        "blockdev-snapshot",
        "cont",
    ]
    assert not source.mux.held
    assert [*report.phases] == [
        *("prepare", "quiesce", "stop", "pages", "device-state", "disk", "resume", "layers"),
    ]
    assert 0 < report.paused_ms < 60_000


async def test_a_second_snapshot_freezes_the_layer_the_first_one_added(source: Source) -> None:
    await source.engine.snapshot(source.request())
    Path(source.qemu.layers[-1]).write_bytes(b"written by the guest since")
    second = source.directory / "second"
    report = await source.engine.snapshot(
        SnapshotRequest(directory=second, leave_running=True, durable=False)
    )
    assert report.layers == ["disk-1.qcow2", "disk-2.qcow2"]
    assert (second / "disk-2.qcow2").read_bytes() == b"written by the guest since"
    assert len(source.qemu.layers) == 4


async def test_a_disk_nobody_wrote_to_gets_no_layer(source: Source) -> None:
    await source.engine.snapshot(source.request())
    for number in range(2):
        again = source.directory / f"again-{number}"
        report = await source.engine.snapshot(
            SnapshotRequest(directory=again, leave_running=True, durable=False)
        )
        assert report.layers == ["disk-1.qcow2"]
        assert (again / "disk-1.qcow2").read_bytes() == b"written by the guest"
    assert source.qmp.nodes == {"layer0", "layer1", "layer2"}
    assert len(source.qemu.layers) == 3
    assert state_files(source) == ["disk-1.qcow2", "disk-2.qcow2"]


async def test_a_snapshot_that_ends_the_vm_leaves_it_stopped(source: Source) -> None:
    await source.engine.snapshot(source.request(leave_running=False))
    assert not source.qmp.running


@pytest.mark.parametrize("running", [True, False])
async def test_whoever_gives_up_while_the_guest_gets_quiet_leaves_it_as_it_was(
    source: Source, running: bool
) -> None:
    source.qmp.running = running
    source.mux.asked = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.engine.snapshot, source.request())
        await source.mux.asked.wait()
        tasks.cancel_scope.cancel()
    assert source.qmp.running is running
    source.qmp.running = True
    assert source.runs_as_before()


async def test_a_paused_vm_stays_paused(source: Source) -> None:
    source.qmp.running = False
    await source.engine.snapshot(source.request())
    assert not source.qmp.running
    assert not source.mux.held


async def test_a_failed_snapshot_of_a_paused_vm_does_not_let_it_run(source: Source) -> None:
    source.qmp.running = False
    source.qmp.refused = "xen-save-devices-state"
    with pytest.raises(VmmError):
        await source.engine.snapshot(source.request())
    assert not source.qmp.running


@pytest.mark.parametrize("leave_running", [True, False])
@pytest.mark.parametrize(
    "refused",
    ["query-status", "stop", "xen-save-devices-state", "blockdev-add", "blockdev-snapshot"],
)
async def test_a_step_that_qemu_refuses_leaves_the_source_running_and_nothing_behind(
    source: Source, refused: str, leave_running: bool
) -> None:
    source.qmp.refused = refused
    with pytest.raises(VmmError) as caught:
        await source.engine.snapshot(source.request(leave_running=leave_running))
    assert caught.value.code == "SNAPSHOT_FAILED"
    assert refused in str(caught.value)
    assert source.runs_as_before()
    source.qmp.refused = ""
    await source.engine.snapshot(source.request())


@pytest.mark.parametrize("leave_running", [True, False])
async def test_a_disk_that_is_full_leaves_the_source_running(
    source: Source, monkeypatch: pytest.MonkeyPatch, leave_running: bool
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot_vmstate, "link_layer", full)
    where = source.directory / "bundle"
    with pytest.raises(VmmError, match=f"no space left for {where}: free some"):
        await source.engine.snapshot(source.request(leave_running=leave_running))
    assert source.qmp.running
    assert not source.mux.held
    assert not (source.directory / "bundle").exists()
    monkeypatch.undo()
    await source.engine.snapshot(source.request())  # the layer it froze stays frozen


def a_file(directory: Path) -> Path:
    path = directory / "file"
    path.write_text("mine")
    return path


def a_full_directory(directory: Path) -> Path:
    path = directory / "full"
    path.mkdir()
    (path / "state").write_text("mine")
    return path


TARGETS: dict[str, Callable[[Path], Path]] = {
    "file": a_file,
    "full": a_full_directory,
    "relative": lambda _: Path("relative"),
    "long": lambda directory: directory / ("n" * 300),
    "nul": lambda directory: directory / "nul\0",
    "below a file": lambda directory: a_file(directory) / "below",
    "without a parent": lambda directory: directory / "absent" / "bundle",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
async def test_a_target_that_cannot_be_used_is_refused_and_not_touched(
    source: Source, target: Callable[[Path], Path]
) -> None:
    directory = target(source.directory)
    request = SnapshotRequest(directory=directory, leave_running=True, durable=False)
    with pytest.raises(VmmError) as caught:
        await source.engine.snapshot(request)
    assert caught.value.code == "SNAPSHOT_TARGET_INVALID"
    assert source.qmp.commands == []
    for kept in (source.directory / "file", source.directory / "full" / "state"):
        assert not kept.exists() or kept.read_text() == "mine"


async def test_an_empty_directory_stays_when_the_snapshot_fails(source: Source) -> None:
    bundle = source.directory / "bundle"
    bundle.mkdir()
    source.qmp.refused = "stop"
    with pytest.raises(VmmError):
        await source.engine.snapshot(source.request())
    assert [*bundle.iterdir()] == []
