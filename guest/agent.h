/* What the agent was started as. */
#ifndef MACHINEN_AGENT_H
#define MACHINEN_AGENT_H

#include <stdbool.h>

/* On the host, under test: nothing outside --root is written, no clock, hostname or entropy is touched. */
bool agent_is_sandboxed(void);
/* An absolute path of the guest, under --root when there is one. Valid until the next call. */
const char *agent_path(const char *path);

#endif
