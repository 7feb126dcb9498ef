"""Turn a VmSpec into QEMU's command line.

Pure: starts nothing, touches no file, so tests compare argv. Option names are QEMU's, see qemu(1).
Every PCI device has a fixed address and every object a fixed id: device state only loads into an
equal machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from vmm.arch import arch_for
from vmm.spec import MachineSpec, VmSpec

COMMAND_LINE = (
    "quiet panic=-1 tsc=reliable no_timer_check mitigations=off cryptomgr.notests "
    "random.trust_cpu=on 8250.nr_uarts=1 rcupdate.rcu_expedited=1 init_on_alloc=0 "
    "lsm=lockdown,landlock,yama audit=0 nowatchdog kfence.sample_interval=0 iommu=off "
    "i8042.noaux i8042.nokbd"
)
"""What a guest need not do: an emulated one boots in a quarter less CPU time without zeroing every
page, probing a keyboard and asking AppArmor, SELinux and IMA at every system call, and `iommu=off`
saves the 64 MiB of bounce buffers that a guest of 4 GiB would otherwise carry through every
snapshot."""
CHANNEL_ID = "channel0"
CHANNEL_CHARDEV = "channel-io"
DISK_ID = "disk0"
LOWER_DISK_ID, UPPER_DISK_ID = "mount0", "mount1"
ROOT_CHAIN = "layer"
MOUNT_CHAIN = "mount-upper"
"""How the block nodes of a chain of disk layers are called, before their number."""
MOUNT_LOWER = "mount-lower"
LOWER_SERIAL, UPPER_SERIAL = "machinen-lower", "machinen-upper"
"""By these guest/mount_disk.c finds the disks."""
BALLOON_ID = "balloon0"
RAM_ID = "ram"
VIRTIO = ("blk", "serial", "net", "rng", "balloon")
"""The kinds of devices a machine may have."""
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
TRANSLATION_BUFFER_MIB = 128
"""TCG's default is a quarter of guest RAM, up to 1 GiB, and never shrinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """What one run of QEMU is connected to: inherited descriptors and paths.

    `qmp_fd`, `line_fd` (QMP too, vmm/qmp_line.py) and `console_fd` are connected sockets; QEMU
    listens on `channel_path`; `layers` are the disk's files from the raw base (first) to the
    writable overlay (last), `mount_layers` those of the mount's upper disk.
    """

    qmp_fd: int
    line_fd: int
    console_fd: int
    channel_path: str
    layers: list[str]
    network_fd: int | None = None
    mount_lower: str | None = None
    mount_layers: list[str] = field(default_factory=list[str])
    ram_shim: str | None = None
    """The library that keeps a mapped RAM image safe (vmm/ram_shim.py); None: QEMU is without."""


def qemu_argv(spec: VmSpec, endpoints: Endpoints) -> list[str]:
    """The whole command line, one part of the machine per call."""
    return [
        spec.qemu_binary,
        *process_args(spec),
        *machine_args(spec.machine),
        *ram_args(spec, endpoints.ram_shim),
        *(incoming_args() if spec.restore else boot_args(spec)),
        *disk_args(spec.machine, endpoints.layers),
        *mount_disk_args(spec.machine, endpoints),
        *channel_args(spec.machine, endpoints),
        *network_args(spec.machine, endpoints.network_fd),
        *small_device_args(),
        *spec.extra_args,
    ]


def machine_sum(spec: VmSpec) -> str:
    """What kind of machine `spec` boots, as a checksum: equal for two VMs that may share device
    state and the memory of their kernels. Says nothing of the contents of the files it starts from.
    """
    import hashlib  # slow, and only what begins with a template needs it

    booted = replace(spec, id="", restore=None, qemu_binary="", kernel="", initrd="")
    endpoints = Endpoints(
        qmp_fd=0,
        line_fd=0,
        console_fd=0,
        channel_path="",
        layers=["root"],
        mount_lower="lower" if spec.machine.mount_disk else None,
        mount_layers=["upper"],
    )
    text = json.dumps(qemu_argv(booted, endpoints))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def process_args(spec: VmSpec) -> list[str]:
    """How QEMU behaves as a process: no defaults, no display, as few system calls as it needs."""
    return [
        *("-name", f"guest=machinen-{spec.id},debug-threads=off"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", SANDBOX),
    ]


def machine_args(machine: MachineSpec) -> list[str]:
    """Board, accelerator, CPU, clock."""
    board = f"{machine.machine_type},memory-backend={RAM_ID},suppress-vmdesc=on"
    tcg = f"tcg,tb-size={TRANSLATION_BUFFER_MIB}"
    return [
        *("-machine", board),
        *("-accel", tcg if machine.accel == "tcg" else "kvm"),
        *("-cpu", machine.cpu_model),
        *("-smp", str(machine.cpus)),
        *("-m", f"{machine.memory_mib}M"),
        *("-rtc", "base=utc"),
        *("-global", "migration.send-configuration=off"),
        *("-global", "migration.x-events=on"),
        # Nobody learns anew where a restored machine is, and what it sends would start passt.
        *("-global", "migration.announce-rounds=0"),
        *virtio_args(machine),
    ]


def virtio_args(machine: MachineSpec) -> list[str]:
    """Devices as they were before virtio 1, whose state is small.

    Those of virtio 1 save the 1,024 queues each could have: 46 KB, byte by byte, while the source
    stands still, and as much is read before a copy runs (QEMU 10, hw/virtio: the subsections
    virtio/virtqueues and virtio_pci/modern_queue_state). Those before save the queues they have.
    None of ours can do less for it.
    """
    if machine.modern_virtio:
        return []
    return [arg for kind in VIRTIO for arg in ("-global", f"virtio-{kind}-pci.disable-modern=on")]


def ram_args(spec: VmSpec, ram_shim: str | None) -> list[str]:
    """Guest RAM: anonymous for a cold boot, a private map of the snapshot's image for a restore.

    A restore that is not lazy has anonymous RAM too; the monitor fills it (vmm/ram_fill.py).

    QEMU would punch what the guest frees out of the file that all siblings share: either
    `ram_shim` sees that it cannot, or QEMU opens the file read-only and gives nothing back.
    """
    size = f"size={spec.machine.memory_mib}M"
    if spec.mapped_image is None:
        return ["-object", f"memory-backend-ram,id={RAM_ID},{size},share=off"]
    image = spec.mapped_image.replace(",", ",,")
    options = f"id={RAM_ID},{size},mem-path={image},share=off"
    if ram_shim is None:
        options += ",readonly=on,rom=off"
    return ["-object", f"memory-backend-file,{options}"]


def boot_args(spec: VmSpec) -> list[str]:
    """Kernel, initramfs and the kernel's command line."""
    console = arch_for(spec.machine.arch).console_device
    return [
        *("-kernel", spec.kernel),
        *("-initrd", spec.initrd),
        *(("-dtb", spec.dtb) if spec.dtb else ()),
        *("-append", f"console={console} {COMMAND_LINE}"),
    ]


def disk_args(machine: MachineSpec, layers: list[str]) -> list[str]:
    """The chain of disk layers, each named explicitly so that no path inside a file matters.

    Locking is off because layers are shared read-only between VMs and only this monitor knows the
    writer. A root in RAM has the base alone, and init sees that it cannot be written.
    """
    device = f"virtio-blk-pci,id={DISK_ID},drive={layer_node(len(layers) - 1)},addr=0x2"
    chain = chain_args(layers, ROOT_CHAIN, writable=not machine.root_in_ram)
    return [*chain, "-device", device]


def mount_disk_args(machine: MachineSpec, endpoints: Endpoints) -> list[str]:
    """The two disks of a `mount`: the copied directory, and what this VM writes into it."""
    if not machine.mount_disk or endpoints.mount_lower is None:
        return []
    lower = {
        "node-name": MOUNT_LOWER,
        "driver": "raw",
        "read-only": True,
        "file": file_options(endpoints.mount_lower),
    }
    top = layer_node(len(endpoints.mount_layers) - 1, MOUNT_CHAIN)
    lower_device = f"id={LOWER_DISK_ID},drive={MOUNT_LOWER},addr=0x8,serial={LOWER_SERIAL}"
    upper_device = f"id={UPPER_DISK_ID},drive={top},addr=0x9,serial={UPPER_SERIAL}"
    return [
        *("-blockdev", json.dumps(lower)),
        *("-device", f"virtio-blk-pci,{lower_device}"),
        *chain_args(endpoints.mount_layers, MOUNT_CHAIN),
        *("-device", f"virtio-blk-pci,{upper_device}"),
    ]


def chain_args(layers: list[str], chain: str, *, writable: bool = True) -> list[str]:
    """Every layer of a chain; the newest is writable, unless nothing shall be."""
    args: list[str] = []
    for index, path in enumerate(layers):
        top = index == len(layers) - 1
        options = layer_options(index, path, read_only=not (top and writable), chain=chain)
        args += ["-blockdev", json.dumps(options)]
    return args


def layer_node(index: int, chain: str = ROOT_CHAIN) -> str:
    """The block node of layer `index`; 0 is the raw base."""
    return f"{chain}{index}"


def layer_options(
    index: int, path: str, *, read_only: bool, chain: str = ROOT_CHAIN
) -> dict[str, object]:
    """The blockdev options of one layer on layer `index - 1`; flushes stop at the page cache.

    A sandbox's disk need not survive a power cut of the host: bundles are synced when written.
    """
    options: dict[str, object] = {
        "node-name": layer_node(index, chain),
        "driver": "raw" if index == 0 else "qcow2",
        "read-only": read_only,
        "discard": "unmap",
        "cache": {"no-flush": True},
        "file": file_options(path),
    }
    if index > 0:
        options["backing"] = layer_node(index - 1, chain)
    return options


def file_options(path: str) -> dict[str, object]:
    """The blockdev options of the file below a layer."""
    return {
        "driver": "file",
        "filename": path,
        "locking": "off",
        "auto-read-only": True,
        "discard": "unmap",
    }


def channel_args(machine: MachineSpec, endpoints: Endpoints) -> list[str]:
    """QMP, the console, and the one virtio-serial port that carries everything else.

    What an emulated guest writes to it leaves from the thread that emulates it: waking another one
    takes longer. KVM would have to leave the guest for that.
    """
    kick = ",ioeventfd=off" if machine.accel == "tcg" else ""
    return [
        *("-chardev", f"socket,id=qmp0,fd={endpoints.qmp_fd}"),
        *("-mon", "chardev=qmp0,mode=control"),
        *("-chardev", f"socket,id=qmp1,fd={endpoints.line_fd}"),
        *("-mon", "chardev=qmp1,mode=control"),
        *("-chardev", f"socket,id=console0,fd={endpoints.console_fd}"),
        *("-serial", "chardev:console0"),
        *("-device", f"virtio-serial-pci,id=serial0,addr=0x3,max_ports=2{kick}"),
        *(
            "-chardev",
            f"socket,id={CHANNEL_CHARDEV},path={endpoints.channel_path},server=on,wait=off",
        ),
        "-device",
        f"virtserialport,id={CHANNEL_ID},chardev={CHANNEL_CHARDEV},name=machinen.0,nr=1",
    ]


def network_args(machine: MachineSpec, network_fd: int | None) -> list[str]:
    """The NIC on a socket that passt connects to, or on QEMU's own network where it is missing."""
    if machine.network != "full":
        return []
    if network_fd is None:
        backend = "user,id=net0,net=10.0.2.0/24,host=10.0.2.2,dns=10.0.2.3,ipv6=off"
    else:
        backend = f"stream,id=net0,server=on,addr.type=fd,addr.str={network_fd}"
    nic = "virtio-net-pci,id=nic0,netdev=net0,addr=0x4,mac=52:54:00:12:34:56,romfile="
    return ["-netdev", backend, "-device", nic]


def small_device_args() -> list[str]:
    """Entropy, the generation id that tells a guest it was copied, and the balloon.

    A page that a copy gave back reads as the image again, not as zeros. Linux does not mind, unless
    it zeroes or poisons what it frees and counts on that (`init_on_free`): without `page-poison`
    such a guest keeps its free pages to itself, virtio 1.2, 5.5.6.7.
    """
    balloon = f"id={BALLOON_ID},addr=0x6,free-page-reporting=on,page-poison=off"
    return [
        *("-object", "rng-random,id=rng0,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,id=rngdev0,rng=rng0,addr=0x5"),
        *("-device", "vmgenid,guid=auto,id=generation0"),
        *("-device", f"virtio-balloon-pci,{balloon}"),
    ]


def incoming_args() -> list[str]:
    """A restored VM waits, paused, for its state.

    It needs no kernel file: its kernel is in its RAM.
    """
    return ["-incoming", "defer", "-S"]
