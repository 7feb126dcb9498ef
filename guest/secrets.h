/* Parsing of KEY=VALUE lines. Pure: runs under unit tests and the fuzzer. */
#ifndef MACHINEN_SECRETS_H
#define MACHINEN_SECRETS_H

#include "bytes.h"

/* Append every line whose key is a shell identifier to `kept`, trimmed of blanks around it and of CR, with a newline.
 * Returns 0 or -ENOMEM. */
int secrets_filter(const char *lines, size_t size, struct bytes *kept, size_t *count);

#endif
