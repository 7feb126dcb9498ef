"""Names that are chosen for sandboxes: two that are made at once never get the same one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from machinen_tui.gateway import Sandbox
from machinen_tui.runtime_gateway import RuntimeGateway
from machinen_tui.wanted import WantedFork


class Source:
    """A sandbox whose forks take until `go`; `names` are those they were asked to have."""

    name = "web"

    def __init__(self) -> None:
        self.names: list[str] = []
        self.go = anyio.Event()
        self.fails = False

    async def fork_many(self, count: int, *, name: str, **options: Any) -> list[Any]:
        self.names.append(name)
        await self.go.wait()
        if self.fails:
            raise RuntimeError("no")
        return [SimpleNamespace(forked_by=None)] * count


async def test_forks_under_way_at_once_get_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_REGISTRY_DIR", str(tmp_path))
    gateway, source = RuntimeGateway(tmp_path / "snapshots"), Source()

    async def fork(count: int, name: str = "") -> None:
        wanted = WantedFork(name=name, count=count)
        await gateway.fork(cast("Sandbox", source), wanted, lambda text: None)

    async with anyio.create_task_group() as tasks:
        for count in (1, 1, 2, 2):
            tasks.start_soon(fork, count)
        tasks.start_soon(fork, 1, "mine")
        await anyio.wait_all_tasks_blocked()
        source.go.set()
    assert source.names[:2] == ["web", "web-2"]
    assert source.names[2:] == ["web-2", "web-3", "mine"]  # web-2-1, web-2-2, web-3-1, …
    source.fails = True
    for _ in range(2):  # what failed holds no name
        with pytest.raises(RuntimeError):
            await fork(1)
    assert source.names[-2:] == ["web", "web"]
