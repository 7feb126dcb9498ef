"""The manual page machinen(1), made from the verbs: `python -m machinen_runtime.cli_manual`.

Prints roff with the man macros of man(7). docs/machinen.1 is its output, a test compares them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Generator

import click

from machinen_runtime.cli_context import (
    arguments_of,
    commands,
    default_of,
    help_parts,
    options_of,
)
from machinen_runtime.cli_group import ALIASES, SECTIONS, cli
from machinen_runtime.cli_reference import COMMAND_EXIT_VERBS, EXIT_CODES, VARIABLES

HEAD = r"""'\" t
.\" Made by python -m machinen_runtime.cli_manual: change the verbs, not this file.
.TH MACHINEN 1 "" "Machinen" "User Commands"
.SH NAME
machinen \- small named Linux VMs that fork while they run
.SH SYNOPSIS
.B machinen
.I VERB
.RI [ ARGUMENTS ]
.br
.B machinen \-\-version
"""


def manual() -> str:
    """The whole page."""
    return "\n".join([HEAD.rstrip(), *_description(), *_verbs(), *_tail()]) + "\n"


def _description() -> Generator[str]:
    yield ".SH DESCRIPTION"
    paragraphs = [part for part in re.split(r"\n\n", cli.help or "") if "\b" not in part]
    for index, part in enumerate(paragraphs):
        yield from ([".PP"] if index else [])
        yield from _text(part)
    yield ".PP"
    yield from _text(
        "Data goes to stdout, everything else to stderr. Errors read `machinen: (CODE) sentence`;"
        " the codes are stable. Where a verb takes --json, it prints one JSON object, described by"
        " `machinen agent-context`."
    )


def _verbs() -> Generator[str]:
    known = dict(commands())
    for title, verbs in SECTIONS.items():
        yield f".SH {title.upper()}"
        for name, command in known.items():
            if name.partition(" ")[0] in verbs:
                yield from _verb(name, command)


def _verb(name: str, command: click.Command) -> Generator[str]:
    text, examples = help_parts(command)
    arguments = " ".join(f"\\fI{_escaped(_metavar(each))}\\fR" for each in arguments_of(command))
    yield f".SS {_escaped(name)}"
    yield f"\\fBmachinen {_escaped(name)}\\fR [\\fIOPTIONS\\fR] {arguments}".rstrip()
    for part in text.strip().split("\n\n"):
        yield ".PP"
        yield from _text(part)
    if aliases := [alias for alias, verb in ALIASES.items() if verb == name]:
        yield ".PP"
        yield from _text(f"Also: {', '.join(aliases)}.")
    for option in options_of(command):
        yield ".TP"
        yield _option_head(option)
        yield from _text(_option_text(option))
    if examples:
        yield ".PP"
        yield ".EX"
        yield from (f"    {_escaped(line)}" for line in examples)
        yield ".EE"


def _tail() -> Generator[str]:
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from (".TP", f".B {code}", *_text(meaning))
    yield ".PP"
    yield from _text(
        f"{', '.join(COMMAND_EXIT_VERBS)} pass on the exit code of the command they ran or showed;"
        " 128 + n if signal n killed it."
    )
    yield ".SH ENVIRONMENT"
    for name, meaning in VARIABLES.items():
        yield from (".TP", f".B {name}", *_text(meaning))
    yield ".SH SEE ALSO"
    yield r".BR machinen\-tui (1),"
    yield ".BR qemu (1),"
    yield ".BR passt (1)"


def _option_head(option: click.Option) -> str:
    names = ", ".join(f"\\fB{_escaped(name)}\\fR" for name in option.opts)
    return names if option.is_flag else f"{names} \\fI{_escaped(_metavar(option))}\\fR"


def _option_text(option: click.Option) -> str:
    default = default_of(option)
    shown = f" Default: {default}." if isinstance(default, str | int | float) and default else ""
    return f"{option.help or ''}{shown}"


def _metavar(param: click.Parameter) -> str:
    return param.make_metavar(click.Context(click.Command("machinen")))


def _text(text: str) -> Generator[str]:
    """A paragraph as lines; `code` becomes bold."""
    parts = [_escaped(part) for part in " ".join(text.split()).split("`")]
    bold = [part if index % 2 == 0 else f"\\fB{part}\\fR" for index, part in enumerate(parts)]
    for line in textwrap.wrap("".join(bold), 100, break_on_hyphens=False):
        yield rf"\&{line}" if line.startswith((".", "'")) else line


def _escaped(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("\b", "")


if __name__ == "__main__":
    click.echo(manual(), nl=False)
