"""From what is typed into a dialog's field to a value: the small grammars, each with its error.

A value is refused here if it cannot be read, and by the runtime's own options if it can be read but
not used; either way the text says what to type.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machinen_runtime.option_types import LiveMount, Mount, PortForward, validate_port
from vmm.limits import Limits, check_limits, parse_io_max, parse_size


def words(text: str) -> list[str]:
    """`a "b c" d, e` as a shell reads it, commas between words allowed."""
    return [part.rstrip(",") for part in _split(text) if part.rstrip(",")]


def command(text: str) -> list[str]:
    """A command line: words, or a shell's line where only a shell could read it."""
    if any(mark in text for mark in "|&;<>$`*"):
        return ["/bin/sh", "-c", text]
    return _split(text)


def whole_number(text: str, what: str) -> int | None:
    """A number, or None for an empty field."""
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 12:
        raise ValueError(f"{what}, not {text!r}")
    return int(text)


def processors(text: str) -> tuple[int | None, float | None]:
    """Virtual CPUs, and the time they get if that is a part of one: `0.5` is one for half."""
    if not text:
        return None, None
    try:
        cpus = float(text) if text.isascii() and len(text) <= 12 else 0.0
    except ValueError:
        cpus = 0.0
    if not math.isfinite(cpus) or cpus <= 0:
        raise ValueError(f"cpus is a number such as 2 or 0.5, not {text!r}")
    return math.ceil(cpus), None if cpus == int(cpus) else cpus


def share(text: str) -> float | None:
    """Processors a sandbox gets the time of, as `0.5` or `2`."""
    cpus, part = processors(text)
    return cpus if part is None else part


def limits(cpus: float | None, memory: str, disks: str) -> Limits | None:
    """What it may take of this machine: `2G`, and `50M` or `read=50M,write=10M`."""
    given: dict[str, Any] = {} if cpus is None else {"cpus": cpus}
    given |= {"memory_bytes": parse_size(memory)} if memory else {}
    given |= parse_io_max(disks) if disks else {}
    if not given:
        return None
    wanted = Limits(**given)
    check_limits(wanted)
    return wanted


def environment(text: str) -> Mapping[str, str]:
    """`A=1 B="two words"`."""
    pairs: dict[str, str] = {}
    for word in _split(text):
        key, separator, value = word.partition("=")
        if not key or not separator:
            raise ValueError(f"an environment variable is KEY=VALUE, not {word!r}")
        pairs[key] = value
    return pairs


def network(text: str) -> str | list[str]:
    """`full`, `none`, or the hosts that may be reached: `example.org *.example.com`."""
    hosts = words(text)
    if len(hosts) < 2 and (hosts or ["full"])[0] in ("full", "none"):
        return (hosts or ["full"])[0]
    return hosts


def ports(text: str) -> list[PortForward]:
    """`8080:80 2222:22 0.0.0.0:9000:9000`; a single number is both ends."""
    return [port(word) for word in words(text)]


def port(text: str) -> PortForward:
    """`[ADDRESS:]HOST:GUEST`; `80` is `80:80`."""
    rest, _, guest = text.rpartition(":")
    address, _, host = rest.rpartition(":")
    host = host or guest
    if not all(end.isascii() and end.isdecimal() and len(end) < 6 for end in (host, guest)):
        raise ValueError(f"a port is HOST:GUEST, such as 8080:80, not {text!r}")
    address = address.strip("[]") or "127.0.0.1"
    return PortForward(host_port=int(host), guest_port=int(guest), host_addr=address)


def wanted_port(text: str) -> PortForward | int:
    """As `port`; `:80` and `0:80` name the guest's alone: any free one of the host leads there."""
    rest, _, guest = text.rpartition(":")
    if rest in ("", "0") and ":" in text and guest.isascii() and guest.isdecimal():
        return validate_port(int(guest[:9]))
    return port(text)


def mount(text: str) -> Mount | None:
    """`HOST:GUEST`, one directory; the guest path lies under /mnt/."""
    given = words(text)
    if not given:
        return None
    if len(given) > 1:
        raise ValueError("only one directory can be copied in; show others as live mounts")
    host, guest = _host_and_guest(given[0])
    return Mount(host=str(host_path(host)), guest=guest)


def live_mounts(text: str) -> list[LiveMount]:
    """`HOST:GUEST[:ro|rw]`, several; `rw` if nothing is said."""
    mounts: list[LiveMount] = []
    for word in words(text):
        rest, _, mode = word.rpartition(":")
        read_only, written = mode == "ro", mode in ("ro", "rw")
        host, guest = _host_and_guest(rest if written else word)
        mounts.append(
            LiveMount(host=str(host_path(host)), guest=guest, mode="ro" if read_only else "rw")
        )
    return mounts


def spelled_port(forward: PortForward) -> str:
    """A forward as `port` reads it; the usual address is left out."""
    ends = f"{forward.host_port}:{forward.guest_port}"
    if forward.host_addr == "127.0.0.1":
        return ends
    address = f"[{forward.host_addr}]" if ":" in forward.host_addr else forward.host_addr
    return f"{address}:{ends}"


def address_of(forward: PortForward) -> str:
    """Where one connects to: `127.0.0.1:8080`; every address is this machine's too."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(forward.host_addr, forward.host_addr)
    return f"[{host}]:{forward.host_port}" if ":" in host else f"{host}:{forward.host_port}"


def spelled_ports(forwards: Sequence[PortForward]) -> str:
    """Forwards as `ports` reads them."""
    return " ".join(map(spelled_port, forwards))


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{str(error).lower()}: close every quote") from error


def _host_and_guest(text: str) -> tuple[str, str]:
    host, _, guest = text.rpartition(":")
    if not host or not guest:
        raise ValueError(f"a mount is HOST:/mnt/GUEST, not {text!r}")
    return host, guest


def host_path(text: str) -> Path:
    """A path of this machine; `~` and `~somebody` as a shell has them."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # what expanduser raises for a user nobody knows
        raise ValueError(f"there is no home directory for {text}") from error
