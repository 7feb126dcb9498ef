"""KVM only where it would really run a guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmm.accel import Accel, decide_accel, parse_cpu_flags, probe_kvm_device, read_cpuinfo_flags
from vmm.arch import AMD64, ARM64, Arch
from vmm.errors import VmmError

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme vmx avx2\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm\n\nprocessor\t: 1\nflags\t\t: fpu\n"
NESTED_WITHOUT = "processor\t: 0\nflags\t\t: fpu hypervisor avx2\nvmx flags\t: vnmi\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm\n"


def decide(
    cpuinfo: str, *, arch: Arch = AMD64, problem: str | None = None, override: str | None = None
) -> Accel:
    return decide_accel(
        arch=arch,
        environ={} if override is None else {"MACHINEN_ACCEL": override},
        kvm_problem=problem,
        cpu_flags=parse_cpu_flags(cpuinfo),
    )


@pytest.mark.parametrize(("cpuinfo", "extension"), [(INTEL, "vmx"), (AMD, "svm")])
def test_kvm_needs_the_processor_extension(cpuinfo: str, extension: str) -> None:
    accel = decide(cpuinfo)
    assert accel.kind == "kvm"
    assert extension in accel.reason


def test_a_device_that_opens_without_the_extension_is_not_used() -> None:
    accel = decide(NESTED_WITHOUT)
    assert accel.kind == "tcg"
    assert "neither vmx nor svm" in accel.reason


def test_a_device_that_does_not_open_gives_its_reason() -> None:
    assert decide(INTEL, problem="/dev/kvm does not exist") == Accel(
        "tcg", "/dev/kvm does not exist"
    )


def test_on_arm64_the_device_alone_decides() -> None:
    assert decide(ARM, arch=ARM64).kind == "kvm"
    assert decide(ARM, arch=ARM64, problem="gone").kind == "tcg"


@pytest.mark.parametrize("kind", ["kvm", "tcg"])
def test_the_variable_overrides_every_probe(kind: str) -> None:
    assert decide(NESTED_WITHOUT, problem="gone", override=kind).kind == kind


def test_a_misspelt_override_is_refused() -> None:
    with pytest.raises(VmmError, match="MACHINEN_ACCEL") as caught:
        decide(INTEL, override="hvf")
    assert caught.value.code == "ACCEL_INVALID"


def test_an_empty_override_is_none() -> None:
    assert decide(INTEL, override="").kind == "kvm"


def test_flags_are_empty_where_cpuinfo_has_none(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\n")
    assert read_cpuinfo_flags(cpuinfo) == frozenset()


def test_a_missing_device_says_so(tmp_path: Path) -> None:
    assert probe_kvm_device(tmp_path / "kvm") == f"{tmp_path / 'kvm'} does not exist"


def test_a_device_that_opens_is_no_problem(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    device.touch()
    assert probe_kvm_device(device) is None
