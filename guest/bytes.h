/* A queue of bytes that grows on demand and gives its memory back when it is empty. */
#ifndef MACHINEN_BYTES_H
#define MACHINEN_BYTES_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialised: empty. The queued bytes are `size` bytes at bytes_data(). */
struct bytes {
    uint8_t *memory;
    size_t capacity;
    size_t start;
    size_t size;
};

const uint8_t *bytes_data(const struct bytes *queue);
/* Returns 0 or -ENOMEM; on failure the queue is as it was. */
int bytes_append(struct bytes *queue, const void *data, size_t size);
/* Make room for `size` bytes in all, so that what comes in pieces is not moved as it grows. Returns 0 or -ENOMEM. */
int bytes_expect(struct bytes *queue, size_t size);
void bytes_drop(struct bytes *queue, size_t size);
void bytes_free(struct bytes *queue);

#endif
