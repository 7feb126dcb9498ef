"""When a copy runs on."""

from __future__ import annotations

from typing import Any, cast

import pytest

from vmm.device_state import run_on
from vmm.machine import CHANNEL_CHARDEV
from vmm.qmp import Qmp


class Connecting:
    """A QMP whose QEMU accepts the channel's client after some commands."""

    def __init__(self, after: int) -> None:
        self.asked: list[str] = []
        self._after = after

    async def execute(self, command: str) -> list[dict[str, Any]]:
        self.asked.append(command)
        away = "disconnected:" if len(self.asked) <= self._after else ""
        return [
            {"label": "console0", "filename": "disconnected:unix:/console"},
            {"label": CHANNEL_CHARDEV, "filename": f"{away}unix:/channel,server=on"},
        ]


@pytest.mark.parametrize("after", [0, 3])
async def test_a_copy_runs_on_when_the_channel_is_connected(after: int) -> None:
    qmp = Connecting(after)
    await run_on(cast("Qmp", qmp))
    assert qmp.asked == [*["query-chardev"] * (after + 1), "cont"]
