"""The option `network`: what a caller may write, and what it means for a machine.

"full" and "none" are words; anything else is a list of hosts, the allowlist. A machine with a card
keeps it for life, since its memory knows the card; one without may change what its proxy permits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from machinen_runtime.errors import BootError, ErrorCode
from vmm.spec import Network

NetworkMode: TypeAlias = Literal["full", "none"]
NetworkOption: TypeAlias = NetworkMode | Sequence[str]


def validate_network(network: NetworkOption) -> NetworkMode | tuple[str, ...]:
    """`network` as it is kept: a word, or the patterns as a tuple; else BOOT_OPTION_INVALID."""
    if network in ("full", "none"):
        return network  # pyright: ignore[reportReturnType]
    if isinstance(network, str):
        raise _invalid(
            f"network is 'full', 'none' or a list of hosts such as ['example.org'], not {network!r}"
        )
    from vmm.allowlist import MAX_PATTERNS, parse_pattern  # only who has a list pays for it

    hosts = tuple(network)
    if not hosts:
        raise _invalid("network is an empty list of hosts; say 'none' if the guest may reach none")
    if len(hosts) > MAX_PATTERNS:
        raise _invalid(f"network is a list of at most {MAX_PATTERNS} hosts")
    for host in hosts:
        try:
            parse_pattern(host)
        except (ValueError, TypeError, AttributeError) as error:
            text = str(error) if isinstance(host, str) else f"not a host to allow: {host!r}"  # pyright: ignore
            raise _invalid(text) from error
    return hosts


def booted_network(network: NetworkMode | Sequence[str] | None) -> tuple[Network, list[str]]:
    """Kind of network and allowed hosts of a new machine; None is "full"."""
    if network is None or network == "full":
        return "full", []
    return ("none", []) if network == "none" else ("allowlist", list(network))


def restored_network(
    network: NetworkMode | Sequence[str] | None, kept: Network, kept_hosts: Sequence[str]
) -> tuple[Network, list[str]]:
    """The same for a machine from a bundle that had `kept`; None changes nothing.

    Raises:
        BootError: BOOT_OPTION_INVALID if it would need a card it has not, or lose one.
    """
    if network is None:
        return kept, list(kept_hosts)
    wanted, hosts = booted_network(network)
    if (wanted == "full") != (kept == "full"):
        has = "has a network card" if kept == "full" else "has no network card"
        raise _invalid(
            f"network cannot become {wanted!r} in a machine that runs already and {has}: "
            "leave it out, or boot a new VM"
        )
    return wanted, hosts


def _invalid(message: str) -> BootError:
    return BootError(ErrorCode.BOOT_OPTION_INVALID, message)
