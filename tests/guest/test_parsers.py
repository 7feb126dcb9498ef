"""The guest's C: its parsers under sanitizers, its fuzz target, and what `make` gives."""

import struct
import subprocess
from pathlib import Path

import pytest

from tests.guest.conftest import GUEST, make

pytestmark = pytest.mark.busy

MUTATIONS = 50_000
"""Some seconds; the same inputs each time, so a failure here can be repeated."""


def test_parsers_pass_their_unit_tests_under_sanitizers(build: Path) -> None:
    make(build, "test")


def test_no_mutation_of_the_corpus_breaks_a_parser(build: Path) -> None:
    make(build, "fuzz")
    done = subprocess.run(
        [build / "fuzz", GUEST / "fuzz/corpus", str(MUTATIONS), "7"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"{MUTATIONS} mutations" in done.stdout


def test_binaries_are_static_and_stripped(build: Path) -> None:
    make(build)
    for name in ("init", "agent"):
        binary = (build / name).read_bytes()
        assert binary.startswith(b"\x7fELF")
        (offset,) = struct.unpack_from("<Q", binary, 32)
        size, count = struct.unpack_from("<HH", binary, 54)
        kinds = [struct.unpack_from("<I", binary, offset + i * size)[0] for i in range(count)]
        assert 3 not in kinds, "PT_INTERP: it would need the image's dynamic linker"
        assert b".symtab" not in binary


def test_init_refuses_to_run_as_an_ordinary_program(build: Path) -> None:
    make(build)
    done = subprocess.run([build / "init"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "first process of a guest" in done.stderr
