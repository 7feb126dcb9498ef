"""`machinen boot` and `machinen restore`: start a sandbox, then leave it or show it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_limits import (
    cpus_option,
    limit_options,
    parse_limits,
    split_cpus,
)
from machinen_runtime.cli_mounts import live_mount_option, make_mount, mount_option
from machinen_runtime.cli_network import allow_option, network_option, parse_network
from machinen_runtime.cli_support import (
    DashDashCommand,
    Verb,
    env_option,
    json_option,
    memory_option,
    once,
    print_json,
    progress,
    publish_option,
    run_async,
    wait_option,
)
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, ParseError
from machinen_runtime.registry_names import validate_name

if TYPE_CHECKING:
    from machinen_runtime.handle import VmHandle
    from machinen_runtime.memory_queue import OnWait
    from machinen_runtime.option_types import LiveMount, PortForward

detach_option = click.option(
    "-d", "--detach", "--detached", is_flag=True, help="Leave it running and return."
)


@click.command("boot", cls=DashDashCommand, short_help="Boot a sandbox.")
@click.argument("image", required=False, type=click.Path(), metavar="[IMAGE] [-- CMD [ARG]...]")
@once("-n", "--name", metavar="NAME", help="Name to find it by.")
@detach_option
@memory_option
@once("--cpus", type=float, metavar="N", help="Virtual CPUs; 0.5 is one, for half of the time.")
@limit_options
@env_option("Set a variable of the workload's environment. Repeatable.")
@once("--cwd", metavar="PATH", help="Directory in the guest to start the workload in.")
@publish_option("Lead a TCP port of this host into the guest. Repeatable.")
@mount_option
@live_mount_option("Show a directory in the guest as it is, below /mnt. Repeatable.")
@click.option("--no-root-disk", is_flag=True, help="Keep what the guest writes in its memory.")
@network_option
@allow_option
@click.option("--cold", is_flag=True, help="Boot the kernel, though a template may be there.")
@wait_option
@json_option
@click.pass_context
def boot_command(
    ctx: click.Context,
    image: str | None,
    name: str | None,
    detach: bool,
    memory: int | None,
    cpus: float | None,
    memory_max: str | None,
    io_max: str | None,
    env: dict[str, str],
    cwd: str | None,
    publish: list[PortForward],
    mount: str | None,
    live_mounts: list[LiveMount],
    no_root_disk: bool,
    network: str | None,
    allow: Sequence[str],
    cold: bool,
    wait: float | None,
    as_json: bool,
) -> int:
    """Boot a sandbox from IMAGE, a rootfs tarball, or from the installed base.

    CMD is what it is for: the sandbox ends with it. Without CMD the image's own command runs, or a
    login shell. Without --detach the sandbox is shown on this terminal and ends with this command.

    The first boot of an image on such a machine keeps a template; later ones start from it, in a
    fraction of the time (`machinen cache ls`).

    \b
    Examples:
      machinen boot
      machinen boot --name web --detach -p 8080:80 -- python3 -m http.server 80
      machinen boot --mount-live .:/mnt/work --cwd /mnt/work
    """
    _check_json(as_json, detach)
    options: dict[str, Any] = {
        "image": image,
        "cmd": ctx.meta["command"] or None,
        "name": name,
        "env": env,
        "guest_cwd": cwd,
        "memory": memory,
        "port_forward": publish,
        "mount": make_mount(mount),
        "live_mounts": live_mounts,
        "root_disk": False if no_root_disk else None,
        "detached": detach,
        "timeout_ms": None,
        "warm": not cold,
        "wait_for_memory_ms": (wait or 0) * 1000,
    }
    processors, cpu_limit = split_cpus(cpus)
    options |= {**processors, **parse_limits(cpu_limit, memory_max, io_max)}
    options["network"] = parse_network(network, allow)

    async def start(on_wait: OnWait) -> VmHandle:
        from machinen_runtime.boot import boot

        try:
            return await boot(**options, on_wait=on_wait)
        except BootError as error:
            raise _with_name_hint(error, image, name) from error.__cause__

    return run_async(start_and_show, start, "booting", detach, as_json)


def _with_name_hint(error: BootError, image: str | None, name: str | None) -> BootError:
    """`machinen boot web` is often meant to be `--name web`."""
    if error.code is not ErrorCode.BOOT_IMAGE_NOT_FOUND or name or not image or "/" in image:
        return error
    try:
        validate_name(image)
    except MachinenError:
        return error
    return BootError(error.code, f"{error}; if {image} is to be its name, say --name {image}")


@click.command("restore", cls=Verb, short_help="Start a sandbox from a snapshot.")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@once("-n", "--name", metavar="NAME", help="Name of the new sandbox.")
@once("--image", metavar="FILE", type=click.Path(), help="criu: the rootfs tarball to boot.")
@click.option("--eager", is_flag=True, help="Read all memory before it goes on, not when touched.")
@click.option("--lazy", is_flag=True, help="criu: read memory from DIR as it is touched; keep DIR.")
@detach_option
@publish_option("Lead a TCP port of this host into the guest; the source's are not. Repeatable.")
@network_option
@allow_option
@live_mount_option("Let a live mount of the snapshot lead to another directory. Repeatable.")
@cpus_option
@limit_options
@wait_option
@json_option
def restore_command(
    directory: str,
    name: str | None,
    image: str | None,
    eager: bool,
    lazy: bool,
    detach: bool,
    publish: list[PortForward],
    network: str | None,
    allow: Sequence[str],
    live_mounts: list[LiveMount],
    cpus: float | None,
    memory_max: str | None,
    io_max: str | None,
    wait: float | None,
    as_json: bool,
) -> int:
    """Start a sandbox from the snapshot in DIR: it goes on from the moment of the snapshot.

    DIR may have been moved, and may be restored as often as you like.

    \b
    Example:
      machinen restore ./warm --name web-2 --detach
    """
    _check_json(as_json, detach)
    if eager and lazy:
        message = "--eager and --lazy are opposites; give one of them"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    options: dict[str, Any] = {
        "name": name,
        "detached": detach,
        "port_forward": publish,
        "network": parse_network(network, allow),
        "live_mounts": live_mounts,
        "image": image,
        "lazy": False if eager else lazy or None,
        "wait_for_memory_ms": (wait or 0) * 1000,
        **parse_limits(cpus, memory_max, io_max),
    }

    async def start(on_wait: OnWait) -> VmHandle:
        from machinen_runtime.restore import restore

        return await restore(snap_dir=directory, timeout_ms=None, on_wait=on_wait, **options)

    return run_async(start_and_show, start, "restoring", detach, as_json)


async def start_and_show(
    start: Callable[[OnWait], Coroutine[Any, Any, VmHandle]],
    verb: str,
    detach: bool,
    as_json: bool,
) -> int:
    """Start a VM; say who it is if it is to be left, else show it until it ends."""
    with progress(verb) as on_wait:
        vm = await start(on_wait)
    if detach:
        if as_json:
            phases = {phase: round(elapsed_ms, 1) for phase, elapsed_ms in vm.phases.items()}
            print_json({"pid": vm.pid, "name": vm.name, "detached": True, "phases": phases})
        else:
            click.echo(vm.name or str(vm.pid))
        return 0
    return await show_until_end(vm)


async def show_until_end(vm: VmHandle) -> int:
    """Show session main of a VM that ends with us, and return its workload's exit code."""
    import anyio

    from machinen_runtime.channel_conversation import receive_beside
    from machinen_runtime.cli_terminal import Left, attach_session, notice
    from machinen_runtime.gc import run_gc

    async def show() -> Left | int:
        return await attach_session(vm.vsock_path, "main", pass_end_on=True)

    async def drain(stream: anyio.abc.ByteReceiveStream) -> None:
        async for _ in stream:  # nobody else reads these pipes, and a full one holds the VM up
            pass

    async with vm:
        outcome = await receive_beside(show, lambda: drain(vm.stdout), lambda: drain(vm.stderr))
        if isinstance(outcome, Left):
            notice("[stopping the sandbox, which was booted without --detach]")
            await vm.stop()
            return 0
        await vm.wait()
        run_gc(pid=vm.pid)
        return outcome


def _check_json(as_json: bool, detach: bool) -> None:
    if as_json and not detach:
        raise ParseError(
            ErrorCode.PARSE_FLAG_MALFORMED,
            "--json needs --detach: without it the terminal belongs to the sandbox",
        )
