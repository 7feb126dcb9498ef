/* From the initramfs to the root disk; see init.h. */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "grow.h"
#include "io.h"

enum {
    MODULE_LIST_MAX = 16384,
    DISK_DEADLINE_MS = 10000,
};

static int load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST ? -errno : 0;
    close(fd);
    return result;
}

/* A module that fails is reported; whether the boot can do without shows when the disk is looked for. */
int load_modules(const char *list_path)
{
    static char list[MODULE_LIST_MAX];
    ssize_t size = read_text_file(list_path, list, sizeof list);
    if (size < 0)
        return size == -ENOENT ? 0 : (int)size;
    for (char *rest = list, *path; (path = strsep(&rest, "\n")) != NULL;) {
        int result = *path == '\0' ? 0 : load_module(path);
        if (result < 0)
            init_log_failure(path, -result);
    }
    return 0;
}

/* The driver probes in the kernel's own threads: with one vCPU, sleeping would make them wait for a timer. */
static int wait_for_device(const char *device)
{
    uint64_t deadline = monotonic_ms() + DISK_DEADLINE_MS;
    while (access(device, F_OK) < 0) {
        if (monotonic_ms() >= deadline)
            return -ENODEV;
        sched_yield();
    }
    return 0;
}

static void grow_root(const char *device, const char *mount_point)
{
    int result = grow_ext4(device, mount_point);
    if (result < 0)
        init_log_failure("growing the root file system", -result);
}

int mount_root_disk(const char *device, const char *mount_point)
{
    int result = wait_for_device(device);
    if (result < 0)
        return result;
    if (mkdir(mount_point, 0755) < 0 && errno != EEXIST)
        return -errno;
    if (is_read_only_disk(device))
        return mount_ram_root(device, mount_point);
    if (mount(device, mount_point, "ext4", MS_NOATIME, NULL) < 0)
        return -errno;
    grow_root(device, mount_point);
    return 0;
}

/* Remove what the initramfs holds, without leaving its file system. Takes the descriptor over. */
static void remove_tree(int directory_fd, dev_t file_system)
{
    DIR *directory = fdopendir(directory_fd);
    if (directory == NULL) {
        close(directory_fd);
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        struct stat found;
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            continue;
        if (fstatat(directory_fd, name, &found, AT_SYMLINK_NOFOLLOW) < 0 ||
            found.st_dev != file_system)
            continue;
        if (S_ISDIR(found.st_mode)) {
            int child = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (child >= 0)
                remove_tree(child, file_system);
        }
        unlinkat(directory_fd, name, S_ISDIR(found.st_mode) ? AT_REMOVEDIR : 0);
    }
    closedir(directory);
}

static int carry_mount(const char *from, const char *new_root)
{
    char target[64];
    snprintf(target, sizeof target, "%s%s", new_root, from);
    if (mkdir(target, 0755) < 0 && errno != EEXIST)
        return -errno;
    return mount(from, target, NULL, MS_MOVE, NULL) < 0 ? -errno : 0;
}

int switch_root(const char *new_root)
{
    static const char *const moved[] = {"/dev", "/proc", "/sys"};
    struct stat old_root;
    int old_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (old_fd < 0 || fstat(old_fd, &old_root) < 0)
        return -errno;
    for (size_t i = 0; i < sizeof moved / sizeof moved[0]; i++) {
        int result = carry_mount(moved[i], new_root);
        if (result < 0)
            return result;
    }
    if (chdir(new_root) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0)
        return -errno;
    remove_tree(old_fd, old_root.st_dev);
    return 0;
}

static int ensure_directory(const char *path, mode_t mode)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return -errno;
    return chmod(path, mode) < 0 ? -errno : 0;
}

/* devtmpfs has no /dev/fd and friends; shells' <(…) and many programs count on them. */
static void link_standard_descriptors(void)
{
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < sizeof links / sizeof links[0]; i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            init_log_failure(links[i][1], errno);
}

int mount_runtime_file_systems(void)
{
    static const struct {
        const char *type, *target, *options;
        mode_t mode;
        unsigned long flags;
    } mounts[] = {
        {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", 0755, MS_NOSUID | MS_NOEXEC},
        {"tmpfs", "/dev/shm", "mode=1777", 01777, MS_NOSUID | MS_NODEV},
        {"tmpfs", "/run", "mode=755", 0755, MS_NOSUID | MS_NODEV},
        {"cgroup2", "/sys/fs/cgroup", NULL, 0755, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    };
    for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
        mkdir(mounts[i].target, mounts[i].mode);
        if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags,
                  mounts[i].options) < 0) {
            init_log_failure(mounts[i].target, errno);
            return -errno;
        }
    }
    link_standard_descriptors();
    int result = ensure_directory("/run/machinen", 0755);
    if (result == 0)
        result = ensure_directory("/tmp", 01777);
    if (result == 0 && access("/var", F_OK) == 0)
        result = ensure_directory("/var/tmp", 01777);
    return result;
}
