/* See grow.h. */
#include "grow.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io.h"

/* linux/ext4.h is not among the exported headers; fs/ext4/ext4.h has this. */
#define EXT4_IOC_RESIZE_FS _IOW('f', 16, uint64_t)

enum { SUPERBLOCK_OFFSET = 1024, SUPERBLOCK_SIZE = 1024, EXT4_MAGIC = 0xef53 };

static uint32_t little_endian(const uint8_t *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

/* The size of the file system and of its device, in file system blocks; ext4's on-disk format, "The Super Block". */
static int compare_sizes(int device_fd, uint64_t *blocks, uint64_t *device_blocks)
{
    uint8_t super[SUPERBLOCK_SIZE];
    uint64_t device_bytes;
    ssize_t got = pread(device_fd, super, sizeof super, SUPERBLOCK_OFFSET);
    if (got != sizeof super)
        return got < 0 ? -errno : -EIO;
    if (ioctl(device_fd, BLKGETSIZE64, &device_bytes) < 0)
        return -errno;
    if ((super[0x38] | super[0x39] << 8) != EXT4_MAGIC || little_endian(super + 0x18) > 6)
        return -EINVAL;
    bool is_64_bit = (little_endian(super + 0x60) & 0x80) != 0; /* INCOMPAT_64BIT */
    *blocks = little_endian(super + 0x4) |
              (is_64_bit ? (uint64_t)little_endian(super + 0x150) << 32 : 0);
    *device_blocks = device_bytes >> (10 + little_endian(super + 0x18));
    return 0;
}

int grow_ext4(const char *device, const char *mount_point)
{
    uint64_t blocks = 0, device_blocks = 0;
    int device_fd = open(device, O_RDONLY | O_CLOEXEC);
    int result = device_fd < 0 ? -errno : compare_sizes(device_fd, &blocks, &device_blocks);
    close_fd(&device_fd);
    if (result < 0 || device_blocks <= blocks)
        return result;
    int root_fd = open(mount_point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0 || ioctl(root_fd, EXT4_IOC_RESIZE_FS, &device_blocks) < 0)
        result = -errno;
    close_fd(&root_fd);
    return result;
}
