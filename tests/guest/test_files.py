"""Port 1976 (push and pull) and port 1975 (secrets); docs/protocol.md, 3.4 and 3.5."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import RESET, FrameClient, frame


def make_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o640
            info.uid, info.gid = os.getuid(), os.getgid()
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def push(client: FrameClient, path: str, archive: bytes) -> bytes:
    number = client.request(1976, f"PUSH {path}\n".encode() + archive)
    client.end(number)
    return client.finish(number, 60)


def pull(client: FrameClient, request: str) -> tuple[bytes, bytes]:
    """The tar, and the status that follows it."""
    number = client.request(1976, request.encode())
    data = client.finish(number, 60)
    archive = b""
    while data.startswith(b"D "):
        line, data = data.split(b"\n", 1)
        size = int(line[2:])
        archive += data[:size]
        data = data[size:]
    return archive, data


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return sorted(opened.getnames())


def test_push_extracts_and_makes_the_directory(client: FrameClient, tmp_path: Path) -> None:
    target = tmp_path / "new/deep"
    big = os.urandom(3_000_000)
    assert push(client, f"{target}", make_tar({"a.txt": b"A", "sub/big": big})) == b"OK\n"
    assert (target / "a.txt").read_bytes() == b"A"
    assert (target / "sub/big").read_bytes() == big
    assert stat.S_IMODE((target / "a.txt").stat().st_mode) == 0o640
    assert (target / "a.txt").stat().st_mtime > 1_000_000  # the archive says 0


def test_push_tells_what_went_wrong(client: FrameClient, tmp_path: Path) -> None:
    status, _, text = push(client, f"{tmp_path}/x", b"this is no tar" * 100).partition(b"\n")
    assert status == b"ERR %d" % len(text)
    assert b"tar" in text
    (tmp_path / "file").touch()
    assert push(client, f"{tmp_path}/file", make_tar({"a": b""})) == b"ERR 15\nNot a directory"


def test_push_that_fails_early_swallows_the_rest(client: FrameClient, tmp_path: Path) -> None:
    number = client.request(1976, f"PUSH {tmp_path}/x\n".encode())
    for _ in range(64):
        client.data(number, b"no tar " * 9000)
    client.end(number)
    assert client.finish(number).startswith(b"ERR ")


def test_a_push_that_is_cut_off_leaves_no_tar_running(client: FrameClient, tmp_path: Path) -> None:
    number = client.request(1976, f"PUSH {tmp_path}/x\n".encode())
    pattern = f"tar -x -m -f - -C {tmp_path}/x"
    count = f"EXEC pgrep -cxf '{pattern}'\n".encode()
    while client.execute(count).stdout != b"1\n":
        client.pump()
    client.send(frame(RESET, number, bytes(4)))
    client.wait(lambda: client.execute(count).stdout == b"0\n", 5)


def test_pull_gives_what_is_in_a_directory(client: FrameClient, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(os.urandom(2_000_000))
    (tmp_path / "sub/b.log").write_text("b")
    archive, status = pull(client, f"PULL {tmp_path}\n")
    assert status == b"OK\n"
    assert names(archive) == [".", "./a", "./sub", "./sub/b.log"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        content = opened.extractfile("./a")
        assert content is not None
        assert content.read() == (tmp_path / "a").read_bytes()


def test_pull_leaves_out_what_is_excluded(client: FrameClient, tmp_path: Path) -> None:
    for name in ("a.py", "b.log", "c.tmp"):
        (tmp_path / name).touch()
    archive, _ = pull(client, f"EXCLUDE *.log\nEXCLUDE *.tmp\nPULL {tmp_path}\n")
    assert names(archive) == [".", "./a.py"]


def test_pull_of_one_file_gives_that_file_even_through_a_link(
    client: FrameClient, tmp_path: Path
) -> None:
    (tmp_path / "-file").write_text("content")
    (tmp_path / "link").symlink_to("-file")
    assert names(pull(client, f"PULL {tmp_path}/-file\n")[0]) == ["-file"]
    archive, status = pull(client, f"PULL {tmp_path}/link\n")
    assert status == b"OK\n"
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getmember("link").isfile()


def test_pull_of_what_is_not_there_fails(client: FrameClient, tmp_path: Path) -> None:
    assert pull(client, f"PULL {tmp_path}/none\n") == (b"", b"ERR 25\nNo such file or directory")


def test_pull_that_fails_half_way_says_so_at_the_end(client: FrameClient, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "loop").symlink_to("loop")
    archive, status = pull(client, f"PULL {tmp_path}/loop\n")
    assert archive == b""
    assert status.startswith(b"ERR ")


@pytest.mark.parametrize(
    "header", ["PUSH relative\n", "FETCH /x\n", "EXCLUDE x\nPUSH /x\n", "PULL /" + "x" * 5000]
)
def test_a_wrong_header_is_answered_with_an_error(client: FrameClient, header: str) -> None:
    number = client.request(1976, header.encode())
    assert client.finish(number).startswith(b"ERR ")


def test_secrets_are_stored_for_root_alone(agent: Agent) -> None:
    client = agent.client
    path = agent.root / "etc/machinen.env"
    path.write_text("OLD=1\n")
    number = client.request(1975, b"A=1\n  TOKEN=a b=c \r\n1BAD=x\nno equals\n=x\nBAD-KEY=x\n_x=")
    client.end(number)
    assert client.finish(number) == b"ok 3\n"
    assert path.read_text() == "A=1\nTOKEN=a b=c\n_x=\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(agent.root / "etc") == ["machinen.env"]


def test_secrets_that_cannot_be_stored_are_answered_with_an_error(agent: Agent) -> None:
    (agent.root / "etc").rmdir()
    number = agent.client.request(1975, b"A=1\n")
    agent.client.end(number)
    assert agent.client.finish(number) == b"err /etc/machinen.env: No such file or directory\n"


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return {member.name: member for member in opened}


def make_tree(root: Path) -> None:
    """One of each kind, in an order that is not theirs."""
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "sub" / "z").write_bytes(b"z" * 1000)
    (root / "sub" / "a").write_bytes(b"a" * 512)
    os.link(root / "sub" / "z", root / "sub" / "deep" / "also z")
    os.symlink("../z", root / "sub" / "deep" / "link")
    os.mkfifo(root / "fifo", 0o600)
    (root / "empty").touch(0o4711)
    (root / "empty").chmod(0o4711)
    os.utime(root / "empty", (0, 1_000_000_000))
    (root / ("long " * 30)).mkdir()
    (root / ("long " * 30) / "näme").write_bytes(b"\0" * 300_000)
    (root / "tmp").mkdir()
    (root / "tmp" / "x").touch()
    (root / "gone").mkdir()


def test_an_archive_holds_every_kind_of_file_in_order(client: FrameClient, tmp_path: Path) -> None:
    make_tree(tmp_path)
    archive, status = pull(client, f"EXCLUDE tmp/\nEXCLUDE gone\nARCHIVE {tmp_path}\n")
    assert status == b"OK\n"
    long = "./" + "long " * 30
    found = members(archive)
    assert list(found) == [
        ".",
        *("./empty", "./fifo", long, f"{long}/näme"),
        *("./sub", "./sub/a", "./sub/deep", "./sub/deep/also z", "./sub/deep/link"),
        *("./sub/z", "./tmp"),
    ]
    assert found["./empty"].mode == 0o4711
    assert found["./empty"].mtime == 1_000_000_000
    assert found["./empty"].uid == os.getuid()
    assert found["./empty"].uname == ""
    assert found["./fifo"].isfifo()
    assert found["./sub/z"].islnk()
    assert found["./sub/z"].linkname == "./sub/deep/also z"
    assert found["./sub/deep/link"].linkname == "../z"
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        contents = opened.extractfile(f"{long}/näme")
        assert contents is not None
        assert contents.read() == b"\0" * 300_000


def test_the_same_tree_gives_the_same_archive(client: FrameClient, tmp_path: Path) -> None:
    make_tree(tmp_path / "one")
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "two"], check=True)
    first, _ = pull(client, f"ARCHIVE {tmp_path}/one\n")
    assert pull(client, f"ARCHIVE {tmp_path}/two\n")[0] == first


def test_an_archive_of_our_own_extracts_with_tar(client: FrameClient, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    (tmp_path / "tree.tar").write_bytes(pull(client, f"ARCHIVE {tmp_path}/tree\n")[0])
    compared = subprocess.run(
        ["tar", "--compare", "-f", tmp_path / "tree.tar", "-C", tmp_path / "tree"],
        capture_output=True,
        text=True,
    )
    differences = [line for line in compared.stdout.splitlines() if "Mod time" not in line]
    assert not differences
    assert not compared.stderr


def test_extended_attributes_are_in_the_archive(client: FrameClient, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    value = bytes(range(1, 100))
    try:
        os.setxattr(tree / "file", "user.note", value)
        key = "user.note"
    except OSError:  # a tmpfs of old knows only what the kernel itself reads
        os.setxattr(tree / "file", "security.note", value)
        key = "security.note"
    found = members(pull(client, f"ARCHIVE {tree}\n")[0])["./file"]
    stored = found.pax_headers[f"SCHILY.xattr.{key}"]
    assert stored.encode("utf-8", "surrogateescape") == value


@pytest.mark.parametrize("path", ["/proc/self/stat", "/nowhere/at/all"])
def test_what_is_no_directory_gives_no_archive(client: FrameClient, path: str) -> None:
    archive, status = pull(client, f"ARCHIVE {path}\n")
    assert archive == b""
    assert status.startswith(b"ERR ")
    assert path.encode() in status


def test_an_archive_does_not_leave_its_file_system(client: FrameClient) -> None:
    archive, status = pull(client, "EXCLUDE proc\nEXCLUDE sys\nARCHIVE /dev\n")
    assert status == b"OK\n"
    found = members(archive)
    assert found["./null"].ischr()
    assert (found["./null"].devmajor, found["./null"].devminor) == (1, 3)
    assert not [name for name in found if name.startswith("./pts/")]


def put(client: FrameClient, path: Path, contents: bytes) -> bytes:
    number = client.request(1976, f"PUT {path}\n".encode() + contents)
    client.end(number)
    return client.finish(number, 60)


@pytest.mark.parametrize("size", [0, 1, 131_071, 131_072, 1 << 20, 5_000_001])
def test_put_writes_a_file_anew(client: FrameClient, tmp_path: Path, size: int) -> None:
    target, contents = tmp_path / "file", os.urandom(size)
    target.write_bytes(b"what was there before" * 100)
    target.chmod(0o640)
    assert put(client, target, contents) == b"OK\n"
    assert target.read_bytes() == contents
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_put_writes_into_plain_files_that_are_there(client: FrameClient, tmp_path: Path) -> None:
    assert put(client, tmp_path / "none", b"x" * 3_000_000) == b"ERR 25\nNo such file or directory"
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "kept").write_bytes(b"kept")
    assert put(client, tmp_path / "link", b"x").startswith(b"ERR ")
    assert (tmp_path / "kept").read_bytes() == b"kept"
    os.mkfifo(tmp_path / "fifo")
    assert put(client, tmp_path / "fifo", b"x").startswith(b"ERR ")
    assert put(client, tmp_path, b"x") == b"ERR 14\nIs a directory"


def test_put_that_fails_on_the_way_takes_the_rest(client: FrameClient, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    number = client.request(1976, f"PUT {target}\n".encode())
    client.data(number, b"x" * 60_000)
    find = 'for p in /proc/[0-9]*; do [ "$(readlink $p/fd/3)" = %s ] && echo ${p#/proc/}; done; :'
    found = b""
    while not found.strip():
        found = client.execute(f"EXEC {find % target}\n".encode()).stdout
    client.execute(b"EXEC kill -KILL %b\n" % found.strip())
    for _ in range(64):
        client.data(number, b"x" * 60_000)
    client.end(number)
    assert client.finish(number).startswith(b"ERR ")


def test_a_put_that_is_cut_off_leaves_no_writer(client: FrameClient, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    number = client.request(1976, f"PUT {target}\n".encode() + b"x" * 60_000)
    count = f"EXEC ls -l /proc/[0-9]*/fd/3 2>/dev/null | grep -c ' {target}$'\n".encode()
    while client.execute(count).stdout != b"1\n":
        client.pump()
    client.send(frame(RESET, number, bytes(4)))
    client.wait(lambda: client.execute(count).stdout == b"0\n", 5)
