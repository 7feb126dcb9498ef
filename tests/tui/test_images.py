"""Building an image: the form, the live log, cancelling, and booting the result."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_tui.forms import Problem
from machinen_tui.image_forms import provision_form
from machinen_tui.wanted import WantedImage
from tests.tui.stage import Stage, stage


def field(s: Stage, name: str) -> Input:
    return s.app.screen.query_one(f"#{name}", Input)


async def opened(s: Stage, text: str) -> None:
    await s.until(lambda: text in s.text(), f"for {text}")


async def start_build(s: Stage, out: Path) -> None:
    await s.press("i")
    await opened(s, "build an image")
    field(s, "out").value = str(out)
    field(s, "run").value = "apt-get update && apt-get install -y git"
    field(s, "env").value = "TOKEN=hidden"
    await s.press("enter")
    await opened(s, "Linux came up")


async def test_a_build_shows_its_log_and_its_result_is_offered_to_boot(tmp_path: Path) -> None:
    image = tmp_path / "git.tar.gz"
    async with stage() as s:
        await start_build(s, image)
        await opened(s, "booting the base")
        await s.press("escape")
        await opened(s, "building git.tar.gz · booting the base")
        await s.press("i")
        await opened(s, "x cancels")
        image.touch()
        s.world.build_goes_on.set()
        await opened(s, "installed what was asked for")
        await opened(s, "n boots it")
        await s.press("n")
        await opened(s, "new sandbox")
        assert field(s, "image").value == str(image)
        (wanted,) = s.world.asked
        assert isinstance(wanted, WantedImage)
        assert wanted.command == ["/bin/sh", "-c", "apt-get update && apt-get install -y git"]
        assert "hidden" not in str(s.world.kept)


async def test_a_build_is_cancelled_and_can_be_tried_again(tmp_path: Path) -> None:
    async with stage() as s:
        await start_build(s, tmp_path / "git.tar.gz")
        await s.press("x")
        await opened(s, "was not built: cancelled")
        await s.until(lambda: not s.app.operations.running)
        await s.press("i")
        await opened(s, "build an image")
        assert field(s, "run").value.startswith("apt-get")


async def test_a_build_that_fails_says_why_in_its_log_and_over_it(tmp_path: Path) -> None:
    async with stage() as s:
        s.world.build_fails = ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED, "exit code 100 from: apt-get"
        )
        await start_build(s, tmp_path / "git.tar.gz")
        s.world.build_goes_on.set()
        await opened(s, "PROVISION_INSTALL_HOOK_FAILED: exit code 100")
        await s.until(lambda: any("exit code 100" in each for each in s.notices()))


async def test_leaving_waits_for_a_build(tmp_path: Path) -> None:
    async with stage() as s:
        await start_build(s, tmp_path / "git.tar.gz")
        await s.press("escape", "q")
        await s.until(lambda: any("leaving after: building" in each for each in s.notices()))
        s.world.build_goes_on.set()
        await s.until(lambda: not s.app.is_running)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({}, "say what shall be different"),
        ({"out": "/tmp/image.zip"}, "name a tarball"),
        ({"out": "/no/such/image.tar"}, "make it first"),
        ({"base": "/no/such.tar"}, "no image"),
        ({"script": "/no/such.sh"}, "no script"),
        ({"copies": "/tmp:relative"}, "HOST:/GUEST"),
        ({"copies": "/no/such:/srv"}, "to copy"),
        ({"run": "true", "script": __file__}, "not both"),
        ({"run": "true", "memory": "1"}, "at least 512"),
        ({"env": "A"}, "KEY=VALUE"),
    ],
)
def test_what_cannot_be_built_is_refused_while_it_is_typed(
    typed: dict[str, str], words: str
) -> None:
    form = provision_form(Path("/tmp"))
    found = form.answer({**form.defaults(), **typed})
    assert isinstance(found, Problem)
    assert words in found.text


def test_every_field_of_the_form_reaches_provision(tmp_path: Path) -> None:
    script = tmp_path / "setup.sh"
    script.touch()
    form = provision_form(tmp_path)
    typed = {"base": str(tmp_path), "script": str(script), "copies": f"{script}:/srv/x",
             "cmd": "python3 -m http.server", "env": "A=1", "memory": "600"}  # fmt: skip
    wanted = form.answer({**form.defaults(), **typed})
    assert isinstance(wanted, WantedImage)
    assert (wanted.script, wanted.copies) == (script, [(script, "/srv/x")])
    assert wanted.options() == {
        "out": tmp_path / "image.tar.gz",
        "base": tmp_path,
        "cmd": ["python3", "-m", "http.server"],
        "env": {"A": "1"},
        "memory": 600,
    }
