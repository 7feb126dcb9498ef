"""The map in docs and heads, held against the files: imports, sizes, words, the wire's numbers."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from vmm import frames, main_session
from vmm.frames import FrameType

ROOT = Path(__file__).parent.parent
PACKAGES = ("machinen_tui", "machinen_runtime", "vmm", "guest")
"""From left to right; imports flow one way."""
CONTRACT = {
    "accel",
    "allowlist",
    "arch",
    "cgroups",
    "claim",
    "confined_tool",
    "crash_report",
    "errors",
    "landlock",
    "limits",
    "peers",
    "port_holder",
    "ram_shim",
    "records",
    "requests",
    "spec",
    "stats",
    "status",
    "tied",
}
"""What the runtime may import of vmm: the rest runs as a process."""
MAX_LINES = 450
MAX_LINES_OF_LISTS = 600
"""An `__init__.py` only lists names, a file of tests only tests: nobody reads it to the end."""


def source_files(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


PRODUCT = source_files(*PACKAGES)
KINDS = ("*.py", "*.c", "*.h", "*.md", "*.toml", "*.sh", "*.tcss", "*.json", "Makefile")


def tracked_files() -> list[Path]:
    """What people write: nothing built, nothing installed, nothing hidden but `.ci`."""
    found: list[Path] = []
    for directory, inner, files in os.walk(ROOT):
        # What is left out is not walked either: an environment holds ten thousand files.
        inner[:] = [
            name
            for name in inner
            if name not in ("build", "dist", "__pycache__")
            and (not name.startswith(".") or name == ".ci")
        ]
        found += [
            Path(directory, name)
            for name in files
            if not name.startswith(".") and any(fnmatch(name, kind) for kind in KINDS)
        ]
    return sorted(found)


TRACKED = tracked_files()


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """`vmm/mux.py` → `vmm.mux`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def over(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Makes the check of one file one test of all, which names each file that fails.

    As a test of its own for each file they were two of five tests of the whole run.
    """

    def decorate(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            assert paths
            failures: list[str] = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    failures.append(f"{named(path)}: {error}")
            assert not failures, "\n".join(failures)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def test_of_all_files_each_that_fails_is_named() -> None:
    @over([ROOT / "first.py", ROOT / "second.py", ROOT / "third.py"])
    def check(path: Path) -> None:
        assert path.stem == "second", "it is another"

    with pytest.raises(AssertionError) as caught:
        check()
    told = str(caught.value)
    assert [f"{name}.py: it is another" in told for name in ("first", "second", "third")] == [
        True,
        False,
        True,
    ]


MODULES = {module_name(path): path for path in PRODUCT}


def imports(path: Path, *, at_start_only: bool = False) -> Iterator[str]:
    """The modules of ours that a file imports; `at_start_only`: not those inside functions."""
    for node in walk(tree_of(path), at_start_only=at_start_only):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}: a relative import"
            module = node.module or ""
            below = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else module for name in below]
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def walk(node: ast.AST, *, at_start_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not (at_start_only and (inside or is_type_checking(child))):
            yield from walk(child, at_start_only=at_start_only)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


# -- imports --------------------------------------------------------------------------------------


@over(PRODUCT)
def test_imports_flow_one_way_through_the_packages(path: Path) -> None:
    own = PACKAGES.index(path.relative_to(ROOT).parts[0])
    for name in imports(path):
        other = PACKAGES.index(name.partition(".")[0])
        assert own <= other, f"{named(path)} imports {name}"


@over(source_files("machinen_tui", "machinen_runtime"))
def test_a_monitor_is_a_process_of_which_only_the_contract_is_imported(path: Path) -> None:
    used = {name for name in imports(path) if name.partition(".")[0] == "vmm"}
    assert used <= {f"vmm.{part}" for part in CONTRACT}


@over(PRODUCT)
def test_the_guest_is_reached_by_bytes_alone(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "guest":
        assert {name for name in imports(path) if name.startswith("guest.")} == set()


def test_no_file_imports_itself_in_a_circle() -> None:
    edges = {
        name: {each for each in imports(path, at_start_only=True) if each in MODULES}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, [*trail, name])
            done.add(name)

    for name in edges:
        visit(name, [])


ABOVE_HANDLES = {
    "handle",
    "attach",
    "boot",
    "first_byte",
    "restore",
    "rewind",
    "provision",
    "sandboxes",
    "supervisor",
}
"""What may know VmHandle; below it every file speaks of a RegistryEntry."""


@over(source_files("machinen_runtime"))
def test_only_what_lies_above_it_knows_the_handle(path: Path) -> None:
    above = path.stem in ABOVE_HANDLES or path.stem == "__init__" or path.stem.startswith("cli")
    if not above and path.stem not in ("pty_process", "warm"):
        assert "machinen_runtime.handle" not in set(imports(path))


@over(source_files("machinen_tui"))
def test_the_tui_starts_no_process_and_opens_no_socket(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {"subprocess", "socket", "psutil"} & set(names), named(path)


def test_what_the_monitor_imports_before_qemu_runs_is_light() -> None:
    """QEMU starts before the event loop is imported (vmm/__main__.py)."""
    seen: set[str] = set()
    heavy: set[str] = set()
    waiting = ["vmm.__main__"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in walk(tree_of(MODULES[name]), at_start_only=True):
            if isinstance(node, ast.Import):
                heavy |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                heavy.add((node.module or "").partition(".")[0])
        waiting += [each for each in imports(MODULES[name], at_start_only=True) if each in MODULES]
    assert not {"anyio", "asyncio", "qemu", "textual", "click", "rich"} & heavy


# -- sizes and words ------------------------------------------------------------------------------


@over([path for path in TRACKED if path.suffix != ".json"])
def test_no_file_is_too_long_to_read(path: Path) -> None:
    if path.suffix in (".py", ".c", ".h"):
        is_list = path.name == "__init__.py" or path.name.startswith("test_")
        limit = MAX_LINES_OF_LISTS if is_list else MAX_LINES
        assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@over(PRODUCT)
def test_every_module_and_public_name_says_what_it_is_for(path: Path) -> None:
    in_tui = path.relative_to(ROOT).parts[0] == "machinen_tui"  # methods are mostly Textual's there
    public = public_names(tree_of(path), with_methods=not in_tui)
    missing = [name for name, node in public if not ast.get_docstring(node)]
    assert ast.get_docstring(tree_of(path)) or not path.read_text().strip(), "the module"
    assert missing == []


Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_names(
    scope: ast.Module | ast.ClassDef, *, with_methods: bool, prefix: str = ""
) -> Iterator[tuple[str, Documented]]:
    """Functions and classes that others may use, and what classes have of them."""
    for node in scope.body:
        if not isinstance(node, Documented) or node.name.startswith("_"):
            continue
        if not isinstance(node, ast.ClassDef) and is_explained_elsewhere(node):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef) and with_methods:
            yield from public_names(node, with_methods=True, prefix=f"{prefix}{node.name}.")


def is_explained_elsewhere(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A setter beside its property, an overload beside its function."""
    decorators = [ast.unparse(each) for each in node.decorator_list]
    return any(text.endswith((".setter", "overload", "override")) for text in decorators)


@over(TRACKED)
def test_no_file_speaks_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    here = [re.escape(f"{place}/") for place in (ROOT, ROOT.parent / "shared")]
    places = [*here, r"/tmp/s/", r"/home/[a-z]+/", r"/root/\.(cache|pyenv)"]
    if path != Path(__file__):
        assert re.findall("|".join(places), text) == []


@over(TRACKED)
def test_no_file_holds_half_a_merge(path: Path) -> None:
    marks = re.findall(r"^(?:<{7} |>{7} |={7}$).*", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert marks == []


@over(PRODUCT)
def test_no_problem_is_passed_over_in_silence(path: Path) -> None:
    """`except Exception: pass` hides whatever comes; a named error with a reason does not."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            empty = all(isinstance(each, ast.Pass) for each in node.body)
            assert not (broad and empty), f"{named(path)}:{node.lineno}"


# -- the wire -------------------------------------------------------------------------------------


@cache
def c_numbers() -> dict[str, int]:
    """Every enum constant and number of guest/frames.h."""
    text = (ROOT / "guest" / "frames.h").read_text()
    constants = re.findall(r"^\s*([A-Z][A-Z0-9_]+) = (\d+),", text, re.MULTILINE)
    defines = re.findall(r"^#define ([A-Z][A-Z0-9_]+) (\d+)$", text, re.MULTILINE)
    return {name: int(number) for name, number in [*constants, *defines]}


def test_both_sides_know_the_same_frame_types() -> None:
    other = {"FRAME_HEADER_SIZE"} | {name for name in c_numbers() if name.startswith("FRAME_MAX_")}
    types = {
        name.removeprefix("FRAME_"): number
        for name, number in c_numbers().items()
        if name.startswith("FRAME_") and name not in other
    }
    assert types == {kind.name: kind.value for kind in FrameType}


@pytest.mark.parametrize(
    ("c_name", "ours"),
    [
        ("FRAME_HEADER_SIZE", frames.HEADER.size),
        ("FRAME_MAX_PAYLOAD", frames.MAX_PAYLOAD_BYTES),
        ("FRAME_MAX_LOG", frames.MAX_LOG_BYTES),
        ("FRAME_MAX_PING", frames.MAX_PING_BYTES),
        ("FRAME_MAX_RESET_TEXT", frames.MAX_RESET_TEXT_BYTES),
        ("MAGIC_SIZE", len(frames.MAGIC)),
        ("WINDOW_SIZE", frames.INITIAL_WINDOW_BYTES),
        ("MAX_STREAMS", frames.MAX_STREAMS),
        ("MAX_GUEST_STREAMS", frames.MAX_GUEST_STREAMS),
        ("HELLO_PROXY", frames.HELLO_PROXY),
        ("HELLO_RESTORED", frames.HELLO_RESTORED),
        ("PORT_PROXY", frames.PROXY_PORT),
        ("PROTOCOL_VERSION", frames.PROTOCOL_VERSION),
        ("HELLO_SET_TIME", frames.HELLO_SET_TIME),
        ("HELLO_NEW_EPOCH", frames.HELLO_NEW_EPOCH),
        ("HELLO_WORKLOAD_STARTED", frames.HELLO_WORKLOAD_STARTED),
        ("PORT_TCP_BASE", frames.TCP_PORT_BASE),
        ("PORT_EXEC", main_session.EXEC_PORT),
    ],
)
def test_both_sides_know_the_same_number(c_name: str, ours: int) -> None:
    assert c_numbers()[c_name] == ours


def test_the_runtimes_ports_are_the_guests() -> None:
    from machinen_runtime import channel_files, channel_secrets, channel_winsize

    assert c_numbers()["PORT_WINSIZE"] == channel_winsize.WINSIZE_PORT
    assert c_numbers()["PORT_SECRETS"] == channel_secrets.SECRETS_PORT
    assert c_numbers()["PORT_FILES"] == channel_files.FILES_PORT


def test_both_sides_begin_with_the_same_magic() -> None:
    text = (ROOT / "guest" / "frames.c").read_text()
    found = re.search(r"FRAME_MAGIC\[MAGIC_SIZE\] = \{(.*?)\}", text, re.DOTALL)
    assert found is not None
    parts = [part.strip() for part in found[1].split(",") if part.strip()]
    magic = b"".join(
        part[1:-1].encode() if part.startswith("'") else bytes([int(part, 16)]) for part in parts
    )
    assert magic == frames.MAGIC


def test_the_protocols_page_has_the_same_types() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", text, re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {
        kind.name: kind.value for kind in FrameType
    }
