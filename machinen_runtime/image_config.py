"""What an image says about itself: `./machinen-config.json` in its tarball, read once and cached.

Finding one file in a gzip tarball means unpacking up to all of it, so the answer, also "there is
none", is kept in `~/.cache/machinen/image-config/<basename>-<size>-<mtime in ms>.json` as
`{"config": …, "sum": …}` with a checksum of the config. Unknown keys are ignored.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically
from vmm.confined_tool import Confines, complaint_of, run_confined

_MEMBERS = ("./machinen-config.json", "machinen-config.json")
_MAX_CONFIG_BYTES = 1 << 20
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}\$?"
_USER = re.compile(rf"{_NAME}(:{_NAME})?")
"""Names as useradd(8) allows them, or numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Defaults for a VM booted from an image; whatever the caller gives wins."""

    cmd: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    user: str | None = None
    """Who the workload runs as: `user`, `uid`, either with `:group`. None: root. Ours."""

    @classmethod
    def from_json(cls, value: object) -> ImageConfig:
        """Check a decoded machinen-config.json. Raises ValueError with what is wrong."""
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        config = cast("dict[str, Any]", value)
        cmd, env, cwd = config.get("cmd"), config.get("env", {}), config.get("cwd")
        if cmd is not None and not (_is_text_list(cmd) and cmd):
            raise ValueError("cmd must be a list of strings with at least one")
        if not (isinstance(env, dict) and _is_text_list([*env.keys(), *env.values()])):  # pyright: ignore
            raise ValueError("env must map strings to strings")
        if cwd is not None and not (isinstance(cwd, str) and cwd.startswith("/")):
            raise ValueError("cwd must be an absolute path")
        user = config.get("user")
        if user is not None and not (isinstance(user, str) and _USER.fullmatch(user)):
            raise ValueError("user must be a name or number, which `:` and a group may follow")
        texts = cast("list[str]", [*(cmd or []), *env, *env.values(), cwd or ""])
        if any("\0" in text for text in texts):
            raise ValueError("it contains a NUL")
        return cls(
            cmd=tuple(cmd) if cmd else None,
            env=cast("dict[str, str]", env),
            cwd=cwd,
            user=user,
        )

    def to_json(self) -> dict[str, Any]:
        """The object as it stands in machinen-config.json; what is unset is left out."""
        fields = {
            "cmd": list(self.cmd) if self.cmd else None,
            "env": dict(self.env),
            "cwd": self.cwd,
            "user": self.user,
        }
        return {key: value for key, value in fields.items() if value}


def read_image_config(image_path: str | Path) -> ImageConfig | None:
    """The config baked into the tarball or container image, or None if it has none.

    Raises:
        BootError: BOOT_IMAGE_NOT_FOUND, or BOOT_PACK_FAILED if the tarball cannot be read or its
            config is not valid.
    """
    from machinen_runtime.oci_image import read_oci_image  # it speaks of ImageConfig itself

    image = Path(image_path)
    container = read_oci_image(image)
    if container is not None:
        return container.config
    try:
        cache_file = _cache_file(image)
    except OSError as error:
        raise BootError(
            ErrorCode.BOOT_IMAGE_NOT_FOUND, f"there is no image at {image}: check the path"
        ) from error
    try:
        note = json.loads(cache_file.read_text(encoding="utf-8"))
        cached = note["config"]
        if note["sum"] != _sum_of(cached):
            raise ValueError("it was damaged")
        return None if cached is None else ImageConfig.from_json(cached)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        config = _read_from_tarball(image)
    warm_image_config_cache(image, config)
    return config


def warm_image_config_cache(image_path: str | Path, config: ImageConfig | None) -> None:
    """Remember the config of a tarball just written. A cache that cannot be written is no error."""
    with suppress(OSError):
        cache_file = _cache_file(Path(image_path))
        ensure_private_dir(cache_file.parent)
        raw = config.to_json() if config else None
        write_atomically(cache_file, json.dumps({"config": raw, "sum": _sum_of(raw)}))


def _sum_of(config: object) -> str:
    """The checksum of a config: BLAKE2b of its JSON, sorted and compact."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _cache_file(image: Path) -> Path:
    info = image.stat()
    name = f"{image.name}-{info.st_size}-{info.st_mtime_ns // 1_000_000}.json"
    return cache_root() / "image-config" / name


def _read_from_tarball(image: Path) -> ImageConfig | None:
    for member in _MEMBERS:
        text = _read_member(image, member)
        if text is not None:
            break
    else:
        return None
    try:
        return ImageConfig.from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise BootError(
            ErrorCode.BOOT_PACK_FAILED, f"machinen-config.json in {image} is not valid: {error}"
        ) from error


def _read_member(image: Path, member: str) -> bytes | None:
    """The contents of one member, by tar(1), which knows all compressions; None if absent."""
    # --occurrence stops at the first match instead of unpacking the rest.
    argv = ["tar", "--extract", "--to-stdout", "--occurrence=1", "--file", str(image), member]
    try:
        confines = Confines(wanted=confinement_wanted(), reads=[image])
        return run_confined(argv, confines).stdout[:_MAX_CONFIG_BYTES]
    except subprocess.CalledProcessError as error:
        complaint = complaint_of(error)
    first_line = complaint.partition("\n")[0]
    if first_line.endswith(f"{member}: Not found in archive"):
        return None
    raise BootError(ErrorCode.BOOT_PACK_FAILED, f"{image} is no tarball we can read: {complaint}")


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, str) for item in cast("list[Any]", value)
    )
