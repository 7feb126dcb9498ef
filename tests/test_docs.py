"""The pages users read, held against the code: map, verbs, keys, variables, error codes, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from machinen_runtime.cli_group import VERBS
from machinen_runtime.cli_list import HEADER
from machinen_runtime.errors import ErrorCode
from machinen_tui.widgets.help_screen import KEYS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAPPED = ("machinen_tui", "machinen_tui/widgets", "machinen_runtime", "vmm", "guest", "bench")
SUFFIXES = (".py", ".c", ".h", ".tcss")


def mapped_files() -> list[str]:
    """The files the map in docs/architecture.md names, in its order; `x.[ch]` is two."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    directory, found = "", list[str]()
    for line in page.partition("## The map")[2].splitlines():
        if heading := re.match(r"([a-z_/]+)/ ", line):
            directory = heading[1]
        elif entry := re.match(r"  (\S+)\s+\S", line):
            name = entry[1]
            names = [name[:-4] + "c", name[:-4] + "h"] if name.endswith("[ch]") else [name]
            found += [f"{directory}/{each}" for each in names]
    return found


def test_the_map_names_every_file_once() -> None:
    files = [
        f"{directory}/{path.name}"
        for directory in MAPPED
        for path in (ROOT / directory).iterdir()
        if path.suffix in SUFFIXES
    ]
    assert sorted(mapped_files()) == sorted(files), "docs/architecture.md and the tree differ"


def test_every_error_code_is_explained_once() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert sorted(explained) == sorted(ErrorCode)


def test_every_verb_is_in_the_readme() -> None:
    table = README.partition("## Verbs of `machinen`")[2].partition("\n## ")[0]
    verbs = re.findall(r"^\| `([a-z-]+)", table, re.MULTILINE)
    assert verbs == list(VERBS)


def test_the_listing_in_the_readme_has_the_columns_of_ls() -> None:
    (header,) = [line for line in README.splitlines() if line.startswith("PID ")]
    assert header.split() == HEADER


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_row_of_a_table_is_cut_off_from_its_heading(page: Path) -> None:
    """A row after an empty line is drawn as text with bars, not as a row."""
    lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        if line.startswith("| ") and not above.startswith("|"):
            assert below.startswith("|-"), f"{page.name}: a row without a heading: {line}"


def test_every_key_of_the_tui_is_in_the_readme() -> None:
    table = README.partition("## Keys of `machinen-tui`")[2].partition("\n## ")[0]
    shown = set(re.findall(r"`([^`]+)`", table))
    for keys, _ in KEYS:
        for key in re.split(r"[ ,]+", keys):
            assert key in shown, f"{key} is a key, but not in the README's table"


def test_every_variable_we_read_is_in_the_readme() -> None:
    read = {
        found
        for package in ("machinen_runtime", "machinen_tui", "vmm")
        for path in (ROOT / package).rglob("*.py")
        for found in re.findall(r"[\"'](MACHINEN_[A-Z0-9_]+)[\"']", path.read_text("utf-8"))
    }
    assert read, "the pattern no longer finds them"
    assert {name for name in read if f"`{name}`" not in README} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [as_anchor(heading) for heading in headings], target


def as_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
