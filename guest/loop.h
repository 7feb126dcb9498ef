/*
 * The agent's event loop: descriptors (epoll), timers and one hook that runs before each wait.
 * Single-threaded. A callback may add and remove anything; an event that was already fetched for a
 * removed watch is dropped.
 */
#ifndef MACHINEN_LOOP_H
#define MACHINEN_LOOP_H

#include <stdbool.h>
#include <stdint.h>

typedef void (*watch_callback)(void *context, uint32_t epoll_events);
typedef void (*timer_callback)(void *context);

/* 0 is "none" for both kinds of handle, so zero-initialised structs watch nothing. */
typedef uint64_t watch_id;
typedef uint64_t timer_id;

int loop_start(void);
/* Returns 0 if epoll refuses (the descriptor is closed, or no memory). */
watch_id loop_watch(int fd, uint32_t epoll_events, watch_callback callback, void *context);
void loop_change(watch_id watch, uint32_t epoll_events);
/* Call before closing the descriptor. Sets the handle to 0; 0 is left alone. */
void loop_unwatch(watch_id *watch);

timer_id loop_after_ms(uint64_t delay_ms, timer_callback callback, void *context);
void loop_cancel(timer_id *timer);

/* `hook` runs before each wait and returns true if it has more to do at once. */
void loop_set_hook(bool (*hook)(void));
/* Run until loop_stop(); returns the status given there. */
int loop_run(void);
void loop_stop(int status);

#endif
