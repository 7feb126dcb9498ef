/* What CRIU cannot dump, found before it tries; see tool_preflight.c. */
#ifndef MACHINEN_TOOL_PREFLIGHT_H
#define MACHINEN_TOOL_PREFLIGHT_H

#include <stdbool.h>
#include <stddef.h>

#include "process_tree.h"

/* Why a descriptor whose link in /proc/<pid>/fd reads `target` cannot be dumped, or NULL. */
const char *descriptor_problem(const char *target);
/* The same of a socket by its domain and type (socket(2)). */
const char *socket_problem(int domain, int type);
/* Print every refusal to stderr. Returns true if there was one. */
bool preflight_refuses(const struct process_stat *tree, size_t count);

#endif
