"""--cpus, --memory-max, --io-max: from words to limits."""

from __future__ import annotations

import math

import pytest

from machinen_runtime.cli_limits import parse_limits, split_cpus
from machinen_runtime.errors import BootError, ErrorCode, ParseError
from machinen_runtime.options import BootOptions, Limits

MIB = 1 << 20


def test_what_is_not_given_is_not_asked_for() -> None:
    assert parse_limits(None, None, None) == {}


def test_words_become_limits() -> None:
    assert parse_limits(0.5, "2G", "50M") == {
        "limits": Limits(cpus=0.5, memory_bytes=2048 * MIB, io_bytes_per_s=50 * MIB)
    }
    assert parse_limits(None, None, "read=1M,write=2M") == {
        "limits": Limits(io_read_bytes_per_s=MIB, io_write_bytes_per_s=2 * MIB)
    }
    assert parse_limits(0, "0", "0") == {
        "limits": Limits(cpus=0, memory_bytes=0, io_bytes_per_s=0)
    }, "nought lifts what would be inherited"


@pytest.mark.parametrize(
    ("cpus", "memory_max", "io_max"),
    [(-1, None, None), (math.nan, None, None), (0.001, None, None), (None, "lots", None),
     (None, "1M", None), (None, None, "up=1M"), (None, None, "10")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    cpus: float | None, memory_max: str | None, io_max: str | None
) -> None:
    with pytest.raises(ParseError) as caught:
        parse_limits(cpus, memory_max, io_max)
    assert caught.value.code is ErrorCode.PARSE_FLAG_MALFORMED


def test_a_part_of_a_processor_is_a_limit_and_whole_ones_are_not() -> None:
    assert split_cpus(None) == ({}, None)
    assert split_cpus(2) == ({"cpus": 2}, None)
    assert split_cpus(0.5) == ({"cpus": 1}, 0.5)
    assert split_cpus(1.5) == ({"cpus": 2}, 1.5)


@pytest.mark.parametrize("cpus", [0, -1, math.nan, math.inf])
def test_no_processors_are_refused(cpus: float) -> None:
    with pytest.raises(ParseError) as caught:
        split_cpus(cpus)
    assert caught.value.code is ErrorCode.PARSE_FLAG_MALFORMED


@pytest.mark.parametrize(
    "limits",
    [Limits(cpus=-1), Limits(memory_bytes=5), Limits(io_bytes_per_s=MIB, io_write_bytes_per_s=MIB)],
)
def test_options_refuse_limits_that_make_no_sense(limits: Limits) -> None:
    with pytest.raises(BootError) as caught:
        BootOptions(limits=limits)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID
