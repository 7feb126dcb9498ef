"""Lines on stderr for whoever debugs: `DEBUG=machinen:launch,machinen:exec`, or `machinen:*`.

Areas: boot (phases), launch (monitors), exec (commands). Values that may be secret, such as the
environment of a workload, are never part of a line.
"""

from __future__ import annotations

import os
import sys
import time
from fnmatch import fnmatchcase


def debug(area: str, text: str) -> None:
    """Write a line if `DEBUG` names this area; otherwise this costs a look into the environment."""
    wanted = os.environ.get("DEBUG")
    if not wanted:
        return
    name = f"machinen:{area}"
    if any(fnmatchcase(name, pattern.strip()) for pattern in wanted.split(",")):
        sys.stderr.write(_line(area, name, text) + "\n")
        sys.stderr.flush()


def _line(area: str, name: str, text: str) -> str:
    from machinen_runtime.json_log import json_line, wants_json

    if wants_json():
        return json_line("debug", area, text)
    return f"{time.strftime('%H:%M:%S')} {name} {text}"
