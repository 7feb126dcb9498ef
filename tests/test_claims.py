"""Pages that name a test for every claim; here is whether they all exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FEWEST = {"security.md": 20, "forks.md": 85}
"""The pages, and how many rows the pattern below must find at least."""
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`|`(guest/tests/\w+\.c)::(\w+)`")
RULE = re.compile(r"\|(--\|)+")


def rows_of(page: str) -> list[tuple[str, ...]]:
    """The rows of every table of a page whose last column is `test`, as cells."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    found: list[tuple[str, ...]] = []
    is_claims = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if not line.startswith("|"):
            is_claims = False
        elif RULE.fullmatch(following):
            is_claims = cells[-1] == "test"
        elif is_claims and not RULE.fullmatch(line):
            found.append(cells)
    return found


ROWS = [(page, row) for page in FEWEST for row in rows_of(page)]


@cache
def functions(path: str) -> set[str]:
    """The functions of a file of tests."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".c"):
        return set(re.findall(r"^static void (\w+)\(", text, re.MULTILINE))
    return {
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", FEWEST)
def test_there_are_claims(page: str) -> None:
    assert len(rows_of(page)) >= FEWEST[page]


@pytest.mark.parametrize(("page", "row"), ROWS, ids=[f"{page}-{row[0][:50]}" for page, row in ROWS])
def test_every_claim_names_tests_that_exist(page: str, row: tuple[str, ...]) -> None:
    claim, tests = row[0], row[-1]
    named = NAMED.findall(tests)
    assert named, f"{page}: no test for: {claim}"
    for python_path, python_name, c_path, c_name in named:
        path, name = python_path or c_path, python_name or c_name
        assert name in functions(path), f"{page}: {path} has no {name}"


def test_every_table_of_forks_has_tests() -> None:
    """No row may go without by losing its table's last column."""
    lines = (ROOT / "docs" / "forks.md").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if RULE.fullmatch(line)]
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows_of("forks.md")) == len(rows) - 2 * len(rules)
