"""What fuzzing found worth keeping, fed to every reader again; and the fuzzer's own promises."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import fuzz
from bench.fuzz_targets import TARGETS

INPUTS = [(path.parent.name, path) for path in sorted(fuzz.CORPUS.glob("*/*"))]


def test_every_target_has_a_corpus_and_the_other_way_round() -> None:
    assert {path.name for path in fuzz.CORPUS.iterdir()} == set(TARGETS)
    assert len(INPUTS) > 40


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_as_their_reader_promises(name: str) -> None:
    for target, path in INPUTS:
        if target == name:
            TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_near_them_are_too(name: str) -> None:
    seeds, chooser = fuzz.read_inputs(fuzz.CORPUS / name), random.Random(8)
    for _ in range(40):
        data = fuzz.mutated(chooser.choice(seeds), seeds, chooser)
        TARGETS[name](fuzz.mutated(data, seeds, chooser))


def test_what_raises_is_kept_and_ends_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def target(data: bytes) -> None:
        assert b"9" not in data

    with pytest.raises(SystemExit):
        fuzz.mutate_until(target, [b"seed"], time.monotonic() + 60, tmp_path)
    assert "AssertionError" in capsys.readouterr().err
    (found,) = tmp_path.iterdir()
    assert b"9" in found.read_bytes()


def test_a_finding_is_told_and_named_by_the_exit_status(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    code = "import sys; print('what was found'); sys.exit(77)"
    outcome = fuzz.run_command("target", "none", [sys.executable, "-c", code], tmp_path / "target")
    assert outcome.failed
    assert "what was found" in outcome.output
    assert (tmp_path / "target" / "output").exists()


def test_new_inputs_are_kept_the_smallest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path / "corpus")
    monkeypatch.setattr(fuzz, "MAX_KEPT_FILES", 1)
    new = tmp_path / "work" / "tar"
    new.mkdir(parents=True)
    (new / ("a" * 40)).write_bytes(b"large")
    (new / ("b" * 40)).write_bytes(b"s")
    (new / "found-crash").write_bytes(b"")
    fuzz.keep_inputs(tmp_path / "work", ["tar"])
    assert [path.read_bytes() for path in (tmp_path / "corpus" / "tar").iterdir()] == [b"s"]


def test_help_names_the_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.fuzz", "--help"],
        cwd=fuzz.ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"--minutes" in done.stdout
