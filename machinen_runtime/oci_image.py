"""A container image as something to boot: which one it is, what it runs, its layers as one tarball.

Takes an OCI layout directory, an archive of one, or what `docker save` writes; gzip and zstd
layers. Every blob is checked against its digest before anything of it is used. Sources: OCI
image-spec (manifest.md, image-index.md, config.md); docker's `manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from machinen_runtime.assets import arch_name
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.image_config import ImageConfig
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.oci_layers import merge_layers
from machinen_runtime.oci_store import DOCKER_MANIFEST, INDEX_FILE, Store, open_store, read_part
from machinen_runtime.tar_extract import UnsafeArchiveError
from vmm.confined_tool import Confines, start_confined

MAX_LAYERS = 512
MAX_INDEX_DEPTH = 4
_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")
_REF_NAME = "org.opencontainers.image.ref.name"
_CHUNK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class OciImage:
    """One image for this machine's processor."""

    key: str
    """The digest of its config in hex: equal layers and equal settings have equal keys."""
    config: ImageConfig
    layers: tuple[tuple[str, str | None], ...]
    """Name in the store, and the compressed digest if the manifest has one; lowest first."""
    diff_ids: tuple[str, ...]
    """Digests of the uncompressed layers."""


def split_reference(image: Path) -> tuple[Path, str | None]:
    """`DIR:NAME` → the path and the name of one image in it, if `DIR:NAME` itself is not there."""
    path, separator, name = str(image).rpartition(":")
    if separator and not image.exists() and Path(path).exists():
        return Path(path), name
    return image, None


def read_oci_image(image: Path) -> OciImage | None:
    """What the container image at `image` is; None if it is something else.

    Raises:
        BootError: BOOT_PACK_FAILED if it is one, but broken, for another processor, or one of
            several without a name.
    """
    with _opened(image) as found:
        return None if found is None else found[1]


def write_merged_tarball(image: Path, target: Path) -> None:
    """Check and unpack the layers, and write them as one rootfs tarball. Raises as above."""
    with _opened(image) as found:
        assert found is not None, "asked only about container images"
        store, parsed = found
        unpacked: list[Path] = []
        for index, (name, digest) in enumerate(parsed.layers):
            layer = target.with_name(f"layer-{index}.tar")
            _unpack_layer(store, name, digest, parsed.diff_ids[index], layer)
            unpacked.append(layer)
        merge_layers(unpacked, target, [parsed.config.cwd or "/"])
        for layer in unpacked:
            layer.unlink()


@contextmanager
def _opened(image: Path) -> Generator[tuple[Store, OciImage] | None]:
    path, ref = split_reference(image)
    try:
        with open_store(path) as store:
            yield None if store is None else (store, _parse(store, ref))
    except (UnsafeArchiveError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{image} is no container image we can use: {error}"
        raise BootError(ErrorCode.BOOT_PACK_FAILED, message) from error


def _parse(store: Store, ref: str | None) -> OciImage:
    if store.has(INDEX_FILE):
        return _parse_oci(store, ref)
    return _parse_docker(store, ref)


# -- OCI ------------------------------------------------------------------------------------------


def _parse_oci(store: Store, ref: str | None) -> OciImage:
    index = _object(json.loads(read_part(store, INDEX_FILE)))
    chosen = _choose(store, _objects(index["manifests"]), ref, 0)
    if len(chosen) != 1:
        raise ValueError(_which_one(_objects(index["manifests"]), len(chosen)))
    manifest = _object(json.loads(_read_blob(store, next(iter(chosen)))))
    layers = [_digest(layer) for layer in _objects(manifest["layers"])]
    config_digest = _digest(_object(manifest["config"]))
    return _image(
        config_digest.partition(":")[2],
        _read_blob(store, config_digest),
        [(_blob_name(digest), digest) for digest in layers],
    )


def _choose(store: Store, entries: list[dict[str, Any]], ref: str | None, depth: int) -> set[str]:
    """The digests of the manifests that fit the name and this machine."""
    if depth > MAX_INDEX_DEPTH:
        raise ValueError("its indexes are nested too deeply")
    found: set[str] = set()
    for entry in entries:
        names = _object(entry.get("annotations") or {})
        if ref is not None and depth == 0 and names.get(_REF_NAME) != ref:
            continue
        platform = entry.get("platform")
        if platform is not None and not _fits(_object(platform)):
            continue
        digest = _digest(entry)
        kind = str(entry.get("mediaType", ""))
        if kind.endswith(("image.index.v1+json", "manifest.list.v2+json")):
            index = _object(json.loads(_read_blob(store, digest)))
            found |= _choose(store, _objects(index["manifests"]), None, depth + 1)
        else:
            found.add(digest)
    return found


def _which_one(entries: list[dict[str, Any]], count: int) -> str:
    names = sorted(
        str(_object(entry.get("annotations") or {}).get(_REF_NAME, "")) for entry in entries
    )
    known = ", ".join(name for name in names if name) or "none of them has a name"
    if count == 0:
        return f"it holds no image of that name for linux/{arch_name()} ({known})"
    return f"it holds {count} images: say which, as in DIRECTORY:NAME ({known})"


def _fits(platform: dict[str, Any]) -> bool:
    return platform.get("os") == "linux" and platform.get("architecture") == arch_name()


# -- docker save ----------------------------------------------------------------------------------


def _parse_docker(store: Store, ref: str | None) -> OciImage:
    entries = _objects(json.loads(read_part(store, DOCKER_MANIFEST)))
    if ref is not None:
        entries = [entry for entry in entries if ref in (entry.get("RepoTags") or [])]
    if len(entries) != 1:
        raise ValueError(f"it holds {len(entries)} images: save the one that you mean")
    config = read_part(store, str(entries[0]["Config"]))
    layers = cast("list[Any]", entries[0]["Layers"])
    return _image(
        hashlib.sha256(config).hexdigest(), config, [(str(name), None) for name in layers]
    )


# -- both -----------------------------------------------------------------------------------------


def _image(key: str, text: bytes, layers: list[tuple[str, str | None]]) -> OciImage:
    config = _object(json.loads(text))
    if not _fits(config):
        made_for = f"{config.get('os')}/{config.get('architecture')}"
        raise ValueError(f"it is made for {made_for}, this machine is linux/{arch_name()}")
    diff_ids = tuple(str(each) for each in _object(config["rootfs"])["diff_ids"])
    if len(diff_ids) != len(layers) or len(layers) > MAX_LAYERS:
        raise ValueError(f"it has {len(layers)} layers, its config speaks of {len(diff_ids)}")
    return OciImage(key, _run_config(_object(config.get("config") or {})), tuple(layers), diff_ids)


def _run_config(settings: dict[str, Any]) -> ImageConfig:
    """What docker would run: the entrypoint, then the command's words."""
    entrypoint: Any = settings.get("Entrypoint") or []
    cmd: Any = settings.get("Cmd") or []
    pairs = [str(text).partition("=") for text in cast("list[Any]", settings.get("Env") or [])]
    user = settings.get("User") or None
    return ImageConfig.from_json(
        {
            "cmd": [*_words(entrypoint), *_words(cmd)] or None,
            "env": {name: value for name, _, value in pairs if name},
            "cwd": settings.get("WorkingDir") or "/",
            "user": None if user in ("0", "root", "0:0", "root:root") else user,
        }
    )


def _words(value: object) -> list[Any]:
    """A list of words; text is one for a shell."""
    return ["/bin/sh", "-c", value] if isinstance(value, str) else list(cast("list[Any]", value))


def _read_blob(store: Store, digest: str) -> bytes:
    data = read_part(store, _blob_name(digest))
    algorithm, _, wanted = digest.partition(":")
    if hashlib.new(algorithm, data).hexdigest() != wanted:
        raise ValueError(f"the blob {digest} has other contents than its name says")
    return data


def _unpack_layer(store: Store, name: str, digest: str | None, diff_id: str, target: Path) -> None:
    """Write the layer uncompressed to `target`; both digests must fit."""
    if digest is not None:
        with store.open(name) as blob:
            _check(blob, digest)
    with store.open(name) as blob, target.open("xb") as out:
        magic = blob.read(4)
        blob.seek(0)
        if magic.startswith(_GZIP_MAGIC):
            _gunzip(blob, out)
        elif magic == _ZSTD_MAGIC:
            _unzstd(blob, out)
        else:
            shutil.copyfileobj(blob, out, _CHUNK_BYTES)
    with target.open("rb") as out:
        _check(out, diff_id)


def _check(file: BinaryIO, digest: str) -> None:
    algorithm, _, wanted = _checked_digest(digest).partition(":")
    found = hashlib.new(algorithm)
    while chunk := file.read(_CHUNK_BYTES):
        found.update(chunk)
    if found.hexdigest() != wanted:
        raise ValueError(f"a layer has other contents than its digest {digest} says")


def _gunzip(blob: BinaryIO, out: BinaryIO) -> None:
    """All members of a gzip file: some builders write one for each file."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        while chunk := blob.read(_CHUNK_BYTES):
            while chunk:
                out.write(unpacker.decompress(chunk))
                chunk = unpacker.unused_data
                if unpacker.eof:
                    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    except zlib.error as error:
        raise ValueError(f"a layer does not unpack: {error}") from error


def _unzstd(blob: BinaryIO, out: BinaryIO) -> None:
    program = shutil.which("zstd")
    if program is None:
        raise ValueError("its layers need zstd to unpack: install the package zstd")
    argv = [program, "-dcq", "--long=31"]
    with start_confined(
        argv,
        Confines(wanted=confinement_wanted()),
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        try:
            shutil.copyfileobj(blob, process.stdin, _CHUNK_BYTES)
            process.stdin.close()
        except BrokenPipeError:
            process.kill()  # it has given up; its status says so below
    if process.returncode != 0:
        raise ValueError("a layer does not unpack with zstd")


def _digest(descriptor: dict[str, Any]) -> str:
    return _checked_digest(str(descriptor["digest"]))


def _checked_digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"not a digest: {digest!r:.100}")
    return digest


def _blob_name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.60} is no JSON object")
    return cast("dict[str, Any]", value)


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.60} is no JSON list")
    return [_object(each) for each in cast("list[object]", value)]
