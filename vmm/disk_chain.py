"""The layers of one disk of a running VM, and the steps that freeze the newest of them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import anyio

from vmm.disks import layer_path
from vmm.errors import VmmError
from vmm.machine import layer_node, layer_options
from vmm.qmp import Qmp
from vmm.qmp_line import QmpLine


class DiskChain:
    """One disk: `layers` from the raw base to the writable overlay, as QEMU has them open.

    `nodes` and `stem` are what its block nodes and its files are called, before their number;
    `template` is the empty overlay its layers are copied from; None: nobody writes to the disk.
    """

    def __init__(self, nodes: str, stem: str, template: str | None, layers: list[str]) -> None:
        self.template = template
        self.layers = layers
        self.nodes = nodes
        self._stem = stem
        self._numbers = list(range(len(layers)))
        """Of each layer's node: those of layers that were merged do not come again."""
        self._next_number = len(layers)
        self._next: str | None = None
        """An overlay that QEMU has opened, and nobody writes to."""

    def node(self, index: int) -> str:
        """The block node of a layer, counted as in `layers`."""
        return layer_node(self._numbers[index], self.nodes)

    def next_path(self, directory: str) -> str:
        """Where the next layer's file goes."""
        return layer_path(os.path.join(directory, self._stem), self._next_number)

    def names(self, layers: list[str]) -> list[str]:
        """What `layers` are called in a bundle, without the base, which has a name of its own."""
        return [layer_path(self._stem, index) for index in range(1, len(layers))]

    async def open_next(self, qmp: Qmp, path: str) -> None:
        """Let QEMU open the empty overlay at `path`, while the guest runs; nobody writes to it yet.

        Either `push` or `close_next` is to follow.
        """
        options = layer_options(self._next_number, path, read_only=False, chain=self.nodes)
        options["backing"] = None
        await qmp.execute("blockdev-add", options)
        self._next = path

    def freeze_stopped(self, line: QmpLine) -> list[str]:
        """Freeze the disk of a guest that stands still; the layers that are the disk as it is.

        The newest is none of them, and goes on being written to, if nothing is in it: else a disk
        that nobody writes to would get a layer with every fork.
        """
        if self.template is None:
            return list(self.layers)
        if self._is_untouched():
            return self.layers[:-1]
        frozen = list(self.layers)
        line.execute("blockdev-snapshot", self._onto_next())
        self._pushed()
        return frozen

    async def push(self, qmp: Qmp) -> None:
        """Freeze the disk as it is: writes go to the layer that was opened from here on."""
        with anyio.CancelScope(shield=True):  # what QEMU has done by then is to be known
            await qmp.execute("blockdev-snapshot", self._onto_next())
            self._pushed()

    def _onto_next(self) -> dict[str, str]:
        return {"node": self.node(-1), "overlay": layer_node(self._next_number, self.nodes)}

    def _pushed(self) -> None:
        """QEMU writes to the next layer from now on."""
        assert self._next is not None
        self.layers.append(self._next)
        self._numbers.append(self._next_number)
        self._next_number += 1
        self._next = None

    async def close_next(self, qmp: Qmp) -> None:
        """Forget a layer that was opened, but not pushed; else its name would be taken."""
        if self._next is not None:
            self._next = None
            with contextlib.suppress(VmmError):  # QEMU has gone, or never had it
                overlay = layer_node(self._next_number, self.nodes)
                await qmp.execute("blockdev-del", {"node-name": overlay})

    async def drop(self, qmp: Qmp, first: int, end: int) -> list[str]:
        """Close layers that nothing lies on any more; their files."""
        dropped: list[str] = []
        for index in reversed(range(first, end)):
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(VmmError):  # then its file stays open; nobody reads it
                    await qmp.execute("blockdev-del", {"node-name": self.node(index)})
                dropped.append(self.layers.pop(index))
                del self._numbers[index]
        return dropped

    def _is_untouched(self) -> bool:
        """Whether the newest layer is still the empty overlay that it was made as.

        Of a guest that stands still: QEMU has written all it knows of the file into it by then.
        """
        assert self.template is not None
        newest, empty = Path(self.layers[-1]), Path(self.template)
        same_size = newest.stat().st_size == empty.stat().st_size
        return same_size and newest.read_bytes() == empty.read_bytes()
