"""The layers of one disk of a running VM, and the steps that freeze the newest of them."""

from __future__ import annotations

import contextlib
import os

import anyio

from vmm.disks import layer_path
from vmm.errors import VmmError
from vmm.machine import layer_node, layer_options
from vmm.qmp import Qmp


class DiskChain:
    """One disk: `layers` from the raw base to the writable overlay, as QEMU has them open.

    `nodes` and `stem` are what its block nodes and its files are called, before their number;
    `template` is the empty overlay its layers are copied from; None: nobody writes to the disk.
    """

    def __init__(self, nodes: str, stem: str, template: str | None, layers: list[str]) -> None:
        self.template = template
        self.layers = layers
        self._nodes = nodes
        self._stem = stem
        self._next: str | None = None
        """An overlay that QEMU has opened, and nobody writes to."""

    def next_path(self, directory: str) -> str:
        """Where the next layer's file goes."""
        return layer_path(os.path.join(directory, self._stem), len(self.layers))

    def names(self, layers: list[str]) -> list[str]:
        """What `layers` are called in a bundle, without the base, which has a name of its own."""
        return [layer_path(self._stem, index) for index in range(1, len(layers))]

    async def open_next(self, qmp: Qmp, path: str) -> None:
        """Let QEMU open the empty overlay at `path`, while the guest runs; nobody writes to it yet.

        Either `push` or `close_next` is to follow.
        """
        options = layer_options(len(self.layers), path, read_only=False, chain=self._nodes)
        options["backing"] = None
        await qmp.execute("blockdev-add", options)
        self._next = path

    async def push(self, qmp: Qmp) -> None:
        """Freeze the disk as it is: writes go to the layer that was opened from here on."""
        assert self._next is not None
        index = len(self.layers)
        node, overlay = (layer_node(each, self._nodes) for each in (index - 1, index))
        with anyio.CancelScope(shield=True):  # what QEMU has done by then is to be known
            await qmp.execute("blockdev-snapshot", {"node": node, "overlay": overlay})
            self.layers.append(self._next)
            self._next = None

    async def close_next(self, qmp: Qmp) -> None:
        """Forget a layer that was opened, but not pushed; else its name would be taken."""
        if self._next is not None:
            self._next = None
            with contextlib.suppress(VmmError):  # QEMU has gone, or never had it
                overlay = layer_node(len(self.layers), self._nodes)
                await qmp.execute("blockdev-del", {"node-name": overlay})
