"""Options of wrong types: each is refused with a code and a sentence, before anything starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from machinen_runtime.boot_checks import checked_boot_options
from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.channel_secrets import VsockSecrets
from machinen_runtime.channel_sessions import kill_session, open_session
from machinen_runtime.errors import BootError, ErrorCode, ExecError, MachinenError, RegistryError
from machinen_runtime.option_shapes import is_of_type, refuse_wrong_types
from machinen_runtime.options import (
    BootOptions,
    ForkOptions,
    RestoreOptions,
    SnapshotOptions,
    WriteFileOptions,
)
from machinen_runtime.provision import ProvisionOptions
from machinen_runtime.write_file import write_guest_file

ODD: list[Any] = [
    *(None, True, 5, -1, 10**30, 1.5, math.nan, math.inf, "", "x\0y", "\udcff", "a" * 10_000),
    *(b"x", [], [5], [None], ["a\0b"], [[]], {1: 2}, {"a": 5}, {"": ""}, {"a", "b"}, object()),
]
NEEDED: dict[type[Any], dict[str, Any]] = {
    BootOptions: {},
    RestoreOptions: {"snap_dir": "/x"},
    ForkOptions: {},
    SnapshotOptions: {"out_dir": "/x"},
    WriteFileOptions: {},
    ProvisionOptions: {"install": len, "out": "/x"},
}


@pytest.mark.parametrize("record", NEEDED)
def test_no_value_of_any_option_is_more_than_refused(
    machinen_home: Path, record: type[Any]
) -> None:
    for field in dataclasses.fields(record):
        for value in ODD:
            given = {**NEEDED[record], field.name: value}
            with suppress(MachinenError):
                checked_boot_options(given) if record is BootOptions else record(**given)


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        (ErrorCode.BOOT_MEMORY_INVALID, "memory", "512"),
        (ErrorCode.BOOT_CMD_MISSING, "cmd", ["sh", 5]),
        (ErrorCode.BOOT_CMD_MISSING, "cmd", "sh -c true"),
        (ErrorCode.BOOT_CWD_INVALID, "guest_cwd", Path("/srv")),
        (ErrorCode.BOOT_MOUNT_INVALID, "mount", "/srv:/mnt/srv"),
        (ErrorCode.BOOT_MOUNT_INVALID, "live_mounts", ["/srv:/mnt/srv"]),
        (ErrorCode.BOOT_PORT_FORWARD_INVALID, "port_forward", "8080:80"),
        (ErrorCode.BOOT_OPTION_INVALID, "env", {"A": 1}),
        (ErrorCode.BOOT_OPTION_INVALID, "args", "-s"),
        (ErrorCode.BOOT_OPTION_INVALID, "kernel", b"/boot/vmlinux"),
        (ErrorCode.BOOT_OPTION_INVALID, "on_log", "print"),
        (ErrorCode.BOOT_OPTION_INVALID, "detached", "no"),
        (ErrorCode.BOOT_OPTION_INVALID, "timeout_ms", "60000"),
    ],
)
def test_a_wrong_type_has_the_code_of_its_option(
    machinen_home: Path, code: ErrorCode, name: str, value: object
) -> None:
    with pytest.raises(BootError) as caught:
        checked_boot_options({name: value})
    assert caught.value.code is code
    assert name in str(caught.value)


def test_a_name_that_is_no_word_is_no_name(machinen_home: Path) -> None:
    with pytest.raises(RegistryError, match=r"name takes str \| None, not 5") as caught:
        checked_boot_options({"name": 5})
    assert caught.value.code is ErrorCode.REGISTRY_NAME_INVALID


def test_a_long_value_is_not_shown_whole() -> None:
    with pytest.raises(BootError) as caught:
        refuse_wrong_types(BootOptions, {"env": ["x" * 10_000]})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (int, [0, 10**30], [True, 1.0, "1", None]),
        (float, [1, 1.5, math.inf], [False, "1"]),
        (bool, [True, False], [0, 1, None]),
        (str | None, ["", None], [b"", 0]),
        (Literal["a", "b"], ["a", "other words are refused elsewhere"], [1, None]),
        (str | Literal[False], ["x", False], [True, 0, None]),
        (Sequence[str], [[], ("a",), ["a", "b"]], ["ab", b"ab", {"a"}, {"a": "b"}, [1], None]),
        (Mapping[str, str], [{}, {"a": "b"}], [{"a": 1}, {1: "b"}, [("a", "b")]]),
        (Callable[[int], None], [print, len], [None, "print"]),
        (Any, [None, 5], []),
    ],
)
def test_what_fits_an_annotation(hint: Any, right: list[Any], wrong: list[Any]) -> None:
    assert [value for value in right if not is_of_type(value, hint)] == []
    assert [value for value in wrong if is_of_type(value, hint)] == []


# -- calls on a running VM: nobody answers at /x, so that a check must refuse ----------------------

NOBODY: dict[str, Any] = {"timeout_ms": 0, "retry_ms": 0}
HALF = "\ud800"
Calls = Sequence[Callable[[Any], Awaitable[object]]]
CALLS: dict[str, Calls] = {
    "exec": [
        lambda odd: VsockExec.run("/x", odd, connect_timeout_ms=0),
        *(
            lambda odd, name=field.name: VsockExec.run(
                "/x", "true", None, **{"connect_timeout_ms": 0, name: odd}
            )
            for field in dataclasses.fields(VsockExecOptions)
            if field.name != "connect_timeout_ms"
        ),
    ],
    "sessions": [
        lambda odd: open_session("/x", odd, connect_timeout_ms=0).__aenter__(),
        lambda odd: open_session(
            "/x", "main", cols=odd, rows=odd, connect_timeout_ms=0
        ).__aenter__(),
        lambda odd: open_session("/x", "main", cmd=odd, connect_timeout_ms=0).__aenter__(),
        lambda odd: kill_session("/x", odd, connect_timeout_ms=0),
    ],
    "write_file": [
        lambda odd: write_guest_file("/x", odd, b"", connect_timeout_ms=0),
        lambda odd: write_guest_file("/x", "/a", odd, connect_timeout_ms=0),
    ],
    "files": [
        lambda odd: VsockFiles.push("/x", odd, "/a", **NOBODY),
        lambda odd: VsockFiles.push("/x", "/tmp", odd, **NOBODY),
        lambda odd: VsockFiles.push("/x", "/tmp", "/a", excludes=odd, **NOBODY),
        lambda odd: VsockFiles.pull("/x", odd, "/a", **NOBODY),
        lambda odd: VsockFiles.pull("/x", "/a", odd, **NOBODY),
        lambda odd: VsockFiles.pull("/x", "/a", "/tmp", excludes=odd, **NOBODY),
    ],
    "secrets": [
        lambda odd: VsockSecrets.send("/x", odd, **NOBODY),
        lambda odd: VsockSecrets.send("/x", {"A": odd}, **NOBODY),
    ],
}


@pytest.mark.parametrize("call", CALLS)
async def test_odd_arguments_of_a_call_are_refused_with_a_sentence(call: str) -> None:
    for odd in (*ODD, HALF, [HALF], {"a": HALF}):
        for each in CALLS[call]:
            with pytest.raises(MachinenError):
                await each(odd)


async def test_a_number_is_no_contents_of_a_file() -> None:
    with pytest.raises(ExecError, match=r"contents as bytes or a text, not 5") as caught:
        await write_guest_file("/x", "/a", cast("bytes", 5))
    assert caught.value.code is ErrorCode.EXEC_REQUEST_INVALID
