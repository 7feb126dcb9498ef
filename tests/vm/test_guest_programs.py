"""Full-screen programs in a real guest: typed into through one of its terminals, and after every
step tmux must show of the same bytes what a pane shows: text, cursor, colours.

bash, python, less, top, htop and vi are the guest's own; vim, mc and tmux, which the base does not
have, are the host's, run in the guest from a live mount.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount
from tests.tui.test_terminal_programs import SOURCE
from tests.vm.conftest import MEMORY_MIB
from tests.vm.guest_programs import LENT, guest_beside_tmux, lend

pytestmark = [pytest.mark.vm, pytest.mark.timeout(150)]

PROGRESS = """
for ((step = 1; step <= 40; step++)); do
    bar+=\u2588
    printf '\\r\\033[K\\033[3%dm%s\\033[0m %d %%' $((step % 8)) "$bar" $((step * 5 / 2))
done
printf '\\033[2A\\rabove\\033[2B\\r\\ndone\\n'; exec cat
"""


@pytest.fixture(scope="module")
async def vm(
    vm_home: Path, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[VmHandle]:
    """A guest with a file of code and the programs the host lends it."""
    lent = tmp_path_factory.mktemp("lent")
    lend(lent, ["vim", "mc", "tmux"], [Path("/usr/share/mc")])
    mount = LiveMount(host=lent, guest=LENT, mode="ro")
    options = {"memory": MEMORY_MIB, "network": "none", "live_mounts": [mount]}
    async with await boot(name="programs", **options) as handle:
        await handle.write_file("/srv/code.py", SOURCE)
        yield handle


async def test_bash_edits_a_line_longer_than_the_screen(vm: VmHandle, tmp_path: Path) -> None:
    async with guest_beside_tmux(vm, ["bash", "--norc", "--noprofile"], tmp_path) as both:
        await both.step(b"", "$")
        await both.step(b"echo " + b"0123456789 " * 9 + b"\x01\x1bf\x1bfXY\x05 end", "end")
        await both.step(b"\x17\x17last", "last")


async def test_python_at_its_prompt(vm: VmHandle, tmp_path: Path) -> None:
    """That of 3.13, which paints its line itself and asks for pastes in brackets."""
    async with guest_beside_tmux(vm, ["python3", "-q"], tmp_path) as both:
        await both.step(b"", ">>>")
        await both.step(b"for n in range(40): print(n, 'line' * n)\n\n", "39 line")
        await both.step(
            b"'\xe6\x97\xa5\xe6\x9c\xac' + 'x' * 90\x01\x0b'done', 6 * 7\n", "('done', 42)"
        )
        await both.step(b"\x1b[200~def f():\n    return 6 * 7\n\x1b[201~\nf() + 1\n", "43")
        await both.step(b"\x1b[A\x1b[A", "def f")


async def test_less_searches_and_scrolls_both_ways(vm: VmHandle, tmp_path: Path) -> None:
    async with guest_beside_tmux(vm, ["less", "/srv/code.py"], tmp_path) as both:
        await both.step(b"", "code.py")
        await both.step(b"/needle 15\r", "needle 15")
        await both.step(b"-S\r", "f20")
        await both.step(b"G", "(END)")
        await both.step(b"kkkg", "f0")
        assert both.program.model.terminal.alternate


@pytest.mark.parametrize("vi", ["vi", f"{LENT}/bin/vim"])
async def test_vi_edits_searches_and_splits(vm: VmHandle, tmp_path: Path, vi: str) -> None:
    argv = [vi, "-u", "NONE", "-i", "NONE", "-N", "-n", "/srv/code.py"]
    async with guest_beside_tmux(vm, argv, tmp_path) as both:
        await both.step(b"", "80L")
        await both.step(b":set nu hlsearch laststatus=2\r", "  1 def")
        await both.step(b"/needle\r", "/needle")
        await both.step(b":split\rGoadded \xe6\x97\xa5\xe6\x9c\xac\x1b", "added")
        await both.step(b"Vkkk", "VISUAL LINE")
        await both.step(b"\x1b:%s/text/words/\r", "substitutions")
        await both.step(b":q!\r:set nu?\r", "  number")


async def test_top_with_its_help(vm: VmHandle, tmp_path: Path) -> None:
    async with guest_beside_tmux(vm, ["top", "-d", "600"], tmp_path) as both:
        await both.step(b"", "COMMAND")
        await both.step(b"1", "Cpu0")
        await both.step(b"h", "Help for Interactive Commands")


async def test_htop_sorts_and_shows_its_tree(vm: VmHandle, tmp_path: Path) -> None:
    async with guest_beside_tmux(vm, ["htop", "-d", "600"], tmp_path) as both:
        await both.step(b"", "F10")
        await both.step(b"\x1b[B\x1b[B", "Load average")
        await both.step(b"t", "F5List")


async def test_mc_with_menus_and_panels(vm: VmHandle, tmp_path: Path) -> None:
    settings = "[Midnight-Commander]\\ndrop_menus=true\\n"  # F9 shows a menu, not a bar to move in
    await vm.exec(f"mkdir -p /root/.config/mc; printf '{settings}' >/root/.config/mc/ini")
    argv = ["env", f"MC_DATADIR={LENT}/share/mc", f"{LENT}/bin/mc", "-u", "/srv", "/usr"]
    async with guest_beside_tmux(vm, argv, tmp_path) as both:
        await both.step(b"", "10Quit")
        await both.step(b"\t\x1bOB\x1bOB", "/share")
        await both.step(b"\x1b[20~", "Quick view")


async def test_tmux_with_two_panes(vm: VmHandle, tmp_path: Path) -> None:
    argv = [f"{LENT}/bin/tmux", "-f", "/dev/null", "new-session", "-s", "inner", "sh"]
    async with guest_beside_tmux(vm, argv, tmp_path) as both:
        await both.step(b"", "[inner]")
        for keys, shown in ((b"\x02%", "\u2502"), (b"seq 50\r", "50"), (b'\x02"', "\u2500"),
                            (b"echo third $((1+1))\r", "third 2")):  # fmt: skip
            await both.step(keys, shown)
        assert both.program.model.terminal.alternate
    await vm.exec(f"{LENT}/bin/tmux kill-server")


async def test_a_progress_bar_of_the_shell(vm: VmHandle, tmp_path: Path) -> None:
    async with guest_beside_tmux(vm, ["bash", "-c", PROGRESS], tmp_path) as both:
        await both.step(b"", "100 %")
        await both.step(b"", "done")
