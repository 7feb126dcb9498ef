"""docs/security.md names a test for every claim; here is whether they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| claim |", "| targets, "))
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`|`(guest/tests/\w+\.c)::(\w+)`")


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
    }


def test_there_are_claims() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_every_claim_names_tests_that_exist(row: tuple[str, ...]) -> None:
    claim, tests = row[0], row[-1]
    named = NAMED.findall(tests)
    assert named, f"no test for: {claim}"
    for python_path, python_name, c_path, c_name in named:
        path, name = python_path or c_path, python_name or c_name
        assert name in functions(path), f"{path} has no {name}"
