"""All facts about one sandbox or bundle, as rows of label and text. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from machinen_tui.figures import ceiling, mib, uptime
from machinen_tui.form_fields import address_of
from vmm.limits import describe_limits, describe_reached

if TYPE_CHECKING:
    from machinen_tui.gateway import SnapshotInfo
    from machinen_tui.roster import SandboxView
    from vmm.requests import StatsEvent, VmStatus

PAGE_BYTES = 4096
Row = tuple[str, str]


def sandbox_rows(view: SandboxView, status: VmStatus | None) -> list[Row]:
    """What is known of a sandbox; `status` is what its monitor says, if it answers."""
    rows = [("state", _state(view)), ("machine", _machine(view, status))]
    rows += [("image", view.entry.image_path or "the base")]
    if view.source_name or view.forked_from:
        source = view.source_name or "?"
        rows.append(("came from", f"{source}   {view.forked_from or ''}".rstrip()))
    rows += _memory_rows(view)
    rows += [("ports" if not at else "", text) for at, text in enumerate(_ports(view))]
    rows += [("mounts" if not at else "", text) for at, text in enumerate(_mounts(view))]
    if status is not None and status.phases:
        rows.append(("start", _phases(status.phases)))
    rows.append(("sockets", view.entry.socket_path))
    if view.entry.boot_log_path:
        rows.append(("boot log", view.entry.boot_log_path))
    return rows


def bundle_rows(info: SnapshotInfo, size_bytes: int | None, verdict: str) -> list[Row]:
    """What is known of a bundle; size and verdict come later than the rest."""
    rows = [
        ("where", str(info.path)),
        ("source", f"{info.name} (pid {info.source_pid})" if info.source_pid else info.name),
        ("label", _labelled(info)),
        ("taken", time.strftime("%A %d %B %Y, %H:%M:%S", time.localtime(info.taken_at_ms / 1000))),
        ("engine", f"{info.engine}, QEMU {info.qemu_version}" if info.qemu_version else
         info.engine),
        ("machine", info.machine),
        ("image", info.image or "the base"),
        ("copied in", info.mount),
        ("live mounts", info.live_mounts),
        ("on disk", mib(size_bytes) if size_bytes is not None else "…"),
        ("check", verdict or "…"),
    ]  # fmt: skip
    return [row for row in rows if row[1]]


def _labelled(info: SnapshotInfo) -> str:
    parts = (info.notes.label, info.notes.note, "pinned" if info.notes.pinned else "")
    return " · ".join(part for part in parts if part)


def _state(view: SandboxView) -> str:
    if view.gone:
        return view.shown_state
    age = uptime(time.time() - view.started_at_ms / 1000)
    return f"{view.state} · pid {view.pid} · up {age}"


def _machine(view: SandboxView, status: VmStatus | None) -> str:
    if status is None:
        return ceiling(view.ceiling_mib)
    how = "KVM" if status.accel == "kvm" else "emulated (TCG)"
    cpus = f"{status.cpus} cpu" + ("s" if status.cpus > 1 else "")
    hosts = f": {', '.join(status.allow_hosts)}" if status.allow_hosts else ""
    root = " · root in memory" if status.root_in_ram else ""
    return f"{cpus} · {ceiling(status.memory_mib)} · {how} · network {status.network}{hosts}{root}"


def _memory_rows(view: SandboxView) -> list[Row]:
    last = view.last
    if last is None:
        return []
    limit = last.ceiling_mib or view.ceiling_mib
    pending = last.lazy_pages_pending
    return [
        ("memory", f"{mib(last.rss_bytes)} resident of {ceiling(limit)}"),
        ("", f"{mib(last.private_bytes)} its own · {mib(last.shared_bytes)} shared"),
        ("", f"{mib(last.balloon_bytes)} given back by the balloon"),
        ("", f"{mib(pending * PAGE_BYTES)} ({pending} pages) of its snapshot not touched yet"),
        *_limit_rows(view, last),
    ]


def _limit_rows(view: SandboxView, last: StatsEvent) -> list[Row]:
    """What it may take of this machine, and how often it wanted more."""
    if view.entry.limits is None:
        return []
    limited = describe_limits(view.entry.limits.to_object())
    reached = describe_reached(last.throttled, last.memory_at_limit, last.oom_kills)
    return [("limits", limited), ("", f"reached {reached}")]


def _ports(view: SandboxView) -> list[str]:
    return [f"{address_of(each)} → {each.guest_port}" for each in view.ports] or ["none · P adds"]


def _mounts(view: SandboxView) -> list[str]:
    entry = view.entry
    rows = [f"{entry.mount_disk.guest}   a copy, with its own changes"] if entry.mount_disk else []
    rows += [f"{each.guest}   {each.host} ({each.mode}, live)" for each in entry.live_mounts]
    return rows or ["none"]


def _phases(phases: dict[str, float]) -> str:
    longest = sorted(phases.items(), key=lambda item: -item[1])[:4]
    total = sum(phases.values()) / 1000
    return f"{total:.2f} s: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in longest)
