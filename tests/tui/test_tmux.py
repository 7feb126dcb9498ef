"""The whole thing under a real terminal with real VMs: what a developer does in the first
minutes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent


class Terminal:
    """A tmux session of its own server, 120 x 40."""

    def __init__(self, environment: dict[str, str], columns: int = 120, rows: int = 40) -> None:
        self.socket = f"machinen-test-{uuid.uuid4().hex[:8]}"
        self._environment = environment
        self.run("new-session", "-d", "-x", str(columns), "-y", str(rows), "-s", "t", "sh")
        self.run("set-option", "-g", "escape-time", "0")

    def run(self, *arguments: str) -> str:
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=self._environment
        )
        return done.stdout

    def keys(self, *keys: str) -> None:
        """tmux names of keys."""
        self.run("send-keys", "-t", "t", *keys)

    def type(self, text: str) -> None:
        self.run("send-keys", "-t", "t", "-l", text)

    def screen(self) -> str:
        return self.run("capture-pane", "-p", "-t", "t")

    def pane(self, name: str) -> str:
        """The text inside the frame whose title is `name`; empty if there is none."""
        lines = self.screen().splitlines()
        for y, line in enumerate(lines):
            if found := re.search(rf"[╭┏][─━] (?:▪ )?{re.escape(name)}(?= )[^╮┓]*[╮┓]", line):
                left, right = found.start(), found.end() - 1
                inside: list[str] = []
                for below in lines[y + 1 :]:
                    if left >= len(below) or below[left] in "╰┗":
                        break
                    inside.append(below[left + 1 : right].rstrip())
                return "\n".join(inside).rstrip("\n")
        return ""

    def until(self, condition: Callable[[], object], what: str, seconds: float = 120) -> None:
        """Wait for `condition`."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > seconds:
                pytest.fail(f"waited {seconds:g} s for {what}\n{self.screen()}")
            time.sleep(0.03)

    def close(self) -> None:
        self.run("kill-server")


@pytest.fixture
def environment(tmp_path: Path) -> Generator[dict[str, str]]:
    """A registry and snapshots of our own, the installed base; VMs are stopped at the end."""
    home = tmp_path / "home"
    home.mkdir()
    bases = Path(os.environ.get("MACHINEN_HOME", Path.home() / ".machinen")) / "bases"
    (home / "bases").symlink_to(bases)
    (home / "tui.json").write_text('{"tour": {"done": true}}')  # nobody is new here
    environment = {**os.environ, "MACHINEN_HOME": str(home), "TERM": "xterm-256color"}
    environment["MACHINEN_RUNTIME_DIR"] = f"/tmp/mt-{uuid.uuid4().hex[:8]}"
    environment["PYTHONPATH"] = str(ROOT)
    environment["XDG_CONFIG_HOME"] = str(home / "config")
    for variable in ("MACHINEN_REGISTRY_DIR", "MACHINEN_STATE_DIR", "TMUX", "ESCDELAY"):
        environment.pop(variable, None)
    yield environment
    machinen(environment, "stop", "--all", "--force")
    shutil.rmtree(environment["MACHINEN_RUNTIME_DIR"], ignore_errors=True)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Generator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.fail("tmux is missing; make setup installs it")
    terminal = Terminal(environment)
    try:
        yield terminal
    finally:
        terminal.close()


def machinen(environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "machinen_runtime.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return done.stdout


def leave_pane(terminal: Terminal) -> None:
    terminal.keys("C-]", "C-]")
    terminal.until(lambda: "NAVIGATE" in terminal.screen(), "the navigating mode")


def boot_a_shell(terminal: Terminal, name: str) -> None:
    """Through the dialog of `n`, up to the shell's prompt."""
    terminal.keys("n")
    terminal.until(lambda: "new sandbox" in terminal.screen(), "the dialog")
    terminal.type(name)
    terminal.keys("Tab", "Tab")
    terminal.type("512")
    terminal.keys("Enter")
    terminal.until(lambda: f"root@{name}" in terminal.pane(name), "the prompt", 120)


def test_boot_type_fork_snapshot_restore_stop_and_leave(
    terminal: Terminal, environment: dict[str, str]
) -> None:
    terminal.type(f"{sys.executable} -m machinen_tui")
    terminal.keys("Enter")
    terminal.until(lambda: "boot a sandbox" in terminal.screen(), "the first screen")

    boot_a_shell(terminal, "one")
    terminal.keys("Enter")
    terminal.until(lambda: "ATTACHED" in terminal.screen(), "the attached mode")
    terminal.type("echo $((6*7))")
    terminal.keys("Enter")
    terminal.until(lambda: "\n42" in terminal.pane("one"), "42")
    leave_pane(terminal)

    terminal.keys("f")
    terminal.until(lambda: "\n42" in terminal.pane("one-2"), "the fork's pane")
    assert terminal.pane("one-2").splitlines()[:2] == terminal.pane("one").splitlines()[:2]
    before = terminal.pane("one")
    terminal.keys("Enter")
    terminal.until(lambda: "ATTACHED" in terminal.screen(), "the attached mode")
    terminal.type("echo apart-$((3*3)); hostname")
    terminal.keys("Enter")
    terminal.until(lambda: "apart-9\none-2" in terminal.pane("one-2"), "the fork's own answer")
    assert terminal.pane("one") == before
    leave_pane(terminal)

    terminal.keys("s")
    terminal.until(lambda: "◆ snapshot" in terminal.screen(), "the snapshot's node")
    terminal.keys("r")
    terminal.until(lambda: "restore a snapshot" in terminal.screen(), "the list of snapshots")
    terminal.keys("Enter")
    terminal.until(lambda: "apart-9" in terminal.pane("one-2-2"), "the restored pane")

    terminal.keys("x")
    terminal.until(lambda: "powers off" in terminal.screen(), "the question")
    terminal.keys("y")
    terminal.until(
        lambda: not re.search(r"one-2-2(?!\d)", terminal.screen()), "the end of the restored one"
    )

    terminal.keys("q")
    terminal.until(lambda: "still running: one, one-2" in terminal.screen(), "the farewell")
    listed = machinen(environment, "ls")
    assert re.search(r"\bone\b", listed)
    assert re.search(r"\bone-2\b", listed)
    assert "one-2-2" not in listed


def test_keys_echo_while_another_pane_floods(terminal: Terminal) -> None:
    terminal.type(f"{sys.executable} -m machinen_tui")
    terminal.keys("Enter")
    terminal.until(lambda: "boot a sandbox" in terminal.screen(), "the first screen")
    boot_a_shell(terminal, "busy")
    terminal.keys("f")
    terminal.until(lambda: "root@busy" in terminal.pane("busy-2"), "the second pane")
    terminal.keys("k", "Enter")
    terminal.until(lambda: "ATTACHED" in terminal.screen(), "the attached mode")
    terminal.type("yes")
    terminal.keys("Enter")
    terminal.until(lambda: terminal.pane("busy").count("y\n") > 10, "the flood")
    leave_pane(terminal)
    terminal.keys("j", "Enter")
    terminal.until(lambda: "ATTACHED" in terminal.screen(), "the attached mode")
    for letter in "abcdefgh":  # the flood has no end: an echo that waits for it never comes
        shown = terminal.pane("busy-2").count(letter * 3)
        terminal.type(letter * 3)
        terminal.until(
            lambda shown=shown, it=letter * 3: terminal.pane("busy-2").count(it) > shown, "echo"
        )


def type_into(terminal: Terminal, line: str) -> None:
    """A line for the selected sandbox."""
    terminal.keys("Enter")
    terminal.until(lambda: "ATTACHED" in terminal.screen(), "the attached mode")
    terminal.type(line)
    terminal.keys("Enter")
    leave_pane(terminal)


def fetched(port: int) -> str:
    """What the guest's web server answers, or why it does not yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return answer.read().decode()
    except OSError as error:
        return str(error)


def build_an_image(terminal: Terminal, environment: dict[str, str]) -> None:
    """With the form of `i`, up to the dialog that boots the result."""
    image = Path(environment["MACHINEN_HOME"], "built.tar")
    terminal.keys("i")
    terminal.until(lambda: "build an image" in terminal.screen(), "the form")
    terminal.type(str(image))
    terminal.keys("Tab", "Tab")
    terminal.type("echo built-$((6*7)) | tee /srv/built")
    terminal.keys("Enter")
    terminal.until(lambda: "built-42" in terminal.screen(), "the command's output", 240)
    terminal.until(lambda: "n boots it" in terminal.screen(), "the image", 600)
    with tarfile.open(image) as archive:
        assert any(name.endswith("srv/built") for name in archive.getnames())
    terminal.keys("n")
    terminal.until(lambda: "new sandbox" in terminal.screen(), "the boot dialog")
    assert str(image) in terminal.screen()
    terminal.keys("Escape")
    terminal.until(lambda: "new sandbox" not in terminal.screen(), "the end of the dialog")


def test_a_port_a_log_a_secret_and_the_browser_of_snapshots(
    terminal: Terminal, environment: dict[str, str]
) -> None:
    terminal.type(f"{sys.executable} -m machinen_tui")
    terminal.keys("Enter")
    terminal.until(lambda: "boot a sandbox" in terminal.screen(), "the first screen")
    boot_a_shell(terminal, "one")
    serve = "mkdir -p /srv/w; echo it-works > /srv/w/index.html; "
    type_into(terminal, serve + "cd /srv/w; python3 -m http.server 8000 2>/dev/null &")

    terminal.keys("P")
    terminal.until(lambda: "ports of one" in terminal.screen(), "the ports")
    terminal.type(":8000")
    terminal.keys("Enter")
    opened = r"127\.0\.0\.1:(\d+) +leads to port 8000"
    terminal.until(lambda: re.search(opened, terminal.screen()), "the port")
    found = re.search(opened, terminal.screen())
    assert found is not None
    terminal.until(lambda: "it-works" in fetched(int(found[1])), "the guest's web server")
    terminal.keys("Escape")
    terminal.until(lambda: "ports of one" not in terminal.screen(), "the end of the dialog")

    terminal.keys("L")
    terminal.until(lambda: "console of one" in terminal.screen(), "the console")
    terminal.until(lambda: "following" in terminal.screen(), "that it follows")
    terminal.type("marked")
    terminal.until(lambda: re.search(r"0 of \d+ lines", terminal.screen()), "the filter")
    command = "echo it is MARKED > /dev/kmsg; echo it is MARKED > /dev/console"
    done = machinen(environment, "exec", "one", "--", "sh", "-c", command)
    terminal.until(lambda: "it is MARKED" in terminal.screen(), f"the line ({done})")
    terminal.keys("Escape")
    terminal.until(lambda: "type to filter" in terminal.screen(), "the end of the filter")
    terminal.keys("Escape")
    terminal.until(lambda: "console of one" not in terminal.screen(), "the end of the log")

    terminal.keys("e")
    terminal.until(lambda: "secrets for one" in terminal.screen(), "the secrets")
    terminal.type("API_KEY=hunter2")
    terminal.until(lambda: "•••••••" in terminal.screen(), "the masked value")
    assert "hunter2" not in terminal.screen()
    terminal.keys("C-s")
    terminal.until(lambda: "took 1 of 1 secrets" in terminal.screen(), "that it arrived")
    assert "API_KEY" in machinen(environment, "exec", "one", "--", "cat", "/etc/machinen.env")

    terminal.keys("S")
    terminal.until(lambda: "snapshot one" in terminal.screen(), "the dialog")
    terminal.keys("Enter")
    terminal.until(lambda: "◆ snapshot" in terminal.screen(), "the snapshot's node")
    terminal.keys("B")
    terminal.until(lambda: "can be restored here" in terminal.screen(), "the verdict")
    terminal.keys("Enter")
    terminal.until(lambda: "restore one" in terminal.screen(), "the dialog")
    terminal.type("again")
    terminal.keys("Enter")
    terminal.until(lambda: "http.server" in terminal.pane("again"), "the restored pane")
    served = machinen(environment, "exec", "again", "--", "cat", "/srv/w/index.html")
    assert served.strip() == "it-works"
    build_an_image(terminal, environment)
    terminal.keys("q")
    terminal.until(lambda: "still running: one, again" in terminal.screen(), "the farewell")
    assert "hunter2" not in terminal.screen()
    kept = Path(environment["MACHINEN_HOME"], "tui.json").read_text()
    assert "hunter2" not in kept
