/*
 * Large output of a program crosses the agent without being copied: its pages move from the program's pipe to the port by
 * splice(2), behind the frame headers they need. Copies are what an emulated guest pays most for.
 */
#ifndef MACHINEN_SPLICE_H
#define MACHINEN_SPLICE_H

#include <stdbool.h>
#include <stdint.h>

/* What mux.c and streams.c see of it; services call stream_splice_tagged(), mux.h. */

/* Whether frames wait in the queue: no other frame may be sent before them. */
bool splice_is_pending(void);
/* Send the queue. Returns 0 when it is empty, or a negative errno; EAGAIN: the port is full. `*lost` is 0, or the stream whose
 * whole queue is gone because the guest is out of memory. */
int splice_send(int port, uint32_t *lost);
/* The connection has gone, and what waits for it with it. */
void splice_drop(void);

#endif
