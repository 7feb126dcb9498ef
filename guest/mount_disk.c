/* See mount_disk.h. */
#include "mount_disk.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "grow.h"
#include "io.h"

/* The serials vmm/machine.py gives the disks; a virtio-blk serial has at most 20 bytes. */
#define LOWER_SERIAL "machinen-lower"
#define UPPER_SERIAL "machinen-upper"
#define DRIVER "/sys/bus/virtio/drivers/virtio_blk"
#define LAYERS "/run/machinen/mount"
#define LOWER LAYERS "/lower"
#define UPPER LAYERS "/upper"
#define UPPER_FILES UPPER "/files"
#define UPPER_WORK UPPER "/work"

/* Look a disk up by its serial: letters depend on which driver probed first. Returns 0 or a negative errno. */
static int find_disk(const char *serial, char device[32])
{
    DIR *disks = opendir("/sys/block");
    int result = -ENODEV;
    if (disks == NULL)
        return -errno;
    for (struct dirent *entry; result < 0 && (entry = readdir(disks)) != NULL;) {
        char path[320], found[64];
        if (strncmp(entry->d_name, "vd", 2) != 0 || strlen(entry->d_name) > 16)
            continue;
        snprintf(path, sizeof path, "/sys/block/%s/serial", entry->d_name);
        if (read_text_file(path, found, sizeof found) < 0)
            continue;
        found[strcspn(found, "\n")] = '\0';
        if (strcmp(found, serial) != 0)
            continue;
        snprintf(device, 32, "/dev/%.16s", entry->d_name);
        result = 0;
    }
    closedir(disks);
    return result;
}

/*
 * Take the driver off the disk with that serial and put it back: it asks for the size again, and nothing read from the
 * disk of before is left in memory. Nobody has it mounted yet.
 */
static int look_again(const char *serial)
{
    char device[32], path[64], link[PATH_MAX];
    int result = find_disk(serial, device);
    if (result < 0)
        return result;
    snprintf(path, sizeof path, "/sys/block/%s/device", device + strlen("/dev/"));
    ssize_t size = readlink(path, link, sizeof link - 1);
    if (size < 0)
        return -errno;
    link[size] = '\0';
    const char *slash = strrchr(link, '/');
    const char *name = slash == NULL ? link : slash + 1;
    result = write_text_file(DRIVER "/unbind", name, 0200);
    return result < 0 ? result : write_text_file(DRIVER "/bind", name, 0200);
}

static int mount_layer(const char *serial, const char *type, const char *at, unsigned long flags,
                       char device[32])
{
    int result = find_disk(serial, device);
    if (result == 0)
        result = make_directories(at, 0700);
    if (result == 0 && mount(device, at, type, flags, NULL) < 0)
        result = -errno;
    return result;
}

/* The overlay's own directory looks like its upper one: give that owner and mode of the lower. */
static int prepare_upper(void)
{
    struct stat lower;
    struct stat upper;
    if (mkdir(UPPER_WORK, 0700) < 0 && errno != EEXIST)
        return -errno;
    if (lstat(UPPER_FILES, &upper) == 0)
        return 0; /* a mount of before: the guest may have changed it */
    if (stat(LOWER, &lower) < 0 || mkdir(UPPER_FILES, 0700) < 0 ||
        chown(UPPER_FILES, lower.st_uid, lower.st_gid) < 0 ||
        chmod(UPPER_FILES, lower.st_mode & 07777) < 0)
        return -errno;
    return 0;
}

static int mount_overlay(const char *path)
{
    static const char options[] = "lowerdir=" LOWER ",upperdir=" UPPER_FILES ",workdir=" UPPER_WORK;
    int result = prepare_upper();
    if (result == 0)
        result = make_directories(path, 0755);
    if (result == 0 && mount("machinen", path, "overlay", MS_NODEV, options) < 0)
        result = -errno;
    return result;
}

static const char *describe(const char *what, int error)
{
    static char text[256];
    snprintf(text, sizeof text, "%s: %s", what, strerror(-error));
    return text;
}

static const char *mount_layers(const char *path)
{
    char device[32];
    int result = mount_layer(LOWER_SERIAL, "squashfs", LOWER, MS_RDONLY | MS_NODEV, device);
    if (result < 0)
        return describe("mounting the copied directory", result);
    result = mount_layer(UPPER_SERIAL, "ext4", UPPER, MS_NOATIME | MS_NODEV, device);
    if (result < 0)
        return describe("mounting the writable layer", result);
    result = grow_ext4(device, UPPER);
    if (result < 0)
        return describe("growing the writable layer", result);
    result = mount_overlay(path);
    return result < 0 ? describe("laying one over the other", result) : NULL;
}

const char *mount_disk(const char *path, bool exchanged)
{
    int result = exchanged ? look_again(LOWER_SERIAL) : 0;
    if (result == 0 && exchanged)
        result = look_again(UPPER_SERIAL);
    const char *problem =
        result < 0 ? describe("looking at the disks again", result) : mount_layers(path);
    /* The overlay holds its layers itself; nobody shall write to them behind its back. */
    umount2(LOWER, MNT_DETACH);
    umount2(UPPER, MNT_DETACH);
    return problem;
}
