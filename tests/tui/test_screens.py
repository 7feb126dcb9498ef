"""The dialogs and screens about sandboxes: reached by key, command and mouse, live while open."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input, OptionList

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_tui.wanted import NewSandbox, WantedCopy, WantedFork, WantedSnapshot
from machinen_tui.widgets.choice import Choice
from tests.tui.stage import Stage, sandbox, stage


def field(s: Stage, name: str) -> Input:
    return s.app.screen.query_one(f"#{name}", Input)


async def opened(s: Stage, text: str) -> None:
    await s.until(lambda: text in s.text(), f"for {text}")


async def closed(s: Stage) -> None:
    await s.until(lambda: len(s.app.screen_stack) == 1, "for the screen to close")


async def entered(s: Stage, line: str) -> None:
    """A line for the command line."""
    await s.press("slash")
    await s.type(f"{line}\n")


async def clicked(s: Stage, text: str) -> None:
    """A click on the first place where `text` stands."""
    rows = s.text().splitlines()
    y = next(index for index, row in enumerate(rows) if text in row)
    await s.pilot.click(offset=(rows[y].index(text) + 1, y))


# -- booting --------------------------------------------------------------------------------------


async def test_the_boot_dialog_checks_as_one_types_and_boots_what_it_says() -> None:
    async with stage("web") as s:
        await s.press("n")
        await opened(s, "new sandbox")
        await s.type("web")
        await opened(s, "called web already")
        await s.press("enter")
        assert len(s.app.screen_stack) == 2
        await s.type("-b")
        await s.press("tab", "tab")
        await s.type("12")
        await opened(s, "at least 512")
        field(s, "memory").value = "600"
        field(s, "ports").value = "8080:80"
        s.app.screen.query_one("#stays", Choice).focus()
        await s.press("right", "enter")
        await closed(s)
        await s.until(lambda: s.pane("web-b") is not None)
        (wanted,) = s.world.asked
        assert isinstance(wanted, NewSandbox)
        assert (wanted.memory_mib, wanted.stays) == (600, False)
        assert s.world.listened == [sandbox(s.world, "web-b").pid]
        await s.press("q")
        await s.until(lambda: not s.app.is_running)
        assert s.app.return_value is None
        assert "web-b" not in str(s.app._exit_renderables)  # pyright: ignore[reportPrivateUsage]


async def test_the_boot_dialog_remembers_but_no_name_no_environment_and_no_port_in_use() -> None:
    async with stage("web") as s:
        await entered(s, "boot")
        await opened(s, "new sandbox")
        typed = {"name": "b", "env": "TOKEN=hidden", "memory": "700", "ports": "8080:80 9090:90"}
        for name, text in typed.items():
            field(s, name).value = text
        await s.press("enter")
        await closed(s)
        await s.until(lambda: s.pane("b") is not None)
        s.world.set_entry(
            sandbox(s.world, "b"), port_forward=(PortForward(host_port=8080, guest_port=80),)
        )
        await s.app.poll()
        assert "hidden" not in str(s.world.kept)
        await s.press("n")
        await opened(s, "new sandbox")
        shown = {name: field(s, name).value for name in typed}
        assert shown == {"name": "", "env": "", "memory": "700", "ports": "9090:90"}
        await s.press("ctrl+r")
        assert field(s, "memory").value == ""


async def test_a_click_takes_a_choice_and_the_keys_in_the_frame_can_be_clicked() -> None:
    async with stage("web") as s:
        await s.press("S")
        await opened(s, "snapshot web")
        await clicked(s, "criu")
        assert s.app.screen.query_one("#engine", Choice).value == "criu"
        await clicked(s, "enter save")
        await closed(s)
        (wanted,) = s.world.asked
        assert isinstance(wanted, WantedSnapshot)
        assert wanted.engine == "criu"


async def test_a_click_on_a_hint_is_as_good_as_its_key() -> None:
    async with stage("web") as s:
        await s.until(lambda: "new" in s.text().splitlines()[-1])
        line = s.text().splitlines()[-1]
        await s.pilot.click(offset=(line.index("n new") + 2, s.app.size.height - 1))
        await opened(s, "new sandbox")


async def test_a_fork_with_ports_and_a_kept_snapshot() -> None:
    async with stage("web") as s:
        await entered(s, "forks web")
        await opened(s, "fork web")
        field(s, "ports").value = "8081:80"
        await opened(s, "leads to one fork")
        field(s, "count").value = "1"
        s.app.screen.query_one("#keep", Choice).value = "is kept"
        await s.press("enter")
        await closed(s)
        await s.until(lambda: s.pane("web-fork") is not None)
        (wanted,) = s.world.asked
        assert isinstance(wanted, WantedFork)
        assert wanted.keep.endswith("web-fork-next")
        assert ":8081" in s.text()


# -- ports ----------------------------------------------------------------------------------------


async def test_ports_are_added_copied_and_removed() -> None:
    async with stage("web") as s:
        await s.press("P")
        await opened(s, "no port leads into it")
        await s.type("8080:eighty")
        await opened(s, "HOST:GUEST, such as")
        field(s, "port").value = "8080:80"
        await s.press("enter")
        await opened(s, "127.0.0.1:8080 leads to port 80")
        await s.type(":22\n")
        await opened(s, "127.0.0.1:40022")
        await s.press("tab", "down", "up")
        rows = s.app.screen.query_one(OptionList)
        rows.focus()
        rows.highlighted = 0
        await s.press("c")
        await opened(s, "on the clipboard")
        assert s.app.clipboard == "127.0.0.1:8080"
        await s.press("x")
        await opened(s, "127.0.0.1:8080 is closed")
        assert [each.host_port for each in sandbox(s.world, "web").entry.port_forward] == [40022]
        await s.press("escape")
        await closed(s)
        await opened(s, "40022→22")


async def test_a_port_that_is_taken_is_explained_where_one_looks() -> None:
    async with stage("web") as s:
        await s.press("P")
        await opened(s, "ports of web")
        s.world.fail_next = BootError(
            ErrorCode.BOOT_PORT_FORWARD_IN_USE, "127.0.0.1:8080 is taken by nginx (pid 7)"
        )
        await s.type("8080:80\n")
        await opened(s, "taken by nginx")
        assert s.world.sandboxes[s.app.roster.live()[0].pid].entry.port_forward == ()


async def test_a_port_from_the_command_line() -> None:
    async with stage("web", "other") as s:
        await entered(s, "port other 8080:80")
        await s.until(lambda: sandbox(s.world, "other").entry.port_forward)
        await entered(s, "port 1:2:3:4:x")
        await s.until(lambda: any("HOST:GUEST" in each for each in s.notices()))


# -- logs -----------------------------------------------------------------------------------------


async def test_a_line_longer_than_the_log_says_that_it_goes_on_and_can_be_read(
    tmp_path: Path,
) -> None:
    long = " ".join(f"word{n}" for n in range(40))
    (tmp_path / "console.log").write_text(f"{long}\nshort\n")
    async with stage("web") as s:
        s.world.set_entry(sandbox(s.world, "web"), cleanup_paths=("/run", str(tmp_path)))
        await s.app.poll()
        await s.press("L")
        await opened(s, "short")
        (row,) = [line for line in s.text().splitlines() if "word0 " in line]
        assert "…" in row
        assert "word39" not in row
        for _ in range(6):
            await s.press("ctrl+right")
        await opened(s, "word39")
        for _ in range(6):
            await s.press("ctrl+left")
        await opened(s, "word0 ")


async def test_a_log_follows_filters_and_stays_when_one_scrolls_back(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"".join(b"line %d %s\n" % (n, b"odd" if n % 2 else b"even")
                             for n in range(200)))  # fmt: skip
    async with stage("web") as s:
        s.world.set_entry(sandbox(s.world, "web"), cleanup_paths=("/run", str(tmp_path)))
        await s.app.poll()
        await s.press("L")
        await opened(s, "line 199 odd")
        with log.open("ab") as file:
            file.write(b"line 200 \x1b[31mred\x1b[0m\n")
        await opened(s, "line 200 red")
        await s.press("pageup", "pageup")
        await opened(s, "scrolled back")
        with log.open("ab") as file:
            file.write(b"line 201\n")
        await opened(s, "202 lines")
        assert "line 201" not in s.text()
        await s.type("even")
        await opened(s, "100 of 202 lines")
        assert "odd" not in s.text()
        await s.press("escape")
        await opened(s, "line 201")
        await s.press("escape")
        await closed(s)


async def test_the_log_of_an_ended_sandbox_is_its_boot_log_or_a_sentence(tmp_path: Path) -> None:
    boot_log = tmp_path / "boot.log"
    boot_log.write_bytes(b"Linux came up\n")
    async with stage("a", "b") as s:
        s.world.set_entry(sandbox(s.world, "a"), boot_log_path=str(boot_log))
        await s.app.poll()
        for name in ("a", "b"):
            s.world.end(sandbox(s.world, name))
        await s.until(lambda: s.text().count("exited") > 1)
        await s.press("L")
        await opened(s, "Linux came up")
        await s.press("escape", "down", "L")
        await s.until(lambda: any("left no log" in each for each in s.notices()))


# -- secrets --------------------------------------------------------------------------------------


async def test_secrets_are_sent_and_shown_nowhere() -> None:
    async with stage("web") as s:
        await s.press("e")
        await opened(s, "secrets for web")
        await s.type("1bad\nx\n")
        await opened(s, "begins with no digit")
        field(s, "key").value = ""
        field(s, "secret").value = ""
        await s.type("API_KEY=hunter2")
        assert field(s, "key").value == "API_KEY"
        assert "hunter2" not in s.text()
        await s.press("enter")
        await opened(s, "API_KEY = ••••••")
        await s.type("OTHER\nswordfish")
        await s.press("ctrl+s")
        await closed(s)
        await s.until(lambda: s.world.secrets)
        assert s.world.secrets == {"API_KEY": "hunter2", "OTHER": "swordfish"}
        await opened(s, "took 2 of 2 secrets")
        assert "hunter2" not in str(s.world.kept) + s.text() + " ".join(s.notices())


async def test_a_secret_is_not_typed_on_the_command_line() -> None:
    async with stage("web") as s:
        await entered(s, "secrets web KEY=value")
        await s.until(lambda: any("one name is enough" in each for each in s.notices()))
        assert not any("value" in each for each in s.notices())


# -- files, details -------------------------------------------------------------------------------


async def test_files_are_copied_both_ways(tmp_path: Path) -> None:
    async with stage("web") as s:
        await s.press("c")
        await opened(s, "copy files: web")
        field(s, "host").value = str(tmp_path)
        field(s, "guest").value = "/srv"
        field(s, "excludes").value = "*.pyc .git"
        await s.press("enter")
        await closed(s)
        await s.until(lambda: s.world.asked)
        assert s.world.asked == [
            WantedCopy(into_guest=True, host=str(tmp_path), guest="/srv",
                       excludes=["*.pyc", ".git"])
        ]  # fmt: skip


async def test_details_show_ports_mounts_and_memory_and_lead_on() -> None:
    async with stage("web", size=(80, 24)) as s:
        web = sandbox(s.world, "web")
        s.world.set_entry(
            web,
            port_forward=(PortForward(host_port=8080, guest_port=80),),
            live_mounts=(LiveMount(host="/tmp", guest="/mnt/src", mode="ro"),),
        )
        await s.app.poll()
        web.sample()
        await s.press("d")
        for text in ("/mnt/src   /tmp (ro, live)", "127.0.0.1:8080 → 80", "2048 pages", "TCG"):
            await opened(s, text)
        await s.press("P")
        await opened(s, "ports of web")


async def test_a_sandbox_gets_another_name_everywhere() -> None:
    async with stage("web", "db") as s:
        await s.press("m")
        await opened(s, "called web already")
        await s.type("db")
        await opened(s, "called db already")
        await s.type("2\n")
        await closed(s)
        await s.until(lambda: s.pane("db2") is not None)
        await opened(s, "─ db2 ─")
        await entered(s, "rename db old")
        await s.until(lambda: s.pane("old") is not None)


@pytest.mark.parametrize("key", ["P", "d", "L", "e", "c", "m", "F", "S"])
async def test_a_key_without_a_sandbox_says_what_to_do(key: str) -> None:
    async with stage() as s:
        await s.press(key)
        await s.until(lambda: any("select a sandbox" in each for each in s.notices()))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 15)])
async def test_every_screen_fits(size: tuple[int, int]) -> None:
    async with stage("web", size=size) as s:
        for key in ("n", "F", "S", "P", "d", "e", "c", "m", "i", "B", "question_mark"):
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 2)
            await s.until(lambda: "esc" in s.text().splitlines()[-1] or "╰" in s.text())
            for widget in s.app.screen.query("Input, Choice, OptionList"):
                if widget.display and widget.region.width:
                    assert widget.region.right <= size[0]
            await s.press("escape")
            await closed(s)


async def test_a_message_over_a_dialog_covers_no_field_and_is_brief() -> None:
    async with stage("a", size=(80, 24)) as s:
        await s.press("n")
        for severity in ("error", "warning"):
            s.app.say(
                "the fork failed: the sandbox ended, look at its log " * 3, severity, seconds=12
            )
        await s.until(lambda: "the fork failed" in s.text())
        shown = [each for each in s.app.screen.query("Input, Choice") if each.region.height]
        assert len(shown) > 8
        for each in shown:
            assert s.app.screen.get_widget_at(*each.region.offset)[0] is each
        assert "esc cancel" in s.text()
        assert {each.timeout for each in s.app._notifications} == {4}  # pyright: ignore[reportPrivateUsage]
