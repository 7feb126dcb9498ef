"""Fill a paused QEMU's RAM from a snapshot's image: a restore that maps nothing.

The memory is QEMU's own then, so free-page reporting gives back what the guest frees. Only what is
not a hole in the image is written: untouched memory reads as zeros anyway.
"""

from __future__ import annotations

import mmap
import os
from contextlib import closing

from vmm.disks import data_extents
from vmm.ram_image import image_data_bytes, write_memory
from vmm.ram_pages import find_ram


def fill_ram(pid: int, size_bytes: int, image_path: str) -> int:
    """Copy the image into the anonymous RAM of QEMU `pid`; returns the bytes written.

    Raises:
        ValueError: the image has another size, or there is no such RAM.
        OSError: the process is gone, or the image cannot be read.
    """
    descriptor = os.open(image_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size != size_bytes:
            raise ValueError(f"the image has {size} bytes, the machine {size_bytes}")
        ram = find_ram(pid, size_bytes, None)
        extents = data_extents(descriptor, size)
        with closing(mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)) as image:
            for start, end in extents:
                write_memory(pid, ram.start + start, image, start, end - start)
        return image_data_bytes(descriptor)
    finally:
        os.close(descriptor)
