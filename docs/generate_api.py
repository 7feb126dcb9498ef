"""Write docs/api.md and the stubs of machinen_runtime from the code: `make docs`.

The head of docs/api.md, up to "## Reference", is written by hand and kept. With `--check` nothing
is written; the exit code is 1 if a file differs.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machinen_runtime
from docs.api_model import (
    REQUIRED,
    Field,
    fields_of,
    is_record,
    methods_of,
    properties_of,
    public,
)
from docs.names_stub import names_stub
from docs.sync_stub import sync_stub

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
STUB = ROOT / "machinen_runtime" / "sync.pyi"
NAMES_STUB = STUB.with_name("__init__.pyi")
MARK = "## Reference\n"
INTRO = (
    "Made from the code: edit docstrings, then `make docs`. `…Options` are the calls' keywords.\n"
)

GIVEN_TO_CALLERS = {
    "PtyVmHandle",
    "TerminalSession",
    "VmHandle",
    "VsockExecPtyHandle",
    "VsockWinsize",
}
"""Classes of which callers make no instances."""
TOPICS: dict[str, str] = {
    "Start, find and restore sandboxes": r"boot|boot_pty|attach|restore|list|measure_first_byte|"
    r"(Boot|Restore|Attach|PtyBoot)Options|PortForward|Mount|LiveMount|auto_size_memory_mib|"
    r"validate_memory_mib|resolve_vmm_binary|build_machinen_config",
    "A sandbox in hand": r"VmHandle|PtyVmHandle|ExitStatus|(Fork|Snapshot|WriteFile)Options|"
    r"Snapshot(Result|Meta)|MemoryStats|build_write_file_.*",
    "Commands, terminals, files": r"Vsock.*|TerminalSession|Session.*|Output|Exited|ReplayDone|"
    r"Resized|Pull.*|Push.*",
    "Many sandboxes": r"Sandbox(es|Entry|Info)|Supervisor.*|OnOutputListener",
    "Images and disks": r"(Provision|Ensure|Image).*|provision.*|ensure_.*|mark_.*|"
    r"resolve_(base|mke2fs|mksquashfs).*|.*_img_cache_dir|warm_image_config_cache",
    "Initramfs": r"mkinitramfs_.*|Pack.*",
    "Registry, memory, leftovers": r"Registry(Entry)|registry_root|validate_pid|PidStatus|run_gc|"
    r"RunGc.*|Gc.*|read_.*|Rss.*|Balloon.*|check_fork.*|CheckFork.*|.*THRESHOLD|STATS.*|"
    r"detached_log_root|boot_snapshot_path|write_boot_snapshot",
    "Families and kept snapshots": r"Ancestor|Promote.*|promote|plan_promotion|"
    r"run_in_each|grouped|Outcome.*|RunOutcome|[Rr]ewind.*|[Ff]amily.*|"
    r"BundleNotes|.*_notes|compare|.*Differen.*|.*Facts|[Kk]ept.*|(find|delete)_snapshot",
    "What callers may watch": r".*LogEvent|OnLog",
    "Errors": r".*Error|ErrorCode|MachinenErrorOptions|.*machinen_error",
}
"""Heading → the names below it; the first that matches has a name, the rest are "More"."""


def page() -> str:
    """The whole page."""
    head = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    return f"{head}{MARK}\n{INTRO}\n" + "\n".join(_sections())


def _sections() -> Iterator[str]:
    left = [name for name in machinen_runtime.__all__ if name != "_internal"]
    for title, pattern in [*TOPICS.items(), ("More", ".*")]:
        names = [name for name in left if re.fullmatch(pattern, name)]
        left = [name for name in left if name not in names]
        if names:
            yield f"### {title}\n"
            functions = [name for name in names if inspect.isroutine(public(name))]
            yield from (_entry(name) for name in functions)
            yield from (_entry(name) for name in names if name not in functions)


def _entry(name: str) -> str:
    thing = public(name)
    if inspect.isroutine(thing):
        return f"#### `{name}`\n\n{_function(name, thing)}"
    if inspect.isclass(thing):
        return f"#### `{name}`\n\n{_class(name, thing)}"
    shown = repr(thing) if isinstance(thing, int | float | str) else _alias(thing)
    return f"#### `{name}`\n\n```text\n{name} = {shown}\n```\n"


def _alias(thing: Any) -> str:
    text = re.sub(r"\b(typing|collections\.abc|machinen_runtime\.[a-z_]+)\.", "", str(thing))
    return text.replace("ForwardRef", "")


def _function(name: str, function: Any) -> str:
    return f"```text\n{signature(name, function)}\n```\n\n{_prose(function)}"


def signature(name: str, function: Any) -> str:
    """`async def name(…) -> …`, over several lines if it is long."""
    prefix = "async def " if inspect.iscoroutinefunction(function) else "def "
    parameters = list(inspect.signature(function).parameters.values())
    if parameters and parameters[0].name in ("self", "cls"):
        del parameters[0]
    returned = inspect.signature(function).return_annotation
    shown = inspect.Signature(parameters, return_annotation=returned)
    line = prefix + name + _unquoted(str(shown))
    if len(line) <= 100:
        return line
    inner, _, returns = line[len(prefix + name) + 1 :].rpartition(") -> ")
    return f"{prefix}{name}(\n    {_split(inner)}\n) -> {returns}"


def _split(parameters: str) -> str:
    """One parameter a line; commas within brackets stay."""
    depth, lines, current = 0, list[str](), ""
    for character in parameters:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            lines.append(current.strip())
            current = ""
        else:
            current += character
    return ",\n    ".join([*lines, current.strip()]) + ","


def _unquoted(text: str) -> str:
    """Annotations as they are written, without the quotes that `inspect` puts round them."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def _class(name: str, kind: type) -> str:
    parts = [_prose(kind)]
    if is_record(kind):
        parts.append(_table(fields_of(kind)))
    constructor = vars(kind).get("__init__")
    if not is_record(kind) and inspect.isfunction(constructor) and not _is_private(kind):
        parts.insert(0, f"```text\n{signature(name, constructor).partition(' -> ')[0]}\n```\n")
    readable = properties_of(kind)
    if readable:
        parts.append("".join(f"- `{each}`: {_line(doc)}\n" for each, doc in readable.items()))
    for method, function in methods_of(kind).items():
        if method != "keys":
            parts.append(f"**`{name}.{method}`**\n\n{_function(method, function)}")
    if kind.__name__ == "ErrorCode":
        parts.append("All codes, and what to do about each: [errors.md](errors.md).\n")
    return "\n".join(part for part in parts if part)


def _is_private(kind: type) -> bool:
    """Made by a call of ours, never by a caller."""
    return kind.__name__ in GIVEN_TO_CALLERS


def _table(fields: list[Field]) -> str:
    rows = ["| field | type | default | |", "|--|--|--|--|"]
    for field in fields:
        default = "required" if field.default is REQUIRED else f"`{_shown(field.default)}`"
        kind = field.annotation.replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}` | {default} | {_line(field.doc)} |")
    return "\n".join(rows) + "\n"


def _shown(default: object) -> str:
    if inspect.isclass(default) or inspect.isroutine(default):
        return f"{default.__name__}()"
    return repr(default)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(thing: Any) -> str:
    """A docstring as Markdown: `Args:` and `Raises:` become lists."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"^(Args|Raises):$", r"\n*\1*\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\w[\w ]*): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = re.sub(r"^ {8}", "  ", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main(argv: list[str]) -> int:
    """Write the files, or with --check say which differ."""
    wanted = {PAGE: page(), STUB: sync_stub(), NAMES_STUB: names_stub()}
    old = {path: path.read_text(encoding="utf-8") if path.exists() else "" for path in wanted}
    stale = [path for path in wanted if old[path] != wanted[path]]
    if "--check" in argv:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run `make docs`\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
