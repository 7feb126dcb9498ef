"""What the web proxy reads of HTTP, and what it refuses because it could be read in two ways."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.proxy_http import BadRequestError, BodyMeter, ProxyRequest, parse_head


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_tunnel() -> None:
    request = parse_head(head("CONNECT Example.org:443 HTTP/1.1", "Host: evil.example"))
    assert (request.host, request.port, request.is_tunnel) == ("example.org", 443, True)
    assert request.head == b""


def test_a_request_is_sent_on_in_origin_form_with_the_targets_host() -> None:
    request = parse_head(
        head(
            "GET http://deb.example.com/debian/x?y=1#z HTTP/1.1",
            "Host: evil.example",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic c2VjcmV0",
            "Connection: X-Mine, close",
            "X-Mine: 1",
            "Accept: */*",
        )
    )
    assert (request.host, request.port, request.is_tunnel) == ("deb.example.com", 80, False)
    assert request.head.split(b"\r\n") == [
        b"GET /debian/x?y=1 HTTP/1.1",
        b"Host: deb.example.com",
        b"Connection: close",
        b"accept: */*",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("target", "host", "line", "host_line"),
    [
        ("http://a.b", "a.b", b"GET / HTTP/1.1", b"Host: a.b"),
        ("http://a.b?q", "a.b", b"GET /?q HTTP/1.1", b"Host: a.b"),
        ("HTTP://A.B:8080/", "a.b", b"GET / HTTP/1.1", b"Host: a.b:8080"),
        ("http://[fd00::1]:81/x", "fd00::1", b"GET /x HTTP/1.1", b"Host: [fd00::1]:81"),
    ],
)
def test_targets(target: str, host: str, line: bytes, host_line: bytes) -> None:
    request = parse_head(head(f"GET {target} HTTP/1.1"))
    assert request.host == host
    assert request.head.split(b"\r\n")[:2] == [line, host_line]


@pytest.mark.parametrize(
    "lines",
    [
        [""],
        ["GET / HTTP/1.1"],
        ["GET http://a.b/ HTTP/2.0"],
        ["GET  http://a.b/ HTTP/1.1"],
        ["GET http://a.b/ HTTP/1.1 "],
        ["GET https://a.b/ HTTP/1.1"],
        ["GET ftp://a.b/ HTTP/1.1"],
        ["GET http:///x HTTP/1.1"],
        ["GET http://user:word@a.b/ HTTP/1.1"],
        ["GET http://a.b:x/ HTTP/1.1"],
        ["GET http://a.b\\@c.d/ HTTP/1.1"],
        ["GET http://127.1/ HTTP/1.1"],
        ["CONNECT a.b HTTP/1.1"],
        ["CONNECT a.b:443/ HTTP/1.1"],
        ["CONNECT http://a.b:443 HTTP/1.1"],
        ["G(T http://a.b/ HTTP/1.1"],
        ["GET http://a.b/\x7f HTTP/1.1"],
        ["GET http://a.b/ HTTP/1.1", "no colon"],
        ["GET http://a.b/ HTTP/1.1", "a : b"],
        ["GET http://a.b/ HTTP/1.1", "a: b", " folded"],
        ["GET http://a.b/ HTTP/1.1", "a: b\nc: d"],
        ["GET http://a.b/ HTTP/1.1", "a: b\rc: d"],
        ["GET http://a.b/ HTTP/1.1", "a: \0"],
        ["POST http://a.b/ HTTP/1.1", "Content-Length: 1", "Content-Length: 2"],
        ["POST http://a.b/ HTTP/1.1", "Content-Length: +1"],
        ["POST http://a.b/ HTTP/1.1", "Content-Length: 1, 1"],
        ["POST http://a.b/ HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"],
        ["POST http://a.b/ HTTP/1.1", "Transfer-Encoding: gzip, chunked"],
        ["POST http://a.b/ HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["GET http://a.b/ HTTP/1.1", *[f"a{n}: b" for n in range(101)]],
    ],
)
def test_what_is_refused(lines: list[str]) -> None:
    with pytest.raises(BadRequestError):
        parse_head(head(*lines))


def meter(*headers: str) -> BodyMeter:
    return BodyMeter(parse_head(head("POST http://a.b/ HTTP/1.1", *headers)))


def test_a_body_of_known_length_ends_there() -> None:
    body = meter("Content-Length: 5")
    assert body.take(b"abc") == b"abc"
    assert not body.is_over
    assert body.take(b"deGET http://evil") == b"de"
    assert body.is_over
    assert body.take(b"more") == b""


def test_without_a_length_there_is_no_body() -> None:
    body = meter()
    assert body.is_over
    assert body.take(b"GET /second") == b""


CHUNKED = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"


@given(st.lists(st.integers(0, len(CHUNKED)), max_size=8))
def test_chunks_end_at_the_same_place_however_they_are_cut(cuts: list[int]) -> None:
    body = meter("Transfer-Encoding: chunked")
    data = CHUNKED + b"GET http://evil/"
    taken = b""
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        taken += body.take(data[start:end])
    assert taken == CHUNKED
    assert body.is_over


@pytest.mark.parametrize(
    "data",
    [
        b"x\r\n",
        b"\r\n",
        b"5\nhello",
        b"-1\r\n",
        b"5 5\r\n",
        b"1" * 2000,
        b"1\r\nab\r\n",
        b"0x5\r\n",
    ],
)
def test_chunks_that_are_none(data: bytes) -> None:
    with pytest.raises(BadRequestError):
        meter("Transfer-Encoding: chunked").take(data)


def test_sizes_and_trailers_are_bounded() -> None:
    for data in (b"1" * 16 + b"\r\n", b"0\r\n" + b"a: b\r\n" * 9000):
        with pytest.raises(BadRequestError):
            meter("Transfer-Encoding: chunked").take(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    checked(data)


@given(
    st.sampled_from(["GET", "POST", "CONNECT", "x y"]),
    st.text(max_size=30),
    st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5),
)
def test_anything_in_the_shape_of_a_request(
    method: str, target: str, headers: list[tuple[str, str]]
) -> None:
    lines = [f"{method} http://{target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers]]
    checked("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass"))


def checked(data: bytes) -> ProxyRequest | None:
    """A request that is sent on is one head, of one host, without what we do not pass on."""
    try:
        request = parse_head(data)
    except BadRequestError:
        return None
    if not request.is_tunnel:
        assert request.head.endswith(b"\r\n\r\n")
        assert request.head.count(b"\r\n\r\n") == 1
        names = [line.partition(b":")[0].lower() for line in request.head.split(b"\r\n")[1:-2]]
        assert names.count(b"host") == 1
        assert b"proxy-authorization" not in names
    return request
