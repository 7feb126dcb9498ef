"""What a QEMU that its guest has taken over may still do: a program in its place tries it all."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.vmm.specs import make_spec, restored
from vmm import landlock, seccomp
from vmm.confine import (
    MAX_QEMU_DESCRIPTORS,
    child_environment,
    confinement,
    confinement_notes,
    guest_files,
    kept_capabilities,
    qemu_rules,
)
from vmm.machine import Endpoints
from vmm.privileges import MONITOR_CAPS, read_status
from vmm.spec import VmSpec

needs_landlock = pytest.mark.skipif(landlock.landlock_abi() < 6, reason="an older kernel")
ROOT = Path(__file__).parents[2]
PYTHON = os.path.realpath(sys.executable)
SAY = "import json; print(json.dumps(found))"
LIBC = "import ctypes, errno; libc = ctypes.CDLL(None, use_errno=True)\n"
TRY = """
import errno, os, socket, sys
found = {}

def attempt(name, call):
    try:
        call()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
"""


class Vm:
    """A VM's files, and a way to run a program as its QEMU would run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        spec = make_spec(directory, qemu_binary=PYTHON, passt_binary="/usr/bin/passt")
        self.own = Path(spec.state_dir, "own")
        self.own.mkdir()
        self.overlay = self.own / "disk-2.qcow2"
        self.frozen = Path(spec.state_dir, "disk-1.qcow2")
        self.secret = directory / "secret"
        self.kernel, self.initrd = directory / "vmlinux", directory / "initramfs"
        for path in (self.overlay, self.frozen, self.secret, self.kernel, self.initrd):
            path.write_text(path.name)
        self.spec = replace(spec, kernel=str(self.kernel), initrd=str(self.initrd))

    @property
    def endpoints(self) -> Endpoints:
        layers = [self.spec.disk.base, str(self.frozen), str(self.overlay)]
        return Endpoints(qmp_fd=0, line_fd=0, console_fd=0, channel_path="", layers=layers)

    def run(self, code: str, *arguments: object, **changes: object) -> Any:
        """What a confined program prints as JSON."""
        spec: VmSpec = replace(self.spec, **changes)  # pyright: ignore[reportArgumentType]
        with ExitStack() as stack:
            prepare = confinement(spec, self.endpoints, str(self.own), stack)
            done = subprocess.run(
                [PYTHON, "-I", "-S", "-c", code, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                preexec_fn=prepare,
                cwd="/",
                env=child_environment(spec),
                check=True,
                timeout=60,
            )
        return json.loads(done.stdout)

    def tries(self, **calls: str) -> dict[str, str]:
        """How each expression ends: "done" or the name of an errno."""
        lines = [f"attempt({name!r}, lambda: {call})" for name, call in calls.items()]
        return self.run("\n".join([TRY, *lines, SAY]))


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm(tmp_path)


def test_it_has_no_capability_no_group_and_no_way_to_more(vm: Vm) -> None:
    code = "found = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
    status = vm.run(code + SAY, extra_args=["-S"])  # with a list of files it would not see that
    caps = [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")]
    assert caps == ["0" * 16] * 4
    assert status["NoNewPrivs"].strip() == "1"
    if os.geteuid() == 0:
        assert status["CapBnd"].strip() == "0" * 16
        assert status["Groups"].strip() == ""


def test_it_leaves_no_core_and_has_few_descriptors_and_makes_private_files(vm: Vm) -> None:
    code = """
import os, resource
found = [resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE)]
found += [os.umask(0), os.getcwd(), len([fd for fd in range(3, 200) if is_open(fd)])]
"""
    is_open = """
import os
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
"""
    core, files, umask, cwd, others = vm.run(is_open + code + SAY)
    assert core == [0, 0]
    assert files[1] <= MAX_QEMU_DESCRIPTORS
    assert (umask, cwd, others) == (0o077, "/", 0)


def test_it_finds_nothing_of_the_user_in_its_environment(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("LANG", "C.UTF-8")
    found = vm.run("import os; found = dict(os.environ)\n" + SAY)
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert found["LANG"] == "C.UTF-8"


@needs_landlock
def test_it_reads_what_its_machine_is_made_of_and_nothing_else(vm: Vm) -> None:
    files = [vm.spec.disk.base, vm.frozen, vm.overlay, vm.kernel, vm.initrd, "/usr/bin/env"]
    readable = {f"file{n}": f"open({str(path)!r})" for n, path in enumerate(files)}
    assert set(vm.tries(**readable).values()) == {"done"}
    found = vm.tries(
        secret=f"open({str(vm.secret)!r})",
        passwords="open('/etc/shadow')",
        users="open('/etc/passwd')",
        environment=f"open('/proc/{os.getpid()}/environ')",
        memory=f"open('/proc/{os.getpid()}/mem')",
        home="os.listdir(os.path.expanduser('~'))",
        state=f"os.listdir({vm.spec.state_dir!r})",
        kvm="open('/dev/kvm', 'r+b', 0)",
        tun="open('/dev/net/tun', 'r+b', 0)",
    )
    assert set(found.values()) <= {"EACCES", "ENOENT"}, found
    assert found["secret"] == found["passwords"] == "EACCES"


@needs_landlock
def test_it_writes_to_its_newest_layer_and_changes_nothing_else(vm: Vm) -> None:
    assert vm.tries(overlay=f"open({str(vm.overlay)!r}, 'r+').truncate(9)") == {"overlay": "done"}
    control = Path(vm.spec.run_dir, "control.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(control))
        found = vm.tries(
            base=f"open({vm.spec.disk.base!r}, 'r+')",
            frozen=f"open({str(vm.frozen)!r}, 'r+')",
            emptied=f"os.truncate({str(vm.frozen)!r}, 0)",
            kernel=f"open({str(vm.kernel)!r}, 'a')",
            new=f"open({str(vm.own / 'new')!r}, 'x')",
            gone=f"os.unlink({str(vm.overlay)!r})",
            linked=f"os.symlink('/etc/passwd', {str(vm.own / 'link')!r})",
            socket_gone=f"os.unlink({str(control)!r})",
            moved=f"os.rename({str(vm.overlay)!r}, {str(vm.own / 'moved')!r})",
        )
    assert found == dict.fromkeys(found, "EACCES")
    assert vm.frozen.read_text() == "disk-1.qcow2"


@needs_landlock
def test_it_listens_in_its_directory_and_nowhere_else(vm: Vm) -> None:
    bind = "socket.socket(socket.AF_UNIX).bind({!r})"
    found = vm.tries(
        debugger=bind.format(f"{vm.spec.run_dir}/debug.sock"),
        elsewhere=bind.format(f"{vm.directory}/else.sock"),
    )
    assert found == {"debugger": "done", "elsewhere": "EACCES"}


def test_it_connects_to_nobody(vm: Vm) -> None:
    path = str(vm.directory / "somebody.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        unix = "socket.socket(socket.AF_UNIX).connect({!r})"
        found = vm.tries(
            named=unix.format(path),
            abstract=unix.format("\0somebody"),
            tcp="socket.socket(socket.AF_INET)",
            raw="socket.socket(socket.AF_PACKET)",
            netlink="socket.socket(socket.AF_NETLINK)",
        )
    assert found == dict.fromkeys(found, "EPERM")


def test_it_reaches_no_other_process(vm: Vm) -> None:
    me = os.getpid()
    found = vm.tries(
        signal=f"os.kill({me}, 0)",
        everybody="os.kill(-1, 0)",
        handle=f"os.pidfd_open({me})",
        limits=f"__import__('resource').prlimit({me}, 7, (9, 9))",
        modes=f"os.chmod({str(vm.overlay)!r}, 0o666)",
    )
    assert found == dict.fromkeys(found, "EPERM")


def test_it_may_open_a_userfaultfd_only_for_faults_of_its_own(vm: Vm) -> None:
    number, flags = seccomp.USERFAULTFD[os.uname().machine == "aarch64"], seccomp.TRACKER_FLAGS
    calls = [
        f"[libc.syscall({number}, {each}), ctypes.get_errno()]" for each in (flags, flags & ~1)
    ]
    allowed, refused = vm.run(f"{LIBC}found = [{', '.join(calls)}]\n" + SAY)
    assert allowed[0] >= 0
    assert refused == [-1, errno.EPERM]


@pytest.mark.parametrize("name", sorted({*seccomp.KERNEL, *seccomp.QEMU_ALONE}))
def test_calls_it_never_needs_are_refused(vm: Vm, name: str) -> None:
    numbers = {**seccomp.KERNEL, **seccomp.QEMU_ALONE}[name]
    number = numbers[["x86_64", "aarch64"].index(os.uname().machine)]
    if number is None:
        pytest.skip("no such call on this processor")
    code = f"found = [libc.syscall({number}, -1, -1, -1, -1, -1), ctypes.get_errno()]\n"
    assert vm.run(LIBC + code + SAY) == [-1, errno.EPERM]


def test_its_own_threads_are_its_to_wake(vm: Vm) -> None:
    numbers = {"x86_64": 234, "aarch64": 131}
    code = f"""
import os, threading
found = libc.syscall({numbers[os.uname().machine]}, os.getpid(), threading.get_native_id(), 0)
"""
    assert vm.run(LIBC + code + SAY) == 0


def test_without_passt_it_is_the_guests_way_out_itself(vm: Vm) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        call = f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        lines = "\n".join([TRY, f"attempt('tcp', lambda: {call})", SAY])
        assert vm.run(lines, passt_binary=None) == {"tcp": "done"}
        without = replace(vm.spec.machine, network="none")
        assert vm.run(lines, passt_binary=None, machine=without) == {"tcp": "EPERM"}


def test_it_dies_with_the_monitor(vm: Vm) -> None:
    code = f"""
import subprocess, sys, time
sys.path.insert(0, {str(ROOT)!r})
from contextlib import ExitStack
from pathlib import Path
from tests.vmm.test_confine import Vm
from vmm.confine import confinement
vm = Vm(Path({str(vm.directory / "inner")!r}))
with ExitStack() as stack:
    prepare = confinement(vm.spec, vm.endpoints, str(vm.own), stack)
    child = subprocess.Popen(["/bin/sleep", "600"], preexec_fn=prepare)
    print(child.pid, flush=True)
    time.sleep(600)
"""
    (vm.directory / "inner").mkdir()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        child = psutil.Process(int(starter.stdout.readline()))
        os.kill(starter.pid, signal.SIGKILL)
    child.wait(60)


def test_arguments_of_its_own_lift_the_lists_but_not_the_rest(vm: Vm) -> None:
    code = "\n".join([TRY, f"attempt('secret', lambda: open({str(vm.secret)!r}))",
                      "found['pid'] = open('/proc/self/status').read()", SAY])  # fmt: skip
    found = vm.run(code, extra_args=["-gdb", "tcp::1234"])
    assert found["secret"] == "done"
    assert "NoNewPrivs:\t1" in found["pid"]
    notes = confinement_notes(replace(vm.spec, extra_args=["-s"]))
    assert notes == ["QEMU sees all files: it has arguments of its own"]


def test_what_is_not_confined_is_said(vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert confinement_notes(replace(vm.spec, confine=False)) == [
        "QEMU is not confined: MACHINEN_CONFINE=off"
    ]
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 0)
    notes = confinement_notes(vm.spec)
    assert notes[0] == "this kernel does not confine which files QEMU sees (Linux 5.13)"
    assert len(notes) == 5
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 6)
    assert confinement_notes(vm.spec) == []


@pytest.mark.parametrize("abi", range(1, 7))
@needs_landlock
def test_older_kernels_are_asked_for_what_they_know(vm: Vm, abi: int) -> None:
    rules = qemu_rules(vm.spec, vm.endpoints, str(vm.own))
    landlock.Ruleset(rules, tcp=False, abi=abi).close()


def test_the_files_of_a_restored_machine_are_the_snapshots(vm: Vm) -> None:
    files = guest_files(restored(vm.spec, vm.directory), vm.endpoints)
    assert files[-2:] == [str(vm.directory / "state"), str(vm.directory / "ram.img")]
    assert str(vm.kernel) not in files


@pytest.mark.parametrize("accel", ["kvm", "tcg"])
def test_the_kvm_device_is_for_machines_that_use_it(vm: Vm, accel: str) -> None:
    machine = replace(vm.spec.machine, accel=accel)
    rules = qemu_rules(replace(vm.spec, machine=machine), vm.endpoints, str(vm.own))
    rights = [rule.rights for rule in rules if rule.path == "/dev/kvm"]
    wanted = landlock.READ_AND_WRITE | landlock.IOCTL_DEVICE
    assert rights == ([wanted] if accel == "kvm" else [])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_filters_know_both_processors(machine: str) -> None:
    for program in (
        seccomp.qemu_filter(machine, 7, network=False),
        seccomp.monitor_filter(machine),
    ):
        assert len(program) % 8 == 0
        assert len(program) // 8 < 4096


@pytest.fixture
def others_file(tmp_path: Path) -> str:
    if os.geteuid() != 0:
        pytest.skip("only root has files of others")
    path = tmp_path / "others"
    path.touch(0o600)
    os.chown(path, 65534, 65534)
    return str(path)


def test_roots_qemu_reads_the_files_of_others(others_file: str) -> None:
    assert kept_capabilities([others_file])
    assert kept_capabilities([__file__, "/absent"]) == frozenset()


MONITOR = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
from vmm.confine import confine_monitor
confine_monitor()
"""


def as_monitor(code: str) -> Any:
    argv = [sys.executable, "-c", f"{MONITOR}{code}\n{SAY}", str(ROOT)]
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)


def test_the_monitor_keeps_what_its_work_takes() -> None:
    status = as_monitor("from vmm.privileges import read_status; found = read_status('self')")
    most = sum(1 << cap for cap in MONITOR_CAPS)
    assert int(status["CapEff"], 16) & ~most == 0
    assert int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if int(read_status(os.getpid())["CapEff"], 16) & most == most:
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == most


def test_the_monitor_leaves_no_core() -> None:
    assert as_monitor("found = resource.getrlimit(resource.RLIMIT_CORE)") == [0, 0]


def test_the_monitor_may_not_change_the_kernel() -> None:
    column = ["x86_64", "aarch64"].index(os.uname().machine)
    numbers = [each[column] for each in seccomp.KERNEL.values() if each[column] is not None]
    call = "(libc.syscall(n, -1, -1, -1, -1), ctypes.get_errno())"
    refused = as_monitor(f"{LIBC}found = [{call} for n in {numbers}]")
    assert refused == [[-1, errno.EPERM]] * len(numbers)
