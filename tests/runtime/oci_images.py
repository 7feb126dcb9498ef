"""Container images made in tests: layers from tables, written as layouts and archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machinen_runtime.assets import arch_name

Layer = Mapping[str, bytes | str | None]
"""Name → contents of a file, target of a symbolic link, or None for a directory."""


def layer_tar(layer: Layer, *, mode: int = 0o755) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, contents in layer.items():
            member = tarfile.TarInfo(name)
            member.mode = mode
            if contents is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(contents, str):
                member.type, member.linkname = tarfile.SYMTYPE, contents
            else:
                member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents) if isinstance(contents, bytes) else None)
    return buffer.getvalue()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(layers: Sequence[bytes], **settings: Any) -> bytes:
    config = {
        "os": "linux",
        "architecture": arch_name(),
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
    }
    return json.dumps(config).encode()


def write_layout(root: Path, layers: Sequence[bytes], ref: str = "", **settings: Any) -> Path:
    """Add an image to the OCI layout at `root`; its layers are compressed with gzip."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = sha256(data)
        (blobs / digest.partition(":")[2]).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    kind = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "config": put(image_config(layers, **settings), kind + "config.v1+json"),
        "layers": [put(gzip.compress(each), kind + "layer.v1.tar+gzip") for each in layers],
    }
    entry = put(json.dumps(manifest).encode(), kind + "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": ref}
    index_file = root / "index.json"
    entries: list[Any] = []
    if index_file.exists():
        entries = json.loads(index_file.read_text())["manifests"]
    index_file.write_text(json.dumps({"manifests": [*entries, entry]}))
    return root


def write_docker_save(path: Path, layers: Sequence[bytes], **settings: Any) -> Path:
    """What older `docker save` writes: a manifest.json, a config and plain layers."""
    config = image_config(layers, **settings)
    names = [hashlib.sha256(layer).hexdigest() for layer in layers]
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [
        {"Config": config_name, "RepoTags": ["a:1"], "Layers": [f"{n}/layer.tar" for n in names]}
    ]
    files = {f"{name}/layer.tar": data for name, data in zip(names, layers, strict=True)}
    files |= {config_name: config, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(layer_tar(files))
    return path


def archive_layout(root: Path, archive: Path, mode: Any = "w") -> Path:
    """The OCI layout at `root` as an archive."""
    with tarfile.open(archive, mode) as tar:
        for name in ("blobs", "index.json", "oci-layout"):
            tar.add(root / name, name)
    return archive


def sparse_bomb(size_bytes: int) -> bytes:
    """An archive of a few blocks with a file of `size_bytes`, all of it left out (GNU tar, 1.0)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("bomb")
        member.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "bomb",
            "GNU.sparse.realsize": str(size_bytes),
        }
        extents = b"1\n%d\n0\n" % size_bytes
        member.size = tarfile.BLOCKSIZE
        tar.addfile(member, io.BytesIO(extents.ljust(tarfile.BLOCKSIZE, b"\0")))
    return buffer.getvalue()
