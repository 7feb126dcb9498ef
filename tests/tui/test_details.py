"""The rows of a sandbox's details about its limits. No screen."""

from __future__ import annotations

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.details import sandbox_rows
from machinen_tui.roster import SandboxView
from vmm.limits import Limits
from vmm.requests import StatsEvent


def view(limits: Limits | None) -> SandboxView:
    entry = RegistryEntry(pid=1, socket_path="", started_at=1, name="web", limits=limits)
    made = SandboxView.from_entry(entry)
    made.samples.append(
        StatsEvent(time_ms=1, cpu_percent=1, rss_bytes=1, pss_bytes=1, private_bytes=1,
                   shared_bytes=1, balloon_bytes=0, ceiling_mib=512, lazy_pages_pending=0,
                   last_output_ms=0, throttled=7, memory_at_limit=2)
    )  # fmt: skip
    return made


def test_limits_are_shown_with_how_often_they_were_reached() -> None:
    rows = sandbox_rows(view(Limits(cpus=0.5, memory_bytes=2 << 30, io_bytes_per_s=50 << 20)), None)
    at = rows.index(("limits", "0.5 cpus · 2G memory · 50M/s disks"))
    assert rows[at + 1] == ("", "reached 7 times the processor, 2 times the memory")


def test_without_limits_there_are_no_such_rows() -> None:
    assert not [row for row in sandbox_rows(view(None), None) if "limits" in row[0]]
