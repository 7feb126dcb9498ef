"""`machinen` with what nobody should give it: closed and full streams, words that are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MACHINEN = f"{sys.executable} -m machinen_runtime.cli"
LONG = "9" * 5000


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """What `command` did in a shell; `machinen` in it is ours. Nothing ends in a traceback."""
    words = f'machinen() {{ {MACHINEN} "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [("ls", 0), ("ls --json", 0), ("--help", 0), ("cache ls", 0), ("exec no -- true", 1), ("x", 2)],
)
def test_closed_streams_are_as_good_as_dev_null(
    machinen_home: Path, words: str, code: int, closed: str
) -> None:
    assert shell(f"machinen {words} {closed}").returncode == code


def test_no_file_we_open_takes_the_place_of_a_closed_stream(machinen_home: Path) -> None:
    show = "import os, machinen_runtime.cli_start as s; s.fill_closed_streams(); "
    show += "print(*(os.readlink(f'/proc/self/fd/{n}') for n in (0, 1)), file=open(3, 'w'))"
    done = shell(f'{sys.executable} -c "{show}" 3>&1 <&- >&- 2>&-')
    assert done.stdout == f"{os.devnull} {os.devnull}\n"


@pytest.mark.parametrize("words", ["ls --json", "--help", "agent-context"])
def test_a_full_device_is_told(machinen_home: Path, words: str) -> None:
    done = shell(f"machinen {words} >/dev/full")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("words", ["agent-context", "completion bash", "--help"])
def test_a_reader_that_leaves_is_no_error(machinen_home: Path, words: str) -> None:
    done = shell(f"machinen {words} | head -c 1")
    assert (len(done.stdout), done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (f"exec {LONG} -- true", 1),
        (f"port rm a {LONG}", 2),
        (f"port add a {LONG}:1", 2),
        (f"boot -p 1:{LONG}", 2),
        (f"boot --memory {LONG}", 2),
        (f"boot {LONG}", 1),
        (f"restore {LONG}", 1),
        (f"bundles check {LONG}", 1),
        (f"snapshot a {LONG}", 1),
        ("stats a --watch --interval nan", 2),
        ("stats a --watch --interval inf", 2),
        ("exec $'\\xff' -- true", 1),
        ("exec '' -- true", 1),
        ("exec $'a\\nb' -- true", 1),
    ],
)
def test_words_that_mean_nothing_are_refused_in_a_sentence(
    machinen_home: Path, words: str, code: int
) -> None:
    done = shell(f"machinen {words}")
    assert done.returncode == code
    assert done.stderr.startswith("machinen: ") or "(BOOT_SNAPSHOT_NOT_FOUND)" in done.stdout


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/nowhere"])
@pytest.mark.parametrize(
    "variable", ["MACHINEN_REGISTRY_DIR", "MACHINEN_STATE_DIR", "MACHINEN_RUNTIME_DIR", "HOME"]
)
def test_a_place_that_cannot_be_made_is_told_when_it_is_needed(
    machinen_home: Path, variable: str, place: str
) -> None:
    assert shell(f"{variable}={place} machinen ls").returncode == 0
    for words in ("gc", "boot --detach /no/such.tar"):
        done = shell(f"{variable}={place} machinen {words}")
        assert done.returncode == 0 or done.stderr.startswith("machinen: ")
