/*
 * A stream and a socket, copied into each other: half-closes pass through, an abort on one side is an abort on the other,
 * and a reader that stops makes the other side stop. The relay is the stream's `state`.
 */
#ifndef MACHINEN_RELAY_H
#define MACHINEN_RELAY_H

#include <stdbool.h>

#include "mux.h"

enum relay_start {
    RELAY_CONNECTING, /* the socket's connect() is under way; the stream is accepted when it is done */
    RELAY_OPENING,    /* the socket is connected; nothing is read before relay_begin() */
};

/* Takes `fd` over, whatever happens. Returns 0 or -ENOMEM. */
int relay_attach(struct stream *stream, int fd, enum relay_start start);
/* The host accepted: `greeting` goes to the socket first (may be empty), then all that comes. */
void relay_begin(struct stream *stream, const char *greeting);

/* For the table of a service. */
void relay_input(struct stream *stream);
void relay_writable(struct stream *stream);
void relay_closed(struct stream *stream);

#endif
