"""Tools on files of strangers see their files and no others, and reach nobody."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmm import landlock, privileges
from vmm.confined_tool import Confines, complaint_of, run_confined

needs_landlock = pytest.mark.skipif(landlock.landlock_abi() < 6, reason="an older kernel")


def refusal(argv: list[str], confines: Confines) -> str:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_confined(argv, confines)
    return complaint_of(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "home" / "secret"
    path.parent.mkdir()
    path.write_text("hunter2")
    return path


@needs_landlock
@pytest.mark.parametrize("fakeroot", [False, True])
def test_it_reads_its_inputs_and_no_other_file(
    tmp_path: Path, secret: Path, fakeroot: bool
) -> None:
    given = tmp_path / "given"
    given.write_text("for you")
    confines = Confines(wanted=True, reads=[given], fakeroot=fakeroot)
    assert run_confined(["cat", str(given)], confines).stdout == b"for you"
    for other in (str(secret), "/etc/passwd", "/proc/1/environ"):
        assert "Permission denied" in refusal(["cat", other], confines)


@needs_landlock
def test_it_changes_its_outputs_and_nothing_else(tmp_path: Path, secret: Path) -> None:
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    image.touch()
    confines = Confines(wanted=True, reads=[secret], writes=[tree, image])
    script = f"mkdir {tree}/a && echo x >{tree}/a/b && ln {tree}/a/b {tree}/c && echo y >{image}"
    run_confined(["sh", "-c", script], confines)
    assert (tree / "c").read_text() == "x\n"
    assert image.read_text() == "y\n"
    assert "Permission denied" in refusal(["sh", "-c", f"echo x >>{secret}"], confines)
    assert "Permission denied" in refusal(["rm", "-f", str(secret)], confines)
    assert "Permission denied" in refusal(["touch", str(tmp_path / "new")], confines)
    assert secret.read_text() == "hunter2"


@needs_landlock
def test_an_archive_that_runs_a_program_gets_no_further(tmp_path: Path, secret: Path) -> None:
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", "-cf", archive, "-C", secret.parent, "secret"], check=True)
    out = tmp_path / "out"
    out.mkdir()
    argv = ["tar", "-xf", str(archive), "-C", str(out), "--to-command", f"cat {secret}"]
    assert "Permission denied" in refusal(
        argv, Confines(wanted=True, reads=[archive], writes=[out])
    )


@needs_landlock
@pytest.mark.parametrize("options", ["backing_file={secret},backing_fmt=raw", "data_file={secret}"])
def test_a_foreign_disk_does_not_lead_to_a_file_of_the_users(
    tmp_path: Path, secret: Path, options: str
) -> None:
    secret.write_bytes(b"hunter2".ljust(65536))
    disk = tmp_path / "disk.qcow2"
    made = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options.format(secret=secret)]
    subprocess.run([*made, str(disk), "64K"], check=True)
    argv = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk)]
    subprocess.run([*argv, str(tmp_path / "unconfined")], check=True)
    out = tmp_path / "out"
    out.touch()
    said = refusal([*argv, str(out)], Confines(wanted=True, reads=[disk], writes=[out]))
    assert "Permission denied" in said
    assert out.read_bytes() == b""


def test_it_finds_nothing_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("TAR_OPTIONS", "--absolute-names")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    names = {
        line.partition(b"=")[0]
        for line in run_confined(["env"], Confines(wanted=True)).stdout.splitlines()
    }
    assert names <= {b"PATH", b"LD_LIBRARY_PATH", b"TMPDIR", b"LANG", b"LC_ALL", b"PWD", b"_"}


def test_it_leaves_no_core_and_gains_no_rights() -> None:
    status = Path("/proc/self/status")
    script = f"ulimit -c; while read -r line; do echo $line; done <{status}"
    with status.open("rb") as own:  # of this process: the tool may not look
        assert b"NoNewPrivs:\t0" in own.read()
    proc = Confines(wanted=True, reads=["/proc"])
    core, *lines = run_confined(["sh", "-c", script], proc).stdout.decode().splitlines()
    facts = dict(line.split(": ", 1) for line in lines if ": " in line)
    assert core == "0"
    assert facts["NoNewPrivs"] == "1"
    assert not int(facts["CapEff"], 16) >> 21 & 1  # CAP_SYS_ADMIN
    assert not int(facts["CapEff"], 16) >> 19 & 1  # CAP_SYS_PTRACE


REACH_OUT = """
import errno, os, socket, sys
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0
print(refused(socket.socket), refused(socket.socket(socket.AF_UNIX).connect, sys.argv[1]),
      refused(os.kill, int(sys.argv[2]), 0))
"""


def test_it_reaches_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        argv = ["python3", "-I", "-S", "-c", REACH_OUT, path, str(os.getpid())]
        confines = Confines(wanted=True, reads=[sys.base_prefix])
        argv[0] = os.path.realpath(sys.executable)
        assert run_confined(argv, confines).stdout.split() == [str(errno.EPERM).encode()] * 3


def test_only_the_tool_is_confined(secret: Path) -> None:
    before = threading.active_count()
    run_confined(["true"], Confines(wanted=True))
    assert secret.read_text() == "hunter2"
    assert privileges.read_status(os.getpid())["NoNewPrivs"] == "0"
    assert threading.active_count() == before


def test_a_tool_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run_confined([str(tmp_path / "no-such-tool")], Confines(wanted=True))


def test_without_landlock_it_runs_with_the_rest(
    monkeypatch: pytest.MonkeyPatch, secret: Path
) -> None:
    monkeypatch.setattr(landlock, "landlock_abi", lambda: 0)
    assert run_confined(["cat", str(secret)], Confines(wanted=True)).stdout == b"hunter2"
    argv = ["unshare", "--user", "true"]
    assert "Operation not permitted" in refusal(argv, Confines(wanted=True))


def test_unconfined_it_keeps_the_rights_of_the_user(
    monkeypatch: pytest.MonkeyPatch, secret: Path
) -> None:
    monkeypatch.setenv("MACHINEN_CONFINE", "on")  # who asks has read it; it is not read here
    assert run_confined(["cat", str(secret)], Confines(wanted=False)).stdout == b"hunter2"
