"""Limits: what may be asked for, how it is written, what is inherited, what QEMU is told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.vmm.specs import make_spec
from vmm.io_limits import limit_disks
from vmm.limits import (
    NO_LIMITS,
    Limits,
    check_limits,
    describe_limits,
    describe_reached,
    limits_from_object,
    parse_io_max,
    parse_size,
)
from vmm.qmp import Qmp
from vmm.spec import parse_spec

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [("65536", 65536), ("512M", 512 * MIB), ("1.5g", 1536 * MIB), ("2GiB", 2048 * MIB),
     ("10KB", 10240), (" 1T ", 1 << 40), ("0", 0)],
)  # fmt: skip
def test_sizes_are_numbers_with_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1X", "1M/s", "nan", "1e9", "٣M", "1 M 2"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 512M"):
        parse_size(text)


def test_rates_are_for_both_directions_or_for_each() -> None:
    assert parse_io_max("50M") == {"io_bytes_per_s": 50 * MIB}
    assert parse_io_max("read=50M, write=1M") == {
        "io_read_bytes_per_s": 50 * MIB,
        "io_write_bytes_per_s": MIB,
    }
    assert parse_io_max("write=1M") == {"io_write_bytes_per_s": MIB}
    for wrong in ("read=1M,read=2M", "reads=1M", "read=", "read=1M,5M"):
        with pytest.raises(ValueError, match=r"such as 512M|read=50M,write=10M"):
            parse_io_max(wrong)


@pytest.mark.parametrize(
    "limits",
    [{"cpus": 0.001}, {"cpus": -1}, {"cpus": math.nan}, {"cpus": math.inf}, {"cpus": True},
     {"cpus": "1"}, {"cpus": 10**400}, {"memory_bytes": 1 << 20}, {"memory_bytes": 1.5e9},
     {"io_bytes_per_s": 1},
     {"io_bytes_per_s": MIB, "io_read_bytes_per_s": MIB}, {"disks": 1}, [], None, "cpus"],
)  # fmt: skip
def test_limits_of_strangers_are_checked(limits: object) -> None:
    with pytest.raises(ValueError, match="limit"):
        limits_from_object(limits)


def test_what_is_said_goes_before_what_is_inherited_and_nought_is_no_limit() -> None:
    source = Limits(cpus=0.5, memory_bytes=512 * MIB, io_read_bytes_per_s=MIB)
    assert Limits().over(source) == source
    assert Limits(cpus=2).over(source) == replace(source, cpus=2)
    assert Limits(cpus=0, memory_bytes=0).over(source) == Limits(io_read_bytes_per_s=MIB)
    assert Limits(io_bytes_per_s=MIB).over(source) == Limits(
        cpus=0.5, memory_bytes=512 * MIB, io_bytes_per_s=MIB
    )
    assert NO_LIMITS.over(source) == Limits()
    check_limits(NO_LIMITS)
    assert Limits().over(None) == Limits()
    assert not Limits(io_bytes_per_s=MIB).need_cgroup
    assert Limits(memory_bytes=512 * MIB).need_cgroup


def test_limits_are_told_in_words() -> None:
    limits = Limits(cpus=0.5, memory_bytes=1536 * MIB, io_read_bytes_per_s=MIB)
    assert describe_limits(limits.to_object()) == "0.5 cpus · 1.5G memory · 1M/s read"
    assert describe_limits(Limits().to_object()) == ""
    assert limits_from_object(limits.to_object()) == limits


def test_what_was_reached_is_told_in_words() -> None:
    assert describe_reached(3, 0, 0) == "3 times the processor, 0 times the memory"
    assert describe_reached(0, 9, 1) == "0 times the processor, 9 times the memory, 1 kills"


def test_a_spec_carries_them(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, limits=Limits(cpus=0.5))
    assert parse_spec(spec.to_json().encode()) == spec


class Recorder:
    """QMP that takes every command."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def execute(self, command: str, arguments: dict[str, Any]) -> None:
        self.asked.append((command, arguments))


async def test_all_disks_share_one_rate(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, limits=Limits(io_bytes_per_s=MIB))
    spec = replace(spec, machine=replace(spec.machine, mount_disk=True))
    qmp = Recorder()
    await limit_disks(cast("Qmp", qmp), spec)
    assert {command for command, _ in qmp.asked} == {"block_set_io_throttle"}
    assert [each["id"].split("/")[3] for _, each in qmp.asked] == ["disk0", "mount0", "mount1"]
    assert {(each["group"], each["bps"], each["bps_rd"]) for _, each in qmp.asked} == {
        ("disks", MIB, 0)
    }


async def test_without_a_limit_the_disks_are_left_alone(tmp_path: Path) -> None:
    qmp = Recorder()
    await limit_disks(cast("Qmp", qmp), make_spec(tmp_path, limits=Limits(cpus=1)))
    assert qmp.asked == []
