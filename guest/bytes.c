/* See bytes.h. */
#include "bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST_CAPACITY = 256, KEEP_CAPACITY = 4096 };

const uint8_t *bytes_data(const struct bytes *queue)
{
    return queue->memory == NULL ? (const uint8_t *)"" : queue->memory + queue->start;
}

/* Make room for `size` more bytes behind the last one. */
static int reserve(struct bytes *queue, size_t size)
{
    size_t needed = queue->size + size;
    if (queue->start + needed <= queue->capacity)
        return 0;
    /* Moving down costs queue->size; only worth it when at least as much room is won. */
    if (needed <= queue->capacity && queue->start >= queue->size) {
        memmove(queue->memory, queue->memory + queue->start, queue->size);
        queue->start = 0;
        return 0;
    }
    size_t capacity = SMALLEST_CAPACITY;
    while (capacity < needed)
        capacity *= 2;
    uint8_t *memory = malloc(capacity);
    if (memory == NULL)
        return -ENOMEM;
    if (queue->size > 0)
        memcpy(memory, queue->memory + queue->start, queue->size);
    free(queue->memory);
    *queue = (struct bytes){.memory = memory, .capacity = capacity, .size = queue->size};
    return 0;
}

int bytes_expect(struct bytes *queue, size_t size)
{
    return size > queue->size ? reserve(queue, size - queue->size) : 0;
}

int bytes_append(struct bytes *queue, const void *data, size_t size)
{
    if (size == 0)
        return 0;
    if (reserve(queue, size) < 0)
        return -ENOMEM;
    memcpy(queue->memory + queue->start + queue->size, data, size);
    queue->size += size;
    return 0;
}

void bytes_drop(struct bytes *queue, size_t size)
{
    queue->start += size;
    queue->size -= size;
    if (queue->size > 0)
        return;
    queue->start = 0;
    if (queue->capacity > KEEP_CAPACITY)
        bytes_free(queue);
}

void bytes_free(struct bytes *queue)
{
    free(queue->memory);
    *queue = (struct bytes){0};
}
