"""Put what is compiled into the package when hatchling builds it: guest binaries, QEMU's shim.

For wheels and editable installs alike it is compiled into `guest/bin/<arch>/`, where
`guest.guest_binary()` finds it, and `vmm/bin/<arch>/` (vmm/ram_shim.py). The wheel is tagged for
Linux on this architecture: nothing in it links a library, so neither Python nor libc matter.
"""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuestBuildHook(BuildHookInterface[Any]):
    """hatchling's entry point; found by being the one hook class in this file."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, then tell hatchling what to pack; `version` is `standard` or `editable`."""
        if self.target_name != "wheel":
            return  # a source distribution carries the sources
        guest_dir = Path(self.root) / "guest"
        # By path: a build does not have the project it builds on sys.path.
        build_guest = runpy.run_path(str(guest_dir / "build_guest.py"))
        bin_dir: Path = build_guest["compile_guest"](guest_dir)
        vmm_dir = Path(self.root) / "vmm"
        shim: Path = runpy.run_path(str(vmm_dir / "build_shim.py"))["compile_shim"](vmm_dir)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        if version != "editable":
            for built in (*(bin_dir / name for name in build_guest["BINARIES"]), shim):
                inside = str(built.relative_to(self.root))
                build_data["force_include"][str(built)] = inside
