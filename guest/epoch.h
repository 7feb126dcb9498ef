/* What HELLO and RESUME change in the guest: clock, entropy, names, machine id; docs/protocol.md, chapter 1. */
#ifndef MACHINEN_EPOCH_H
#define MACHINEN_EPOCH_H

#include <stdint.h>

#include "frames.h"

void epoch_set_time(uint64_t realtime_ns);
/* First contact after a boot, a restore or a fork: entropy, hostname, name, machine id. Failures are logged. */
void epoch_begin(const struct host_hello *hello);
/* Write what epoch_begin has left for later: the files on disk that say who the guest is. Called before anybody is served. */
void epoch_settle(void);

#endif
