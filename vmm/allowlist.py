"""Which hosts a guest may reach: patterns, and what they permit.

    example.org            this name, ports 80 and 443        *.example.com     every name below it
    10.0.0.5:8080       this address and port              [fd00::7]:22     the same for IPv6
    *                   every public host

A name says nothing about where it leads: whoever controls it may point it anywhere. So an address
that is not public (loopback, private, link-local with the clouds' metadata service, the host's own)
is only reached if a pattern names the address itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

DEFAULT_PORTS = (80, 443)
MAX_PATTERNS = 1000
MAX_NAME_CHARS = 253
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")

_NOT_PUBLIC_V4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
"""RFC 6890 without the ranges for documentation, which lead nowhere."""
_PUBLIC_V6 = IPv6Network("2000::/3")
"""All unicast addresses IANA gives out; RFC 4291, 2.4."""
_TUNNELS_V6 = [IPv6Network("2001::/32"), IPv6Network("2002::/16")]
"""Teredo and 6to4: an IPv4 address in disguise."""
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class HostPattern:
    """One pattern: a lower-case name, `*.name`, `*`, or an address; and the ports."""

    host: str
    ports: tuple[int, ...]
    address: Address | None = None

    def permits(self, host: str, port: int) -> bool:
        """Whether a normalised name or address (`split_target`) on `port` fits."""
        if port not in self.ports:
            return False
        if self.address is not None:
            return host == str(self.address)
        if self.host == "*":
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return host == self.host


class Allowlist:
    """Patterns together."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [parse_pattern(text) for text in patterns]

    def permits(self, host: str, port: int) -> bool:
        """Whether some pattern fits the host a client asks for; says nothing about addresses."""
        return any(pattern.permits(host, port) for pattern in self._patterns)

    def permits_address(self, address: Address, port: int, own: Sequence[Address] = ()) -> bool:
        """Whether a connection may go to `address`; `own` are this host's addresses."""
        literal = any(
            pattern.address == address and port in pattern.ports for pattern in self._patterns
        )
        return literal or (is_public(address) and address not in own)


def parse_pattern(text: str) -> HostPattern:
    """The pattern in a text; ValueError with a sentence if it is none."""
    problem = f"not a host to allow: {text!r}; write a name, *.name or an address, and :port if any"
    try:
        host, port = _split(text)
        ports = DEFAULT_PORTS if port is None else (port,)
        if host == "*":
            return HostPattern(host, ports)
        if host.startswith("*."):
            return HostPattern("*." + _normal_name(host[2:]), ports)
        host = normal_host(host)
    except ValueError as error:
        raise ValueError(problem) from error
    return HostPattern(host, ports, _address(host))


def split_target(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Normalised host and port of `host:port`; ValueError if there is none of either."""
    host, port = _split(text)
    if port is None:
        port = default_port
    if port is None:
        raise ValueError("no port")
    return normal_host(host), port


def normal_host(host: str) -> str:
    """A name in lower case without its last dot, or an address as Python prints it."""
    address = _address(host)
    return str(address) if address is not None else _normal_name(host)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the internet at large."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC_V6 and not any(address in tunnel for tunnel in _TUNNELS_V6)


def own_addresses() -> list[Address]:
    """The addresses of this host's interfaces: its services may listen on all of them."""
    import psutil  # slow, and only monitors with a proxy need it

    found: list[Address] = []
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            address = _address(one.address.partition("%")[0])
            if address is not None:
                found.append(address)
    return found


def _split(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise ValueError("brackets are for IPv6 addresses")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        host, port = text, None
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if port is None:
        return host, None
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ValueError("not a port")
    return host, int(port)


def _address(host: str) -> Address | None:
    """The address a text is, IPv4 in IPv6 taken out of it; None if it is a name."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def _normal_name(name: str) -> str:
    name = name.removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > MAX_NAME_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise ValueError("an address in an unusual notation")
    return name
