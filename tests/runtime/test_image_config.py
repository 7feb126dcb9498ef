"""What a tarball says about itself, and how often it is asked."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.image_config import (
    ImageConfig,
    read_image_config,
    warm_image_config_cache,
)

CONFIG = {"cmd": ["/usr/bin/env", "top"], "env": {"A": "1"}, "cwd": "/srv", "unknown": 1}


@pytest.fixture(autouse=True)
def cache_dir(machinen_home: Path) -> Path:
    return machinen_home / "cache" / "image-config"


def write_image(
    path: Path, config: Any, *, member: str = "./machinen-config.json", mode: Any = "w:gz"
) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in (("./etc/motd", b"hi"), (member, config)):
            if data is None:
                continue
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return path


@pytest.mark.parametrize("member", ["./machinen-config.json", "machinen-config.json"])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_baked_config_is_read(tmp_path: Path, member: str, mode: str) -> None:
    image = write_image(tmp_path / "image", CONFIG, member=member, mode=mode)
    assert read_image_config(image) == ImageConfig(
        cmd=("/usr/bin/env", "top"), env={"A": "1"}, cwd="/srv"
    )


def test_tar_is_confined_unless_confinement_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A tar that prints another file than it was given; it would be the config."""
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(CONFIG))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "tar").write_text(f"#!/bin/sh\ncat {secret}\n")
    (tools / "tar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    image = write_image(tmp_path / "image.tar", None, mode="w")
    monkeypatch.setenv("MACHINEN_CONFINE", "no")
    with pytest.raises(BootError, match="MACHINEN_CONFINE") as caught:
        read_image_config(image)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID
    monkeypatch.setenv("MACHINEN_CONFINE", "off")
    assert read_image_config(image) is not None


def test_an_image_without_one_has_none_and_that_is_remembered(
    tmp_path: Path, cache_dir: Path
) -> None:
    image = write_image(tmp_path / "image.tar.gz", None)
    assert read_image_config(image) is None
    (note,) = cache_dir.iterdir()
    info = image.stat()
    assert note.name == f"image.tar.gz-{info.st_size}-{info.st_mtime_ns // 1_000_000}.json"
    assert json.loads(note.read_text())["config"] is None


def test_the_cache_is_believed_without_reading_the_tarball(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", None)
    warm_image_config_cache(image, ImageConfig(cmd=("true",)))
    assert read_image_config(image) == ImageConfig(cmd=("true",))


def test_a_changed_tarball_is_read_again(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image", None)
    assert read_image_config(image) is None
    write_image(image, CONFIG)
    os.utime(image, ns=(0, 1_000_000_000))
    assert read_image_config(image) is not None


def test_a_corrupt_cache_file_is_made_again(tmp_path: Path, cache_dir: Path) -> None:
    image = write_image(tmp_path / "image", CONFIG)
    read_image_config(image)
    (note,) = cache_dir.iterdir()
    note.write_text('{"config": {"cmd": 7}}')
    config = read_image_config(image)
    assert config is not None
    assert config.cwd == "/srv"
    assert json.loads(note.read_text())["config"]["cwd"] == "/srv"


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MACHINEN_CACHE_DIR", str(tmp_path / "file"))
    image = write_image(tmp_path / "image", CONFIG)
    assert read_image_config(image) is not None


@pytest.mark.parametrize(
    "config",
    [b"{not json", [], {"cmd": []}, {"cmd": "top"}, {"env": {"A": 1}}, {"env": []}, {"cwd": "srv"}],
)
@pytest.mark.provokes(ErrorCode.BOOT_PACK_FAILED)
def test_a_config_that_is_not_valid_is_refused(tmp_path: Path, config: Any) -> None:
    image = write_image(tmp_path / "image", config)
    with pytest.raises(BootError, match=r"machinen-config\.json in .* is not valid") as caught:
        read_image_config(image)
    assert caught.value.code is ErrorCode.BOOT_PACK_FAILED


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="nowhere") as caught:
        read_image_config(tmp_path / "nowhere")
    assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND


def test_a_file_that_is_no_tarball_is_refused(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"no archive" * 500)
    with pytest.raises(BootError, match="no tarball"):
        read_image_config(image)
