"""The initramfs archive, read back by an independent parser."""

from __future__ import annotations

import stat

import pytest

from machinen_runtime.cpio import (
    CpioEntry,
    build_cpio,
    character_device,
    directory,
    regular_file,
)


def parse_newc(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """name → (mode, data, device numbers): an independent reader of the format."""
    entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [
            int(archive[start : start + 8], 16) for start in range(position + 6, position + 110, 8)
        ]
        mode, size, major, minor, name_size = (
            fields[1],
            fields[6],
            fields[9],
            fields[10],
            fields[11],
        )
        name = archive[position + 110 : position + 110 + name_size - 1].decode()
        start = position + 110 + name_size
        start += -start % 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[start : start + size], (major, minor))
        position = start + size
        position += -position % 4


def test_an_archive_reads_back_with_names_modes_and_contents() -> None:
    archive = build_cpio(
        [
            directory("dev"),
            character_device("dev/console", 5, 1),
            regular_file("init", b"#!/bin/true\n", 0o755),
            regular_file("empty", b""),
        ]
    )
    entries = parse_newc(archive)
    assert list(entries) == ["dev", "dev/console", "init", "empty"]
    assert entries["dev"][0] == stat.S_IFDIR | 0o755
    assert entries["dev/console"][0] == stat.S_IFCHR | 0o600
    assert entries["dev/console"][2] == (5, 1)
    assert entries["init"] == (stat.S_IFREG | 0o755, b"#!/bin/true\n", (0, 0))
    assert entries["empty"][1] == b""
    assert len(archive) % 512 == 0


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 511, 512, 513])
def test_every_size_of_data_and_name_is_padded(size: int) -> None:
    entries = [regular_file("n" * (size + 1), b"x" * size), regular_file("after", b"y")]
    assert parse_newc(build_cpio(entries))["after"][1] == b"y"


def test_equal_input_gives_equal_bytes() -> None:
    assert build_cpio([directory("a")]) == build_cpio([directory("a")])


@pytest.mark.parametrize("name", ["", "/init", "a\0b"])
def test_a_name_the_kernel_would_misread_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        CpioEntry(name=name, mode=stat.S_IFREG)
