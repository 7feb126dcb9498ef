"""What provision() starts from and what it may write: checked before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from machinen_runtime.assets import resolve_base_disk, resolve_base_rootfs
from machinen_runtime.errors import BootError, ErrorCode, ProvisionError
from machinen_runtime.image_config import ImageConfig
from machinen_runtime.oci_image import split_reference
from machinen_runtime.option_types import StrPath
from machinen_runtime.options import validate_env


def resolve_base(base: StrPath | None, cwd: StrPath | None) -> Path | None:
    """The image to boot; None: the installed base, whose disk is made already.

    Raises:
        ProvisionError: PROVISION_BASE_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID.
    """
    if base is not None:
        path = Path(cwd or Path.cwd(), base).absolute()
        found, _ = split_reference(path)
        return path if found.is_dir() or found != path else resolve_base_rootfs(path)
    tarball = resolve_base_rootfs()
    try:
        resolve_base_disk()
    except ProvisionError:
        return tarball  # a directory of release files without a disk: it is made from the tarball
    return None


def checked_out(out: StrPath, cwd: StrPath | None) -> Path:
    """`out` as an absolute path at which a file can be written.

    Raises:
        BootError: BOOT_OPTION_INVALID.
    """
    path = Path(cwd or Path.cwd(), out).absolute()
    problem = None
    if path.is_dir():
        problem = "is a directory; name a file, for instance image.tar.gz in it"
    elif not path.parent.is_dir():
        problem = "has no parent directory; make it first"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        problem = "cannot be written: you may not write to its directory"
    if problem:
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, f"{path} {problem}")
    return path


def checked_config(
    inherited: ImageConfig | None,
    *,
    cmd: Sequence[str] | None,
    env: Mapping[str, str],
    cwd: str | None,
) -> ImageConfig | None:
    """What to bake in: what is asked for over what the base has; None if there is nothing.

    Raises:
        BootError: BOOT_OPTION_INVALID for what no workload could be started with.
    """
    base = inherited or ImageConfig()
    wanted = {
        "cmd": list(cmd) if cmd is not None and not isinstance(cmd, str) else cmd,
        "env": {**base.env, **validate_env(env)},
        "cwd": cwd,
    }
    try:
        asked = ImageConfig.from_json(wanted)
    except ValueError as error:
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, f"cannot bake this in: {error}") from error
    config = ImageConfig(
        cmd=asked.cmd or base.cmd, env=asked.env, cwd=asked.cwd or base.cwd, user=base.user
    )
    return config if config.to_json() else None
