/* A listening socket on the agent's loop: hands out clients, and waits when there are no descriptors left. */
#ifndef MACHINEN_LISTENER_H
#define MACHINEN_LISTENER_H

#include "loop.h"

struct listener {
    int fd; /* -1: closed */
    void (*client)(int fd); /* takes the non-blocking descriptor over */
    watch_id watch;
    timer_id retry;
};

/* Takes `fd`, a bound socket, over. Returns 0 or a negative errno. */
int listener_start(struct listener *listener, int fd, void (*client)(int fd));
void listener_stop(struct listener *listener);

#endif
