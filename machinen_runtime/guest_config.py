"""machinen-config.json as a boot hands it to the guest's init."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from machinen_runtime.option_types import LiveMount

LIVE_MOUNT_PORT = 1977
"""The channel's port of live mounts, docs/protocol.md 2."""


def build_machinen_config(
    *,
    cmd: Sequence[str],
    env: Mapping[str, str],
    live_mounts: Sequence[LiveMount],
    guest_cwd: str | None = None,
    image_cwd: str | None = None,
) -> dict[str, Any]:
    """The object of a machinen-config.json. Pure: nothing is checked or merged.

    Keys: `cmd`, `env`; `cwd` if there is one, the caller's before the image's; `liveMounts` if
    there are some, with guest path and port alone: where they lie on the host is none of the
    guest's business.
    """
    config: dict[str, Any] = {"cmd": list(cmd), "env": dict(env)}
    cwd = guest_cwd or image_cwd
    if cwd:
        config["cwd"] = cwd
    if live_mounts:
        config["liveMounts"] = [
            {"guest": mount.guest, "port": LIVE_MOUNT_PORT} for mount in live_mounts
        ]
    return config
