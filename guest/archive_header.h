/*
 * The headers of a tar archive, as bytes. Pure: runs under unit tests. Format: POSIX.1-2001 (pax), "ustar" headers led by
 * an extended header where a value does not fit; extended attributes as SCHILY.xattr.*, which tar(1) and star(1) read.
 */
#ifndef MACHINEN_ARCHIVE_HEADER_H
#define MACHINEN_ARCHIVE_HEADER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "bytes.h"

enum { ARCHIVE_BLOCK = 512 };

/* What one member is. Texts end with NUL; `link_target` is NULL unless `type` is '1' or '2'. */
struct archive_member {
    const char *path; /* "./etc/passwd"; directories end with a slash */
    const char *link_target;
    char type; /* '0' file, '1' hard link, '2' symbolic link, '3' '4' devices, '5' directory, '6' FIFO */
    const struct stat *status;
    uint64_t size; /* of the data that follows */
};

/* Append the record "<length> <key>=<value>\n" of an extended header. Returns 0 or -ENOMEM. */
int archive_add_record(struct bytes *records, const char *key, const void *value, size_t value_size);
/*
 * Append the member's headers, whole blocks, to `out`. `records` may hold extended attributes already; what else does not
 * fit the plain header is added to them. Returns 0 or -ENOMEM.
 */
int archive_add_headers(struct bytes *out, const struct archive_member *member, struct bytes *records);

#endif
