/* The VM's one workload, and how its end, or the host's wish, ends the VM; docs/protocol.md, 3.2 and 4. */
#ifndef MACHINEN_WORKLOAD_H
#define MACHINEN_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

bool workload_has_started(void);
/* POWEROFF: end the workload with TERM, after `grace_ms` with KILL; without one, end the agent at once. */
void workload_poweroff(uint32_t grace_ms);
/* Whether a process ignores SIGTERM, as interactive shells do. */
bool ignores_term(pid_t pid);
/* The host has answered what was sent after WORKLOAD_EXIT. */
void workload_pong(void);
/* RESUME or HELLO: what had to wait while quiet may go on. */
void workload_continue(void);

#endif
