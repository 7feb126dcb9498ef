"""pip for guests: this host's, with bytecode for the Python of the base.

The base has no pip, and compiling it takes a guest under TCG half a minute. So the base's own
interpreter compiles it here, out of the base's root and with the base's loader and libraries.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from machinen_runtime.assets import resolve_base_rootfs

INTERPRETER = ("*/bin/python3*", "*/lib/python3*", "*-linux-gnu/lib*.so*", "*/ld-linux*")


def put_pip(directory: Path, scratch: Path) -> None:
    """Make `directory`/pip; `scratch` is for the base's interpreter."""
    spec = find_spec("pip")
    assert spec is not None
    assert spec.origin is not None
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(spec.origin).parent, directory / "pip", ignore=ignored)
    unpack = ["tar", "-xf", resolve_base_rootfs(), "-C", scratch, "--wildcards", *INTERPRETER]
    subprocess.run(unpack, check=True)
    (loader,) = scratch.glob("usr/lib/*-linux-gnu/ld-linux-*")
    (python,) = scratch.glob("usr/bin/python3.*[0-9]")
    # The sources get other times on their way into a guest: the bytecode is not to look at them.
    compile_it = ["-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run(
        [loader, "--library-path", loader.parent, python, *compile_it, directory],
        env={**os.environ, "PYTHONHOME": str(scratch / "usr")},
        check=True,
    )
