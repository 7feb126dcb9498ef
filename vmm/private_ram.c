/* Loaded into the QEMU of a VM whose RAM is a private map of an image that other VMs map, too: LD_PRELOAD,
 * see vmm/ram_shim.py.
 *
 * A guest tells QEMU which pages it has freed. QEMU punches them out of the file below and then drops its own
 * copies; the first would change every sibling's memory, so QEMU refuses both when it was told that it may only
 * read the file. Here it is told that it may write, and may not: the image is opened read-only, so the kernel
 * lets nobody change it through this process, and punching holes in it does nothing. What remains is
 * madvise(MADV_DONTNEED), which gives back this VM's own copy of a page; read again, the page holds what the
 * image does.
 *
 * The image is the file of PRIVATE_RAM_FILE, "<device>:<inode>" in decimal; without it no file is different.
 *
 * It also opens a userfaultfd, which only the process itself can have; the monitor takes it from here and has the
 * kernel note which pages of RAM are written from one snapshot to the next (vmm/write_tracker.py). Nothing comes of
 * it where the kernel is too old.
 * No library is linked: the functions are those of the process, be its libc glibc or musl.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PUNCHES_HOLES (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define NOT_WHILE_READING (O_ACCMODE | O_CREAT | O_EXCL | O_TRUNC)
/* O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY, which needs no rights; vmm/seccomp.py allows just this. */
#define TRACKER_FLAGS (O_CLOEXEC | O_NONBLOCK | 1)

static unsigned long long image_device, image_inode;
static int image_named, asked, tracking;

/* Looked up when first needed: no constructor, which might run before libc's own. Threads that come at once find
 * the same. */
static int image_is_named(void)
{
    if (!__atomic_load_n(&asked, __ATOMIC_ACQUIRE)) {
        const char *text = getenv("PRIVATE_RAM_FILE");
        char *end = NULL;

        if (text != NULL)
            image_device = strtoull(text, &end, 10);
        if (end != NULL && end != text && *end == ':') {
            text = end + 1;
            image_inode = strtoull(text, &end, 10);
            image_named = end != text && *end == '\0';
        }
        __atomic_store_n(&asked, 1, __ATOMIC_RELEASE);
    }
    return image_named;
}

/* Once, by the first thread that opens a file: QEMU does so long before it has a guest. */
static void open_tracker(void)
{
    int saved = errno;

    if (!__atomic_exchange_n(&tracking, 1, __ATOMIC_ACQ_REL))
        (void)syscall(SYS_userfaultfd, TRACKER_FLAGS);
    errno = saved;
}

static int is_image(const struct stat *status)
{
    return status->st_dev == image_device && status->st_ino == image_inode;
}

/* openat(2), except that the image is opened for reading whatever is asked for. */
static int open_at(int directory, const char *path, int flags, mode_t mode)
{
    struct stat status;

    open_tracker();
    if ((flags & O_ACCMODE) != O_RDONLY && image_is_named() && fstatat(directory, path, &status, 0) == 0 &&
        is_image(&status))
        flags = (flags & ~NOT_WHILE_READING) | O_RDONLY;
    return (int)syscall(SYS_openat, directory, path, flags, mode);
}

static int takes_mode(int flags)
{
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (takes_mode(flags)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return open_at(AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (takes_mode(flags)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    return open_at(directory, path, flags, mode);
}

/* What a program compiled with _FORTIFY_SOURCE calls when it passes no mode. */
int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags)
{
    return open_at(AT_FDCWD, path, flags, 0);
}

int __openat_2(int directory, const char *path, int flags);
int __openat_2(int directory, const char *path, int flags)
{
    return open_at(directory, path, flags, 0);
}

int fallocate(int file, int mode, off_t offset, off_t size)
{
    struct stat status;

    if (mode == PUNCHES_HOLES && image_is_named() && fstat(file, &status) == 0 && is_image(&status))
        return 0;
    return (int)syscall(SYS_fallocate, file, mode, offset, size);
}

/* The names with 64 are the same functions where off_t has 64 bits; musl says so by macros. */
_Static_assert(sizeof(off_t) == 8, "off_t has 64 bits");
#ifndef open64
int open64(const char *path, int flags, ...) __attribute__((alias("open")));
int openat64(int directory, const char *path, int flags, ...) __attribute__((alias("openat")));
int fallocate64(int file, int mode, off_t offset, off_t size) __attribute__((alias("fallocate")));
int __open64_2(const char *path, int flags) __attribute__((alias("__open_2")));
int __openat64_2(int directory, const char *path, int flags) __attribute__((alias("__openat_2")));
#endif
