"""`machinen bundles check`: can these snapshots still be trusted, and restored on this host?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import VerbGroup, json_option, print_json, progress
from machinen_runtime.errors import MachinenError

if TYPE_CHECKING:
    from machinen_runtime.bundle_check import BundleReport


@click.group("bundles", cls=VerbGroup, no_args_is_help=False, short_help="Check snapshots on disk.")
def bundles_command() -> None:
    """Look after snapshots on disk.

    \b
    Example:
      machinen bundles check ./warm
    """


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
