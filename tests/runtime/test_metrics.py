"""Figures as OpenMetrics: what Prometheus' own parser reads; the socket that serves them."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser

from machinen_runtime import metrics_server
from machinen_runtime.errors import ErrorCode, MetricsError
from machinen_runtime.metrics import SandboxMetrics, format_metrics, metrics_text, read_metrics
from machinen_runtime.metrics_server import MAX_HEAD_BYTES, listening, serve_metrics
from machinen_runtime.open_metrics import CONTENT_TYPE
from machinen_runtime.registry import register
from machinen_runtime.registry_entry import RegistryEntry
from vmm.records import SECONDS_BOUNDS, Histogram, OperationTotals, VmMetrics
from vmm.requests import STATES

FIGURES = VmMetrics(
    id="abcd",
    name="web",
    state="paused",
    started_at_ms=1_000_500,
    cpu_seconds={"qemu": 4.5, "monitor": 0.25},
    rss_bytes=300 << 20,
    pss_bytes=200 << 20,
    private_bytes=1,
    shared_bytes=2,
    returned_bytes=3,
    ceiling_bytes=1 << 40,
    cpus=2,
    disk_read_bytes=5,
    disk_written_bytes=6,
    disk_allocated_bytes=7,
    channel_sent_bytes=8,
    channel_received_bytes=9,
    forward_sent_bytes=10,
    forward_received_bytes=11,
    proxy_sent_bytes=12,
    proxy_received_bytes=13,
    open_streams=1,
    commands={"ok": 3, "failed": 1, "lost": 0},
    command_seconds=Histogram(counts=[0, 3, *[0] * 13, 1], sum_s=700.5),
    first_reply_seconds=Histogram(),
    operations={
        "boot": OperationTotals(done=1, last_ms=1500.0, last_phases={"agent": 1250.0}),
        "snapshot": OperationTotals(done=2, failed=1, last_paused_ms=40.0, size_bytes=99),
        "fork": OperationTotals(failed=1),
    },
    paused_seconds=12.5,
)


def samples(text: str) -> dict[str, list[Any]]:
    """Every sample by its name, as Prometheus reads it."""
    found: dict[str, list[Any]] = {}
    for family in cast("Any", parser).text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def value(text: str, name: str, **labels: str) -> float:
    matching = [each for each in samples(text)[name] if labels.items() <= each.labels.items()]
    assert len(matching) == 1, (name, labels, matching)
    return float(matching[0].value)


def one(name: str | None = "web", figures: VmMetrics | None = FIGURES) -> str:
    each = SandboxMetrics(pid=7, name=name, figures=figures)
    return format_metrics([each], read_s=0.5, now_s=2000.5)


def test_prometheus_reads_every_figure() -> None:
    text = one()
    assert text.endswith("\n# EOF\n")
    who = {"sandbox": "web", "pid": "7"}
    assert value(text, "machinen_sandboxes") == 1
    assert value(text, "machinen_sandbox_up", **who) == 1
    assert value(text, "machinen_sandbox_info", id="abcd", **who) == 1
    states = {
        each.labels["machinen_sandbox_state"]: each.value
        for each in samples(text)["machinen_sandbox_state"]
    }
    assert [state for state, is_it in states.items() if is_it] == ["paused"]
    assert list(states) == list(STATES)
    assert value(text, "machinen_sandbox_age_seconds") == 1000
    assert value(text, "machinen_sandbox_cpu_seconds_total", process="qemu") == 4.5
    assert value(text, "machinen_sandbox_memory_bytes", kind="proportional") == 200 << 20
    assert value(text, "machinen_sandbox_memory_limit_bytes") == 1 << 40
    assert value(text, "machinen_sandbox_disk_bytes_total", direction="written") == 6
    network = {"path": "proxy", "direction": "sent"}
    assert value(text, "machinen_sandbox_network_bytes_total", **network) == 12
    assert value(text, "machinen_sandbox_commands_total", ending="failed") == 1
    duration = "machinen_sandbox_command_duration_seconds"
    assert value(text, f"{duration}_count") == 4
    assert value(text, f"{duration}_sum") == 700.5
    assert value(text, f"{duration}_bucket", le=str(SECONDS_BOUNDS[1])) == 3
    assert value(text, f"{duration}_bucket", le="+Inf") == 4
    assert value(text, "machinen_sandbox_operation_last_seconds", operation="boot") == 1.5
    phase = {"operation": "boot", "phase": "agent"}
    assert value(text, "machinen_sandbox_operation_last_phase_seconds", **phase) == 1.25
    failed = {"operation": "fork", "outcome": "failed"}
    assert value(text, "machinen_sandbox_operations_total", **failed) == 1
    assert value(text, "machinen_sandbox_snapshot_last_pause_seconds") == 0.04
    assert value(text, "machinen_sandbox_snapshot_copied_bytes_total") == 99
    assert value(text, "machinen_sandbox_paused_seconds_total") == 12.5


def test_who_does_not_answer_is_reported_and_has_no_figures() -> None:
    text = one(None, None)
    assert value(text, "machinen_sandbox_up", sandbox="7") == 0
    assert "machinen_sandbox_info" not in samples(text)
    assert value(format_metrics([], read_s=0.0), "machinen_sandboxes") == 0


@given(
    st.text(st.characters(exclude_categories=())),
    st.text(),
    st.dictionaries(st.text(), st.floats(0, 1e9)),
)
def test_any_name_and_any_phase_survive_the_way(
    name: str, state: str, phases: dict[str, float]
) -> None:
    """Of names, whatever UTF-8 can say; a monitor's reply may hold any phases and states."""
    import dataclasses

    totals = {"boot": OperationTotals(done=1, last_phases=phases)}
    text = one(name, dataclasses.replace(FIGURES, state=state, operations=totals))
    shown = name.encode("utf-8", "replace").decode()
    assert {each.labels["sandbox"] for each in samples(text)["machinen_sandbox_up"]} == {
        shown or "7"
    }
    found = samples(text).get("machinen_sandbox_operation_last_phase_seconds", [])
    assert {each.labels["phase"] for each in found} == set(phases)


# -- monitors -------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACHINEN_REGISTRY_DIR", str(tmp_path / "vms"))
    return tmp_path


def entry_of(directory: Path, pid: int, name: str) -> RegistryEntry:
    directory.mkdir(exist_ok=True)
    return register(
        RegistryEntry(pid=pid, name=name, socket_path=str(directory / "vsock.sock"), started_at=1.0)
    )


@asynccontextmanager
async def monitor(directory: Path, reply: bytes | None) -> AsyncGenerator[None]:
    """Answers every request on control.sock with `reply`; None: says nothing."""

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            await client.receive()
            if reply is None:
                await anyio.sleep_forever()
            else:
                with suppress(anyio.BrokenResourceError):
                    await client.send(reply)

    async with (
        await anyio.create_unix_listener(str(directory / "control.sock")) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield
        tasks.cancel_scope.cancel()


async def test_a_monitor_that_hangs_lies_or_is_old_stops_nobody_elses_figures(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setattr("machinen_runtime.metrics.ANSWER_TIMEOUT_S", 0.3)
    good = json.dumps({"id": 1, "result": dataclasses.asdict(FIGURES)}).encode() + b"\n"
    old = b'{"id": 1, "error": {"code": "METHOD_UNKNOWN", "message": "no", "retryable": false}}\n'
    replies = [good, None, b'{"id": 1, "result": {"operations": 5}}\n', old]
    pids = [os.getpid(), os.getppid()]
    for pair in (replies[:2], replies[2:]):
        async with (
            monitor(make(registry / "a"), pair[0]),
            monitor(make(registry / "b"), pair[1]),
        ):
            for pid, name in zip(pids, ("a", "b"), strict=True):
                entry_of(registry / name, pid, f"{name}-{pid}")
            answered = {each.pid: each.figures is not None for each in await read_metrics()}
            assert answered == {pids[0]: pair[0] is good, pids[1]: False}
        for name in ("a", "b"):
            (registry / name / "control.sock").unlink()


def make(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


# -- the socket -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(path: Path) -> AsyncGenerator[None]:
    async with anyio.create_task_group() as tasks:
        await tasks.start(partial(serve_metrics, path))
        yield
        tasks.cancel_scope.cancel()


async def ask(path: Path, request: bytes) -> bytes:
    async with await anyio.connect_unix(str(path)) as client:
        with suppress(anyio.BrokenResourceError):
            await client.send(request)
        reply = b""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                reply += await client.receive()
    return reply


async def test_a_scrape_gets_the_figures_with_their_content_type(registry: Path) -> None:
    path = registry / "m.sock"
    async with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reply = await ask(path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Type: {CONTENT_TYPE}".encode() in head
        assert f"Content-Length: {len(body)}".encode() in head
        assert value(body.decode(), "machinen_sandboxes") == 0
        assert set(samples(await metrics_text())) == set(samples(body.decode()))
        only_head = await ask(path, b"HEAD /metrics?x=1 HTTP/1.0\n\n")
        assert only_head.endswith(b"\r\n\r\n")
        assert b"200 OK" in only_head
    assert not path.exists()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\xff\xfe\0\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"a" * MAX_HEAD_BYTES, b"400"),
    ],
)
async def test_nonsense_is_answered_and_the_next_client_is_served(
    registry: Path, request_bytes: bytes, status: bytes
) -> None:
    path = registry / "m.sock"
    async with serving(path):
        reply = await ask(path, request_bytes)
        assert reply == b"" or reply.split()[1] == status  # what was not read resets the connection
        assert reply or len(request_bytes) > MAX_HEAD_BYTES
        assert b"200 OK" in await ask(path, b"GET / HTTP/1.1\r\n\r\n")


async def test_clients_that_say_nothing_lose_their_connections_and_block_nobody(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(metrics_server, "CLIENTS_AT_ONCE", 2)
    path = registry / "m.sock"
    async with serving(path):
        silent = [await anyio.connect_unix(str(path)) for _ in range(4)]
        assert b"200 OK" in await ask(path, b"GET /metrics HTTP/1.1\r\n\r\n")
        for client in silent:
            await client.aclose()


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """A socket whose program was killed."""
    path = tmp_path / "old.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    return path


async def test_an_abandoned_socket_is_replaced(registry: Path, abandoned: Path) -> None:
    async with serving(abandoned):
        assert b"200 OK" in await ask(abandoned, b"GET /metrics HTTP/1.1\r\n\r\n")


@pytest.mark.provokes(ErrorCode.METRICS_SOCKET_IN_USE)
def test_a_socket_in_use_stays_with_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with listening(path):
        with pytest.raises(MetricsError) as caught, listening(path):
            pass
        assert caught.value.code is ErrorCode.METRICS_SOCKET_IN_USE
        assert path.exists()
    assert not path.exists()


def places(tmp_path: Path) -> Generator[Path]:
    (tmp_path / "file").write_text("mine")
    yield tmp_path / "file"
    yield tmp_path / "none" / "m.sock"
    yield tmp_path / "file" / "m.sock"
    yield tmp_path / ("m" * 120)
    yield tmp_path


@pytest.mark.provokes(ErrorCode.METRICS_SOCKET_INVALID)
def test_a_place_that_cannot_have_a_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    for place in places(tmp_path):
        with pytest.raises(MetricsError) as caught, listening(place):
            pass
        assert caught.value.code is ErrorCode.METRICS_SOCKET_INVALID
    assert (tmp_path / "file").read_text() == "mine"


def test_a_socket_that_was_replaced_is_not_ours_to_remove(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with listening(path):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"
