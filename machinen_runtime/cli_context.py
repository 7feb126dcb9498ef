"""`machinen agent-context`: the whole command line as one JSON object, made from the verbs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Generator
from typing import Any

import click

from machinen_runtime.cli_reference import COMMAND_EXIT_VERBS, EXIT_CODES, SHAPES, VARIABLES
from machinen_runtime.cli_support import SCHEMA_VERSION, Verb


@click.command("agent-context", cls=Verb, short_help="Describe this command line as JSON.")
@click.option("--json", "as_json", is_flag=True, hidden=True, help="It is JSON anyway.")
def agent_context_command(as_json: bool) -> None:
    """Print every verb with its arguments, options, types and defaults, the exit codes, the
    variables and the shapes of all JSON output, for programs that call this one.

    \b
    Example:
      machinen agent-context | jq '.commands[] | select(.name == "boot")'
    """
    del as_json
    click.echo(json.dumps(describe_all(), indent=2))


def describe_all() -> dict[str, Any]:
    """The object that `machinen agent-context` prints."""
    from importlib.metadata import version

    from machinen_runtime.cli_group import ALIASES, SECTIONS, cli

    groups = {verb: title for title, verbs in SECTIONS.items() for verb in verbs}
    return {
        "schema_version": SCHEMA_VERSION,
        "program": "machinen",
        "version": version("machinen"),
        "description": " ".join((cli.help or "").partition("\n\n")[0].split()),
        "exit_codes": {str(code): meaning for code, meaning in EXIT_CODES.items()},
        "errors": "machinen: (CODE) sentence, on stderr; codes are machinen_runtime.ErrorCode",
        "environment": VARIABLES,
        "output": "data on stdout, all else on stderr; --json prints one object per line",
        "aliases": ALIASES,
        "options": [_option(each) for each in options_of(cli)],
        "commands": [
            describe(command, name, groups[name.partition(" ")[0]]) for name, command in commands()
        ],
    }


def commands() -> Generator[tuple[str, click.Command]]:
    """Every verb with its full name, `secrets set` for one below another."""
    from machinen_runtime.cli_group import cli

    context = click.Context(cli, info_name="machinen")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            for below, each in command.commands.items():
                yield f"{name} {below}", each
        else:
            yield name, command


def describe(command: click.Command, name: str, group: str) -> dict[str, Any]:
    """One verb: what it takes, how it ends, what it prints with --json."""
    text, examples = help_parts(command)
    context = click.Context(command, info_name=f"machinen {name}")
    described: dict[str, Any] = {
        "name": name,
        "group": group,
        "summary": command.get_short_help_str(200),
        "description": " ".join(text.split()),
        "usage": " ".join([context.command_path, *command.collect_usage_pieces(context)]),
        "examples": examples,
        "arguments": [_argument(each) for each in arguments_of(command)],
        "options": [_option(each) for each in options_of(command)],
        "passes_exit_code_on": name in COMMAND_EXIT_VERBS,
    }
    if name in SHAPES:
        described["json_output"] = {"schema_version": "integer", **SHAPES[name]}
    return described


def help_parts(command: click.Command) -> tuple[str, list[str]]:
    """The text that explains a verb, and its examples."""
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExample")
    return text, [line.strip() for line in examples.splitlines()[1:] if line.strip()]


def options_of(command: click.Command) -> list[click.Option]:
    """The options a verb shows."""
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def arguments_of(command: click.Command) -> list[click.Argument]:
    """The arguments of a verb, in their order."""
    return [each for each in command.params if isinstance(each, click.Argument)]


def _argument(param: click.Argument) -> dict[str, Any]:
    return {
        "name": param.human_readable_name,
        "type": _type(param),
        "required": param.required,
        "repeatable": param.nargs != 1,
    }


def _option(param: click.Option) -> dict[str, Any]:
    described: dict[str, Any] = {
        "names": param.opts,
        "type": "flag" if param.is_flag else _type(param),
        "repeatable": param.multiple,
        "default": default_of(param),
        "help": param.help or "",
    }
    if not param.is_flag:
        described["metavar"] = param.make_metavar(click.Context(click.Command("x")))
    return described


def default_of(param: click.Option) -> Any:
    """The default as JSON: False for a flag, [] for what may be repeated, None if there is none."""
    if param.is_flag:
        return False
    if param.multiple:
        return []
    default = param.to_info_dict()["default"]
    return default if isinstance(default, str | int | float) else None


def _type(param: click.Parameter) -> Any:
    if isinstance(param.type, click.Choice):
        return {"enum": [str(each) for each in param.type.choices]}  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if isinstance(param.type, click.IntRange | click.FloatRange):
        kind = "integer" if isinstance(param.type, click.IntRange) else "number"
        limits = {"minimum": param.type.min, "maximum": param.type.max}
        return {"type": kind, **{key: value for key, value in limits.items() if value is not None}}
    names = {"text": "string", "integer": "integer", "float": "number", "path": "path"}
    return names.get(param.type.name, param.type.name)
