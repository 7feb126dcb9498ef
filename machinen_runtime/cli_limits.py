"""--cpus, --memory-max, --io-max: what a sandbox may take of its host."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from machinen_runtime.cli_support import once
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from vmm.limits import Limits

T = TypeVar("T")


def limit_options(function: Callable[..., T]) -> Callable[..., T]:
    """--memory-max and --io-max, as texts."""
    size = once("--memory-max", metavar="SIZE", help="Most memory of this host for it: 2G; 0: any.")
    rate_help = "Most its disks read and write a second: 50M, or read=50M,write=10M; 0: any."
    return size(once("--io-max", metavar="RATE", help=rate_help)(function))


def cpus_option(function: Callable[..., T]) -> Callable[..., T]:
    """--cpus for what has its processors already: the most time they get."""
    help_text = "Most processor time, in cores: 0.5, 2; 0: any."
    return once("--cpus", type=float, metavar="N", help=help_text)(function)


def parse_limits(
    cpus: float | None, memory_max: str | None, io_max: str | None
) -> dict[str, Limits]:
    """The option `limits`, if something is limited, for `**`.

    Raises:
        ParseError: PARSE_FLAG_MALFORMED.
    """
    from vmm.limits import Limits, check_limits, parse_io_max, parse_size

    given: dict[str, Any] = {} if cpus is None else {"cpus": cpus}
    try:
        if memory_max is not None:
            given["memory_bytes"] = parse_size(memory_max)
        if io_max is not None:
            given |= parse_io_max(io_max)
        if not given:
            return {}
        limits = Limits(**given)
        check_limits(limits)
    except ValueError as error:
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, str(error)) from None
    return {"limits": limits}


def split_cpus(cpus: float | None) -> tuple[dict[str, int], float | None]:
    """What `boot --cpus N` asks for: virtual CPUs, and a limit if N is a part of one.

    Whole processors need no limit: a machine with two cannot use three.
    """
    if cpus is None:
        return {}, None
    if not math.isfinite(cpus) or cpus <= 0:
        message = f"--cpus is a number of processors, such as 2 or 0.5, not {cpus:g}"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    return {"cpus": math.ceil(cpus)}, None if cpus == int(cpus) else cpus
