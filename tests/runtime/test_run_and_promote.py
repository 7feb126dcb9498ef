"""One command in many VMs and promotions, as far as they go without a VM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machinen_runtime import run_many
from machinen_runtime.ancestry import Ancestor
from machinen_runtime.channel_exec import VsockExecResult
from machinen_runtime.errors import (
    BootError,
    ErrorCode,
    ExecError,
    RegistryError,
    SnapshotError,
)
from machinen_runtime.promote import PromotePlan, plan_promotion, promote
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.run_many import MAX_OUTPUT_BYTES, grouped, run_in_each
from tests.runtime.test_cli import machinen


def entry(pid: int, name: str, *line: Ancestor, disk: str | None = "/disk") -> RegistryEntry:
    return RegistryEntry(pid=pid, socket_path=f"/{name}", started_at=pid, name=name, ancestry=line,
                         disk_path=disk)  # fmt: skip


ROOT = Ancestor(pid=1, started_at=1, left_at=5, name="web")
WEB, TWO, THREE = entry(1, "web"), entry(2, "web-2", ROOT), entry(3, "web-3", ROOT)


async def test_a_command_runs_in_each_and_equal_outcomes_are_one_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(path: str, cmd: object, options: run_many.VsockExecOptions) -> VsockExecResult:
        assert options.on_stdout is not None
        if path == "/gone":
            raise ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, "nobody answers")
        flood = b"y" * (MAX_OUTPUT_BYTES + 5) if path == "/web-3" else b"same\n"
        options.on_stdout(flood)
        return VsockExecResult(exit_code=0, stdout="", stderr="")

    monkeypatch.setattr(run_many.VsockExec, "run", run)
    came: list[Any] = []
    targets = [THREE, WEB, entry(4, "gone"), TWO]
    outcomes = await run_in_each(targets, ["true"], on_done=came.append)
    assert [each.entry for each in outcomes] == targets
    assert len(came) == 4
    assert [group.names for group in grouped(outcomes)] == [["web", "web-2"], ["web-3"], ["gone"]]
    assert (len(outcomes[0].stdout), outcomes[0].is_cut) == (MAX_OUTPUT_BYTES, True)
    assert outcomes[2].error is not None
    assert outcomes[2].exit_code is None


def test_a_plan_keeps_every_relative_and_takes_the_familys_name() -> None:
    stranger = entry(9, "db")
    plan = plan_promotion(TWO, living=[WEB, TWO, THREE, stranger])
    assert plan.others == (WEB, THREE)
    assert plan.steps() == [
        "web is kept as a snapshot and ends",
        "web-3 is kept as a snapshot and ends",
        "web-2 is called web from then on",
    ]
    assert plan_promotion(TWO, living=[TWO]).name == "web"
    assert plan_promotion(WEB, living=[WEB, TWO]).steps() == [
        "web-2 is kept as a snapshot and ends"
    ]


@pytest.mark.parametrize(
    ("living", "name", "code"),
    [
        ([entry(9, "db")], None, ErrorCode.BOOT_OPTION_INVALID),
        ([TWO, entry(9, "db")], "db", ErrorCode.REGISTRY_NAME_IN_USE),
        ([TWO], "no name", ErrorCode.REGISTRY_NAME_INVALID),
        ([TWO, entry(3, "web-3", ROOT, disk=None)], None, ErrorCode.SNAPSHOT_NO_DISK),
    ],
)
def test_what_cannot_be_promoted_is_refused_first(
    living: list[RegistryEntry], name: str | None, code: ErrorCode
) -> None:
    with pytest.raises((BootError, RegistryError, SnapshotError)) as caught:
        plan_promotion(living[0], name, living=living)
    assert caught.value.code is code


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_wants_sandboxes_and_a_command(machinen_home: object) -> None:
    for words in (["each"], ["each", "a"], ["each", "--all", "a", "--", "true"]):
        done = await machinen(*words)
        assert done.returncode == 2
    assert (await machinen("each", "--all", "--", "true")).returncode == 0
    missing = await machinen("each", "nobody", "--", "true")
    assert b"REGISTRY_VM_NOT_FOUND" in missing.stderr


async def test_who_has_ended_already_is_named_whatever_stops_a_promotion(
    monkeypatch: pytest.MonkeyPatch, machinen_home: Path
) -> None:
    async def keep(each: RegistryEntry, _plan: PromotePlan) -> Path:
        if each is THREE:
            raise BootError(ErrorCode.VM_DIED, "it is gone")
        return Path("/kept/web")

    async def is_running(*_: object) -> None: ...

    monkeypatch.setitem(promote.__globals__, "_keep", keep)
    monkeypatch.setitem(promote.__globals__, "_require_running", is_running)
    plan = plan_promotion(TWO, living=[WEB, TWO, THREE])
    with pytest.raises(BootError, match=r"web-3 could not be kept .* is in /kept/web"):
        await promote(plan)
