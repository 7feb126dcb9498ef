/* The line by which a program in the guest asks for a port of the host: `CONNECT <port>\n`. Pure. */
#ifndef MACHINEN_CONNECT_LINE_H
#define MACHINEN_CONNECT_LINE_H

#include <stddef.h>
#include <stdint.h>

enum { CONNECT_LINE_MAX = 32 };

/* Returns the line's length with its newline and fills `port`; 0: there is more to come; -EPROTO: it is no such line. */
int connect_line_parse(const void *data, size_t size, uint32_t *port);

#endif
