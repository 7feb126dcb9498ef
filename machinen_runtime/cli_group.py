"""The verbs of `machinen`: a name, the file it lives in, and a line of help.

Each file is imported when its verb is called: `machinen ls` shall not wait for an event loop that
it does not use.
"""

from __future__ import annotations

import importlib
from typing import cast

import click

VERBS: dict[str, tuple[str, str]] = {
    "install": ("cli_setup", "Download and build what sandboxes need."),
    "doctor": ("cli_setup", "Check whether sandboxes can run here."),
    "boot": ("cli_boot", "Boot a sandbox and attach to it, or leave it running."),
    "provision": ("cli_provision", "Build an image from a base and what you install in it."),
    "ls": ("cli_list", "List the running sandboxes."),
    "exec": ("cli_exec", "Run a command in a sandbox."),
    "each": ("cli_each", "Run a command in several sandboxes, group equal outputs."),
    "repl": ("cli_repl", "Type commands that run in a sandbox, line by line."),
    "attach": ("cli_attach", "Attach this terminal to a session of a sandbox."),
    "sessions": ("cli_attach", "List the sessions of a sandbox, or end one."),
    "cp": ("cli_copy", "Copy files and directories into or out of a sandbox."),
    "secrets": ("cli_secrets", "Hand secrets to a sandbox."),
    "snapshot": ("cli_fork", "Write a sandbox, as it runs, to a directory."),
    "restore": ("cli_boot", "Start a sandbox from a snapshot."),
    "bundles": ("cli_bundles", "List, label, pin, check and remove snapshots."),
    "tree": ("cli_tree", "Show who was forked from whom, and the snapshots."),
    "cache": ("cli_cache", "List or remove the templates that warm boots start from."),
    "fork": ("cli_fork", "Make siblings of a running sandbox that go on from this moment."),
    "promote": ("cli_promote", "Let a fork take its family's place."),
    "diff": ("cli_diff", "Show how two sandboxes differ since they were one."),
    "rewind": ("cli_rewind", "Put a snapshot in the place of a running sandbox."),
    "pause": ("cli_life", "Stop the processors of sandboxes."),
    "resume": ("cli_life", "Let paused sandboxes run on."),
    "rename": ("cli_life", "Give a sandbox another name."),
    "wait": ("cli_life", "Wait until sandboxes have ended."),
    "stop": ("cli_stop", "Stop sandboxes."),
    "port": ("cli_port", "List, add and remove port forwards of a running sandbox."),
    "gc": ("cli_stop", "Remove what dead sandboxes left behind."),
    "stats": ("cli_watch", "Show what a sandbox costs."),
    "inspect": ("cli_watch", "Show all that is known of a sandbox, as JSON."),
    "metrics": ("cli_metrics", "Print or serve figures of all sandboxes, for monitoring."),
    "trace": ("cli_metrics", "Write what sandboxes did, as a timeline for a browser."),
    "logs": ("cli_logs", "Show the console of a sandbox."),
    "crashes": ("cli_crashes", "List and show reports of sandboxes that ended unexpectedly."),
    "debug": ("cli_debug", "Let gdb look into the machine of a sandbox."),
    "completion": ("cli_setup", "Print the completion script of a shell."),
    "agent-context": ("cli_context", "Describe this command line as JSON, for programs."),
}
ALIASES = {"list": "ls", "ps": "ls"}
SECTIONS: dict[str, tuple[str, ...]] = {
    "Set up": ("install", "doctor", "provision", "completion", "agent-context"),
    "Start and end": ("boot", "restore", "stop", "wait", "gc", "cache"),
    "Use": ("exec", "each", "repl", "attach", "sessions", "cp", "secrets"),
    "Keep and multiply": ("snapshot", "fork", "promote", "diff", "rewind", "tree", "bundles"),
    "Watch": ("ls", "stats", "inspect", "logs", "crashes", "metrics", "trace"),
    "Change": ("port", "pause", "resume", "rename", "debug"),
}
"""How `machinen --help` and the manual group the verbs; each is in one section."""

HELP = """Small named Linux VMs that boot in a blink and fork while they run.

\b
  machinen boot --name web --detach -p 8080:80
  machinen exec web -- uname -a
  machinen cp ./site web:/srv -r
  machinen fork web --new-name web-2 --detach
  machinen stop --all

VM is a name or a pid as `machinen ls` shows them. `machinen VERB --help` explains a verb with
examples, `man machinen` all of them.
"""


class LazyGroup(click.Group):
    """The verbs, each imported when it is first needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's file and return its command."""
        verb = ALIASES.get(cmd_name, cmd_name)
        if verb not in VERBS:
            return None
        module = importlib.import_module(f"machinen_runtime.{VERBS[verb][0]}")
        return cast("click.Command", getattr(module, f"{verb.replace('-', '_')}_command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, from the tables above."""
        widest = max(map(len, VERBS))
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.ljust(widest), VERBS[verb][1]) for verb in verbs])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version  # slow to import, seldom asked for

        click.echo(f"machinen {version('machinen')}")
        ctx.exit()


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """The group itself does nothing."""
