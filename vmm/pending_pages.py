"""How much of a mapped snapshot image its VM has not touched yet.

A page is pending if the image has data for it and QEMU's page table has no entry: nothing was read
and nothing written there. The kernel maps some neighbours of a page that is read; those count as
touched.
"""

from __future__ import annotations

from vmm.disks import data_extents
from vmm.ram_image import image_data_bytes
from vmm.ram_pages import PAGE_BYTES, RamMap, find_ram, present_pages
from vmm.spec import VmSpec


class PendingPages:
    """Counts for one VM. Costs nothing for a VM that is no copy, or is done with the image."""

    def __init__(self, qemu_pid: int, spec: VmSpec, image_fd: int | None) -> None:
        """`image_fd` is the open image that `spec.mapped_image` names."""
        self._pid = qemu_pid
        self._size = spec.machine.memory_mib << 20
        self._image = spec.mapped_image
        if not spec.is_copy:  # a template's pages are nobody's yet
            image_fd = None
        self._extents = data_extents(image_fd, self._size) if image_fd is not None else []
        self._total = image_data_bytes(image_fd) // PAGE_BYTES if image_fd is not None else 0
        self._ram: RamMap | None = None

    def count(self) -> int:
        """Pages still pending; 0 once QEMU is gone."""
        if not self._extents:
            return 0
        try:
            if self._ram is None:
                self._ram = find_ram(self._pid, self._size, self._image)
            pending = self._total - present_pages(self._ram, self._extents)
        except (OSError, ValueError):
            return 0
        if pending <= 0:
            self._extents = []
        return max(0, pending)
