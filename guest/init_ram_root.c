/* A root disk that may only be read: what is written goes to a tmpfs above it, and with the guest's memory. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOWER "/lower"
#define RAM "/ram"
#define RAM_FILES RAM "/files"
#define RAM_WORK RAM "/work"

bool is_read_only_disk(const char *device)
{
    int read_only = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool known = ioctl(fd, BLKROGET, &read_only) == 0;
    close(fd);
    return known && read_only != 0;
}

/* The overlay's own directory looks like its upper one: give that owner and mode of the disk's. */
static int prepare_ram(void)
{
    struct stat lower;
    if (stat(LOWER, &lower) < 0 || mkdir(RAM_FILES, 0700) < 0 || mkdir(RAM_WORK, 0700) < 0 ||
        chown(RAM_FILES, lower.st_uid, lower.st_gid) < 0 ||
        chmod(RAM_FILES, lower.st_mode & 07777) < 0)
        return -errno;
    return 0;
}

static int mount_overlay(const char *mount_point)
{
    /* redirect_dir: a directory of the disk can be renamed, as on any other file system */
    static const char options[] =
        "lowerdir=" LOWER ",upperdir=" RAM_FILES ",workdir=" RAM_WORK ",redirect_dir=on";
    int result = prepare_ram();
    if (result == 0 && mount("machinen", mount_point, "overlay", MS_NOATIME, options) < 0)
        result = -errno;
    return result;
}

int mount_ram_root(const char *device, const char *mount_point)
{
    if (mkdir(LOWER, 0700) < 0 || mkdir(RAM, 0700) < 0 ||
        mount(device, LOWER, "ext4", MS_RDONLY | MS_NOATIME, NULL) < 0)
        return -errno;
    int result = mount("tmpfs", RAM, "tmpfs", MS_NOATIME, "mode=700") < 0 ? -errno : 0;
    if (result == 0)
        result = mount_overlay(mount_point);
    /* The overlay holds its layers itself; nobody shall write to them behind its back. */
    umount2(RAM, MNT_DETACH);
    umount2(LOWER, MNT_DETACH);
    return result;
}
