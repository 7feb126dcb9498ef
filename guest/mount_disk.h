/* The overlay of a `mount`: a read-only copy of a host directory below, this VM's own writes above. */
#ifndef MACHINEN_MOUNT_DISK_H
#define MACHINEN_MOUNT_DISK_H

#include <stdbool.h>

/*
 * Find the two disks and lay one over the other at `path`. `exchanged`: they are others than those the kernel looked at
 * when it found them, so it has to look again. Returns NULL or what went wrong, valid until the next call.
 */
const char *mount_disk(const char *path, bool exchanged);

#endif
