/*
 * Large output of a program crosses the agent without being copied: its pages move from the program's pipe to the port by
 * splice(2), behind the frame headers they need. Copies are what an emulated guest pays most for.
 */
#ifndef MACHINEN_SPLICE_H
#define MACHINEN_SPLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPLICE_LEAST = 16384, /* fewer bytes are copied sooner than their pages are moved */
    SPLICE_MOST = 245760, /* bytes in one go: a pipe of 262144 whose first and last page are not full */
};

/* Take at most `size` bytes of `pipe` and put them into the queue as DATA frames of `stream`, behind the line "<tag> <count>\n".
 * The queue is empty. Returns the payload's bytes with that line, and sets `*taken`; 0 if the pipe gave nothing. */
size_t splice_load(uint32_t stream, char tag, int pipe, size_t size, size_t *taken);
/* Whether frames wait in the queue: no other frame may be sent before them. */
bool splice_is_pending(void);
/* Send the queue. Returns 0 when it is empty, or a negative errno; EAGAIN: the port is full. `*lost` is 0, or the stream whose
 * whole queue is gone because the guest is out of memory. */
int splice_send(int port, uint32_t *lost);
/* The connection has gone, and what waits for it with it. */
void splice_drop(void);

#endif
