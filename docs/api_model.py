"""What the public API looks like from outside: names, parameters, fields, docstrings.

Read from the living code, for `docs/generate_api.py` and `tests/test_api_table.py`. Fields are
documented by the string below them, which only the source knows.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast, get_origin

import machinen_runtime

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Field:
    """One field of a record."""

    name: str
    annotation: str
    default: Any
    """REQUIRED if it has none."""
    doc: str


def public(name: str) -> Any:
    """The object behind a public name; AttributeError if there is none."""
    return getattr(machinen_runtime, name)


def is_record(thing: object) -> bool:
    """Whether `thing` is a class of named fields."""
    return inspect.isclass(thing) and dataclasses.is_dataclass(thing)


def fields_of(record: type) -> list[Field]:
    """The fields of a record that a caller may give or read, in their order.

    Properties count: to a reader they are fields.
    """
    found: list[Field] = []
    docs = field_docs(record)
    for item in dataclasses.fields(record):
        if not item.name.startswith("_"):
            found.append(Field(item.name, str(item.type), _default(item), docs.get(item.name, "")))
    return found


def properties_of(kind: type) -> dict[str, str]:
    """Name → docstring of what can be read from an instance besides its fields."""
    return {
        name: inspect.getdoc(member) or ""
        for name, member in inspect.getmembers(kind, lambda member: isinstance(member, property))
        if not name.startswith("_")
    }


def methods_of(kind: type) -> dict[str, Callable[..., Any]]:
    """Name → function of what can be called, in the order of the source; inherited ones last."""
    found: dict[str, Callable[..., Any]] = {}
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] != "machinen_runtime":
            continue
        for name, member in vars(base).items():
            target: Any = getattr(member, "__func__", member)
            if inspect.isfunction(target) and not name.startswith("_") and name not in found:
                found[name] = target
    return found


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """A function's parameters without self and cls."""
    parameters = list(inspect.signature(function).parameters.values())
    return parameters[1:] if parameters and parameters[0].name in ("self", "cls") else parameters


@cache
def field_docs(record: type) -> dict[str, str]:
    """Field → the string below it, for a class and those it inherits from."""
    docs: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.partition(".")[0] in ("machinen_runtime", "vmm"):
            docs.update(_attribute_docs(class_source(base)))
    return docs


@cache
def class_source(kind: type) -> ast.ClassDef:
    """The syntax tree of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    return cast("ast.ClassDef", body[0])


def _attribute_docs(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        match following:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield statement.target.id, inspect.cleandoc(text)
            case _:
                pass


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    if item.default_factory is not dataclasses.MISSING:
        empty: Any = get_origin(item.default_factory) or item.default_factory
        return cast("Any", empty() if empty in (dict, list, tuple) else item.default_factory)
    return REQUIRED
