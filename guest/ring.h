/* The last 262144 bytes a session's terminal has shown, ready to be replayed. */
#ifndef MACHINEN_RING_H
#define MACHINEN_RING_H

#include "bytes.h"
#include "modes.h"

enum { RING_CAPACITY = 262144 };

struct ring {
    uint8_t *memory;
    size_t start;
    size_t size;
    bool has_lost; /* bytes have fallen out */
    struct mode_tracker lost; /* the state at the ring's first byte */
};

int ring_open(struct ring *ring);
void ring_close(struct ring *ring);
void ring_append(struct ring *ring, const uint8_t *data, size_t size);
/* Append to `replay`: the modes still in force whose switching was lost, then the output from a clean place on. */
int ring_replay(const struct ring *ring, struct bytes *replay);

#endif
