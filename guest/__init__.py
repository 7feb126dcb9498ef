"""The guest's half: static binaries that run inside every VM, and where the host finds them.

The C sources lie beside this file; `build_hook.py` compiles them into `bin/<arch>/` when the
package is built or installed.
"""

from __future__ import annotations

from pathlib import Path

GUEST_DIR = Path(__file__).parent


def guest_binary(name: str, arch: str) -> Path:
    """The compiled `name` (`init`, `agent`) for `arch` (`amd64`, `arm64`).

    Raises:
        FileNotFoundError: it was never compiled; the message says how to.
    """
    path = GUEST_DIR / "bin" / arch / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the guest binary {name} for {arch} is missing ({path}): run `make setup` "
            "in a checkout, or install the wheel built for this machine again"
        )
    return path
