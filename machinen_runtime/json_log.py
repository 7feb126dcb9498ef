"""Lines on stderr as JSON objects, for programs that collect logs: `MACHINEN_LOG_FORMAT=json`."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from vmm.crash_report import timestamp


def wants_json() -> bool:
    """Whether lines on stderr shall be objects."""
    return os.environ.get("MACHINEN_LOG_FORMAT") == "json"


def json_line(level: str, event: str, message: str, **fields: Any) -> str:
    """One line, without its end: time (UTC), level, event, pid, message, fields."""
    record = {
        "schema_version": 1,
        "time": timestamp(time.time()),
        "level": level,
        "event": event,
        "pid": os.getpid(),
        "message": message,
        "fields": fields,
    }
    return json.dumps(record, separators=(",", ":"))
