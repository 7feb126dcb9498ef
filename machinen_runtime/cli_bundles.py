"""`machinen bundles`: which snapshots there are, what people say about them, whether they can still
be trusted and restored on this host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    VerbGroup,
    format_bytes,
    json_option,
    print_json,
    print_table,
    progress,
)
from machinen_runtime.errors import MachinenError

if TYPE_CHECKING:
    from machinen_runtime.bundle_check import BundleReport
    from machinen_runtime.shelf import KeptSnapshot


@click.group("bundles", cls=VerbGroup, no_args_is_help=False, short_help="Look after snapshots.")
def bundles_command() -> None:
    """Look after snapshots on disk: list, label, pin, check and remove them.

    \b
    Examples:
      machinen bundles ls
      machinen bundles pin web-20260102-101500
      machinen bundles check ./warm
    """


@bundles_command.command("ls")
@click.argument("directories", metavar="[DIR]...", nargs=-1)
@json_option
def bundles_ls_command(directories: Sequence[str], as_json: bool) -> None:
    """List snapshots, oldest first: those below ~/.machinen/snapshots, or those that DIRs are or
    hold.

    PIN is + for those that are pinned, and a for those that `rewind` made by itself.

    \b
    Examples:
      machinen bundles ls
      machinen bundles ls --json | jq -r '.snapshots[] | select(.pinned).snap_dir'
    """
    from machinen_runtime.shelf import kept_snapshots, readable_roots

    kept = kept_snapshots(readable_roots(directories))
    if as_json:
        print_json({"snapshots": [_kept_as_object(each) for each in kept]})
    elif not kept:
        click.echo("(no snapshots)")
    else:
        header = ["NAME", "SOURCE", "TAKEN", "ENGINE", "SIZE", "PIN", "LABEL"]
        print_table(header, [_kept_as_row(each) for each in kept])


@bundles_command.command("label")
@click.argument("snapshot", metavar="SNAPSHOT")
@click.argument("text", metavar="[TEXT]", default="")
@json_option
def bundles_label_command(snapshot: str, text: str, as_json: bool) -> None:
    """Give a snapshot a label of a few words; no TEXT takes it away. It lies in the snapshot.

    \b
    Example:
      machinen bundles label ./warm 'before the upgrade'
    """
    _change(snapshot, as_json, label=text.strip())


@bundles_command.command("note")
@click.argument("snapshot", metavar="SNAPSHOT")
@click.argument("text", metavar="[TEXT]", default="")
@json_option
def bundles_note_command(snapshot: str, text: str, as_json: bool) -> None:
    """Write a line about a snapshot; no TEXT takes it away. It lies in the snapshot.

    \b
    Example:
      machinen bundles note ./warm 'tests pass, caches warm'
    """
    _change(snapshot, as_json, note=text.strip())


@bundles_command.command("pin")
@click.argument("snapshot", metavar="SNAPSHOT")
@json_option
def bundles_pin_command(snapshot: str, as_json: bool) -> None:
    """Pin a snapshot: nothing removes it by itself, and `bundles rm` wants --force.

    \b
    Example:
      machinen bundles pin ./warm
    """
    _change(snapshot, as_json, pinned=True)


@bundles_command.command("unpin")
@click.argument("snapshot", metavar="SNAPSHOT")
@json_option
def bundles_unpin_command(snapshot: str, as_json: bool) -> None:
    """Take the pin away.

    \b
    Example:
      machinen bundles unpin ./warm
    """
    _change(snapshot, as_json, pinned=False)


@bundles_command.command("rm")
@click.argument("snapshots", metavar="SNAPSHOT...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Remove pinned ones, too.")
@json_option
def bundles_rm_command(snapshots: Sequence[str], force: bool, as_json: bool) -> None:
    """Remove snapshots for good. If one of them is pinned, none is removed.

    \b
    Example:
      machinen bundles rm ./warm
    """
    from machinen_runtime.shelf import delete_snapshot, find_snapshot, require_unpinned

    paths = [find_snapshot(each) for each in snapshots]
    if not force:
        require_unpinned(paths)
    for path in paths:
        delete_snapshot(path, force=force)
    if as_json:
        print_json({"removed": [str(path) for path in paths]})


def _change(snapshot: str, as_json: bool, **changes: Any) -> None:
    from machinen_runtime.bundle_notes import change_notes
    from machinen_runtime.shelf import find_snapshot

    path = find_snapshot(snapshot)
    notes = change_notes(path, **changes)
    if as_json:
        shown = {"label": notes.label, "note": notes.note, "pinned": notes.pinned}
        print_json({"snap_dir": str(path), **shown})


def _kept_as_row(kept: KeptSnapshot) -> list[str]:
    from machinen_runtime.shelf import disk_bytes

    notes = kept.notes
    return [
        kept.path.name,
        kept.name,
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.taken_at_ms / 1000)),
        kept.engine,
        format_bytes(disk_bytes(kept.path)),
        "+" if notes.pinned else "a" if notes.automatic else "-",
        notes.label or "-",
    ]


def _kept_as_object(kept: KeptSnapshot) -> dict[str, Any]:
    from machinen_runtime.shelf import disk_bytes

    return {
        "snap_dir": str(kept.path),
        "source_name": kept.name,
        "taken_at": kept.taken_at_ms,
        "engine": kept.engine,
        "disk_bytes": disk_bytes(kept.path),
        "label": kept.notes.label,
        "note": kept.notes.note,
        "pinned": kept.notes.pinned,
        "automatic": kept.notes.automatic,
    }


@bundles_command.command("check")
@click.argument("directories", metavar="DIR...", nargs=-1, required=True)
@json_option
def bundles_check_command(directories: Sequence[str], as_json: bool) -> int:
    """Read each snapshot whole: is it what its checksums say, and is its base disk on this host?

    Exits with 1 if one of them cannot be restored here. A snapshot of engine criu can do without
    its own base disk: give `restore` an --image.

    \b
    Examples:
      machinen bundles check ./warm
      machinen bundles check --json ./snapshots/* | jq -r '.results[] | select(.ok | not).snap_dir'
    """
    with progress("reading"):
        results = [_check(Path(directory)) for directory in directories]
    if as_json:
        print_json({"ok": all(each["ok"] for each in results), "results": results})
    else:
        for each in results:
            _print(each)
    return 0 if all(each["ok"] for each in results) else 1


def _check(bundle: Path) -> dict[str, Any]:
    from machinen_runtime.base_disks import missing_base_disk
    from machinen_runtime.bundle_check import check_bundle

    bundle = bundle.absolute()
    try:
        report = check_bundle(bundle)
    except MachinenError as error:
        return _as_object(bundle, None, error)
    meta = report.meta
    missing = None
    if report.base_disk is None and meta.engine == "vmstate":
        missing = missing_base_disk(
            bundle,
            Path(meta.base_disk),
            meta.base_disk_bytes,
            meta.base_disk_sum,
            meta.source_image,
        )
    return _as_object(bundle, report, missing)


def _as_object(
    bundle: Path, report: BundleReport | None, error: MachinenError | None
) -> dict[str, Any]:
    meta = report.meta if report is not None else None
    return {
        "snap_dir": str(bundle),
        "ok": error is None,
        "code": str(error.code) if error is not None else None,
        "message": str(error) if error is not None else None,
        "engine": meta.engine if meta is not None else None,
        "format": meta.format if meta is not None else None,
        "machinen_version": meta.machinen or None if meta is not None else None,
        "qemu_version": meta.qemu_version or None if meta is not None else None,
        "source_name": meta.source_name if meta is not None else None,
        "files": len(meta.files) if meta is not None else None,
        "size_bytes": sum(meta.files.values()) if meta is not None else None,
        "base_disk": str(report.base_disk) if report is not None and report.base_disk else None,
        "elapsed_ms": report.elapsed_ms if report is not None else None,
    }


def _print(result: dict[str, Any]) -> None:
    if not result["ok"]:
        click.echo(f"{result['snap_dir']}: ({result['code']}) {result['message']}")
        return
    facts = [f"engine {result['engine']}"]
    if result["machinen_version"]:
        facts.append(f"machinen {result['machinen_version']}")
    if result["qemu_version"]:
        facts.append(f"QEMU {result['qemu_version']}")
    facts.append(f"{result['files']} files")
    base = result["base_disk"] or "none on this host: restore it with --image"
    click.echo(f"{result['snap_dir']}: ok, {', '.join(facts)}; base disk {base}")
