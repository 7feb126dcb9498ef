/* The parts of PID 1. Each returns 0 or a negative errno; messages go to the console through init_log(). */
#ifndef MACHINEN_INIT_H
#define MACHINEN_INIT_H

#include <stdbool.h>

/* One line "machinen-init: <what> failed: <errno text>"; `error` is positive. */
void init_log_failure(const char *what, int error);

/* init_root.c */
int load_modules(const char *list_path);
/* A disk that may be written becomes the root and grows to its device; one that may not, the lower half of a root
 * whose changes live in RAM. */
int mount_root_disk(const char *device, const char *mount_point);
/* Make `new_root` the root, with /dev, /proc and /sys moved along; what the initramfs holds is freed. */
int switch_root(const char *new_root);
/* Everything below the new root that programs expect: pts, shm, run, tmp, cgroups. */
int mount_runtime_file_systems(void);

/* init_ram_root.c */
bool is_read_only_disk(const char *device);
/* Mount the ext4 on `device` with a tmpfs over it. Needs the module overlay. */
int mount_ram_root(const char *device, const char *mount_point);

/* init_network.c */
int bring_up_loopback(void);
/* Static address for eth0, matching passt's and libslirp's defaults; -ENODEV without a NIC. */
int bring_up_ethernet(void);

#endif
