/* Small helpers around descriptors and small files. */
#ifndef MACHINEN_IO_H
#define MACHINEN_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Fill `buffer` with exactly `size` bytes. Returns 0 or a negative errno; -EPIPE: end of file came early. */
int read_exactly(int fd, void *buffer, size_t size);
/* Write all `size` bytes to a blocking descriptor. Returns 0 or a negative errno. */
int write_exactly(int fd, const void *buffer, size_t size);
int set_nonblocking(int fd);
/* Close and set to -1; -1 is left alone. */
void close_fd(int *fd);
/* Read a whole small file as a NUL-terminated text. Returns its length or a negative errno; -EFBIG: does not fit. */
ssize_t read_text_file(const char *path, char *text, size_t capacity);
/* Replace a file's content (not atomically). Returns 0 or a negative errno. */
int write_text_file(const char *path, const char *text, mode_t mode);
/* The same in place, and never empty on the way: whoever reads at any moment finds something. A file that was cut to nothing is
 * written to the disk by ext4 when it is closed (auto_da_alloc), which takes many times as long. */
int overwrite_text_file(const char *path, const char *text, mode_t mode);
/* Make a directory and its parents. Returns 0 or a negative errno; an existing directory is fine. */
int make_directories(const char *path, mode_t mode);
uint64_t monotonic_ms(void);

#endif
