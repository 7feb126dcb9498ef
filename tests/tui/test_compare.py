"""Two forks beside each other in the running application."""

from __future__ import annotations

import pytest

from machinen_runtime.compare import (
    FileDifference,
    MemoryFacts,
    ProcessDifference,
    VariableDifference,
    VmDifference,
)
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.guest_survey import FileFacts, ProcessFacts
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.compare_rows import rows_of, titles
from machinen_tui.widgets.compare_screen import CompareScreen
from machinen_tui.widgets.twin_terminals import TwinTerminals
from tests.tui.stage import Stage, sandbox, stage
from tests.tui.test_screens import closed, opened


def difference(a: RegistryEntry, b: RegistryEntry) -> VmDifference:
    facts = FileFacts(kind="f", size_bytes=12, mode="644", owner="0:0", modified_at=1.0)
    process = ProcessFacts(pid=77, parent_pid=1, state="S", started_ticks=5, rss_bytes=4096,
                           name="vi", command="vi [notes]")  # fmt: skip
    memory = MemoryFacts(rss_bytes=9 << 20, private_bytes=1 << 20, shared_bytes=8 << 20,
                         balloon_bytes=0)  # fmt: skip
    return VmDifference(
        a=a, b=b, parted_at_ms=1e12,
        files=[FileDifference(path="/root/[new]", name=b"/root/[new]", what="only in a", a=facts),
               FileDifference(path="/etc/hosts", name=b"/etc/hosts", what="contents, mode",
                              a=facts, b=facts)],
        processes=[ProcessDifference(a=process)], same_processes=6,
        environment=[VariableDifference(name="TERM", a="xterm")], same_variables=9,
        memory_a=memory, memory_b=memory, elapsed_ms=3,
    )  # fmt: skip


def twins(s: Stage) -> TwinTerminals:
    assert isinstance(s.app.screen, CompareScreen)
    return s.app.screen.query_one(TwinTerminals)


def test_rows_say_whose_it_is() -> None:
    entry = RegistryEntry(pid=1, socket_path="", started_at=1)
    found = difference(entry, entry)
    assert [(row.sign, row.text) for row in rows_of(found, "files")] == [
        ("<", "/root/[new]  12 bytes"),
        ("!", "/etc/hosts  (contents, mode: 12 bytes · 12 bytes)"),
    ]
    assert titles(found)[1:4] == ["files (2)", "processes (1)", "environment (1)"]
    assert rows_of(found, "processes")[1].text.endswith("vi [notes]")
    assert rows_of(found, "environment")[1] == rows_of(found, "environment")[1]
    assert "256 pages" in rows_of(found, "memory")[0].text


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_marked_ones_stand_beside_each_other_and_are_typed_into_together(
    size: tuple[int, int],
) -> None:
    async with stage("web", "web-2", size=size) as s:
        s.world.difference = difference
        for view in s.app.roster.live():
            view.marked = True
        await s.press("D")
        await opened(s, "< web   > web-2")
        await opened(s, "one until")
        half = twins(s).half
        for name in ("web", "web-2"):
            terminal = sandbox(s.world, name).terminal
            await s.until(lambda t=terminal: t.size[0] == half, "for half the width")
        await s.until(lambda: twins(s).differing == 0 and "0 rows differ" in s.text())
        sandbox(s.world, "web").terminal.type(b"echo only-$((40+2))\n")
        await s.until(lambda: "only-42" in s.text() and "≠" in s.text())
        assert twins(s).differing > 0
        await s.press("i")
        await opened(s, "typing into both")
        await s.type("echo tw")
        await s.press("tab", "escape", "ctrl+u")
        await s.type("q both-$((1+1))\n")
        for name in ("web", "web-2"):
            terminal = sandbox(s.world, name).terminal
            await s.until(lambda t=terminal: b"\t\x1b\x15q both" in t.bytes_typed)
        await s.press("ctrl+right_square_bracket")
        await s.until(lambda: "rows differ" in s.text())
        await s.press("escape")
        await closed(s)
        for name in ("web", "web-2"):
            pane = s.pane(name)
            assert pane is not None
            await s.until(
                lambda n=name, p=pane: sandbox(s.world, n).terminal.size == tuple(p.size),
                "for the pane's own size again",
            )


async def test_both_scroll_in_lock_step_as_far_as_either_goes() -> None:
    async with stage("aa", "bb") as s:
        s.world.difference = difference
        sandbox(s.world, "aa").terminal.type(b"seq 1 200\n")
        await s.until(lambda: "200" in s.screen_of("aa"))
        await s.press("D")
        await opened(s, "compare aa with")
        await s.press("enter")
        await opened(s, "one until")
        await s.press("pageup", "pageup", "up")
        back = twins(s).back
        assert back > 20
        await s.until(lambda: f"{back} rows back" in s.text())
        for _ in range(40):
            await s.press("pageup")
        most = twins(s).back
        await s.press("pageup")
        assert twins(s).back == most
        await s.press("pagedown")
        assert twins(s).back < most


async def test_sections_list_what_differs_and_a_failure_is_said() -> None:
    async with stage("aa", "bb") as s:
        s.world.difference = difference
        s.world.fail_next = BootError(ErrorCode.VM_CONTROL_FAILED, "bb is paused")
        await s.press("D", "enter")
        await opened(s, "VM_CONTROL_FAILED: bb is paused")
        await s.press("r")
        await opened(s, "files (2)")
        await s.press("2")
        await opened(s, "/root/[new]")
        await s.press("down", "enter")
        await opened(s, "-old /etc/hosts")
        assert "/etc/hosts   - aa   + bb" in s.text()
        await s.press("escape")
        await opened(s, "/root/[new]")
        s.world.fail_next = BootError(ErrorCode.VM_CONTROL_FAILED, "/root/[new] is gone")
        await s.press("up", "enter")
        await opened(s, "is gone")
        await s.press("right")
        await opened(s, "vi [notes]")
        await s.press("4")
        await opened(s, "TERM=xterm")
        await s.press("l")
        await opened(s, "256 pages")
        await s.press("q")
        await closed(s)
