"""`make fuzz`, `python -m bench.fuzz`: bytes of strangers into every reader, for some minutes.

    python -m bench.fuzz [--minutes 20] [--only tar,fuse] [--keep]

Each target of bench/fuzz_targets.py runs in a process of its own at the lowest priority, two at a
time, with an equal share of the time. Where atheris is installed (`pip install atheris`), coverage
leads it; else a mutator of ours changes the corpus at random. The guest's C parsers run under
sanitizers, with libFuzzer where there is clang. Exits with 1 if anything was found; what was found
lies in the directory that is named. `--keep` adds inputs that reach further to tests/corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "tests" / "corpus"
GUEST = ROOT / "guest"
INSTRUMENTED = ["vmm", "machinen_runtime", "machinen_tui", "tarfile"]
MAX_INPUT_BYTES = 4096
MAX_KEPT_FILES = 60
MAX_FILE_BYTES = 64 << 20
C_TARGET = "guest"
INTERESTING = (b"\0", b"\n", b"\xff", b"0", b"9" * 12, b"..", b"/", b"\x1b[", b'"', b"-1", b"}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one target."""

    name: str
    engine: str
    runs: int
    seconds: float
    failed: bool
    output: str


def main() -> int:
    """Fuzz everything, print one line a target."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--only", default="", help="names of targets, parted by commas")
    parser.add_argument("--keep", action="store_true", help="add to tests/corpus")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_target(options.one, options.seconds, Path(options.work))
        return 0
    work = Path(tempfile.mkdtemp(prefix="machinen-fuzz-"))
    names = options.only.split(",") if options.only else [*target_names(), C_TARGET]
    outcomes = fuzz_all(names, options.minutes * 60, work)
    if options.keep:
        keep_inputs(work, names)
    found = [outcome for outcome in outcomes if outcome.failed]
    print(f"{len(found)} of {len(outcomes)} targets found something; inputs in {work}")
    if not found:
        shutil.rmtree(work)
    return 1 if found else 0


def target_names() -> list[str]:
    """The targets in Python, in their order."""
    from bench.fuzz_targets import TARGETS

    return [*TARGETS]


def fuzz_all(names: list[str], seconds: float, work: Path) -> list[Outcome]:
    """Two at a time, so that a machine stays usable."""
    at_once = 2
    share = max(1.0, seconds * at_once / len(names))
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(fuzz_one, name, share, work) for name in names]
        return [each.result() for each in running]


def fuzz_one(name: str, seconds: float, work: Path) -> Outcome:
    """One target in a process of its own."""
    new = work / name
    new.mkdir()
    engine, argv = c_command(seconds, new) if name == C_TARGET else command(name, seconds, new)
    return run_command(name, engine, argv, new)


def run_command(name: str, engine: str, argv: list[str], new: Path) -> Outcome:
    """What comes of it; its output stays in `new` if it found something."""
    begun = time.monotonic()
    done = subprocess.run(
        ["nice", "-n", "19", *argv],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = done.stdout.decode("utf-8", "replace")
    runs = re.findall(r"number_of_executed_units: (\d+)", output)
    failed = done.returncode != 0
    if failed:
        (new / "output").write_text(output)
    taken = time.monotonic() - begun
    outcome = Outcome(name, engine, int(runs[-1]) if runs else 0, taken, failed, output[-2000:])
    print_outcome(outcome)
    return outcome


def print_outcome(outcome: Outcome) -> None:
    """One line, and the end of what it said if it found something."""
    verdict = "FOUND SOMETHING" if outcome.failed else "ok"
    figures = f"{outcome.runs:>10} runs {outcome.seconds:>6.0f} s"
    print(f"{outcome.name:<16}{outcome.engine:<10}{figures}  {verdict}")
    if outcome.failed:
        print(outcome.output)
    sys.stdout.flush()


def command(name: str, seconds: float, new: Path) -> tuple[str, list[str]]:
    """How a Python target is run."""
    engine = "atheris" if importlib.util.find_spec("atheris") else "mutator"
    argv = [sys.executable, "-m", "bench.fuzz", "--one", name]
    return engine, [*argv, "--seconds", str(seconds), "--work", str(new)]


def c_command(seconds: float, new: Path) -> tuple[str, list[str]]:
    """The C parsers, compiled with sanitizers: libFuzzer, or the driver for as many mutations."""
    clang = next((path for path in map(shutil.which, ("clang", "clang-14")) if path), None)
    build = new.parent / "guest-build"
    make = ["make", "--no-print-directory", "-C", str(GUEST), "fuzz", f"BUILD={build}"]
    subprocess.run([*make, f"CC={clang or 'gcc'}"], check=True, stdout=subprocess.DEVNULL)
    binary, seeds = str(build / "fuzz"), str(GUEST / "fuzz" / "corpus")
    if clang is None:
        mutations = int(seconds * 20_000)
        return "driver", [binary, seeds, str(mutations), str(random.getrandbits(31))]
    return "libFuzzer", [binary, str(new), seeds, *libfuzzer_options(seconds, new)]


def libfuzzer_options(seconds: float, new: Path) -> list[str]:
    """Options that libFuzzer and atheris share."""
    return [
        f"-max_total_time={int(seconds)}",
        f"-max_len={MAX_INPUT_BYTES}",
        "-timeout=30",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-handle_xfsz=0",  # a limit on file sizes shall be an error, as without a fuzzer
        f"-artifact_prefix={new}/found-",
    ]


def run_target(name: str, seconds: float, new: Path) -> None:
    """Feed one target in this process until the time is over, or something was found."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))
    seeds = CORPUS / name
    if importlib.util.find_spec("atheris"):
        atheris: Any = importlib.import_module("atheris")
        with atheris.instrument_imports(include=INSTRUMENTED):
            target = importlib.import_module("bench.fuzz_targets").TARGETS[name]
        argv = [sys.argv[0], str(new), str(seeds), *libfuzzer_options(seconds, new)]
        atheris.Setup(argv, target)
        atheris.Fuzz()
    target = importlib.import_module("bench.fuzz_targets").TARGETS[name]
    runs = mutate_until(target, read_inputs(seeds), time.monotonic() + seconds, new)
    print(f"number_of_executed_units: {runs}")


def read_inputs(directory: Path) -> list[bytes]:
    """The inputs kept in a directory; an empty one if there is none."""
    if not directory.is_dir():
        return [b""]
    return [path.read_bytes() for path in sorted(directory.iterdir())] or [b""]


def mutate_until(
    target: Callable[[bytes], None], seeds: list[bytes], deadline: float, new: Path
) -> int:
    """Feed changed seeds; how many. What raises is written to `new`, and ends the process."""
    chooser, runs = random.Random(), 0
    while time.monotonic() < deadline:
        data = chooser.choice(seeds)
        for _ in range(chooser.randint(1, 8)):
            data = mutated(data, seeds, chooser)
        try:
            target(data)
        except Exception:
            (new / f"found-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            traceback.print_exc()
            sys.exit(1)
        runs += 1
    return runs


def mutated(data: bytes, seeds: list[bytes], chooser: random.Random) -> bytes:
    """One change: a bit, a byte, a cut, a repetition, a word, or a piece of another input."""
    at = chooser.randint(0, len(data))
    to = min(len(data), at + chooser.randint(0, 64))
    match chooser.randint(0, 5):
        case 0 if at < len(data):
            changed = bytes([data[at] ^ 1 << chooser.randint(0, 7)])
            result = data[:at] + changed + data[at + 1 :]
        case 1:
            result = data[:at] + chooser.randbytes(1) + data[at + 1 :]
        case 2:
            result = data[:at] + data[to:]
        case 3:
            result = data[:to] + data[at:to] + data[to:]
        case 4:
            result = data[:at] + chooser.choice(INTERESTING) + data[to:]
        case _:
            other = chooser.choice(seeds)
            start = chooser.randint(0, len(other))
            result = data[:at] + other[start : start + chooser.randint(1, 512)] + data[to:]
    return result[:MAX_INPUT_BYTES]


def keep_inputs(work: Path, names: list[str]) -> None:
    """Add the smallest of the inputs that reached further to the corpus, up to a number."""
    for name in names:
        kept = GUEST / "fuzz" / "corpus" if name == C_TARGET else CORPUS / name
        kept.mkdir(parents=True, exist_ok=True)
        room = MAX_KEPT_FILES - len(list(kept.iterdir()))
        new = [path for path in (work / name).iterdir() if re.fullmatch("[0-9a-f]{40}", path.name)]
        for path in sorted(new, key=lambda path: path.stat().st_size)[: max(0, room)]:
            shutil.copy(path, kept / path.name[:12])


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
