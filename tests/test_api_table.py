"""The whole declaration, name by name: what is missing, differs or is not explained fails.

A deliberate difference is a row of docs/api.md, "Differences"; a difference without a row fails,
and so does a row without a difference.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

import machinen_runtime
from docs.api_model import (
    REQUIRED,
    Field,
    fields_of,
    is_record,
    methods_of,
    parameters_of,
    properties_of,
    public,
)
from machinen_runtime.errors import ErrorCode, MachinenError
from tests import api_declaration as declared
from tests import api_records as records

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
ERRORS_PAGE = PAGE.with_name("errors.md")

MISSING_FOR_NOW: set[str] = set()
"""Exported names of which the work is under way. Empty when it is done."""

PLAIN_NUMBERS = {"clients", "code", "cols", "cpus", "exit_code", "format", "mode", "pid", "rows"}
"""Numbers that need no unit, or whose unit everybody knows."""
UNITS = ("_ms", "_bytes", "_mib", "_mb", "_pid", "_pages", "_port", "_at")


# -- differences ----------------------------------------------------------------------------------


@cache
def explained() -> dict[str, str]:
    """Each difference that docs/api.md explains, and the reason."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## Differences\n")[2]
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {key: why for keys, why in rows for key in re.findall(r"`([^`]+)`", keys)}


def renamed(parameter: str) -> str:
    """What we call a parameter of the declaration; a row `(uds_path) → vsock_path` says so."""
    for key in explained():
        if (match := re.fullmatch(r"\((\w+)\) → (\w+)", key)) and match[1] == parameter:
            return match[2]
    return parameter


def differences() -> Iterator[str]:
    """Everything that is not as declared, as keys for the table in docs/api.md."""
    for name, fields in records.OPTIONS.items():
        if exists(name):
            ours = {field.name: field.default for field in fields_of(public(name))}
            wanted = {renamed(field): default for field, default in fields.items()}
            yield from compare_fields(name + ".", wanted, ours)
    for name, members in records.RECORDS.items():
        if exists(name):
            ours = {field.name for field in fields_of(public(name))} | set(
                properties_of(public(name))
            )
            yield from (f"{name}.{member}" for member in sorted(set(members) ^ ours))
    for name, function in declared.FUNCTIONS.items():
        if exists(name):
            yield from compare_function(name, function, public(name))
    for name, kind in declared.CLASSES.items():
        if exists(name):
            yield from compare_class(name, kind, public(name))
    for name, value in records.CONSTANTS.items():
        if exists(name) and public(name) != value:
            yield name
    if public("auto_size_memory_mib")(1 << 40) != records.MEMORY_CAP_MIB:
        yield "auto_size_memory_mib"


def exists(name: str) -> bool:
    return name in machinen_runtime.__all__ or (
        name == "_internal" and hasattr(machinen_runtime, name)
    )


def compare_class(name: str, kind: declared.Class, ours: type) -> Iterator[str]:
    methods = methods_of(ours)
    for member, function in kind.methods.items():
        if member in methods:
            yield from compare_function(f"{name}.{member}", function, methods[member])
        else:
            yield f"{name}.{member}"
    yield from (f"{name}.{member}" for member in methods if member not in kind.methods)
    if kind.constructor is not None:
        yield from compare_function(name, kind.constructor, ours.__init__)
    readable = set(properties_of(ours))
    own = inspect.getsource(ours)
    for member in kind.properties:
        if member not in readable and f"self.{member} = " not in own:
            yield f"{name}.{member}"
    yield from (f"{name}.{member}" for member in sorted(readable - set(kind.properties)))


def compare_function(
    name: str, function: declared.Function, ours: Callable[..., Any]
) -> Iterator[str]:
    """Positional parameters in their order, then options as keywords of the record's names."""
    if inspect.iscoroutinefunction(ours) != function.is_async:
        yield f"{name} async"
    parameters = parameters_of(ours)
    positional = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    wanted = [renamed(each) for each in function.positional]
    first = len(wanted) - len(function.defaults)
    defaults = [REQUIRED] * first + list(function.defaults)
    for index, (parameter, default) in enumerate(zip(wanted, defaults, strict=True)):
        found = positional[index] if index < len(positional) else None
        if found is None or found.name != parameter or not same(default, found.default):
            yield f"{name}({parameter})"
    yield from (f"{name}({each.name})" for each in positional[len(wanted) :])
    fields = {**records.OPTIONS, **declared.INLINE_OPTIONS}.get(function.options or "", {})
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return  # the record's fields, compared there
    keywords = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    for key in compare_fields("", {renamed(each): fields[each] for each in fields}, keywords):
        yield f"{name}({key})"


def compare_fields(prefix: str, wanted: records.Fields, ours: dict[str, Any]) -> Iterator[str]:
    for name, default in wanted.items():
        default = REQUIRED if default is records.REQUIRED else default
        if name not in ours or not same(default, ours[name]):
            yield prefix + name
    yield from (prefix + name for name in ours if name not in wanted)


def same(default: object, ours: object) -> bool:
    """Whether two defaults mean the same; nothing is nothing, of whatever type."""
    nothing: list[object] = [None, (), {}, []]
    return default == ours or (default in nothing and ours in nothing)


def test_every_name_of_the_declaration_can_be_imported() -> None:
    missing = {name for name in declared.EXPORTED if not exists(name)}
    assert missing == MISSING_FOR_NOW
    for name in set(declared.EXPORTED) - missing:
        assert public(name) is not None


def test_what_differs_from_the_declaration_is_explained() -> None:
    unexplained = {each for each in differences() if not any(map(matcher(each), explained()))}
    assert unexplained == set(), "explain them in docs/api.md, Differences"


def test_every_explained_difference_exists() -> None:
    found = set(differences())
    stale = {
        key
        for key in explained()
        if not key.startswith("(") and not any(matcher(each)(key) for each in found)
    }
    assert stale == set(), "these rows of docs/api.md, Differences, speak of nothing"


def matcher(difference: str) -> Callable[[str], bool]:
    """Whether a key, which may have a `*`, speaks of `difference`."""
    return lambda key: fnmatchcase(difference, key)


def test_an_explanation_is_a_sentence() -> None:
    assert {key for key, why in explained().items() if len(why.split()) < 3} == set()


def test_every_error_code_exists_and_means_itself() -> None:
    assert set(records.error_codes()) <= set(ErrorCode)
    assert all(code.name == code.value for code in ErrorCode)


@pytest.mark.parametrize("name", declared.ERROR_CLASSES)
def test_every_error_class_is_of_the_family(name: str) -> None:
    error = public(name)(ErrorCode.EXEC_PROTOCOL, "why", retryable=True)
    assert isinstance(error, MachinenError)
    assert (error.code, str(error), error.retryable) == (ErrorCode.EXEC_PROTOCOL, "why", True)


def test_a_pid_is_alive_dead_or_recycled() -> None:
    assert get_args(public("PidStatus")) == ("alive", "dead", "recycled")


# -- docstrings -----------------------------------------------------------------------------------


def functions() -> dict[str, Callable[..., Any]]:
    """Every public function and method, by its name for people."""
    found: dict[str, Callable[..., Any]] = {}
    for name in machinen_runtime.__all__:
        thing = public(name)
        if inspect.isfunction(thing):
            found[name] = thing
        elif inspect.isclass(thing) and not issubclass(thing, Exception):
            found |= {f"{name}.{each}": method for each, method in methods_of(thing).items()}
    return found


FUNCTIONS = functions()
RECORDS = [name for name in machinen_runtime.__all__ if is_record(public(name))]


def documented(name: str) -> str:
    return inspect.getdoc(FUNCTIONS[name]) or ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_the_caller_gets(name: str) -> None:
    assert len(documented(name).split()) >= 3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_names_the_codes_it_raises_itself(name: str) -> None:
    source = textwrap.dedent(inspect.getsource(FUNCTIONS[name]))
    raised: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised |= set(re.findall(r"ErrorCode\.([A-Z_]+)", ast.unparse(node.exc)))
    assert raised <= set(re.findall(r"[A-Z_]+", documented(name)))


def unreachable() -> set[str]:
    """The codes that docs/errors.md says our design cannot raise."""
    section = ERRORS_PAGE.read_text(encoding="utf-8").partition("\n## Kept from the API")[2]
    return set(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(declared.FUNCTIONS))
def test_a_function_names_the_codes_the_declaration_promises(name: str) -> None:
    if name in machinen_runtime.__all__:
        promised = set(declared.FUNCTIONS[name].throws) - unreachable()
        assert promised - set(re.findall(r"[A-Z_]+", documented(name))) == set()


def test_a_method_names_the_codes_the_declaration_promises() -> None:
    for name, kind in declared.CLASSES.items():
        for member, function in kind.methods.items():
            if f"{name}.{member}" in FUNCTIONS:
                promised = set(function.throws) - unreachable()
                said = set(re.findall(r"[A-Z_]+", documented(f"{name}.{member}")))
                assert promised - said == set(), f"{name}.{member}"


def test_no_docstring_speaks_of_a_code_that_does_not_exist() -> None:
    groups = {code.partition("_")[0] for code in ErrorCode}
    for name in FUNCTIONS:
        for word in re.findall(r"\b[A-Z]+_[A-Z_]+\b", documented(name)):
            if word.partition("_")[0] in groups:
                assert word in set(ErrorCode), f"{name} speaks of {word}"


def documented_fields() -> list[tuple[str, Field]]:
    return [(name, field) for name in RECORDS for field in fields_of(public(name))]


def test_every_field_of_an_options_record_is_explained() -> None:
    bare = [
        f"{name}.{field.name}"
        for name, field in documented_fields()
        if name.endswith("Options") and not field.doc
    ]
    assert bare == []


def test_every_number_has_a_unit_or_an_explanation() -> None:
    bare = [
        f"{name}.{field.name}"
        for name, field in documented_fields()
        if re.fullmatch(r"(int|float)( \| None)?", field.annotation)
        and not (field.doc or field.name in PLAIN_NUMBERS or field.name.endswith(UNITS))
    ]
    assert bare == []


FORMATS = {
    "build_machinen_config": "machinen-config.json",
    "mkinitramfs_bundle": "newc",
    "mkinitramfs_minimal": "newc",
    "mkinitramfs_rootfs": "newc",
    "mkinitramfs_tiny_bundle": "newc",
    "mkinitramfs_workspace": "newc",
    "read_balloon_stats": "u64, little-endian",
    "read_host_free_bytes": r"proc_meminfo\(5\)|MemAvailable",
    "read_host_rss_bytes": r"proc_pid_statm\(5\)|VmRSS",
    "VsockExec.run": r"protocol\.md 3\.1",
    "VsockFiles.push": r"protocol\.md 3\.5|tar",
    "VsockSecrets.send": r"protocol\.md 3\.4",
    "VsockWinsize.connect": r"protocol\.md 3\.3",
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_function_that_knows_a_format_says_where_it_comes_from(name: str) -> None:
    if name.partition(".")[0] in machinen_runtime.__all__:
        module = inspect.getmodule(FUNCTIONS[name])
        assert module is not None
        assert re.search(FORMATS[name], f"{documented(name)}\n{module.__doc__}")
