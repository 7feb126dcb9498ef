"""What users install is the wheel: built, installed where nothing else is, and booted from."""

from __future__ import annotations

import json
import os
import platform
import stat
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release would have it."""
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(out), str(PROJECT)])
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an empty environment that got the wheel and what it requires."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory)
    pip = [sys.executable, "-m", "pip", "--python", str(directory / "bin/python")]
    run([*pip, "install", "-q", "--no-compile", str(wheel)])
    return directory / "bin"


def run(argv: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, cwd=cwd
    )
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_is_for_linux_on_this_processor_and_any_python(wheel: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")


def test_the_wheel_carries_the_guest_binaries_with_their_mode(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("init", "agent"):
            member = archive.getinfo(f"guest/bin/{ARCH}/{name}")
            assert archive.read(member)[:4] == b"\x7fELF"
            assert stat.S_IMODE(member.external_attr >> 16) == 0o755
        names = archive.namelist()
    assert f"vmm/bin/{ARCH}/private_ram.so" in names
    assert not [name for name in names if name.endswith((".c", ".h")) or "/build/" in name]
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]


def test_the_source_distribution_has_what_a_build_needs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation"]
    run([*build, "--sdist", "-o", str(tmp_path), str(PROJECT)])
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (entry for entry in tmp_path.iterdir() if entry.is_dir())
    assert (source / "guest/Makefile").is_file()
    assert not (source / "guest/bin").exists()
    out = tmp_path / "out"
    run([*build, "--wheel", "-o", str(out), str(source)])
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        assert f"guest/bin/{ARCH}/agent" in archive.namelist()


def test_the_installed_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    version = run([str(installed / "machinen"), "--version"], cwd=tmp_path)
    assert version.split()[-1] == "0.1.0"
    where = run(
        [str(installed / "python"), "-c", "import machinen_runtime.cli as c; print(c.__file__)"],
        cwd=tmp_path,
    )
    assert where.startswith(str(installed.parent)), "the checkout must not be what runs"


@pytest.mark.vm
def test_a_sandbox_boots_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Its own registry and sockets, but the machine's base: that takes a minute to build.
    for variable in ("REGISTRY_DIR", "STATE_DIR", "CACHE_DIR", "DETACHED_LOG_DIR"):
        env[f"MACHINEN_{variable}"] = str(tmp_path / variable)
    env["MACHINEN_RUNTIME_DIR"] = str(tmp_path / "run")
    machinen = str(installed / "machinen")
    booted = json.loads(
        run([machinen, "boot", "--name", "wheel", "--detach", "--json"], env=env, cwd=tmp_path)
    )
    try:
        assert booted["name"] == "wheel"
        answer = run([machinen, "exec", "wheel", "--", "uname", "-s"], env=env, cwd=tmp_path)
        assert answer == "Linux\n"
    finally:
        run([machinen, "stop", "wheel"], env=env, cwd=tmp_path)
    assert json.loads(run([machinen, "ls", "--json"], env=env, cwd=tmp_path))["vms"] == []
    left = [path for name in ("run", "STATE_DIR") for path in (tmp_path / name).iterdir()]
    assert left == [], "a stopped sandbox leaves nothing"
