"""`--network full|none|allow:HOST,…` and `--allow HOST`, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence

import click

from machinen_runtime.cli_support import once
from machinen_runtime.errors import ErrorCode, ParseError

ALLOW_PREFIX = "allow:"

network_option = once(
    "--network",
    metavar="full|none|allow:HOST,…",
    help="What the guest may reach: everything, nothing, or these hosts by HTTP and HTTPS.",
)
allow_option = click.option(
    "--allow",
    metavar="HOST",
    multiple=True,
    help="Let the guest reach HOST (name, *.name or address, :port) and nothing else. Repeatable.",
)


def parse_network(network: str | None, allow: Sequence[str]) -> str | list[str] | None:
    """The option `network` of the API; None if neither flag was given.

    Raises:
        ParseError: PARSE_FLAG_MALFORMED.
    """
    hosts = list(allow)
    if network is not None and network.startswith(ALLOW_PREFIX):
        hosts += [host for host in network.removeprefix(ALLOW_PREFIX).split(",") if host]
        if not hosts:
            raise _malformed("--network allow: needs hosts: allow:example.org,*.example.com")
    elif network not in (None, "full", "none"):
        raise _malformed(f"--network takes full, none or allow:HOST,HOST, not {network!r}")
    elif network is not None and hosts:
        raise _malformed(f"--allow says which hosts, --network {network} says otherwise; give one")
    return hosts or network


def _malformed(message: str) -> ParseError:
    return ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
