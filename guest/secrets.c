/* See secrets.h. */
#include "secrets.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

static bool is_blank(char letter)
{
    return letter == ' ' || letter == '\t' || letter == '\r';
}

static bool is_identifier(const char *text, size_t size)
{
    if (size == 0 || isdigit((unsigned char)text[0]))
        return false;
    for (size_t i = 0; i < size; i++)
        if (!isalnum((unsigned char)text[i]) && text[i] != '_')
            return false;
    return true;
}

/* Returns 0 or -ENOMEM; lines that are no secrets are passed over. */
static int keep_line(const char *line, size_t size, struct bytes *kept, size_t *count)
{
    while (size > 0 && is_blank(line[0]))
        line++, size--;
    while (size > 0 && is_blank(line[size - 1]))
        size--;
    const char *equals = size == 0 ? NULL : memchr(line, '=', size);
    if (equals == NULL || !is_identifier(line, (size_t)(equals - line)))
        return 0;
    if (memchr(line, '\0', size) != NULL)
        return 0;
    ++*count;
    if (bytes_append(kept, line, size) < 0 || bytes_append(kept, "\n", 1) < 0)
        return -ENOMEM;
    return 0;
}

int secrets_filter(const char *lines, size_t size, struct bytes *kept, size_t *count)
{
    *count = 0;
    for (size_t used = 0; used < size;) {
        const char *line = lines + used;
        const char *newline = memchr(line, '\n', size - used);
        size_t line_size = newline == NULL ? size - used : (size_t)(newline - line);
        if (keep_line(line, line_size, kept, count) < 0)
            return -ENOMEM;
        used += line_size + 1;
    }
    return 0;
}
