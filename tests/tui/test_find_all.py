"""Searching every pane: turns are fair, batches are bounded, nothing is found twice."""

from __future__ import annotations

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.find_all import MAX_HITS_PER_PANE, Hit, find_all
from machinen_tui.pane_search import compiled
from machinen_tui.roster import SandboxView
from machinen_tui.session import PaneSession


def view(name: str, text: str) -> SandboxView:
    made = SandboxView.from_entry(RegistryEntry(pid=1, socket_path="", started_at=1, name=name))
    made.session = PaneSession(lambda session: None)
    made.session.model.feed(text.replace("\n", "\r\n").encode())
    return made


async def found(views: list[SandboxView], pattern: str) -> list[Hit]:
    return [hit async for batch in find_all(views, compiled(pattern)) for hit in batch]


async def test_each_line_is_one_hit_and_the_newest_of_every_pane_come_first() -> None:
    lines = "\n".join(f"line {n} hit hit" for n in range(2000))
    hits = await found([view("a", lines), view("b", "x hit"), view("c", "nothing")], "hit")
    assert [hit.view.name for hit in hits].count("a") == MAX_HITS_PER_PANE
    assert [hit.view.name for hit in hits].index("b") <= 40
    of_a = [hit.match.line for hit in hits if hit.view.name == "a"]
    assert of_a == sorted(set(of_a), reverse=True)
    assert hits[0].match.text == "line 1999 hit hit"


async def test_a_pane_without_a_terminal_is_passed_over() -> None:
    bare = SandboxView.from_entry(RegistryEntry(pid=2, socket_path="", started_at=1, name="n"))
    assert await found([bare, view("a", "one")], "one") != []
    assert await found([bare], "one") == []
