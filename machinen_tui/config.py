"""`tui.toml`: what a person may set about the application, each value checked, nothing guessed.

TOML 1.0 as `tomllib` reads it. A bad value never stops anything: the default stands, and a
`Problem` names file, key and what is allowed. Pure but for `read`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

MAX_BYTES = 64 * 1024
POLICIES = ("ask", "allow", "deny")
MIDDLE_CLICKS = ("ask", "paste", "nothing")
THEMES = ("dark", "light", "ansi", "high-contrast")
SORTS = ("lineage", "name", "state", "cpu", "memory", "uptime", "disk", "network", "latency")
COLUMNS = (
    "state", "cpu", "memory", "own", "shared", "balloon", "disk", "network", "latency", "uptime",
    "ports", "source", "pid",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file of settings that is not taken over."""

    file: str
    where: str
    """The key, or empty if it is about the whole file."""
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.text) if part)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting takes: `allowed` in words; `check` returns the value or None if it is not."""

    allowed: str
    check: Callable[[object], object]


def one_of(choices: Sequence[str]) -> Kind:
    """One of a few words."""
    return Kind(" | ".join(choices), lambda value: value if value in choices else None)


def some_of(choices: Sequence[str]) -> Kind:
    """A list of some of a few words, each at most once."""

    def check(value: object) -> object:
        items = cast("list[object]", value) if isinstance(value, list) else []
        good = bool(items) and all(item in choices for item in items)
        return tuple(items) if good and len(set(items)) == len(items) else None

    return Kind("a list of " + ", ".join(choices), check)


def names() -> Kind:
    """A list of names, with `*` and `?` as in a shell."""

    def check(value: object) -> object:
        items = cast("list[object]", value) if isinstance(value, list) else None
        if items is None or len(items) > 100:
            return None
        good = all(isinstance(i, str) and 0 < len(i) <= 64 and i.isprintable() for i in items)
        return tuple(items) if good else None

    return Kind('a list of names, such as ["build-*"]', check)


def number(low: int, high: int) -> Kind:
    """A whole number."""

    def check(value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and low <= cast("int", value) <= high else None

    return Kind(f"a whole number from {low} to {high}", check)


def flag() -> Kind:
    """Yes or no."""
    return Kind("true | false", lambda value: value if isinstance(value, bool) else None)


def path() -> Kind:
    """A path; `~` is the home directory, empty the default."""

    def check(value: object) -> object:
        good = isinstance(value, str) and len(value) < 4096 and value.isprintable()
        return value if good else None

    return Kind('a path in quotes; "" is the default', check)


def setting(key: str, default: object, kind: Kind, help: str) -> Any:
    """One field of `Config`: its key in the file, its default, what it takes, what it does."""
    return field(default=default, metadata={"key": key, "kind": kind, "help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting. The fields are the documentation: `machinen-tui config` prints them."""

    theme: str = setting("look.theme", "dark", one_of(THEMES), "colours; `/theme` switches live")
    accessible: bool = setting(
        "look.accessible", False, flag(), "no frames and blocks, no animation, words for signs"
    )
    broadcast_idle_s: int = setting(
        "panes.broadcast_idle_s",
        60,
        number(5, 3600),
        "typing into all marked ends after so many seconds without a key",
    )
    middle_click: str = setting(
        "panes.middle_click", "ask", one_of(MIDDLE_CLICKS),
        "what was copied here, typed into the pane; ask: if it has lines a shell would run",
    )  # fmt: skip
    clipboard: str = setting(
        "clipboard.guests", "ask", one_of(POLICIES), "may guests write to the clipboard (OSC 52)"
    )
    clipboard_allow: tuple[str, ...] = setting(
        "clipboard.allow", (), names(), "sandboxes that may, whatever the others may"
    )
    clipboard_deny: tuple[str, ...] = setting(
        "clipboard.deny", (), names(), "sandboxes that never may"
    )
    clipboard_kib: int = setting(
        "clipboard.max_kib", 64, number(1, 256), "of more than so much nothing is taken"
    )
    clipboard_read: bool = setting(
        "clipboard.read", False, flag(),
        "guests that may write may also read what was last copied here",
    )  # fmt: skip
    keymap: str = setting(
        "keys.file", "", path(), "file of keys; by default keys.toml beside this one"
    )
    restore: bool = setting(
        "start.restore", True, flag(), "layout, selection and marks as they were when it ended"
    )
    sort: str = setting("list.sort", "lineage", one_of(SORTS), "order of the table (`w`)")
    columns: tuple[str, ...] = setting(
        "list.columns",
        ("state", "cpu", "memory", "own", "disk", "network", "latency", "uptime", "ports"),
        some_of(COLUMNS),
        "columns of the table, after the name",
    )
    probe_s: int = setting(
        "watch.probe_seconds", 5, number(1, 3600),
        "how often the sandbox in view is asked for disk, network and exec latency",
    )  # fmt: skip
    idle_probe_s: int = setting(
        "watch.idle_probe_seconds", 60, number(0, 3600), "how often all others are; 0: never"
    )
    alert_cpu: int = setting(
        "alerts.cpu_percent", 0, number(0, 100_000), "of one core; 0: no alert"
    )
    alert_memory: int = setting(
        "alerts.memory_percent", 95, number(0, 100), "resident, of the ceiling; 0: no alert"
    )
    alert_latency: int = setting(
        "alerts.latency_ms", 0, number(0, 600_000), "of one exec; 0: no alert"
    )
    alert_hold_s: int = setting(
        "alerts.hold_seconds", 15, number(0, 3600), "how long it must be so before it is said"
    )


FIELDS: dict[str, Field[Any]] = {each.metadata["key"]: each for each in fields(Config)}
"""By their keys in the file."""


def config_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CONFIG_HOME/machinen`; a relative one is passed over (XDG Base Directory 0.8)."""
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "machinen"


def read_toml(path: Path) -> tuple[dict[str, Any], list[Problem]]:
    """The tables of a file, empty with a problem if it cannot be read; a missing one is empty."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            return {}, [Problem(str(path), "", f"larger than {MAX_BYTES // 1024} KiB")]
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [Problem(str(path), "", f"cannot be read: {error.strerror}")]
    import tomllib  # here: most have no such file

    try:
        return tomllib.loads(data.decode()), []
    except UnicodeDecodeError:
        return {}, [Problem(str(path), "", "is not UTF-8")]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return {}, [Problem(str(path), "", f"is not TOML: {error}")]


def read(path: Path) -> tuple[Config, list[Problem]]:
    """The settings of a file, the defaults for what it lacks or gets wrong."""
    tables, problems = read_toml(path)
    config, more = config_from(tables, str(path))
    return config, problems + more


def config_from(tables: Mapping[str, Any], file: str) -> tuple[Config, list[Problem]]:
    """The settings in `tables`; what is unknown or not allowed is a problem."""
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for key, value in _flattened(tables):
        known = FIELDS.get(key)
        if known is None:
            problems.append(Problem(file, key, unknown("setting", key, FIELDS)))
            continue
        kind: Kind = known.metadata["kind"]
        checked = kind.check(value)
        if checked is None:
            problems.append(Problem(file, key, f"{_shown(value)} is not {kind.allowed}"))
        else:
            values[known.name] = checked
    return Config(**cast("dict[str, Any]", values)), problems


def unknown(what: str, key: str, known: Mapping[str, object]) -> str:
    """`there is no such setting; did you mean look.theme?`"""
    from difflib import get_close_matches

    near = get_close_matches(key, known, n=1, cutoff=0.6)
    return f"there is no such {what}" + (f"; did you mean {near[0]}?" if near else "")


def default_text() -> str:
    """A file with every setting at its default, commented out, each explained."""
    lines = ["# Settings of machinen-tui. What is commented out is the default."]
    table = ""
    for key, each in FIELDS.items():
        section, _, name = key.partition(".")
        if section != table:
            table = section
            lines += ["", f"[{section}]"]
        kind: Kind = each.metadata["kind"]
        lines += [f"# {each.metadata['help']}", f"#   {kind.allowed}"]
        lines.append(f"# {name} = {toml_value(each.default)}")
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple | list):
        items = cast("Sequence[object]", value)
        return "[" + ", ".join(toml_value(item) for item in items) + "]"
    return str(value)


def _flattened(tables: Mapping[str, Any]) -> list[tuple[str, object]]:
    """`section.name` and value; a table inside a table is a value nobody allows."""
    pairs: list[tuple[str, object]] = []
    for section, table in tables.items():
        if isinstance(table, dict):
            inner = cast("dict[str, object]", table)
            pairs += [(f"{section}.{name}", value) for name, value in inner.items()]
        else:
            pairs.append((section, table))
    return pairs


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return "".join(c if c.isprintable() else "?" for c in text)[:40]
