"""`machinen install`, `machinen doctor` and `machinen completion`."""

from __future__ import annotations

import click

from machinen_runtime.cli_support import Verb, json_option, print_json
from machinen_runtime.errors import ErrorCode, ProvisionError


@click.command("install", cls=Verb, short_help="Download and build what sandboxes need.")
@click.option("--force", is_flag=True, help="Build everything again, with today's packages.")
@click.option("--version", "show", is_flag=True, help="Show what is installed; install nothing.")
@json_option
def install_command(force: bool, show: bool, as_json: bool) -> None:
    """Download the kernel, build the base root, and keep both in ~/.machinen.

    An interrupted install goes on where it was; if all is there, nothing is fetched.

    \b
    Example:
      machinen install && machinen doctor
    """
    from machinen_runtime.install import InstallResult, install, read_meta

    if show:
        from machinen_runtime.assets import default_base_dir

        result = InstallResult(default_base_dir(), False, read_meta(default_base_dir()))
        if not result.meta:
            message = f"nothing is installed in {result.base_dir}; run `machinen install`"
            raise ProvisionError(ErrorCode.PROVISION_BASE_NOT_FOUND, message)
        if not as_json:
            for key in ("release", "arch", "kernel_version", "made_at", "made_by"):
                click.echo(f"{key.replace('_', ' ') + ':':<16}{result.meta.get(key, '-')}")
            return
    else:
        result = install(force=force)
    if as_json:
        print_json(
            {"base_dir": str(result.base_dir), "changed": result.changed, "meta": result.meta}
        )
    else:
        click.echo(result.base_dir)


@click.command("doctor", cls=Verb, short_help="Check whether sandboxes can run here.")
@json_option
def doctor_command(as_json: bool) -> int:
    """Check tools, accelerator, base, disk and memory, and say how to fix what is amiss.

    Changes nothing. Exits with 0 only if sandboxes can run.

    \b
    Example:
      machinen doctor --json | jq '.checks[] | select(.status != "ok")'
    """
    from machinen_runtime.doctor import doctor_json, print_doctor, run_doctor, sandboxes_can_run

    checks = run_doctor()
    if as_json:
        print_json(doctor_json(checks))
    else:
        from rich.console import Console

        print_doctor(checks, Console())
    return 0 if sandboxes_can_run(checks) else 1


@click.command("completion", cls=Verb, short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that lets SHELL complete verbs, options and the names of sandboxes.

    \b
    Examples:
      eval "$(machinen completion bash)"
      machinen completion fish > ~/.config/fish/completions/machinen.fish
    """
    from click.shell_completion import get_completion_class

    from machinen_runtime.cli_group import cli

    chosen = get_completion_class(shell)
    assert chosen is not None
    click.echo(chosen(cli, {}, "machinen", "_MACHINEN_COMPLETE").source())
