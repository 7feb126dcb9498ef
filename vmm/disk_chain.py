"""The layers of one disk of a running VM, and the step that freezes the newest of them."""

from __future__ import annotations

import contextlib
import os

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

    def next_path(self, directory: str) -> str:
        """Where the next layer's file goes."""
        return layer_path(os.path.join(directory, self._stem), len(self.layers))

    def names(self, layers: list[str]) -> list[str]:
        """What `layers` are called in a bundle, without the base, which has a name of its own."""
        return [layer_path(self._stem, index) for index in range(1, len(layers))]

    async def push(self, qmp: Qmp, path: str) -> None:
        """Freeze the disk as it is: writes go to the empty overlay at `path` from here on."""
        index = len(self.layers)
        options = layer_options(index, path, read_only=False, chain=self._nodes)
        options["backing"] = None
        overlay = layer_node(index, self._nodes)
        await qmp.execute("blockdev-add", options)
        try:
            nodes = {"node": layer_node(index - 1, self._nodes), "overlay": overlay}
            await qmp.execute("blockdev-snapshot", nodes)
        except VmmError:
            with contextlib.suppress(VmmError):  # else the next snapshot finds its name taken
                await qmp.execute("blockdev-del", {"node-name": overlay})
            raise
        self.layers.append(path)
