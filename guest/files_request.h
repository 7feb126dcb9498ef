/* The header lines of port 1976 and the arguments of the tar they ask for. Pure: runs under unit tests and the fuzzer. */
#ifndef MACHINEN_FILES_REQUEST_H
#define MACHINEN_FILES_REQUEST_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

enum { FILES_MAX_LINE = 4096 + 16, FILES_MAX_EXCLUDES = 256 };

enum files_kind { FILES_EXCLUDE, FILES_PUSH, FILES_PULL, FILES_ARCHIVE, FILES_PUT };

struct files_request {
    enum files_kind kind; /* of the last line parsed; all but EXCLUDE are the last */
    char path[PATH_MAX];
    char *excludes[FILES_MAX_EXCLUDES]; /* "--exclude=…", allocated */
    size_t exclude_count;
};

/* Parse one line, NUL-terminated, without its newline. Returns NULL or what is wrong with it. */
const char *files_request_line(struct files_request *request, const char *line);
void files_request_free(struct files_request *request);
/* Whether tar -c, which ended with status 1, complained of nothing but files that changed while it read them. */
bool tar_only_saw_changes(const char *messages);

#endif
