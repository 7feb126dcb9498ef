"""Generated files are what the code makes of them today."""

from __future__ import annotations

from pathlib import Path

import pytest

import machinen_runtime
from docs import generate_api, names_stub, sync_stub


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (generate_api.PAGE, generate_api.page),
        (generate_api.STUB, sync_stub.sync_stub),
        (generate_api.NAMES_STUB, names_stub.names_stub),
    ],
    ids=["docs/api.md", "sync.pyi", "__init__.pyi"],
)
def test_a_generated_file_is_fresh(path: Path, made: object) -> None:
    assert callable(made)
    assert path.read_text(encoding="utf-8") == made(), "run `make docs`"


def test_the_page_has_every_public_name_once() -> None:
    page = generate_api.page()
    for name in machinen_runtime.__all__:
        assert page.count(f"#### `{name}`\n") == 1, name


def test_every_topic_has_names() -> None:
    page = generate_api.page()
    assert [title for title in generate_api.TOPICS if f"### {title}\n" not in page] == []
