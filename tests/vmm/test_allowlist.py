"""Host patterns: what they permit, and which addresses are nobody's to give."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.allowlist import (
    Allowlist,
    is_public,
    normal_host,
    own_addresses,
    parse_pattern,
    split_target,
)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "example.org",
            ["example.org:80", "Example.org.:443"],
            ["example.org:8080", "a.example.org:80"],
        ),
        ("example.org:8080", ["example.org:8080"], ["example.org:80", "example.org:443"]),
        ("*.example.com", ["a.example.com:80", "a.b.example.com:443"], ["example.com:80"]),
        ("*.example.com", [], ["notexample.com:80", "example.com.evil.com:80"]),
        ("10.0.0.5:8080", ["10.0.0.5:8080"], ["10.0.0.5:80", "10.0.0.50:8080"]),
        ("10.0.0.5", ["[::ffff:10.0.0.5]:80"], ["10.0.0.6:80"]),
        ("[fd00::7]:22", ["[fd00:0::7]:22"], ["[fd00::8]:22", "[fd00::7]:80"]),
        ("fd00::7", ["[fd00::7]:443"], ["[fd00::7]:22"]),
        ("*", ["anything.example:80", "9.9.9.9:443"], ["anything.example:22"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]) -> None:
    allowed = Allowlist([pattern])
    assert [each for each in yes if not allowed.permits(*split_target(each))] == []
    assert [each for each in no if allowed.permits(*split_target(each))] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "*.",
        "*x.org",
        "a b",
        "http://example.org",
        "example.org/simple",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:http",
        "a..b",
        "-a.b",
        "a" * 64 + ".b",
        "1.2.3",
        "2130706433",
        "0x7f.1",
        "[::1",
        "[1.2.3.4]",
        "[::1]80",
        "user@example.org",
        "münchen.de",
        "*.*.org",
        ".",
        "fe80::1%eth0",
        "a." * 130 + "b",
        "example.org:٤٤٣",
    ],
)
def test_what_is_no_pattern_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="not a host to allow"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *[(text, False) for text in ("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1")],
        *[(text, False) for text in ("192.168.1.1", "169.254.169.254", "100.64.0.1")],
        *[(text, False) for text in ("224.0.0.1", "255.255.255.255", "198.18.0.1")],
        *[(text, False) for text in ("::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1")],
        *[(text, False) for text in ("::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::")],
        *[(text, False) for text in ("2001:0:7f00:1::", "fec0::1", "64:ff9b::a9fe:a9fe")],
        *[(text, True) for text in ("9.9.9.9", "172.32.0.1", "2606:4700::1", "64:ff9b::909:909")],
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


def test_an_address_that_is_not_public_must_be_named_itself() -> None:
    allowed = Allowlist(["mirror.corp", "10.0.0.5:8080", "*"])
    assert allowed.permits_address(ip_address("10.0.0.5"), 8080)
    assert not allowed.permits_address(ip_address("10.0.0.5"), 80)
    assert not allowed.permits_address(ip_address("127.0.0.1"), 80)
    assert allowed.permits_address(ip_address("9.9.9.9"), 80)
    assert not allowed.permits_address(ip_address("9.9.9.9"), 80, [IPv4Address("9.9.9.9")])


def test_this_hosts_addresses_are_known() -> None:
    assert {IPv4Address("127.0.0.1"), IPv6Address("::1")} & set(own_addresses())


@given(st.text(max_size=80))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    try:
        pattern = parse_pattern(text)
    except ValueError:
        return
    assert pattern.host == pattern.host.lower()
    assert pattern.host.isascii()
    assert all(1 <= port <= 65535 for port in pattern.ports)


@given(st.text(st.sampled_from("aZ019.-_:[]@%x*\0 "), max_size=40))
def test_a_host_is_read_the_same_way_twice(text: str) -> None:
    try:
        host, port = split_target(text, 80)
    except ValueError:
        return
    assert normal_host(host) == host
    assert 1 <= port <= 65535
    assert not set(host) & set("@/ \0%[]")
