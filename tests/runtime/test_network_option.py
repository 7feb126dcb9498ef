"""The option `network`: what a new machine gets, what a restored one may change, the flags."""

from __future__ import annotations

from typing import Any

import pytest

from machinen_runtime.cli_network import parse_network
from machinen_runtime.errors import BootError, ErrorCode, ParseError
from machinen_runtime.network_option import booted_network, restored_network
from machinen_runtime.options import BootOptions, RestoreOptions

HOSTS = ("example.org", "*.example.com:80")
NO_HOSTS = list[str]()


def test_a_new_machine_has_a_card_unless_told_otherwise() -> None:
    assert booted_network(BootOptions().network) == ("full", [])
    assert booted_network(BootOptions(network="none").network) == ("none", [])
    assert booted_network(BootOptions(network=list(HOSTS)).network) == ("allowlist", list(HOSTS))


@pytest.mark.parametrize(
    ("asked", "kept", "result"),
    [
        (None, "full", ("full", NO_HOSTS)),
        (None, "allowlist", ("allowlist", ["kept.example"])),
        ("full", "full", ("full", NO_HOSTS)),
        ("none", "allowlist", ("none", NO_HOSTS)),
        (HOSTS, "allowlist", ("allowlist", list(HOSTS))),
        (HOSTS, "none", ("allowlist", list(HOSTS))),
        ("full", "none", None),
        ("full", "allowlist", None),
        ("none", "full", None),
        (HOSTS, "full", None),
    ],
)
def test_a_machine_from_a_bundle_keeps_its_card(asked: Any, kept: Any, result: Any) -> None:
    hosts = ["kept.example"] if kept == "allowlist" else []
    network = RestoreOptions(snap_dir="x", network=asked).network
    if result is not None:
        assert restored_network(network, kept, hosts) == result
        return
    with pytest.raises(BootError) as caught:
        restored_network(network, kept, hosts)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


@pytest.mark.parametrize(
    ("network", "allow", "result"),
    [
        (None, (), None),
        ("none", (), "none"),
        ("allow:a.b,*.c", (), ["a.b", "*.c"]),
        (None, ("a.b", "c.d:22"), ["a.b", "c.d:22"]),
        ("allow:a.b", ("c.d",), ["c.d", "a.b"]),
    ],
)
def test_the_flags(network: str | None, allow: tuple[str, ...], result: Any) -> None:
    assert parse_network(network, allow) == result


@pytest.mark.parametrize(
    ("network", "allow"), [("all", ()), ("allow:", ()), ("none", ("a.b",)), ("full", ("a.b",))]
)
def test_flags_that_make_no_sense(network: str, allow: tuple[str, ...]) -> None:
    with pytest.raises(ParseError) as caught:
        parse_network(network, allow)
    assert caught.value.code is ErrorCode.PARSE_FLAG_MALFORMED
