/* See connect_line.h. */
#include "connect_line.h"

#include <errno.h>
#include <string.h>

static const char VERB[] = "CONNECT ";

int connect_line_parse(const void *data, size_t size, uint32_t *port)
{
    const char *text = data;
    const char *end = memchr(text, '\n', size < CONNECT_LINE_MAX ? size : CONNECT_LINE_MAX);
    if (end == NULL)
        return size < CONNECT_LINE_MAX ? 0 : -EPROTO;
    size_t length = (size_t)(end - text);
    if (length <= sizeof VERB - 1 || memcmp(text, VERB, sizeof VERB - 1) != 0)
        return -EPROTO;
    uint64_t number = 0;
    for (const char *digit = text + sizeof VERB - 1; digit < end; digit++) {
        if (*digit == '\r' && digit + 1 == end && digit[-1] != ' ')
            break;
        if (*digit < '0' || *digit > '9')
            return -EPROTO;
        number = number * 10 + (uint64_t)(*digit - '0');
        if (number > UINT32_MAX)
            return -EPROTO;
    }
    *port = (uint32_t)number;
    return (int)length + 1;
}
