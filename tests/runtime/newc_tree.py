"""A tree with every kind of file, and what GNU cpio 2.13 makes of it.

`GOLDEN` is the output of `cpio -o -H newc --reproducible -R 0:0` for `make_tree()` and a node
`null` (character device 1:3, mode 666), names sorted; zlib, base85.
"""

from __future__ import annotations

import base64
import os
import zlib
from pathlib import Path

NAMES = [
    "a",
    "a-file",
    "a/b",
    "a/b/dangling",
    "a/one",
    "a/two",
    "empty",
    "fifo",
    "link",
    "run.sh",
    "z-three",
]


def make_tree(root: Path) -> None:
    """Directories, files, hard and symbolic links, a set-user-id bit; every time is 0."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a-file").write_text("x")
    (root / "a" / "one").write_text("hello")
    os.link(root / "a" / "one", root / "a" / "two")
    os.link(root / "a" / "one", root / "z-three")
    (root / "link").symlink_to("a/one")
    (root / "a" / "b" / "dangling").symlink_to("/nowhere")
    (root / "empty").touch()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o4755)
    os.mkfifo(root / "fifo")
    for name in reversed(NAMES):
        path = root / name
        if not path.is_symlink() and name != "run.sh":
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (0, 0), follow_symlinks=False)


def golden() -> bytes:
    """The archive GNU cpio made."""
    return zlib.decompress(base64.b85decode("".join(GOLDEN.split())))


GOLDEN = """
c-rlgU#o&J7{+(qw~($o+e|YrjS7OU;(UR{nN3<-n9-k4pAHlqN8B>Hh#nB%A@bYvzR!yS6d;Uh^6+Ag{?`~iC$}
sJKy{vaPjTe6{D(WvZ3-&hC{8#9xvu%sV7nb&-6y?PUI^UkOx3>#FPDaXr-saVjS2sV*zrW{0DwYX7)@#84!&j2O
*JVCdN^jcrf>BPzn<xrMV!P^>vdq+Yu}cc_jnHgfl^R?&T4Kho=tlC#oFFgY;opXV}=SGw&q!9Mz*_@p2g3J6}vQ
a;5HHP#0J_OypC**`(}&4>>}UJEGFEGX_~ES-|wT0rL@Quqnt}UU#7XS)vPRjH_>Xn*f@>@zWQiA02re*Sp
"""
