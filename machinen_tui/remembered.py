"""What the application keeps between two runs: `~/.machinen/tui.json`, mode 0600.

The last answers of the boot dialog but its name and environment, where else bundles lie, and the
image built last. Nothing that was typed as a secret ever comes here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from machinen_runtime.paths import ensure_private_dir, write_atomically

FILE_NAME = "tui.json"
SESSION_FILE = "tui-session.json"
"""Layout, selection and marks, see `resume`: written whenever they change."""
MAX_BYTES = 64 * 1024
NEVER_KEPT = frozenset({"name", "env"})
"""Of the boot dialog: a name is used once, an environment may hold what nobody should read."""


def read(home: Path, file_name: str = FILE_NAME) -> dict[str, Any]:
    """What was kept; empty if nothing was or somebody damaged it."""
    try:
        with open(home / file_name, "rb") as file:
            raw: object = json.loads(file.read(MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}


def write(home: Path, values: Mapping[str, Any], file_name: str = FILE_NAME) -> None:
    """Keep `values`. A disk that takes nothing only means that nothing is remembered."""
    try:
        write_atomically(ensure_private_dir(home) / file_name, json.dumps(values, indent=1))
    except OSError:
        return


def texts(value: object) -> dict[str, str]:
    """The texts of an object that was kept; whatever else it holds is dropped."""
    items = cast("dict[Any, Any]", value).items() if isinstance(value, dict) else ()
    return {k: v for k, v in items if isinstance(k, str) and isinstance(v, str)}


def paths(value: object) -> list[Path]:
    """The absolute paths of a list that was kept."""
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [Path(item) for item in items if isinstance(item, str) and item.startswith("/")]
