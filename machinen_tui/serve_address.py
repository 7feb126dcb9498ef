"""`[HOST:]PORT` of `machinen-tui --serve`: where it may listen."""

from __future__ import annotations

import ipaddress

LOOPBACK = "127.0.0.1"


class ServeError(ValueError):
    """It cannot be served; the text says why and what to do."""


def parse_address(text: str, *, allow_remote: bool) -> tuple[str, int]:
    """Host and port; the host is loopback unless others are allowed. Port 0 is any free one.

    Raises:
        ServeError: It is no address, or one that others reach.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else LOOPBACK
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        raise ServeError(f"--serve takes [HOST:]PORT, for instance 8000, not {text}")
    if not host:
        raise ServeError(f"name the host before the colon: {LOOPBACK}:{port}")
    if not allow_remote and not is_loopback(host):
        raise ServeError(
            f"{host} is reached by others, and what they send goes into your sandboxes unencrypted:"
            " --allow-remote serves it all the same"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; of names only `localhost` is known to be so."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int, token: str) -> str:
    """What one opens in a browser."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{token}/"
