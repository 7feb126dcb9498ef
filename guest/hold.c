/*
 * See hold.h. A real-time thread that never sleeps leaves a processor to nothing but interrupts, and there is one for each: the
 * agent itself, and helpers on the other processors. Freezing programs (cgroups, SIGSTOP) would be seen by them.
 */
#include "hold.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stddef.h>

#include "io.h"

enum {
    MAX_HELPERS = 63,
    STACK_SIZE = 65536,
    TAKING_MS = 100, /* the host waits 200 ms for QUIESCED */
    LAST_WORD_MS = 20,
    /* The kernel gives a starved processor back after 950 ms (sched_rt_runtime_us); who waits for us shall not wait for that. */
    HOLD_MS = 900,
    CLOCK_TURNS = 65536,
};

static struct {
    bool on;
    uint64_t until_ms;
    cpu_set_t allowed; /* where the agent may run otherwise */
    pthread_t helpers[MAX_HELPERS];
    int helper_count;
} hold;
static atomic_bool helpers_stay;
static atomic_int helpers_there;

static void *occupy(void *context)
{
    uint64_t until_ms = *(const uint64_t *)context; /* ours may be cut short, which `helpers_stay` says */
    atomic_fetch_add(&helpers_there, 1);
    /* An emulated processor reads its clock under a lock that all of them and QEMU share: look rarely. */
    for (uint32_t turn = 1; atomic_load_explicit(&helpers_stay, memory_order_relaxed); turn++)
        if (turn % CLOCK_TURNS == 0 && monotonic_ms() >= until_ms)
            break;
    return NULL;
}

/* Start a helper at the head of its processor's queue. */
static void take_processor(int processor)
{
    pthread_attr_t attributes;
    cpu_set_t there;
    struct sched_param priority = {.sched_priority = 1};
    CPU_ZERO(&there);
    CPU_SET(processor, &there);
    if (pthread_attr_init(&attributes) != 0)
        return;
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_attr_setinheritsched(&attributes, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attributes, SCHED_FIFO);
    pthread_attr_setschedparam(&attributes, &priority);
    pthread_attr_setaffinity_np(&attributes, sizeof there, &there);
    if (pthread_create(&hold.helpers[hold.helper_count], &attributes, occupy, &hold.until_ms) == 0)
        hold.helper_count++;
    pthread_attr_destroy(&attributes);
}

/* What the agent starts meanwhile is an ordinary process: SCHED_RESET_ON_FORK. */
static bool be_first(bool first)
{
    struct sched_param priority = {.sched_priority = first ? 1 : 0};
    return sched_setscheduler(0, first ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER, &priority) == 0;
}

void hold_begin(void)
{
    if (hold.on || sched_getaffinity(0, sizeof hold.allowed, &hold.allowed) < 0 || !be_first(true))
        return;
    uint64_t now = monotonic_ms();
    int own = sched_getcpu();
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(own, &here);
    sched_setaffinity(0, sizeof here, &here);
    hold.on = true;
    hold.until_ms = now + HOLD_MS;
    atomic_store(&helpers_there, 0);
    atomic_store(&helpers_stay, true);
    for (int i = 0; i < CPU_SETSIZE && hold.helper_count < MAX_HELPERS; i++)
        if (i != own && CPU_ISSET(i, &hold.allowed))
            take_processor(i);
    while (atomic_load(&helpers_there) < hold.helper_count && monotonic_ms() < now + TAKING_MS)
        continue;
}

void hold_end(void)
{
    if (!hold.on)
        return;
    hold.on = false;
    atomic_store(&helpers_stay, false);
    for (int i = 0; i < hold.helper_count; i++)
        pthread_join(hold.helpers[i], NULL);
    hold.helper_count = 0;
    sched_setaffinity(0, sizeof hold.allowed, &hold.allowed);
    be_first(false);
}

void hold_ends_soon(void)
{
    uint64_t soon_ms = monotonic_ms() + LAST_WORD_MS;
    if (soon_ms < hold.until_ms)
        hold.until_ms = soon_ms;
}

bool hold_is_on(void)
{
    if (hold.on && monotonic_ms() >= hold.until_ms)
        hold_end();
    return hold.on;
}
