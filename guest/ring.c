/* See ring.h. */
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How far to look for a line or sequence boundary to start the replay at. */
enum { CUT_LIMIT = 512 };

int ring_open(struct ring *ring)
{
    *ring = (struct ring){.memory = malloc(RING_CAPACITY)};
    return ring->memory == NULL ? -ENOMEM : 0;
}

void ring_close(struct ring *ring)
{
    free(ring->memory);
    *ring = (struct ring){0};
}

static uint8_t byte_at(const struct ring *ring, size_t index)
{
    return ring->memory[(ring->start + index) % RING_CAPACITY];
}

/* The first `size` bytes fall out. */
static void lose(struct ring *ring, size_t size)
{
    if (size == 0)
        return;
    size_t first = RING_CAPACITY - ring->start;
    if (first > size)
        first = size;
    modes_feed(&ring->lost, ring->memory + ring->start, first);
    modes_feed(&ring->lost, ring->memory, size - first);
    ring->start = (ring->start + size) % RING_CAPACITY;
    ring->size -= size;
    ring->has_lost = true;
}

void ring_append(struct ring *ring, const uint8_t *data, size_t size)
{
    if (size > RING_CAPACITY) {
        lose(ring, ring->size);
        modes_feed(&ring->lost, data, size - RING_CAPACITY);
        data += size - RING_CAPACITY;
        size = RING_CAPACITY;
        ring->has_lost = true;
    }
    if (ring->size + size > RING_CAPACITY)
        lose(ring, ring->size + size - RING_CAPACITY);
    size_t end = (ring->start + ring->size) % RING_CAPACITY;
    size_t first = RING_CAPACITY - end;
    if (first > size)
        first = size;
    memcpy(ring->memory + end, data, first);
    memcpy(ring->memory, data + first, size - first);
    ring->size += size;
}

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* How many of the first bytes to leave out so that the replay starts at a line, or at least not inside a character or
 * an escape sequence. */
static size_t clean_start(const struct ring *ring)
{
    size_t limit = ring->size < CUT_LIMIT ? ring->size : CUT_LIMIT;
    if (!ring->has_lost)
        return 0;
    for (size_t i = 0; i < limit; i++)
        if (byte_at(ring, i) == '\n')
            return i + 1;
    struct mode_tracker modes = ring->lost;
    for (size_t i = 0; i < limit; i++) {
        uint8_t byte = byte_at(ring, i);
        if (modes_in_ground(&modes) && !is_continuation(byte))
            return i;
        modes_feed(&modes, &byte, 1);
    }
    return 0;
}

int ring_replay(const struct ring *ring, struct bytes *replay)
{
    size_t skipped = clean_start(ring);
    struct mode_tracker modes = ring->lost;
    for (size_t i = 0; i < skipped; i++) {
        uint8_t byte = byte_at(ring, i);
        modes_feed(&modes, &byte, 1);
    }
    char text[MODES_TEXT_MAX];
    size_t text_size = modes_text(&modes, text);
    size_t begin = (ring->start + skipped) % RING_CAPACITY;
    size_t size = ring->size - skipped;
    size_t first = RING_CAPACITY - begin < size ? RING_CAPACITY - begin : size;
    if (bytes_append(replay, text, text_size) < 0 ||
        bytes_append(replay, ring->memory + begin, first) < 0 ||
        bytes_append(replay, ring->memory, size - first) < 0)
        return -ENOMEM;
    return 0;
}
