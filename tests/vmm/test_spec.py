"""Specs survive the file they travel in; what is no spec is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.specs import make_spec, restored
from vmm.errors import VmmError
from vmm.phases import PhaseClock
from vmm.spec import ForwardSpec, WorkloadSpec, parse_spec
from vmm.workload import workload_request


def test_a_spec_comes_back_as_it_was_written(tmp_path: Path) -> None:
    spec = replace(
        restored(make_spec(tmp_path), tmp_path),
        workload=WorkloadSpec(cmd=["sh", "-c", "é\n"], env={"A": "1"}, cwd="/srv"),
        port_forward=[ForwardSpec(host_port=8080, guest_port=80)],
        status_fd=3,
    )
    assert parse_spec(spec.to_json().encode()) == spec


def broken(tmp_path: Path, **changes: Any) -> str:
    return json.dumps({**json.loads(make_spec(tmp_path).to_json()), **changes})


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"7", b"null", b'"text"', b"{}", b"\xff", b"[" * 100_000]
)
def test_what_is_no_spec_is_refused(text: bytes) -> None:
    with pytest.raises(VmmError, match="VM spec") as caught:
        parse_spec(text)
    assert caught.value.code == "SPEC_INVALID"


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"machine": {}},
        {"machine": None},
        {"disk": {"base": "/base"}},
        {"port_forward": [{"host_port": 1}]},
        {"port_forward": 5},
        {"workload": {"command": []}},
        {"restore": "bundle"},
    ],
)
def test_a_spec_with_a_part_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(VmmError) as caught:
        parse_spec(broken(tmp_path, **changes).encode())
    assert caught.value.code == "SPEC_INVALID"


# -- the workload ---------------------------------------------------------------------------------


def records(request: bytes) -> list[bytes]:
    """The fields of a RUN request whose announced size is right."""
    header, _, body = request.partition(b"\n")
    assert header == b"RUN %d" % len(body)
    assert body.endswith(b"\0")
    return body[:-1].split(b"\0")


def test_a_workload_is_session_main_with_its_arguments_apart() -> None:
    workload = WorkloadSpec(cmd=["sh", "-c", "echo a=b\n"], env={"K": "é=1"}, cwd="/srv")
    assert records(workload_request(workload)) == [
        *(b"session=main", b"workload=1", b"pty=80x24"),
        *(b"arg=sh", b"arg=-c", b"arg=echo a=b\n"),
        *("env=K=é=1".encode(), b"cwd=/srv"),
    ]


def test_an_empty_workload_is_a_login_shell() -> None:
    assert b"login=1" in records(workload_request(WorkloadSpec()))


# -- phases ---------------------------------------------------------------------------------------


def test_phases_come_in_the_order_they_ended_and_add_up() -> None:
    clock = PhaseClock()
    for name in ("spawn", "imports", "spawn"):
        clock.mark(name)
    assert [*clock.phases] == ["spawn", "imports"]
    assert all(elapsed >= 0 for elapsed in clock.phases.values())
    assert sum(clock.phases.values()) <= clock.total_ms + 0.1
