"""Every reader of foreign bytes in docs/architecture.md exists, and so do its Hypothesis tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_SECTION = _PAGE.partition("\n## Readers of what others wrote\n")[2]
ROWS = re.findall(r"^\| ([^|]+) \| (`[^|]+`) \| (`[^|]+`) \|$", _SECTION, re.MULTILINE)


def test_the_table_is_there() -> None:
    assert len(ROWS) == _SECTION.count("\n|") - 2


@pytest.mark.parametrize(("_what", "readers", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_a_reader_has_tests_with_made_up_bytes(_what: str, readers: str, tests: str) -> None:
    modules = [Path(name) for name in re.findall(r"`(.*?)`", readers)]
    sources = [(ROOT / name).read_text(encoding="utf-8") for name in re.findall(r"`(.*?)`", tests)]
    assert all((ROOT / module).is_file() for module in modules)
    assert all("@given(" in source for source in sources)
    missing = [
        module
        for module in modules
        if not any(re.search(rf"\b{module.stem}\b", source) for source in sources)
    ]
    assert missing == [], "no test of this row imports them"
