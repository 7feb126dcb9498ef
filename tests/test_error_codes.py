"""Every error code is provoked by a test, or docs/errors.md says why our design cannot raise it."""

from __future__ import annotations

import ast
import re
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


PROVOKED = set[str]().union(*map(codes_in, TESTS))
RAISED = {path: codes_in(path) for path in SOURCES}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_is_provoked_by_a_test_or_explained(code: ErrorCode) -> None:
    assert code in PROVOKED or code in kept()


def test_a_code_that_is_never_raised_is_nowhere_in_the_code() -> None:
    found = {
        f"{path.name}: {code}" for path, codes in RAISED.items() for code in codes & set(kept())
    }
    assert found == set(), "docs/errors.md says these are never raised"


def test_a_code_that_is_not_explained_away_is_somewhere_in_the_code() -> None:
    raised = set[str]().union(*RAISED.values())
    assert set(ErrorCode) - raised - set(kept()) == set()


def test_a_reason_is_a_sentence() -> None:
    assert [code for code, why in kept().items() if len(why.split()) < 4] == []
