/* See file_writer.h. Both directions carry native u32 counts: a pipe never divides so little (pipe(7), PIPE_BUF). */
#include "file_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"

enum {
    RING_SIZE = 1 << 20, /* a copy's window */
};

int file_writer_start(struct file_writer *writer)
{
    void *ring = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return -errno;
    *writer = (struct file_writer){.ring = ring};
    return 0;
}

void file_writer_free(struct file_writer *writer)
{
    if (writer->ring != NULL)
        munmap(writer->ring, RING_SIZE);
    *writer = (struct file_writer){0};
}

size_t file_writer_put(struct file_writer *writer, const uint8_t *data, size_t size)
{
    size_t put = 0;
    while (put < size && writer->used < RING_SIZE) {
        size_t piece = RING_SIZE - writer->used;
        if (piece > RING_SIZE - writer->next)
            piece = RING_SIZE - writer->next;
        if (piece > size - put)
            piece = size - put;
        memcpy(writer->ring + writer->next, data + put, piece);
        writer->next = (writer->next + piece) % RING_SIZE;
        writer->used += piece;
        writer->untold += piece;
        put += piece;
    }
    return put;
}

int file_writer_tell(struct file_writer *writer, int child, size_t least)
{
    uint32_t count = (uint32_t)writer->untold;
    if (count == 0 || count < least)
        return 0;
    if (write(child, &count, sizeof count) != sizeof count)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno; /* untold still */
    writer->untold = 0;
    return 0;
}

size_t file_writer_hear(struct file_writer *writer, const uint8_t *said, size_t size)
{
    size_t written = 0;
    for (size_t at = 0; at + sizeof(uint32_t) <= size; at += sizeof(uint32_t)) {
        uint32_t count;
        memcpy(&count, said + at, sizeof count);
        written += count;
    }
    if (written > writer->used)
        written = writer->used;
    writer->used -= written;
    return written;
}

int file_writer_open(const char *path)
{
    struct stat found;
    int file = open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return -errno;
    if (fstat(file, &found) < 0 || !S_ISREG(found.st_mode)) {
        close(file);
        return -EINVAL;
    }
    return ftruncate(file, 0) < 0 ? -errno : file;
}

_Noreturn static void give_up(int error)
{
    dprintf(STDERR_FILENO, "%s\n", strerror(error));
    _exit(1);
}

_Noreturn void file_writer_run(const struct file_writer *writer, int file)
{
    uint32_t counts[64];
    if (dup2(file, 3) < 0)
        give_up(errno);
    syscall(SYS_close_range, 4, ~0U, 0); /* nobody shall wait for our end of something that is not ours */
    for (size_t at = 0;;) {
        ssize_t got = read(STDIN_FILENO, counts, sizeof counts);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            _exit(got < 0);
        uint32_t total = 0;
        for (size_t i = 0; i < (size_t)got / sizeof counts[0]; i++)
            total += counts[i];
        for (size_t left = total; left > 0;) {
            size_t piece = left < RING_SIZE - at ? left : RING_SIZE - at;
            int result = write_exactly(3, writer->ring + at, piece);
            if (result < 0)
                give_up(-result);
            at = (at + piece) % RING_SIZE;
            left -= piece;
        }
        if (write_exactly(STDOUT_FILENO, &total, sizeof total) < 0)
            _exit(1);
    }
}
