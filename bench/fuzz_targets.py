"""What `bench.fuzz` feeds: every reader of bytes that others wrote, as a function of bytes.

A target answers, or raises what its reader raises for bad input; anything else is a finding, and so
is an answer that breaks what the reader promises (an AssertionError). Inputs that were worth
keeping are in tests/corpus/<target>/; tests/test_corpus.py replays them all.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from machinen_runtime.bundle import meta_from_object
from machinen_runtime.channel_format import ReplyParser
from machinen_runtime.errors import MachinenError
from machinen_runtime.memory import read_balloon_stats, read_cpu_percent
from machinen_runtime.oci_image import read_oci_image
from machinen_runtime.oci_layers import merge_layers
from machinen_runtime.overlay_template import overlay_size_bytes
from machinen_runtime.registry_entry import entry_from_object
from machinen_runtime.tar_extract import UnsafeArchiveError, extract_tar
from machinen_tui.log_lines import LogLines
from machinen_tui.terminal_model import TerminalModel
from vmm import proxy_http
from vmm.allowlist import parse_pattern
from vmm.errors import VmmError
from vmm.frames import FrameDecoder, FrameError, decode_reset
from vmm.fuse_messages import FuseStreamError, MessageBuffer
from vmm.fuse_session import FuseSession
from vmm.fuse_tree import Request
from vmm.fuse_wire import Op
from vmm.spec import parse_spec

Target = Callable[[bytes], None]
MOST_EXTRACTED_BYTES = 1 << 20
"""More than all inputs together may hold: an input is a few KiB."""


def frames(data: bytes) -> None:
    """The channel; the first byte says how it is cut into pieces."""
    decoder, size = FrameDecoder(), (data[0] if data else 0) + 1
    with suppress(FrameError):
        for start in range(1, len(data), size):
            for frame in decoder.feed(data[start : start + size]):
                if frame.type == 7:
                    decode_reset(frame.payload)


def fuse_messages(data: bytes) -> None:
    """A live mount's stream, cut into messages."""
    buffer, size = MessageBuffer(), (data[0] if data else 0) + 1
    with suppress(FuseStreamError):
        for start in range(1, len(data), size):
            for message in buffer.feed(data[start : start + size]):
                assert len(message) == int.from_bytes(message[:4], "little")


def replies(data: bytes) -> None:
    """What a guest's exec service answers."""
    parser, size = ReplyParser(), (data[0] if data else 0) + 1
    with suppress(MachinenError):
        for start in range(1, len(data), size):
            for _ in parser.feed(data[start : start + size]):
                pass


def terminal(data: bytes) -> None:
    """A guest's terminal: two bytes of size, then output with resizes in between."""
    if len(data) < 2:
        return
    model = TerminalModel(data[0] % 100 + 1, data[1] % 60 + 1, history_bytes=1 << 16)
    for number, piece in enumerate(data[2:].split(b"\xff\xff")):
        if number and piece:
            model.resize(piece[0] % 100 + 1, piece[-1] % 60 + 1)
        model.feed(piece)
    cursor = model.terminal.cursor
    assert 0 <= cursor.y < model.terminal.lines
    assert 0 <= cursor.x <= model.terminal.columns
    assert len(model.terminal.buffer) == model.terminal.lines


def log_lines(data: bytes) -> None:
    """A guest's console, as the log screen prints it."""
    lines = LogLines()
    for piece in data.split(b"\xff\xff"):
        lines.feed(piece)
    for line in lines.shown():
        assert all(char.isprintable() or char == " " for char in line), repr(line)


def tar(data: bytes) -> None:
    """An archive a guest sends."""
    with scratch() as directory:
        (directory / "secret").write_text("untouched")
        target = directory / "target"
        target.mkdir()
        with suppress(UnsafeArchiveError, OSError):
            extract_tar(io.BytesIO(data), target)
        assert {path.name for path in directory.iterdir()} == {"secret", "target"}
        assert (directory / "secret").read_text() == "untouched"
        check_tree(target)


def layers(data: bytes) -> None:
    """Two layers of a container image, parted by `||||`."""
    with scratch() as directory:
        paths: list[Path] = []
        for number, content in enumerate(data.split(b"||||")[:3]):
            paths.append(directory / f"layer{number}")
            paths[-1].write_bytes(content)
        with suppress(UnsafeArchiveError, OSError):
            merge_layers(paths, directory / "merged")
            assert (directory / "merged").stat().st_size < MOST_EXTRACTED_BYTES


def oci(data: bytes) -> None:
    """index.json, then a manifest and a config, of an OCI layout, parted by `||||`."""
    with scratch() as directory:
        names = ("index.json", "manifest.json", "oci-layout")
        for name, content in zip(names, data.split(b"||||"), strict=False):
            (directory / name).write_bytes(content)
        with suppress(MachinenError):
            read_oci_image(directory)


def http(data: bytes) -> None:
    """The head of a request to the web proxy."""
    with suppress(proxy_http.BadRequestError):
        proxy_http.parse_head(data)


def patterns(data: bytes) -> None:
    """A host pattern."""
    with suppress(ValueError):
        parse_pattern(data.decode("utf-8", "replace"))


def spec(data: bytes) -> None:
    """The text a monitor is started with."""
    with suppress(VmmError):
        parse_spec(data)


def meta(data: bytes) -> None:
    """meta.json of a bundle, a registry entry."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        with suppress(ValueError, TypeError, KeyError, MachinenError):
            meta_from_object(value)
        if isinstance(value, dict):
            entry_from_object(value)  # pyright: ignore[reportUnknownArgumentType]


def small_files(data: bytes) -> None:
    """The stats file, the header of a qcow2 layer."""
    with scratch() as directory:
        path = directory / "file"
        path.write_bytes(data)
        assert (read_balloon_stats(path) is None) == (len(data) < 24)
        read_cpu_percent(path)
        with suppress(MachinenError):
            assert overlay_size_bytes(path) >= 0


def fuse(data: bytes) -> None:
    """Requests to a live mount, one after the other: operation, node, size of the body, body."""
    with scratch() as directory:
        root = directory / "root"
        (root / "sub").mkdir(parents=True)
        (root / "file").write_bytes(b"content")
        (root / "link").symlink_to("../secret")
        (directory / "secret").write_bytes(b"secret")
        session, position = FuseSession(root, writable=True), 0
        try:
            while position + 3 <= len(data):
                op, node, size = data[position : position + 3]
                body = data[position + 3 : position + 3 + size]
                position += 3 + size
                if op != Op.FALLOCATE or not any(body[18:24]):  # else it would fill the disk
                    ask(session, Request(40 + len(body), op, 2, node, 0, 0, 1, 0), body)
        finally:
            session.close()
        assert (directory / "secret").read_bytes() == b"secret"
        assert {path.name for path in directory.iterdir()} == {"root", "secret"}


def ask(session: FuseSession, request: Request, body: bytes) -> None:
    """One request, and the slow part of its work."""
    slow = session.handle(request, memoryview(body))
    if slow is not None:
        with suppress(OSError):  # a reply, too
            slow.work()


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        *(frames, fuse_messages, fuse, replies, terminal, log_lines, tar, layers, oci, http),
        *(patterns, spec, meta, small_files),
    )
}


def check_tree(target: Path) -> None:
    """What was extracted: files, directories and links; none with rights of its owner's, none
    large."""
    size = 0
    for directory, names, files in os.walk(target):
        for name in (*names, *files):
            info = os.lstat(os.path.join(directory, name))
            kind = stat.S_IFMT(info.st_mode)
            assert kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK), name
            assert kind == stat.S_IFLNK or not info.st_mode & 0o7000, name
            size += info.st_size
    assert size < MOST_EXTRACTED_BYTES


@contextmanager
def scratch() -> Generator[Path]:
    """An empty directory, removed afterwards whatever its modes became."""
    path = Path(tempfile.mkdtemp(prefix="machinen-fuzz-", dir=_memory()))
    try:
        yield path
    finally:
        shutil.rmtree(path, onerror=_open_up)


@cache
def _memory() -> str | None:
    """Where files cost no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _open_up(remove: Callable[[str], object], path: str, _error: object) -> None:
    """Remove what an archive made unreadable."""
    os.chmod(os.path.dirname(path), 0o700)
    os.chmod(path, 0o700)
    if remove is os.unlink or remove is os.rmdir:
        remove(path)
    else:
        shutil.rmtree(path)
