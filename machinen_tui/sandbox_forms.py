"""The forms about sandboxes: boot, fork, snapshot, restore, copy, rename. The runtime checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

from machinen_runtime.option_types import LiveMount
from machinen_tui import form_fields as read
from machinen_tui.forms import Field, Form, Values
from machinen_tui.wanted import (
    Engine,
    NewSandbox,
    WantedCopy,
    WantedFork,
    WantedRestore,
    WantedSnapshot,
)
from vmm.limits import Limits

MAX_FORKS = 64
WAITS = "waits for it"
MEMORY_WAYS = {"as usual": None, "when touched": True, "at once": False}
PORTS_HINT = "HOST:GUEST pairs, as 8080:80 2222:22; for other machines 0.0.0.0:8080:80"
HOSTS_HINT = "a sandbox without a network card may reach other hosts: example.org"
LIVE_HINT = "~/src:/mnt/src:rw shows a directory of this machine; ro: only to read"


def boot_form(taken_names: Collection[str] = (), default_name: str = "") -> Form[NewSandbox]:
    """Everything one may say about a new sandbox."""
    fields = (
        Field(name="name", label="name", placeholder="chosen for you", value=default_name,
              check=free_name(taken_names)),
        Field(name="cmd", label="command", placeholder="the image's own, or a login shell",
              check=_boot("cmd", lambda text: read.command(text) or None)),
        Field(name="memory", label="memory MiB", placeholder="by the size of this machine",
              hint="the most it may use; at least 512", check=_boot("memory", _memory)),
        Field(name="cpus", label="cpus", placeholder="1",
              hint="0.5: one virtual cpu, for half of the time",
              check=_boot("cpus", lambda text: read.processors(text)[0])),
        *_limit_fields("BootOptions", "no limit"),
        Field(name="image", label="image", placeholder="the base, Debian 13",
              hint="a rootfs tarball, an OCI layout directory or a docker save archive",
              check=_existing),
        Field(name="env", label="environment", placeholder="KEY=VALUE …",
              hint="seen by the command; for secrets use e once it runs",
              check=_boot("env", read.environment)),
        Field(name="network", label="network", placeholder="full",
              hint="full, none, or the hosts it may reach: example.org *.example.com",
              check=_boot("network", read.network)),
        Field(name="ports", label="ports", placeholder="8080:80 2222:22", hint=PORTS_HINT,
              check=_boot("port_forward", read.ports)),
        Field(name="mount", label="copy in", placeholder="~/project:/mnt/project",
              hint="a copy of a directory; what the guest writes stays in the sandbox",
              check=_boot("mount", read.mount)),
        Field(name="live", label="live mounts", placeholder="~/src:/mnt/src:ro", hint=LIVE_HINT,
              check=_boot("live_mounts", read.live_mounts)),
        Field(name="root", label="root disk", value="on disk", choices=("on disk", "in memory"),
              hint="in memory: what the guest writes takes up to half of its memory, and no disk"),
        Field(name="stays", label="when you leave", value="it runs on",
              choices=("it runs on", "it ends")),
        _wait_field(),
    )  # fmt: skip
    return Form(title="new sandbox", accept="boot", fields=fields, build=_new_sandbox)


def _new_sandbox(values: Values) -> NewSandbox:
    cpus, cpu_limit = read.processors(values["cpus"])
    wanted = NewSandbox(
        name=values["name"],
        image=str(read.host_path(values["image"])) if values["image"] else "",
        cmd=read.command(values["cmd"]),
        memory_mib=_memory(values["memory"]),
        cpus=cpus,
        limits=read.limits(cpu_limit, values["memory_max"], values["io_max"]),
        env=read.environment(values["env"]),
        network=read.network(values["network"]),
        ports=read.ports(values["ports"]),
        mount=read.mount(values["mount"]),
        live_mounts=read.live_mounts(values["live"]),
        root_in_ram=values["root"] == "in memory",
        stays=values["stays"] != "it ends",
        waits=values["wait"] == WAITS,
    )
    from machinen_runtime.options import BootOptions

    BootOptions(**wanted.options())
    return wanted


def fork_form(source: str, taken_names: Collection[str] = (), keep: str = "") -> Form[WantedFork]:
    """Siblings of `source`; `keep` is where a bundle that stays would go."""
    fields = (
        Field(name="count", label="how many", value="3", hint=f"1 to {MAX_FORKS}", check=_count),
        Field(name="name", label="name", placeholder=f"{source}-2, …",
              hint="of one fork; of several what their names begin with", check=_any_name),
        Field(name="keep", label="snapshot", value="goes with them",
              choices=("goes with them", "is kept"),
              hint=f"kept: in {keep}" if keep else ""),
        Field(name="engine", label="engine", value="vmstate", choices=("vmstate", "criu"),
              hint="vmstate: the whole machine; criu: its processes in a machine booted anew"),
        _memory_field(),
        Field(name="tcp", label="connections", value="ended", choices=("ended", "kept"),
              hint="of established ones both would read: their peers know only the source"),
        Field(name="network", label="network", placeholder="as the source's", hint=HOSTS_HINT,
              check=_option("ForkOptions", "network", _other_network)),
        Field(name="ports", label="ports", placeholder="none: they are not inherited",
              hint=PORTS_HINT, check=_option("ForkOptions", "port_forward", read.ports)),
        Field(name="live", label="live mounts", placeholder="as the source's",
              hint="other host directories for its live mounts: ~/other:/mnt/src",
              check=_option("ForkOptions", "live_mounts", read.live_mounts)),
        _cpu_field("ForkOptions", "as the source's"),
        *_limit_fields("ForkOptions", "as the source's"),
        _wait_field(),
    )  # fmt: skip

    def build(values: Values) -> WantedFork:
        count = _count(values["count"])
        forwards = read.ports(values["ports"])
        if count > 1 and any(forward.host_port for forward in forwards):
            raise ValueError("a host port leads to one fork: fork once, or add ports later with P")
        if count == 1:
            free_name(taken_names)(values["name"])
        return WantedFork(
            count=count,
            name=values["name"],
            keep=keep if values["keep"] == "is kept" else "",
            engine=cast("Engine", values["engine"]),
            lazy=MEMORY_WAYS.get(values["lazy"]),
            tcp_keep=values["tcp"] == "kept",
            network=_other_network(values["network"]),
            ports=forwards,
            live_mounts=read.live_mounts(values["live"]),
            limits=_limits(values),
            waits=values["wait"] == WAITS,
        )

    return Form(title=f"fork {source}", accept="fork", fields=fields, build=build)


def snapshot_form(source: str, directory: str) -> Form[WantedSnapshot]:
    """A bundle of `source`; by default it goes to `directory`."""
    fields = (
        Field(name="engine", label="engine", value="vmstate", choices=("vmstate", "criu"),
              hint="vmstate: the whole machine; criu: only its processes"),
        Field(name="after", label="afterwards", value="it runs on",
              choices=("it runs on", "it ends")),
        Field(name="directory", label="directory", placeholder=directory,
              hint="absent or empty; elsewhere than in our own, add it in the browser (B)",
              check=_new_directory),
        Field(name="tcp", label="connections", value="kept", choices=("kept", "closed"),
              hint="criu only: closed ones break at once instead of hanging"),
    )  # fmt: skip

    def build(values: Values) -> WantedSnapshot:
        if values["tcp"] == "closed" and values["engine"] != "criu":
            raise ValueError("connections can be closed by the engine criu only")
        return WantedSnapshot(
            directory=str(read.host_path(values["directory"])) if values["directory"] else "",
            engine=cast("Engine", values["engine"]),
            runs_on=values["after"] == "it runs on",
            tcp_close=values["tcp"] == "closed",
        )

    return Form(title=f"snapshot {source}", accept="save", fields=fields, build=build)


def restore_form(
    bundle: Path, source: str, taken_names: Collection[str] = (), live: str = ""
) -> Form[WantedRestore]:
    """Go on from `bundle`; `live` are the live mounts it has, as they are spelled."""
    fields = [
        Field(name="name", label="name", placeholder=f"{source}, or the next free",
              check=free_name(taken_names)),
        Field(name="ports", label="ports", placeholder="none", hint=PORTS_HINT,
              check=_option("LaunchOptions", "port_forward", read.ports)),
        Field(name="network", label="network", placeholder="as it was", hint=HOSTS_HINT,
              check=_option("LaunchOptions", "network", _other_network)),
        _memory_field(),
        _cpu_field("LaunchOptions", "as it was"),
        *_limit_fields("LaunchOptions", "as it was"),
        _wait_field(),
    ]  # fmt: skip
    if live:
        hint = "the directories of this machine it shows; others may be named"
        check = _option("LaunchOptions", "live_mounts", read.live_mounts)
        fields.append(Field(name="live", label="live mounts", value=live, hint=hint, check=check))

    def build(values: Values) -> WantedRestore:
        shown: list[LiveMount] = read.live_mounts(values["live"]) if live else []
        kept = read.live_mounts(live)
        return WantedRestore(
            bundle=bundle,
            name=values["name"],
            lazy=MEMORY_WAYS.get(values["lazy"]),
            network=_other_network(values["network"]),
            ports=read.ports(values["ports"]),
            live_mounts=[each for each in shown if each not in kept],
            limits=_limits(values),
            waits=values["wait"] == WAITS,
        )

    return Form(title=f"restore {source}", accept="restore", fields=tuple(fields), build=build)


def copy_form(name: str) -> Form[WantedCopy]:
    """Copy files or directories into `name`, or out of it."""
    fields = (
        Field(name="direction", label="direction", value="into the guest",
              choices=("into the guest", "out of the guest")),
        Field(name="host", label="here", placeholder="~/project",
              check=_needed("a file or a directory")),
        Field(name="guest", label="in the guest", placeholder="/root",
              hint="a directory takes what is copied under its name, as cp does", check=_absolute),
        Field(name="excludes", label="leave out", placeholder="*.pyc node_modules",
              hint="patterns of tar --exclude", check=read.words),
    )  # fmt: skip

    def build(values: Values) -> WantedCopy:
        into_guest = values["direction"] == "into the guest"
        host = str(read.host_path(values["host"]))
        if into_guest and not os.path.exists(host):
            raise ValueError(f"there is no {host} to copy")
        excludes = read.words(values["excludes"])
        return WantedCopy(
            into_guest=into_guest, host=host, guest=values["guest"], excludes=excludes
        )

    return Form(title=f"copy files: {name}", accept="copy", fields=fields, build=build)


def rename_form(name: str, taken_names: Collection[str] = ()) -> Form[str]:
    """Another name for a sandbox."""

    def check(text: str) -> str:
        if not text:
            raise ValueError("type the new name")
        if text == name:
            raise ValueError(f"it is called {name} already")
        return free_name(taken_names)(text)

    fields = (Field(name="name", label="new name", value=name, check=check),)
    return Form(
        title=f"rename {name}", accept="rename", fields=fields, build=lambda values: values["name"]
    )


def free_name(taken: Collection[str]) -> Callable[[str], str]:
    """A check: the runtime allows the name, and no live sandbox has it. Empty is allowed."""

    def check(text: str) -> str:
        _any_name(text)
        if text in taken:
            raise ValueError(f"a running sandbox is called {text} already")
        return text

    return check


def _any_name(text: str) -> str:
    from machinen_runtime.registry_names import validate_name

    return validate_name(text) if text else text


def _boot(option: str, parse: Callable[[str], Any]) -> Callable[[str], object]:
    """A check: what `parse` makes of the text is allowed as that option of boot()."""
    return _option("BootOptions", option, parse)


def _option(record: str, option: str, parse: Callable[[str], Any]) -> Callable[[str], object]:
    def check(text: str) -> object:
        value = parse(text)
        if value in (None, "", [], {}):
            return value
        from machinen_runtime import options

        return getattr(options, record)(**{option: value})

    return check


def _other_network(text: str) -> str | list[str]:
    return read.network(text) if text else ""


def _memory(text: str) -> int | None:
    return read.whole_number(text, "memory is a number of MiB")


def _memory_field() -> Field:
    return Field(
        name="lazy",
        label="memory",
        value="as usual",
        choices=tuple(MEMORY_WAYS),
        hint="read when touched (usual for vmstate), or all at once: then it is its own",
    )


def _cpu_field(record: str, without: str) -> Field:
    """Of a copy: how many virtual processors it has cannot change."""
    return Field(
        name="cpu_max",
        label="cpu max",
        placeholder=without,
        hint="processors of this machine: 0.5 is half of one",
        check=_option(record, "limits", lambda text: read.limits(read.share(text), "", "")),
    )


def _limit_fields(record: str, without: str) -> tuple[Field, Field]:
    return (
        Field(name="memory_max", label="memory max", placeholder=without,
              hint="of this machine, with what QEMU needs: 2G; it ends where that is too little",
              check=_option(record, "limits", lambda text: read.limits(None, text, ""))),
        Field(name="io_max", label="disk max", placeholder=without,
              hint="a second, of all its disks: 50M, or read=50M,write=10M",
              check=_option(record, "limits", lambda text: read.limits(None, "", text))),
    )  # fmt: skip


def _limits(values: Values) -> Limits | None:
    return read.limits(read.share(values["cpu_max"]), values["memory_max"], values["io_max"])


def _wait_field() -> Field:
    return Field(
        name="wait",
        label="memory short",
        value="refused",
        choices=("refused", WAITS),
        hint="when this machine has too little left: say so, or wait for ten minutes at most",
    )


def _count(text: str) -> int:
    count = read.whole_number(text, f"a fork makes 1 to {MAX_FORKS} siblings") or 0
    if not 1 <= count <= MAX_FORKS:
        raise ValueError(f"a fork makes 1 to {MAX_FORKS} siblings")
    return count


def _existing(text: str) -> str:
    if text and not read.host_path(text).exists():
        raise ValueError(f"there is no image at {text}")
    return text


def _new_directory(text: str) -> str:
    path = read.host_path(text)
    if text and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{text} is not empty; a snapshot goes to a directory of its own")
    if text and not path.absolute().parent.is_dir():
        raise ValueError(f"there is no directory {path.parent}; make it first")
    return text


def _needed(what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text:
            raise ValueError(f"name {what}")
        return text

    return check


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("name an absolute path in the guest, such as /root/project")
    return text
