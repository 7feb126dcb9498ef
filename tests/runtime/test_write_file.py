"""write_file: the script and the command lines, run by the shell of this host."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.options import WriteFileOptions
from machinen_runtime.write_file import (
    build_write_file_cmd,
    build_write_file_cmds,
    write_file_plan,
    write_guest_file,
)
from tests.fakes import fake_agent, host_exec

BINARY = bytes(range(256)) * 3 + b"'\n\\"


def run_plan(path: Path, contents: bytes | str, options: WriteFileOptions | None = None) -> None:
    plan = write_file_plan(str(path), contents, options)
    subprocess.run(plan.cmd, input=plan.contents, check=True, capture_output=True)


def stray(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*machinen*")]


@pytest.mark.parametrize(
    "contents",
    [b"", "text é\n", BINARY, os.urandom(1_000_000)],
    ids=["empty", "text", "every byte", "a million bytes"],
)
def test_contents_arrive(tmp_path: Path, contents: bytes | str) -> None:
    path = tmp_path / "new dir" / "it's a file"
    run_plan(path, contents)
    assert path.read_bytes() == (contents.encode() if isinstance(contents, str) else contents)
    assert stray(tmp_path) == []


def test_an_existing_file_keeps_its_mode_and_readers_their_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    with path.open() as reader:
        run_plan(path, "new")
        assert reader.read() == "old"
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o640)


def test_a_mode_is_set(tmp_path: Path) -> None:
    run_plan(tmp_path / "file", "#!/bin/sh\n", WriteFileOptions(mode=0o4755))
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o4755


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    run_plan(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_append_appends(tmp_path: Path) -> None:
    for piece in ("one", "two"):
        run_plan(tmp_path / "file", piece, WriteFileOptions(append=True))
    assert (tmp_path / "file").read_text() == "onetwo"
    assert stray(tmp_path) == []


def test_a_device_is_written_in_place() -> None:
    run_plan(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("append", [False, True])
def test_a_lost_link_changes_nothing(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    plan = write_file_plan(str(path), "0123456789", WriteFileOptions(append=append))
    lost = subprocess.run(plan.cmd, input=b"01234", check=False, capture_output=True)
    assert lost.returncode != 0
    assert b"5 of 10 bytes" in lost.stderr
    assert path.read_text() == "old"
    assert stray(tmp_path) == []


def test_a_directory_and_a_missing_parent_are_errors(tmp_path: Path) -> None:
    for path, options in ((tmp_path, None), (tmp_path / "no/x", WriteFileOptions(recursive=False))):
        with pytest.raises(subprocess.CalledProcessError):
            run_plan(path, "x", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["relative", "", "/dir/", "/nul\0"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ExecError) as caught:
        write_file_plan(path, "x")
    assert caught.value.code is ErrorCode.EXEC_REQUEST_INVALID


@pytest.mark.parametrize("mode", [-1, 0o10000, 1.5, True])
def test_what_is_no_mode_is_refused(mode: int) -> None:
    with pytest.raises(ExecError):
        WriteFileOptions(mode=mode)


@pytest.mark.parametrize(
    "contents", [b"", BINARY, os.urandom(200_000)], ids=["empty", "every byte", "many bytes"]
)
def test_the_command_lines_do_the_same(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "sub" / "it's"
    options = WriteFileOptions(mode=0o600)
    for cmd in build_write_file_cmds(str(path), contents, options):
        assert len(cmd) < 128 * 1024
        subprocess.run(["/bin/sh", "-c", cmd], check=True)
    assert path.read_bytes() == contents
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_small_file_is_one_command() -> None:
    assert build_write_file_cmds("/a", "x") == [build_write_file_cmd("/a", "x")]
    assert "mkdir" not in build_write_file_cmd("/a/b", "x", WriteFileOptions(recursive=False))


@pytest.mark.provokes(ErrorCode.EXEC_NONZERO_EXIT)
async def test_write_file_through_the_channel(tmp_path: Path) -> None:
    vsock = tmp_path / "vsock.sock"
    async with fake_agent(vsock, {EXEC_PORT: host_exec}):
        await write_guest_file(vsock, str(tmp_path / "file"), BINARY)
        assert (tmp_path / "file").read_bytes() == BINARY
        with pytest.raises(ExecError) as caught:
            await write_guest_file(vsock, str(tmp_path), "x")
    assert caught.value.code is ErrorCode.EXEC_NONZERO_EXIT
    assert "is a directory" in str(caught.value)
