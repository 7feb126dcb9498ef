"""What a web proxy reads of HTTP/1.1, strictly: one request's head, and where its body ends.

RFC 9110 and 9112. What may be read in two ways (two lengths, folded lines, bare line feeds) is
refused, so that the server we speak to reads the same request as we do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vmm.allowlist import split_target

MAX_HEAD_BYTES = 32768
MAX_HEADERS = 100
MAX_CHUNK_LINE_BYTES = 1024

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HOP_BY_HOP = {
    b"connection",
    b"proxy-connection",
    b"keep-alive",
    b"proxy-authorization",
    b"proxy-authenticate",
    b"te",
    b"upgrade",
    b"host",
}
"""Not passed on; RFC 9110, 7.6.1. Host is written anew from the target."""


class BadRequestError(Exception):
    """The client sent no request that we take; the text is for the answer."""


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """One request, checked. `head` is what to send to the server; empty for a tunnel."""

    host: str
    port: int
    is_tunnel: bool
    head: bytes = b""
    body_bytes: int = 0
    is_chunked: bool = False


def parse_head(head: bytes) -> ProxyRequest:
    """The request in a head that ends with an empty line.

    Raises:
        BadRequestError: with a sentence.
    """
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequestError("this is no HTTP/1.1 request")
    method, target, version = parts
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise BadRequestError("the request line has characters it may not have")
    headers = _headers(lines[1:])
    if method == b"CONNECT":
        host, port = _place(target, None)
        return ProxyRequest(host, port, is_tunnel=True)
    authority, path = _absolute(target)
    host, port = _place(authority, 80)
    body_bytes, is_chunked = _body(headers)
    return ProxyRequest(
        host,
        port,
        is_tunnel=False,
        head=_rewritten(b" ".join((method, path, version)), _host_header(host, port), headers),
        body_bytes=body_bytes,
        is_chunked=is_chunked,
    )


Headers = list[tuple[bytes, bytes]]
"""Lower-case names and values, in order."""


def _headers(lines: list[bytes]) -> Headers:
    if len(lines) > MAX_HEADERS:
        raise BadRequestError("too many header lines")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise BadRequestError("a header line is malformed")
        headers.append((name.lower(), value))
    return headers


def _absolute(target: bytes) -> tuple[bytes, bytes]:
    """Authority and path of `http://authority/path`."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() != b"http":
        raise BadRequestError("this proxy takes CONNECT host:port, or http://host/path")
    authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(authority) :].partition(b"#")[0]
    return authority, path if path.startswith(b"/") else b"/" + path


def _place(authority: bytes, default_port: int | None) -> tuple[str, int]:
    try:
        return split_target(authority.decode("ascii"), default_port)
    except ValueError:
        raise BadRequestError("the target names no host and port") from None


def _body(headers: Headers) -> tuple[int, bool]:
    """How long the body is, or that it comes in chunks; RFC 9112, 6.3."""
    lengths = {value for name, value in headers if name == b"content-length"}
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths or codings != [b"chunked"]:
            raise BadRequestError("the body's length can be read in two ways")
        return 0, True
    if not lengths:
        return 0, False
    length = lengths.pop()
    if lengths or not re.fullmatch(rb"[0-9]{1,18}", length):
        raise BadRequestError("the body's length is no number")
    return int(length), False


def _host_header(host: str, port: int) -> bytes:
    name = f"[{host}]" if ":" in host else host
    return (name if port == 80 else f"{name}:{port}").encode()


def _rewritten(request_line: bytes, host: bytes, headers: Headers) -> bytes:
    """The head for the server: one request on one connection."""
    named = {
        word.strip(b" \t").lower()
        for name, value in headers
        if name == b"connection"
        for word in value.split(b",")
    } - {b"content-length", b"transfer-encoding"}
    lines = [request_line, b"Host: " + host, b"Connection: close"]
    lines += [
        name + b": " + value
        for name, value in headers
        if name not in _HOP_BY_HOP and name not in named
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


class BodyMeter:
    """Finds the end of one request's body in the bytes that follow its head."""

    def __init__(self, request: ProxyRequest) -> None:
        self._left = request.body_bytes
        self._is_chunked = request.is_chunked
        self._expects = "size" if request.is_chunked else "data"
        self._line = b""
        self._trailer_bytes = 0
        self.is_over = not request.is_chunked and not request.body_bytes

    def take(self, data: bytes) -> bytes:
        """The part of `data` that belongs to the body.

        Raises:
            BadRequestError: chunks that are none.
        """
        at = 0
        while at < len(data) and not self.is_over:
            at = self._take_data(data, at) if self._expects == "data" else self._take_line(data, at)
        return data[:at]

    def _take_data(self, data: bytes, at: int) -> int:
        taken = min(self._left, len(data) - at)
        self._left -= taken
        if not self._left:
            self._expects = "end"
            self.is_over = not self._is_chunked
        return at + taken

    def _take_line(self, data: bytes, at: int) -> int:
        """Collect a line of the framing; RFC 9112, 7.1."""
        end = data.find(b"\n", at) + 1 or len(data)
        self._line += data[at:end]
        if len(self._line) > MAX_CHUNK_LINE_BYTES:
            raise BadRequestError("a chunk's size line is too long")
        if self._line.endswith(b"\n"):
            line, self._line = self._line, b""
            if not line.endswith(b"\r\n"):
                raise BadRequestError("a line of the body's framing is malformed")
            self._on_line(line[:-2])
        return end

    def _on_line(self, line: bytes) -> None:
        if self._expects == "size":
            size = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[\t\x20-\x7e]*)?", line)
            if size is None:
                raise BadRequestError("a chunk's size is no number")
            self._left = int(size[1], 16)
            self._expects = "data" if self._left else "trailer"
        elif self._expects == "end":
            if line:
                raise BadRequestError("a chunk is longer than it says")
            self._expects = "size"
        else:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_HEAD_BYTES:
                raise BadRequestError("too many trailers")
            self.is_over = not line
