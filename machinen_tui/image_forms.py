"""The form about images: what is built from what, and how."""

from __future__ import annotations

from pathlib import Path

from machinen_tui import form_fields as read
from machinen_tui.forms import Field, Form, Values
from machinen_tui.wanted import WantedImage

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")


def provision_form(directory: Path) -> Form[WantedImage]:
    """An image; by default its tarball goes into `directory`."""
    fields = (
        Field(name="out", label="image", placeholder=f"{directory}/image.tar.gz",
              hint="the tarball to write; .tar and .tar.zst mean what they say", check=_out),
        Field(name="base", label="from", placeholder="the base, Debian 13",
              hint="another image: a rootfs tarball, an OCI layout, a docker save archive",
              check=_existing_image),
        Field(name="run", label="run", placeholder="apt-get update && apt-get install -y git",
              hint="a command line in the guest, as root", check=read.command),
        Field(name="script", label="or a script", placeholder="~/setup.sh",
              hint="a file of this machine, run in the guest", check=_script),
        Field(name="copies", label="copy in first", placeholder="~/site:/srv/site",
              hint="HOST:GUEST, files or directories, several", check=copies),
        Field(name="cmd", label="then it runs", placeholder="as in the base",
              hint="baked in: the command of sandboxes booted from it", check=read.command),
        Field(name="env", label="environment", placeholder="KEY=VALUE …",
              hint="baked in, readable by whoever has the image: no secrets",
              check=read.environment),
        Field(name="memory", label="memory MiB", placeholder="by the size of this machine",
              check=_memory),
    )  # fmt: skip

    def build(values: Values) -> WantedImage:
        if values["script"] and values["run"]:
            raise ValueError("a command or a script, not both; call one from the other")
        if not any(values[name] for name in ("script", "run", "copies", "cmd", "env")):
            raise ValueError("say what shall be different: run, copy or bake in something")
        return WantedImage(
            out=read.host_path(values["out"] or f"{directory}/image.tar.gz").absolute(),
            base=str(read.host_path(values["base"]).absolute()) if values["base"] else "",
            copies=copies(values["copies"]),
            script=read.host_path(values["script"]).absolute() if values["script"] else None,
            command=read.command(values["run"]),
            cmd=read.command(values["cmd"]),
            env=read.environment(values["env"]),
            memory_mib=_memory(values["memory"]),
        )

    return Form(title="build an image", accept="build", fields=fields, build=build)


def copies(text: str) -> list[tuple[Path, str]]:
    """`HOST:GUEST …`: what is there, and an absolute path."""
    found: list[tuple[Path, str]] = []
    for word in read.words(text):
        host, separator, guest = word.rpartition(":")
        if not separator or not host or not guest.startswith("/"):
            raise ValueError(f"a copy is HOST:/GUEST, such as ~/site:/srv/site, not {word!r}")
        path = read.host_path(host).absolute()
        if not path.exists():
            raise ValueError(f"there is no {path} to copy")
        found.append((path, guest))
    return found


def _out(text: str) -> str:
    path = read.host_path(text).absolute()
    if text and (path.is_dir() or not path.name.endswith(SUFFIXES)):
        raise ValueError(f"name a tarball: a file that ends in {', '.join(SUFFIXES)}")
    if text and not path.parent.is_dir():
        raise ValueError(f"there is no directory {path.parent}; make it first")
    return text


def _existing_image(text: str) -> str:
    if text and not read.host_path(text).exists():
        raise ValueError(f"there is no image at {text}")
    return text


def _script(text: str) -> str:
    if text and not read.host_path(text).is_file():
        raise ValueError(f"there is no script at {text}")
    return text


def _memory(text: str) -> int | None:
    memory = read.whole_number(text, "memory is a number of MiB")
    if memory is not None:
        from machinen_runtime.options import validate_memory_mib

        validate_memory_mib(memory)
    return memory
