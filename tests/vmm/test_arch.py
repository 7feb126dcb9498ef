"""Architectures by every name they go by."""

from __future__ import annotations

import pytest

from vmm.arch import AMD64, ARM64, UnsupportedArchError, arch_for


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("x86_64", AMD64), ("amd64", AMD64), ("aarch64", ARM64), ("arm64", ARM64), ("ARM64", ARM64)],
)
def test_dpkg_and_uname_names_find_the_architecture(machine: str, expected: object) -> None:
    assert arch_for(machine) is expected


def test_another_processor_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedArchError, match="riscv64"):
        arch_for("riscv64")


def test_kvm_cpu_is_a_named_model_that_the_host_has() -> None:
    assert AMD64.kvm_cpu({"avx", "avx2"}) == "Haswell-noTSX"
    assert AMD64.kvm_cpu({"sse4_2"}) == "Westmere"
    assert ARM64.kvm_cpu({"asimd"}) == "host"


def test_an_emulated_guest_copies_by_words() -> None:
    model, *flags = AMD64.tcg_cpu.split(",")
    assert model == "max"
    assert {"-erms", "-fsrm", "-fsrs"} <= set(flags)  # kernel and libc would use `rep movsb`
    assert ARM64.tcg_cpu == "max"  # whose QEMU refuses flags of another architecture
