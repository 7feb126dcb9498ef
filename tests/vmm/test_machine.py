"""The command line, part by part: QEMU's words for what the spec asks."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.vmm.specs import MACHINE, make_spec, restored
from vmm.arch import ARM64
from vmm.machine import Endpoints, layer_options, qemu_argv
from vmm.passt import passt_argv
from vmm.spec import VmSpec

ENDPOINTS = Endpoints(
    qmp_fd=10,
    line_fd=13,
    console_fd=11,
    channel_path="/run/machinen/abcd/channel.sock",
    layers=["/images/base.ext4", "/state/disk-1.qcow2", "/state/disk-2.qcow2"],
    network_fd=12,
)


def argv_of(spec: VmSpec, endpoints: Endpoints = ENDPOINTS) -> list[str]:
    return qemu_argv(spec, endpoints)


def values(argv: list[str], option: str) -> list[str]:
    """What follows each `option`."""
    return [value for name, value in itertools.pairwise(argv) if name == option]


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    return make_spec(tmp_path)


def test_a_cold_boot_gets_a_kernel_and_anonymous_memory(spec: VmSpec) -> None:
    argv = argv_of(spec)
    assert argv[0] == "/opt/qemu-system-x86_64"
    assert values(argv, "-kernel") == ["/boot/vmlinux"]
    assert values(argv, "-initrd") == ["/boot/initramfs"]
    assert values(argv, "-append")[0].startswith("console=ttyS0 quiet panic=-1 ")
    assert "memory-backend-ram,id=ram,size=4M,share=off" in values(argv, "-object")
    assert "-incoming" not in argv


def test_a_device_tree_and_more_arguments_are_passed_on_as_they_are(spec: VmSpec) -> None:
    assert values(argv_of(spec), "-dtb") == []
    arm64 = replace(MACHINE, arch="arm64", machine_type="virt-8.2")
    changed = replace(spec, machine=arm64, dtb="/boot/virt.dtb", extra_args=["-device", "edu"])
    argv = argv_of(changed)
    assert values(argv, "-dtb") == ["/boot/virt.dtb"]
    assert argv[-2:] == ["-device", "edu"]


def test_a_root_in_ram_has_a_disk_that_can_only_be_read(spec: VmSpec) -> None:
    machine = replace(MACHINE, root_in_ram=True)
    alone = replace(ENDPOINTS, layers=["/images/base.ext4"])
    argv = argv_of(replace(spec, machine=machine), alone)
    (disk,) = [json.loads(each) for each in values(argv, "-blockdev")]
    assert (disk["node-name"], disk["driver"], disk["read-only"]) == ("layer0", "raw", True)
    assert "virtio-blk-pci,id=disk0,drive=layer0,addr=0x2" in values(argv, "-device")


def test_devices_are_of_the_kind_the_machine_was_made_with(spec: VmSpec) -> None:
    """A bundle that does not say has the state of others: they would not load it."""
    machines = {modern: replace(MACHINE, modern_virtio=modern) for modern in (True, False)}
    globals_of = {
        modern: values(argv_of(replace(spec, machine=machine)), "-global")
        for modern, machine in machines.items()
    }
    kinds = {word.split("-pci")[0] for word in argv_of(spec) if re.match("virtio-.*-pci,", word)}
    small = {f"{kind}-pci.disable-modern=on" for kind in kinds}
    assert len(small) == 5
    assert set(globals_of[False]) - set(globals_of[True]) == small


def test_a_restore_maps_the_image_read_only_and_waits_for_its_state(
    spec: VmSpec, tmp_path: Path
) -> None:
    argv = argv_of(restored(spec, tmp_path))
    image = tmp_path / "ram.img"
    assert (
        f"memory-backend-file,id=ram,size=4M,mem-path={image},share=off,readonly=on,rom=off"
        in values(argv, "-object")
    )
    assert values(argv, "-incoming") == ["defer"]
    assert "-S" in argv
    assert "-kernel" not in argv
    assert "-append" not in argv


def test_a_comma_in_the_images_path_does_not_become_an_option(spec: VmSpec) -> None:
    argv = argv_of(restored(spec, Path("/a,share=on")))
    assert "mem-path=/a,,share=on/ram.img,share=off" in " ".join(values(argv, "-object"))


def test_a_restore_has_the_devices_of_the_boot(spec: VmSpec, tmp_path: Path) -> None:
    cold, again = argv_of(spec), argv_of(restored(spec, tmp_path))
    for option in ("-device", "-machine", "-cpu", "-smp", "-m", "-netdev", "-global"):
        assert values(cold, option) == values(again, option)


def test_the_board_is_the_specs_and_the_state_carries_no_description(spec: VmSpec) -> None:
    argv = argv_of(spec)
    board = "pc-q35-8.2,hpet=off,memory-backend=ram,suppress-vmdesc=on"
    assert values(argv, "-machine") == [board]
    assert values(argv, "-cpu") == ["max"]
    assert values(argv, "-smp") == ["2"]
    assert values(argv, "-m") == ["4M"]


def test_tcg_gets_a_bounded_translation_buffer_and_kvm_none(spec: VmSpec) -> None:
    assert values(argv_of(spec), "-accel") == ["tcg,tb-size=128"]
    kvm = replace(spec, machine=replace(MACHINE, accel="kvm"))
    assert values(argv_of(kvm), "-accel") == ["kvm"]


def test_an_arm_guest_has_its_own_console(spec: VmSpec) -> None:
    arm = replace(MACHINE, arch="arm64", machine_type=ARM64.machine_type)
    argv = argv_of(replace(spec, machine=arm))
    assert values(argv, "-append")[0].startswith("console=ttyAMA0 ")
    assert values(argv, "-machine")[0].startswith("virt-8.2,")


def test_without_a_network_there_is_no_nic(spec: VmSpec) -> None:
    argv = argv_of(replace(spec, machine=replace(MACHINE, network="none")))
    assert "-netdev" not in argv
    assert not [device for device in values(argv, "-device") if "net" in device]


def test_the_nic_hangs_on_passt(spec: VmSpec) -> None:
    argv = argv_of(spec)
    assert values(argv, "-netdev") == [
        "stream,id=net0,server=on,addr.type=fd,addr.str=12",
    ]


def test_without_passt_qemus_own_network_has_the_same_addresses(spec: VmSpec) -> None:
    (backend,) = values(argv_of(spec, replace(ENDPOINTS, network_fd=None)), "-netdev")
    assert backend.startswith("user,id=net0,")
    passt = passt_argv("/usr/bin/passt", 12)
    for address in ("10.0.2.2", "10.0.2.3"):
        assert address in backend
        assert address in passt


def test_passt_lets_nobody_in_and_hides_the_hosts_loopback() -> None:
    argv = passt_argv("/usr/bin/passt", 12)
    assert argv[:5] == ["/usr/bin/passt", "--quiet", "--foreground", "--fd", "12"]
    assert "--no-map-gw" in argv
    assert values(argv, "--tcp-ports") == values(argv, "--udp-ports") == ["none"]


@pytest.mark.parametrize("network", ["full", "none"])
def test_every_pci_device_has_an_address_of_its_own(spec: VmSpec, network: str) -> None:
    argv = argv_of(replace(spec, machine=replace(MACHINE, network=network)))
    pci = [device for device in values(argv, "-device") if re.match(r"[\w-]*-pci,", device)]
    addresses = [re.findall(r"\baddr=(0x\w+)", device) for device in pci]
    assert all(len(each) == 1 for each in addresses)
    assert len({each[0] for each in addresses}) == len(pci) == (5 if network == "full" else 4)


def test_every_object_and_device_has_an_id_of_its_own(spec: VmSpec) -> None:
    ids = re.findall(r"\bid=([\w-]+)", " ".join(argv_of(spec)))
    assert len(ids) == len(set(ids))


def test_only_the_newest_disk_layer_is_writable(spec: VmSpec) -> None:
    argv = argv_of(spec)
    layers = [json.loads(text) for text in values(argv, "-blockdev")]
    assert [layer["read-only"] for layer in layers] == [True, True, False]
    assert [layer["driver"] for layer in layers] == ["raw", "qcow2", "qcow2"]
    assert [layer.get("backing") for layer in layers] == [None, "layer0", "layer1"]
    assert [layer["file"]["filename"] for layer in layers] == ENDPOINTS.layers
    assert "virtio-blk-pci,id=disk0,drive=layer2,addr=0x2" in values(argv, "-device")


def test_a_layers_path_is_data_not_options() -> None:
    options = layer_options(1, '/tmp/a"b,c', read_only=False)
    assert json.loads(json.dumps(options))["file"] == {
        "driver": "file",
        "filename": '/tmp/a"b,c',
        "locking": "off",
        "auto-read-only": True,
        "discard": "unmap",
    }


def test_qemu_gets_its_sockets_and_no_defaults(spec: VmSpec) -> None:
    argv = argv_of(spec)
    chardevs = values(argv, "-chardev")
    assert "socket,id=qmp0,fd=10" in chardevs
    assert "socket,id=console0,fd=11" in chardevs
    channel = f"path={ENDPOINTS.channel_path},server=on,wait=off"
    assert f"socket,id=channel-io,{channel}" in chardevs
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    assert values(argv, "-display") == ["none"]
    assert values(argv, "-sandbox")[0].startswith("on,")


@pytest.mark.parametrize(("arch", "accel"), [("amd64", "tcg"), ("amd64", "kvm"), ("arm64", "kvm")])
def test_qemu_is_sandboxed(spec: VmSpec, arch: str, accel: str) -> None:
    machine = replace(spec.machine, arch=arch, accel=accel)
    words = values(argv_of(replace(spec, machine=machine)), "-sandbox")[0].split(",")
    denied = {"obsolete", "elevateprivileges", "spawn", "resourcecontrol"}
    assert set(words) == {"on"} | {f"{each}=deny" for each in denied}


def test_only_an_emulated_guest_writes_to_its_channel_by_itself(spec: VmSpec) -> None:
    emulated = replace(spec.machine, accel="tcg")
    for machine, off in ((emulated, True), (replace(emulated, accel="kvm"), False)):
        argv = argv_of(replace(spec, machine=machine))
        serial = [
            device for device in values(argv, "-device") if device.startswith("virtio-serial")
        ]
        assert [device.endswith(",ioeventfd=off") for device in serial] == [off]


def test_the_pure_function_says_the_same_twice(spec: VmSpec) -> None:
    assert argv_of(spec) == argv_of(spec)
