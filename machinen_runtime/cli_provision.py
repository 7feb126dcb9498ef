"""`machinen provision`: an image from a base and what is done to it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    DashDashCommand,
    env_option,
    format_bytes,
    json_option,
    memory_option,
    once,
    print_json,
    run_async,
)
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from machinen_runtime.handle import VmHandle
    from machinen_runtime.provision import ProvisionResult

GUEST_SCRIPT = "/tmp/machinen-install"
STAGES = {"boot": "booting the base", "install": "installing", "archive": "writing the image"}
_STEP_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class _Steps:
    """What is done to the base, in this order."""

    copies: Sequence[tuple[Path, str]]
    script: Path | None
    command: Sequence[str]
    env: dict[str, str]


def _parse_copies(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> list[tuple[Path, str]]:
    """HOST:GUEST options; what is on the host must be there, the guest's path absolute."""
    del ctx
    copies: list[tuple[Path, str]] = []
    for text in values:
        host, separator, guest = text.rpartition(":")
        if not separator or not host or not guest.startswith("/"):
            message = f"{param.opts[-1]} takes HOST:GUEST, such as ./src:/srv/src, not {text!r}"
            raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
        if not Path(host).exists():
            message = f"{param.opts[-1]} {text}: there is no {host} on this host"
            raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
        copies.append((Path(host), guest))
    return copies


def _parse_cmd(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> list[str]:
    """One text, split as a shell would."""
    del ctx
    if len(values) > 1:
        message = f"{param.opts[-1]} was given twice; give it once"
        raise ParseError(ErrorCode.PARSE_FLAG_DUPLICATE, message)
    try:
        return shlex.split(values[0]) if values else []
    except ValueError as error:
        message = f"{param.opts[-1]} {values[0]}: {error}"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message) from None


@click.command("provision", cls=DashDashCommand, short_help="Build an image.")
@once("-o", "--out", metavar="FILE", required=False, help="The tarball to write; needed.")
@once("--base", metavar="IMAGE", help="Rootfs tarball or OCI image to start from.")
@once(
    "--install",
    "script",
    metavar="SCRIPT",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run this script of the host in the guest.",
)
@click.option(
    "--copy",
    "copies",
    metavar="HOST:GUEST",
    multiple=True,
    callback=_parse_copies,
    help="Copy a file or a directory into the guest first. Repeatable.",
)
@env_option("Bake in a variable; the install sees it, too. Repeatable.")
@click.option(
    "--cmd",
    metavar="CMD",
    multiple=True,
    callback=_parse_cmd,
    help="Bake in what a sandbox of this image runs, quoted as for a shell.",
)
@once("--cwd", metavar="PATH", help="Bake in the directory it runs in.")
@memory_option
@once("--max-size", type=int, metavar="MIB", help="Most the unpacked image may have; 1024.")
@once("--timeout", type=float, metavar="SECONDS", help="How long it all may take; 600.")
@json_option
@click.pass_context
def provision_command(
    ctx: click.Context,
    out: str | None,
    base: str | None,
    script: Path | None,
    copies: list[tuple[Path, str]],
    env: dict[str, str],
    cmd: list[str],
    cwd: str | None,
    memory: int | None,
    max_size: int | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Boot the base, run CMD or --install SCRIPT in it, and keep the result as an image.

    The image is a rootfs tarball: gzip, or what FILE ends with (.tar, .tar.zst). `machinen boot
    FILE` starts it. Progress and what the install prints go to stderr.

    \b
    Examples:
      machinen provision -o git.tar.gz -- sh -c 'apt-get update && apt-get install -y git'
      machinen provision -o web.tar.gz --install setup.sh --copy ./site:/srv \\
          --cmd 'python3 -m http.server 80' --cwd /srv
      machinen boot web.tar.gz --name web --detach -p 8080:80
    """
    steps = _Steps(copies, script, ctx.meta["command"], env)
    if out is None:
        message = "no file to write; say for instance: machinen provision -o image.tar.gz -- …"
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, message)
    if script is not None and steps.command:
        message = "--install and a command after -- exclude each other; call one from the other"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    options: dict[str, Any] = {"out": out, "base": base, "cmd": cmd or None, "env": env}
    options |= {"guest_cwd": cwd, "memory": memory}
    options |= {"scratch_disk_size_bytes": max_size << 20} if max_size is not None else {}
    options |= {"timeout_ms": timeout * 1000} if timeout is not None else {}
    result = run_async(_provision, options, steps)
    if as_json:
        print_json(
            {
                "image_path": result.image_path,
                "size_bytes": result.size_bytes,
                "tree_bytes": result.tree_bytes,
                "elapsed_ms": round(result.elapsed_ms),
            }
        )
    else:
        click.echo(result.image_path)
    return 0


async def _provision(options: dict[str, Any], steps: _Steps) -> ProvisionResult:
    from machinen_runtime.provision import provision

    progress = _Progress()

    async def install(vm: VmHandle) -> None:
        await _install(vm, steps, progress)

    try:
        result = await provision(install=install, on_progress=progress.stage, **options)
    finally:
        progress.end()
    progress.line(
        f"{format_bytes(result.size_bytes)}, {format_bytes(result.tree_bytes)} unpacked, "
        f"in {result.elapsed_ms / 1000:.0f} s"
    )
    return result


async def _install(vm: VmHandle, steps: _Steps, progress: _Progress) -> None:
    for host, guest in steps.copies:
        await _copy(vm, host, guest)
    command = list(steps.command)
    if steps.script is not None:
        await _copy(vm, steps.script, GUEST_SCRIPT)
        await vm.exec(["chmod", "755", GUEST_SCRIPT])
        command = [GUEST_SCRIPT]
    if command:
        await vm.exec(
            command,
            env=steps.env,
            cwd="/",
            exec_timeout_ms=None,
            on_stdout=progress.output,
            on_stderr=progress.output,
        )


async def _copy(vm: VmHandle, host: Path, guest: str) -> None:
    import anyio

    source = anyio.Path(host)
    if await source.is_dir():
        from machinen_runtime.channel_files import VsockFiles

        await VsockFiles.push(vm.vsock_path, host, guest)
        return
    target = guest + host.name if guest.endswith("/") else guest
    mode = (await source.stat()).st_mode & 0o777
    await vm.write_file(target, await source.read_bytes(), mode=mode)


class _Progress:
    """Stages, bytes and what the install prints, on stderr; one moving line on a terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._shown_bytes = 0
        self._moving = False

    def stage(self, name: str, done_bytes: int) -> None:
        """A stage begins, or goes on."""
        text = STAGES.get(name, name)
        if name != self._stage:
            self._stage, self._shown_bytes = name, 0
            self.line(text)
        elif sys.stderr.isatty() and done_bytes - self._shown_bytes >= _STEP_BYTES:
            self._shown_bytes = done_bytes
            sys.stderr.write(f"\r\x1b[K{text} ({format_bytes(done_bytes)})")
            sys.stderr.flush()
            self._moving = True

    def output(self, chunk: bytes) -> None:
        """What a command in the guest printed; nothing in it moves this terminal's cursor."""
        text = chunk.decode("utf-8", "replace").replace("\r\n", "\n")
        sys.stderr.write("".join(char for char in text if char.isprintable() or char in "\n\t"))
        sys.stderr.flush()

    def line(self, text: str) -> None:
        """A line of its own."""
        self.end()
        sys.stderr.write(f"machinen: {text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the moving line, if there is one."""
        if self._moving:
            sys.stderr.write("\r\x1b[K")
            self._moving = False
