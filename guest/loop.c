/* See loop.h. */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "io.h"

enum { EVENTS_PER_WAIT = 64 };

/* A slot's generation tells a living watch from an event fetched for its predecessor. */
struct watch {
    int fd;
    uint32_t generation;
    uint32_t events;
    watch_callback callback;
    void *context;
};

struct timer {
    timer_id id;
    uint64_t due_ms;
    timer_callback callback;
    void *context;
};

static struct {
    int epoll_fd;
    struct watch *watches;
    uint32_t watch_count;
    struct timer *timers;
    uint32_t timer_count;
    uint32_t timer_capacity;
    timer_id last_timer;
    bool (*hook)(void);
    bool stopped;
    int status;
} loop;

int loop_start(void)
{
    loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return loop.epoll_fd < 0 ? -errno : 0;
}

/* Handle: slot + 1 in the high half (so never 0), generation in the low half. */
static watch_id watch_handle(uint32_t slot)
{
    return (uint64_t)(slot + 1) << 32 | loop.watches[slot].generation;
}

static struct watch *find_watch(watch_id handle)
{
    uint32_t slot = (uint32_t)(handle >> 32) - 1;
    if (handle == 0 || slot >= loop.watch_count)
        return NULL;
    struct watch *watch = &loop.watches[slot];
    return watch->fd >= 0 && watch->generation == (uint32_t)handle ? watch : NULL;
}

/* Returns the slot, or -ENOMEM. */
static int64_t free_slot(void)
{
    for (uint32_t slot = 0; slot < loop.watch_count; slot++)
        if (loop.watches[slot].fd < 0)
            return slot;
    uint32_t count = loop.watch_count == 0 ? 32 : loop.watch_count * 2;
    struct watch *watches = realloc(loop.watches, count * sizeof *watches);
    if (watches == NULL)
        return -ENOMEM;
    for (uint32_t slot = loop.watch_count; slot < count; slot++)
        watches[slot] = (struct watch){.fd = -1};
    loop.watches = watches;
    uint32_t first = loop.watch_count;
    loop.watch_count = count;
    return first;
}

watch_id loop_watch(int fd, uint32_t epoll_events, watch_callback callback, void *context)
{
    int64_t slot = free_slot();
    if (slot < 0)
        return 0;
    struct watch *watch = &loop.watches[slot];
    struct epoll_event event = {.events = epoll_events, .data.u64 = watch_handle((uint32_t)slot)};
    if (epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        return 0;
    watch->fd = fd;
    watch->events = epoll_events;
    watch->callback = callback;
    watch->context = context;
    return event.data.u64;
}

void loop_change(watch_id handle, uint32_t epoll_events)
{
    struct watch *watch = find_watch(handle);
    if (watch == NULL || watch->events == epoll_events)
        return;
    struct epoll_event event = {.events = epoll_events, .data.u64 = handle};
    watch->events = epoll_events;
    epoll_ctl(loop.epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
}

void loop_unwatch(watch_id *handle)
{
    struct watch *watch = find_watch(*handle);
    *handle = 0;
    if (watch == NULL)
        return;
    epoll_ctl(loop.epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    watch->fd = -1;
    watch->generation++;
}

timer_id loop_after_ms(uint64_t delay_ms, timer_callback callback, void *context)
{
    if (loop.timer_count == loop.timer_capacity) {
        uint32_t capacity = loop.timer_capacity == 0 ? 16 : loop.timer_capacity * 2;
        struct timer *timers = realloc(loop.timers, capacity * sizeof *timers);
        if (timers == NULL)
            return 0;
        loop.timers = timers;
        loop.timer_capacity = capacity;
    }
    loop.timers[loop.timer_count++] = (struct timer){
        .id = ++loop.last_timer,
        .due_ms = monotonic_ms() + delay_ms,
        .callback = callback,
        .context = context,
    };
    return loop.last_timer;
}

void loop_cancel(timer_id *id)
{
    for (uint32_t i = 0; *id != 0 && i < loop.timer_count; i++) {
        if (loop.timers[i].id == *id) {
            loop.timers[i] = loop.timers[--loop.timer_count];
            break;
        }
    }
    *id = 0;
}

/* Milliseconds until the next timer, -1 without one. */
static int next_timeout_ms(void)
{
    uint64_t now = monotonic_ms();
    uint64_t nearest = UINT64_MAX;
    for (uint32_t i = 0; i < loop.timer_count; i++)
        if (loop.timers[i].due_ms < nearest)
            nearest = loop.timers[i].due_ms;
    if (nearest == UINT64_MAX)
        return -1;
    if (nearest <= now)
        return 0;
    return nearest - now > 60000 ? 60000 : (int)(nearest - now);
}

/* Run what is due now; timers set meanwhile wait for the next round. */
static void run_timers(void)
{
    uint64_t now = monotonic_ms();
    timer_id newest = loop.last_timer;
    for (uint32_t i = 0; i < loop.timer_count;) {
        struct timer timer = loop.timers[i];
        if (timer.due_ms > now || timer.id > newest) {
            i++;
            continue;
        }
        loop.timers[i] = loop.timers[--loop.timer_count];
        timer.callback(timer.context);
        i = 0; /* the callback may have moved the others */
    }
}

void loop_set_hook(bool (*hook)(void))
{
    loop.hook = hook;
}

void loop_stop(int status)
{
    loop.stopped = true;
    loop.status = status;
}

int loop_run(void)
{
    struct epoll_event events[EVENTS_PER_WAIT];
    while (!loop.stopped) {
        bool busy = loop.hook != NULL && loop.hook();
        if (loop.stopped)
            break;
        int count = epoll_wait(loop.epoll_fd, events, EVENTS_PER_WAIT, busy ? 0 : next_timeout_ms());
        if (count < 0 && errno != EINTR)
            return errno;
        for (int i = 0; i < count && !loop.stopped; i++) {
            struct watch *watch = find_watch(events[i].data.u64);
            if (watch != NULL)
                watch->callback(watch->context, events[i].events);
        }
        run_timers();
    }
    return loop.status;
}
