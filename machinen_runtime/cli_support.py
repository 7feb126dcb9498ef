"""What the verbs share: targets, repeated options, tables, JSON, progress, running async code."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from machinen_runtime.errors import ErrorCode, MachinenError, ParseError
from machinen_runtime.registry import RegistryEntry, find, live_entries

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from machinen_runtime.option_types import PortForward

T = TypeVar("T")
Decorator = Callable[[Callable[..., T]], Callable[..., T]]

SCHEMA_VERSION = 1
MAX_DIGITS = 20
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINNER_DELAY_S = 1.0
SPINNER_STEP_S = 0.1


def run_async(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run `function` on an event loop and return its result; imports the loop only now.

    A Ctrl-C waits until that is imported: modules in C turn it into errors of other kinds.
    """
    import importlib
    import signal

    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        import anyio

        importlib.import_module("asyncio")  # which anyio does when it runs
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return anyio.run(function, *args)


def find_target(target: str) -> RegistryEntry:
    """The live VM that a name or a pid stands for."""
    return find(pid=int(target)) if is_number(target) else find(name=target)


def is_number(text: str) -> bool:
    """Whether int() takes `text` and it is no longer than any pid or port."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


def complete_vm(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of the live VMs, and the pids of those without one."""
    from click.shell_completion import CompletionItem

    del ctx, param
    targets = [(entry.name or str(entry.pid), f"pid {entry.pid}") for entry in live_entries()]
    return [
        CompletionItem(name, help=text) for name, text in targets if name.startswith(incomplete)
    ]


def vm_argument(**settings: Any) -> Decorator[Any]:
    """The argument VM, completed with live names."""
    return click.argument("vm", metavar="VM", shell_complete=complete_vm, **settings)


def once(*names: str, **settings: Any) -> Decorator[Any]:
    """An option with a value that may be given once; a `Verb` refuses a second."""
    return click.option(*names, **settings)


def json_option(function: Callable[..., T]) -> Callable[..., T]:
    """The flag --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")(function)


def parse_env(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """K=V options as a dict; a later one wins."""
    del ctx
    env: dict[str, str] = {}
    for text in values:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise ParseError(
                ErrorCode.PARSE_FLAG_MALFORMED, f"{param.opts[-1]} takes NAME=VALUE, not {text!r}"
            )
        env[key] = value
    return env


def env_option(help_text: str) -> Decorator[Any]:
    """The option --env K=V, repeatable."""
    return click.option(
        "-e", "--env", metavar="K=V", multiple=True, callback=parse_env, help=help_text
    )


def parse_publish(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> list[PortForward]:
    """[ADDR:]HOST:GUEST options as forwards."""
    from machinen_runtime.option_types import PortForward

    del ctx, param
    forwards: list[PortForward] = []
    for text in values:
        address, host, guest = parse_forward("-p", text)
        try:
            forwards.append(PortForward(host_port=host, guest_port=guest, host_addr=address))
        except MachinenError as error:
            raise ParseError(ErrorCode.PARSE_PORT_INVALID, f"-p {text}: {error}") from None
    return forwards


class _Mebibytes(click.types.IntParamType):
    """A number of MiB. Who writes a unit, as for `--memory-max`, is told what to write."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is not a number of MiB without a unit: 2048 is 2 GiB", param, ctx)


def memory_option(function: Callable[..., T]) -> Callable[..., T]:
    """The option -m MIB."""
    help_text = "Most memory the guest may use, in MiB."
    return once("-m", "--memory", type=_Mebibytes(), metavar="MIB", help=help_text)(function)


def publish_option(help_text: str) -> Decorator[Any]:
    """The option -p [ADDR:]HOST:GUEST, repeatable."""
    return click.option(
        "-p",
        "--publish",
        metavar="[ADDR:]HOST:GUEST",
        multiple=True,
        callback=parse_publish,
        help=help_text,
    )


def parse_forward(flag: str, text: str) -> tuple[str, int, int]:
    """Address, host port and guest port of `[ADDR:]HOST:GUEST`; PARSE_PORT_INVALID if it is not."""
    address, _, ports = text.rpartition(":")[0].rpartition(":")
    guest = text.rpartition(":")[2]
    host = ports or address
    if ":" not in text or not all(is_number(each) for each in (host, guest)):
        raise ParseError(
            ErrorCode.PARSE_PORT_INVALID,
            f"{flag} takes HOST_PORT:GUEST_PORT, such as 8080:80, not {text!r}",
        )
    return address.strip("[]") if text.count(":") > 1 else "127.0.0.1", int(host), int(guest)


class Verb(click.Command):
    """A verb: an option given twice is PARSE_FLAG_DUPLICATE, unless it is made to be repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after a look at what was given how often."""
        if not ctx.resilient_parsing:  # completion looks at command lines that are not whole
            self._refuse_duplicates(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse_duplicates(self, ctx: click.Context, args: Sequence[str]) -> None:
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        seen: set[str] = set()
        for param in given:
            repeatable = param.multiple or not isinstance(param, click.Option)
            if param.name in seen and not repeatable:
                raise ParseError(
                    ErrorCode.PARSE_FLAG_DUPLICATE,
                    f"{_longest(param.opts)} was given twice; give it once",
                )
            seen.add(param.name or "")


class VerbGroup(click.Group):
    """A verb with verbs of its own, such as `secrets set`."""

    command_class = Verb


def _longest(names: Sequence[str]) -> str:
    return max(names, key=len)


class DashDashCommand(Verb):
    """A verb that takes a command after `--`; it finds it in `ctx.meta["command"]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put what follows the first `--` aside; the rest is parsed as usual."""
        command: list[str] = []
        if "--" in args:
            split = args.index("--")
            args, command = args[:split], args[split + 1 :]
        ctx.meta["command"] = command
        return super().parse_args(ctx, args)


def print_json(value: Mapping[str, Any]) -> None:
    """Print a JSON object, led by its schema_version."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}))


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` that a guest may have written: none of its escape sequences reach a terminal."""
    return "".join(char for char in text if char in keep or char.isprintable())


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to their widest cell, two spaces between; no trailing space."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def format_bytes(size: float) -> str:
    """1024-based, one unit: a decimal below 10 of it, none above (`1.2G`, `512M`)."""
    for unit in ("B", "K", "M", "G"):
        if size < 1024 or (unit == "G" and size < 10_240):
            break
        if unit != "G":
            size /= 1024
    return f"{size:.1f}{unit}" if size < 9.95 and unit != "B" else f"{size:.0f}{unit}"


def format_duration(elapsed_ms: float) -> str:
    """Rounded down to one unit: `5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, int(elapsed_ms // 1000))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def wait_option(function: Callable[..., T]) -> Callable[..., T]:
    """The option --wait SECONDS."""
    help_text = "Wait up to SECONDS until the host has memory to spare."
    declared = once("--wait", type=click.FloatRange(0), metavar="SECONDS", help=help_text)
    return declared(function)


@contextmanager
def progress(text: str) -> Generator[Callable[[str], None]]:
    """Show a spinner on stderr while the block runs, if it takes over a second and one can see.

    The block gets a function that says what it waits for; where there is no terminal that is
    printed, once.
    """
    said: list[str] = []
    if not sys.stderr.isatty():
        yield lambda why: None if said else said.append(_say(f"{text}: {why}"))
        return
    done = threading.Event()
    spinner = threading.Thread(target=_spin, args=(text, done, said), daemon=True)
    spinner.start()
    try:
        yield said.append
    finally:
        done.set()
        spinner.join()


def _say(line: str) -> str:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
    return line


def _spin(text: str, done: threading.Event, said: Sequence[str]) -> None:
    if done.wait(SPINNER_DELAY_S):
        return
    started = time.monotonic() - SPINNER_DELAY_S
    step = 0
    while not done.wait(SPINNER_STEP_S):
        elapsed = time.monotonic() - started
        doing = ": ".join([text, *said[-1:]])
        sys.stderr.write(f"\r\x1b[K{SPINNER[step % len(SPINNER)]} {doing} ({elapsed:.0f}s)")
        sys.stderr.flush()
        step += 1
    sys.stderr.write("\r\x1b[K")
    sys.stderr.flush()
