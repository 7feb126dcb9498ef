"""Every error code is provoked by a test, or docs/errors.md says why our design cannot raise it.

A test says so by `@pytest.mark.provokes(ErrorCode.X)`; tests/raised_codes.py fails it when our code
did not raise X while it ran.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from machinen_runtime.errors import ErrorCode

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
SOURCES = [
    path
    for package in ("machinen_runtime", "machinen_tui", "vmm")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "errors.py"
]
TESTS = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]


@cache
def kept() -> dict[str, str]:
    """The codes our design cannot raise, and the reason."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Kept from the API")[2]
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", section, re.MULTILINE))


def codes_in(path: Path) -> set[str]:
    """The codes a file speaks of as `ErrorCode.X`, or as text where it compares what was printed.

    Comments and docstrings do not count.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="ErrorCode"), attr=name):
                found.add(name)
            case ast.Constant(value=str(text)) if len(text) < 400:
                found |= set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", text))
            case _:
                pass
    return found & set(ErrorCode)


def codes_marked_in(path: Path) -> set[str]:
    """The codes of every `pytest.mark.provokes(…)` in a file of tests."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="mark"), attr="provokes")):
                found |= {each.attr for each in node.args if isinstance(each, ast.Attribute)}
            case _:
                pass
    return found


# Read when a test asks: every worker imports this file, one runs it.
@cache
def provoked() -> set[str]:
    """The codes of every mark of every test."""
    return set[str]().union(*map(codes_marked_in, TESTS))


@cache
def raised() -> dict[Path, set[str]]:
    """The codes each of our files speaks of."""
    return {path: codes_in(path) for path in SOURCES}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_provoked_by_a_test_or_explained(code: ErrorCode) -> None:
    assert (code in provoked()) != (code in kept())


def test_a_code_that_is_never_raised_is_nowhere_in_the_code() -> None:
    found = {
        f"{path.name}: {code}" for path, codes in raised().items() for code in codes & set(kept())
    }
    assert found == set(), "docs/errors.md says these are never raised"


def test_a_code_that_is_not_explained_away_is_somewhere_in_the_code() -> None:
    spoken_of = set[str]().union(*raised().values())
    assert set(ErrorCode) - spoken_of - set(kept()) == set()


def test_a_reason_is_a_sentence() -> None:
    assert [code for code, why in kept().items() if len(why.split()) < 4] == []


# -- the mark itself ------------------------------------------------------------------------------

MARKED = """
    import pytest
    from machinen_runtime.errors import ErrorCode, MachinenError
    from machinen_runtime.options import BootOptions

    @pytest.mark.provokes(ErrorCode.BOOT_MEMORY_INVALID)
    def test_it_is_raised():
        with pytest.raises(MachinenError):
            BootOptions(memory=1)

    @pytest.mark.provokes(ErrorCode.BOOT_MEMORY_INVALID, ErrorCode.VM_DIED)
    def test_one_of_two_is():
        with pytest.raises(MachinenError):
            BootOptions(memory=1)

    @pytest.mark.provokes(ErrorCode.VM_DIED)
    def test_it_is_made_but_not_raised():
        MachinenError(ErrorCode.VM_DIED, "gone")

    @pytest.mark.provokes(ErrorCode.VM_DIED)
    def test_it_is_raised_by_the_test():
        with pytest.raises(MachinenError):
            raise MachinenError(ErrorCode.VM_DIED, "gone")
"""


def test_a_mark_that_is_not_true_fails_its_test(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = provokes: as in our own suite")
    (tmp_path / "conftest.py").write_text("from tests.raised_codes import pytest_runtest_call")
    (tmp_path / "test_marked.py").write_text(textwrap.dedent(MARKED))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "3 failed, 1 passed" in done.stdout
    assert done.stdout.count("does not make our code raise VM_DIED") >= 3
