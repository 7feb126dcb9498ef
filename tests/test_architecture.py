"""The map holds: imports flow one way, and the two halves of the channel agree on its numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from vmm import frames
from vmm.frames import FrameType

ROOT = Path(__file__).parent.parent
PACKAGES = ("machinen_tui", "machinen_runtime", "vmm", "guest")
MAY_IMPORT = {
    "machinen_tui": {"machinen_tui", "machinen_runtime"},
    "machinen_runtime": {"machinen_runtime", "vmm", "guest"},
    "vmm": {"vmm"},
    "guest": {"guest"},
}
CONTRACT = {"accel", "arch", "errors", "requests", "spec", "stats", "status"}
"""What the runtime may import of vmm; the rest of it runs as a process."""
FORBIDDEN_LIBRARIES = {
    "machinen_runtime": {"textual", "pyte", "qemu"},
    "vmm": {"textual", "pyte", "rich", "click"},
    "guest": {"textual", "pyte", "rich", "click", "anyio", "qemu"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, everywhere: bool) -> Iterator[str]:
    """The modules a file imports: at its top, or `everywhere`, but never for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str() as module, level=0, names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                pending += orelse
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not everywhere:
                pass
            case _:
                pending += [child for child in ast.walk(node) if isinstance(child, ast.stmt)][1:]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_to_their_right(package: str) -> None:
    foreign = {
        f"{module_name(path)} → {imported}"
        for path in sources(package)
        for imported in imports(path, everywhere=True)
        if (top := imported.partition(".")[0]) in PACKAGES and top not in MAY_IMPORT[package]
    }
    assert foreign == set()


def test_the_runtime_imports_the_contract_of_vmm_alone() -> None:
    beyond = {
        f"{module_name(path)} → {imported}"
        for path in sources("machinen_runtime")
        for imported in imports(path, everywhere=True)
        if imported.startswith("vmm.") and imported.split(".")[1] not in CONTRACT
    }
    assert beyond == set()


@pytest.mark.parametrize("package", FORBIDDEN_LIBRARIES)
def test_libraries_stay_where_they_belong(package: str) -> None:
    found = {
        f"{module_name(path)} → {imported}"
        for path in sources(package)
        for imported in imports(path, everywhere=True)
        if imported.partition(".")[0] in FORBIDDEN_LIBRARIES[package]
    }
    assert found == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_files_do_not_import_in_circles(package: str) -> None:
    known = {module_name(path) for path in sources(package)}
    graph = {
        module_name(path): {name for name in imports(path, everywhere=False) if name in known}
        - {module_name(path), package}
        for path in sources(package)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def c_numbers() -> dict[str, int]:
    """The enumerators of guest/frames.h."""
    text = (ROOT / "guest" / "frames.h").read_text(encoding="utf-8")
    return {name: int(value) for name, value in re.findall(r"^\s+([A-Z_]+) = (\d+),", text, re.M)}


def test_both_halves_know_the_same_frames() -> None:
    others = {"HEADER_SIZE", "MAX_PAYLOAD", "MAX_LOG", "MAX_PING", "MAX_RESET_TEXT"}
    in_c = {
        name.removeprefix("FRAME_"): number
        for name, number in c_numbers().items()
        if name.startswith("FRAME_") and name.removeprefix("FRAME_") not in others
    }
    assert in_c == {frame.name: frame.value for frame in FrameType}


def test_both_halves_know_the_same_limits() -> None:
    in_c = c_numbers()
    assert in_c["FRAME_HEADER_SIZE"] == frames.HEADER.size
    assert in_c["FRAME_MAX_PAYLOAD"] == frames.MAX_PAYLOAD_BYTES
    assert in_c["FRAME_MAX_LOG"] == frames.MAX_LOG_BYTES
    assert in_c["FRAME_MAX_PING"] == frames.MAX_PING_BYTES
    assert in_c["FRAME_MAX_RESET_TEXT"] == frames.MAX_RESET_TEXT_BYTES
    assert in_c["MAGIC_SIZE"] == len(frames.MAGIC)
    assert in_c["WINDOW_SIZE"] == frames.INITIAL_WINDOW_BYTES
    assert in_c["MAX_STREAMS"] == frames.MAX_STREAMS
    assert in_c["PROTOCOL_VERSION"] == frames.PROTOCOL_VERSION
    assert in_c["HELLO_SET_TIME"] == frames.HELLO_SET_TIME
    assert in_c["HELLO_NEW_EPOCH"] == frames.HELLO_NEW_EPOCH
    assert in_c["HELLO_WORKLOAD_STARTED"] == frames.HELLO_WORKLOAD_STARTED


def test_clients_know_the_ports_of_the_guest() -> None:
    from machinen_runtime.channel_files import FILES_PORT
    from machinen_runtime.channel_format import EXEC_PORT
    from machinen_runtime.channel_secrets import SECRETS_PORT
    from machinen_runtime.channel_winsize import WINSIZE_PORT

    in_c = c_numbers()
    assert in_c["PORT_EXEC"] == EXEC_PORT
    assert in_c["PORT_FILES"] == FILES_PORT
    assert in_c["PORT_SECRETS"] == SECRETS_PORT
    assert in_c["PORT_WINSIZE"] == WINSIZE_PORT
    assert in_c["PORT_TCP_BASE"] == frames.TCP_PORT_BASE


def test_the_protocol_page_lists_every_frame() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", page, re.M))
    assert {int(number): name for number, name in rows.items()} == {
        frame.value: frame.name for frame in FrameType
    }
