/* Give a restored session leader its terminal back; see tool_terminal.c. */
#ifndef MACHINEN_TOOL_TERMINAL_H
#define MACHINEN_TOOL_TERMINAL_H

#include <sys/types.h>

/*
 * Make the terminal `name` (/dev/pts/N), which no session has, the controlling terminal of session leader `pid`, and
 * `foreground` (> 0) its foreground process group. Returns 0 or a negative errno; -ENOENT: the process has it not open.
 */
int terminal_give(pid_t pid, const char *name, pid_t foreground);

#endif
