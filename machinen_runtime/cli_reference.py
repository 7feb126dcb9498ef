"""What the command line promises beside its verbs: exit codes, variables, the shapes of its JSON.

`machinen agent-context` and the manual print it, tests hold it against what the verbs do. A shape
is JSON whose leaves name types: `integer`, `number`, `string`, `boolean`, `object`, with `|null`
where the value may be missing. A list has one element, the shape of each.
"""

from __future__ import annotations

from typing import Any, cast

EXIT_CODES = {
    0: "done",
    1: "failed; stderr says why, with a stable code in parentheses",
    2: "the command line was not understood; nothing was done",
    130: "interrupted by Ctrl-C (SIGINT)",
    143: "ended by SIGTERM",
}
COMMAND_EXIT_VERBS = ("exec", "repl", "attach", "boot", "restore", "fork")
"""These pass on the exit code of the command they ran or showed; 128 + n if signal n killed it."""

VARIABLES = {
    "MACHINEN_HOME": "everything lasting: registry, disks, bases, logs; ~/.machinen",
    "MACHINEN_REGISTRY_DIR": "the registry of live sandboxes; ~/.machinen/vms",
    "MACHINEN_STATE_DIR": "disks, console logs and stats of live sandboxes; ~/.machinen/machines",
    "MACHINEN_ASSETS_DIR": "kernel, modules and base root; ~/.machinen/bases/<release>-<arch>",
    "MACHINEN_DETACHED_LOG_DIR": "boot logs of detached sandboxes; ~/.machinen/logs",
    "MACHINEN_SNAPSHOTS_DIR": "snapshots nobody named a place for; ~/.machinen/snapshots",
    "MACHINEN_CRASHES_DIR": "reports of sandboxes that ended unexpectedly; ~/.machinen/crashes",
    "MACHINEN_CACHE_DIR": "what can be made again; ~/.cache/machinen",
    "MACHINEN_RUNTIME_DIR": "sockets, so keep it short; $XDG_RUNTIME_DIR/machinen",
    "MACHINEN_TEMPLATES_MAX_MIB": "how much the templates of warm boots may take; 4096",
    "MACHINEN_STANDBY": "how many machines of a kind wait for the next boot; 1, 0: none",
    "MACHINEN_ACCEL": "kvm or tcg, instead of what was found to work",
    "MACHINEN_CONFINE": "off: leave QEMU and monitors all rights of the user, to debug them",
    "MACHINEN_GIVE_BACK": "off: forks and warm boots keep the memory their guests free",
    "MACHINEN_CGROUP": "the control group to make those of limited sandboxes in",
    "MACHINEN_QEMU": "the QEMU to use instead of the one in PATH",
    "MACHINEN_PASST": "the passt to use instead of the one in PATH",
    "MACHINEN_MKE2FS": "the mke2fs to use instead of the one in PATH",
    "MACHINEN_MKSQUASHFS": "the mksquashfs to use instead of the one in PATH",
    "MACHINEN_DEBIAN_MIRROR": "where `machinen install` gets Debian from",
    "MACHINEN_DEBIAN_SECURITY_MIRROR": "where `machinen install` gets Debian's security updates",
    "MACHINEN_LOG_FORMAT": "json: errors and debug lines on stderr as JSON objects; text",
    "NO_COLOR": "if set and not empty, nothing is coloured",
}
"""Variables of the caller's environment, what each moves or changes, and the default."""

_FORWARD = {"hostPort": "integer", "guestPort": "integer", "hostAddr": "string"}
_PHASES = "object"
_STARTED = {"pid": "integer", "name": "string|null", "detached": "boolean", "phases": _PHASES}
_STATUS = {
    "id": "string",
    "name": "string|null",
    "state": "string",
    "pid": "integer",
    "qemu_pid": "integer",
    "started_at_ms": "integer",
    "accel": "string",
    "memory_mib": "integer",
    "cpus": "integer",
    "network": "string",
    "agent_ready": "boolean",
    "restored": "boolean",
    "port_forward": ["object"],
    "phases": _PHASES,
    "allow_hosts": ["string"],
    "origin": "object",
    "root_in_ram": "boolean",
    "warm": "boolean",
    "limits": "object",
    "auto_pause_ms": "integer|null",
    "asleep": "boolean",
    "debugger": "string",
    "trouble": "string",
}
_SESSION = {
    "name": "string",
    "pid": "integer",
    "cols": "integer",
    "rows": "integer",
    "clients": "integer",
    "started_at": "number",
}
_MEMORY = {
    "rss_bytes": "integer",
    "private_bytes": "integer",
    "private_pages": "integer",
    "shared_bytes": "integer",
    "balloon_bytes": "integer",
}
_NOTES = {"snap_dir": "string", "label": "string", "note": "string", "pinned": "boolean"}
_CRASH = {
    "id": "string",
    "time": "string",
    "reason": "string",
    "message": "string",
    "pid": "integer",
    "name": "string|null",
    "path": "string",
}
_CHANGED = {"results": [{"pid": "integer", "name": "string|null", "state": "string"}]}

SHAPES: dict[str, dict[str, Any]] = {
    "install": {"base_dir": "string", "changed": "boolean", "meta": "object"},
    "doctor": {"ok": "boolean", "checks": ["object"]},
    "boot": _STARTED,
    "restore": _STARTED,
    "ls": {
        "vms": [
            {
                "pid": "integer",
                "name": "string|null",
                "state": "string|null",
                "started_at": "number",
                "uptime_ms": "integer",
                "memory": {"rss_bytes": "integer|null", "ceiling_mib": "integer|null"},
                "cpu": {"percent": "number|null"},
                "limits": "object",
                "ports": [_FORWARD],
                "mount": "object|null",
                "live_mounts": [{"host": "string", "guest": "string", "mode": "string"}],
                "forked_from": "string|null",
                "forked_from_name": "string|null",
                "forked_from_pid": "integer|null",
            }
        ]
    },
    "sessions": {"vm": "string|integer", "sessions": [_SESSION]},
    "secrets set": {
        "pid": "integer",
        "name": "string|null",
        "sent": "integer",
        "stored": "integer",
    },
    "snapshot": {
        "snap_dir": "string",
        "elapsed_ms": "number",
        "paused_ms": "number",
        "phases": _PHASES,
        "dry_run": "boolean",
    },
    "bundles check": {
        "ok": "boolean",
        "results": [
            {
                "snap_dir": "string",
                "ok": "boolean",
                "code": "string|null",
                "message": "string|null",
                "engine": "string|null",
                "format": "integer|null",
                "machinen_version": "string|null",
                "qemu_version": "string|null",
                "source_name": "string|null",
                "files": "integer|null",
                "size_bytes": "integer|null",
                "base_disk": "string|null",
                "elapsed_ms": "number|null",
            }
        ],
    },
    "bundles ls": {
        "snapshots": [
            {
                "snap_dir": "string",
                "source_name": "string",
                "taken_at": "number",
                "engine": "string",
                "disk_bytes": "integer",
                "label": "string",
                "note": "string",
                "pinned": "boolean",
                "automatic": "boolean",
            }
        ]
    },
    "bundles label": _NOTES,
    "bundles note": _NOTES,
    "bundles pin": _NOTES,
    "bundles unpin": _NOTES,
    "bundles rm": {"removed": ["string"]},
    "tree": {
        "nodes": [
            {
                "key": "string",
                "kind": "string",
                "name": "string",
                "at": "number",
                "parent": "string|null",
                "depth": "integer",
                "pid": "integer|null",
                "snap_dir": "string|null",
                "label": "string|null",
                "note": "string|null",
                "pinned": "boolean|null",
            }
        ]
    },
    "fork": {
        "pid": "integer",
        "name": "string|null",
        "source": "string|integer",
        "bundle_dir": "string|null",
        "ephemeral": "boolean",
        "paused_ms": "number|null",
        "phases": _PHASES,
    },
    "each": {
        "groups": [
            {
                "names": ["string"],
                "pids": ["integer"],
                "exit_code": "integer|null",
                "code": "string|null",
                "message": "string|null",
                "stdout": "string",
                "stderr": "string",
                "cut": "boolean",
                "elapsed_ms": ["number"],
            }
        ]
    },
    "promote": {
        "pid": "integer",
        "name": "string",
        "previous_name": "string|null",
        "kept": [{"name": "string", "snap_dir": "string|null"}],
        "dry_run": "boolean",
    },
    "diff": {
        "a": {"pid": "integer", "name": "string|null"},
        "b": {"pid": "integer", "name": "string|null"},
        "parted_at": "number|null",
        "files": [{"path": "string", "what": "string", "a": "object|null", "b": "object|null"}],
        "files_problem": "string|null",
        "processes": [{"a": "object|null", "b": "object|null"}],
        "same_processes": "integer",
        "environment": [{"name": "string", "a": "string|null", "b": "string|null"}],
        "same_variables": "integer",
        "memory": {"a": _MEMORY, "b": _MEMORY},
        "elapsed_ms": "number",
    },
    "rewind": {
        "pid": "integer",
        "name": "string|null",
        "snap_dir": "string",
        "undo_dir": "string|null",
        "elapsed_ms": "number",
    },
    "cache ls": {
        "templates": [
            {
                "key": "string",
                "path": "string",
                "size_bytes": "integer",
                "used_at": "number",
                "made_at": "number|null",
                "image": "string|null",
                "memory_mib": "integer|null",
                "cpus": "integer|null",
                "network": "string|null",
                "problem": "string|null",
            }
        ],
        "total_bytes": "integer",
        "standbys": [
            {
                "id": "string",
                "template": "string",
                "pid": "integer",
                "state": "string",
                "made_at": "number",
                "memory_bytes": "integer|null",
            }
        ],
    },
    "cache prune": {"dry_run": "boolean", "freed_bytes": "integer", "removed": ["string"]},
    "pause": _CHANGED,
    "resume": _CHANGED,
    "rename": {"pid": "integer", "name": "string", "previous_name": "string|null"},
    "stop": {"results": [{"pid": "integer", "name": "string|null", "status": "string"}]},
    "gc": {
        "dry_run": "boolean",
        "results": [
            {
                "pid": "integer",
                "name": "string|null",
                "status": "string",
                "removed_paths": ["string"],
                "failed_paths": ["string"],
            }
        ],
    },
    "stats": {
        "pid": "integer",
        "name": "string|null",
        "status": _STATUS,
        "uptime_ms": "integer",
        "memory": {
            "ceiling_mib": "integer",
            "rss_bytes": "integer",
            "pss_bytes": "integer",
            "private_bytes": "integer",
            "shared_bytes": "integer",
            "balloon_bytes": "integer",
            "lazy_pages_pending": "integer",
        },
        "cpu_percent": "number",
        "limited": {
            "throttled": "integer",
            "memory_at_limit": "integer",
            "oom_kills": "integer",
        },
    },
    "debug": {
        "pid": "integer",
        "name": "string|null",
        "listening": "boolean",
        "socket": "string|null",
        "command": "string|null",
        "held": "boolean",
    },
    "logs": {
        "time": "string",
        "level": "string",
        "event": "string",
        "vm": "string|null",
        "id": "string",
        "pid": "integer",
        "message": "string",
        "fields": "object",
    },
    "crashes ls": {"crashes": [_CRASH]},
    "crashes show": {
        **_CRASH,
        "vm_id": "string",
        "state": "string|null",
        "uptime_ms": "integer|null",
        "exit_status": "integer|null",
        "qemu_status": "integer|null",
        "machine": "object",
        "versions": "object",
        "argv": ["string"],
        "operations": ["object"],
        "events": ["object"],
        "console_tail": "string",
        "qemu_stderr": "string",
        "traceback": "string",
    },
    "crashes rm": {"removed": ["string"]},
    "inspect": {
        "pid": "integer",
        "name": "string|null",
        "entry": "object",
        "status": _STATUS,
        "memory": {
            "ceiling_mib": "integer|null",
            "host_rss_bytes": "integer|null",
            "balloon_inflated_bytes": "integer",
            "lazy_pages_pending": "integer",
        },
        "sessions": "array|null",
    },
    "provision": {
        "image_path": "string",
        "size_bytes": "integer",
        "tree_bytes": "integer",
        "elapsed_ms": "number",
    },
    "port ls": {"vm": "string|integer", "ports": [_FORWARD]},
    "port add": {"vm": "string|integer", **_FORWARD},
    "port rm": {"vm": "string|integer", "hostPort": "integer", "hostAddr": "string"},
}
"""What `--json` prints per verb, beside `schema_version`. Keys may be added."""


def shape_mismatches(value: object, shape: object, where: str = "$") -> list[str]:
    """How a value differs from a shape, one text each; a key too many counts, too."""
    if isinstance(shape, dict):
        return _object_mismatches(value, cast("dict[str, Any]", shape), where)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{where}: no array"]
        items, (each,) = cast("list[object]", value), cast("list[object]", shape)
        return [
            text
            for index, item in enumerate(items)
            for text in shape_mismatches(item, each, f"{where}[{index}]")
        ]
    types = str(shape).split("|")
    return [] if any(_is(value, each) for each in types) else [f"{where}: no {shape}: {value!r}"]


def _object_mismatches(value: object, shape: dict[str, Any], where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: no object"]
    fields = cast("dict[str, Any]", value)
    extra = [f"{where}.{key}: unknown" for key in fields if key not in shape]
    missing = [f"{where}.{key}: missing" for key in shape if key not in fields]
    deeper = [
        text
        for key, part in shape.items()
        if key in fields
        for text in shape_mismatches(fields[key], part, f"{where}.{key}")
    ]
    return [*extra, *missing, *deeper]


def _is(value: object, kind: str) -> bool:
    types: dict[str, type | tuple[type, ...]] = {
        "integer": int,
        "number": (int, float),
        "string": str,
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
    }
    return isinstance(value, types[kind]) and (kind == "boolean" or not isinstance(value, bool))
