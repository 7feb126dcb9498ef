/* See io.h. */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

int read_exactly(int fd, void *buffer, size_t size)
{
    for (uint8_t *next = buffer; size > 0;) {
        ssize_t got = read(fd, next, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EPIPE;
        next += got;
        size -= (size_t)got;
    }
    return 0;
}

int write_exactly(int fd, const void *buffer, size_t size)
{
    for (const uint8_t *next = buffer; size > 0;) {
        ssize_t put = write(fd, next, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        next += put;
        size -= (size_t)put;
    }
    return 0;
}

int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return 0;
}

void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

ssize_t read_text_file(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    size_t filled = 0;
    ssize_t got = 1;
    while (filled < capacity && got != 0) {
        got = read(fd, text + filled, capacity - filled);
        if (got < 0 && errno != EINTR)
            break;
        filled += got > 0 ? (size_t)got : 0;
    }
    ssize_t result = got < 0 ? -errno : filled == capacity ? -EFBIG : (ssize_t)filled;
    close(fd);
    if (result >= 0)
        text[result] = '\0';
    return result;
}

/* Write a whole text, and nothing may follow it if it is `cut`; closes `fd`. */
static int write_whole_text(int fd, const char *text, bool cut)
{
    if (fd < 0)
        return -errno;
    int result = write_exactly(fd, text, strlen(text));
    if (result == 0 && cut && ftruncate(fd, (off_t)strlen(text)) < 0)
        result = -errno;
    if (close(fd) < 0 && result == 0)
        result = -errno;
    return result;
}

int write_text_file(const char *path, const char *text, mode_t mode)
{
    return write_whole_text(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode), text, false);
}

int overwrite_text_file(const char *path, const char *text, mode_t mode)
{
    return write_whole_text(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode), text, true);
}

int make_directories(const char *path, mode_t mode)
{
    char partial[PATH_MAX];
    size_t size = strlen(path);
    if (size >= sizeof partial)
        return -ENAMETOOLONG;
    memcpy(partial, path, size + 1);
    for (char *slash = partial + 1; *slash != '\0'; slash++) {
        if (*slash != '/')
            continue;
        *slash = '\0';
        if (mkdir(partial, mode) < 0 && errno != EEXIST)
            return -errno;
        *slash = '/';
    }
    if (mkdir(partial, mode) == 0)
        return 0;
    struct stat found;
    if (errno != EEXIST)
        return -errno;
    if (stat(partial, &found) < 0)
        return -errno;
    return S_ISDIR(found.st_mode) ? 0 : -ENOTDIR;
}

uint64_t monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
