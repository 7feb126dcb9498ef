/* See archive_header.h. */
#include "archive_header.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* One header block; numbers are octal digits. */
struct header {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link[100];
    char magic[6];
    char version[2];
    char user[32];
    char group[32];
    char major[8];
    char minor[8];
    char prefix[155];
    char padding[12];
};

_Static_assert(sizeof(struct header) == ARCHIVE_BLOCK, "a header is one block");

static size_t decimal_digits(size_t number)
{
    size_t digits = 1;
    for (; number >= 10; number /= 10)
        digits++;
    return digits;
}

int archive_add_record(struct bytes *records, const char *key, const void *value, size_t value_size)
{
    char start[288];
    size_t rest = strlen(key) + value_size + 3; /* a blank, "=" and the newline */
    size_t total = rest + decimal_digits(rest);
    if (decimal_digits(total) > total - rest)
        total++; /* the length counts its own digits, and they became one more */
    int size = snprintf(start, sizeof start, "%zu %s=", total, key);
    if (size < 0 || (size_t)size >= sizeof start)
        return -ENOMEM;
    if (bytes_append(records, start, (size_t)size) < 0 ||
        bytes_append(records, value, value_size) < 0)
        return -ENOMEM;
    return bytes_append(records, "\n", 1);
}

/* Write `value` as octal digits that fill the field but for its NUL. False if it does not fit. */
static bool put_octal(char *field, size_t capacity, uint64_t value)
{
    for (size_t i = capacity - 1; i-- > 0; value >>= 3)
        field[i] = (char)('0' + (value & 7));
    field[capacity - 1] = '\0';
    return value == 0;
}

/* A number that goes into its field, or else into the extended header under `key`. */
static int put_number(char *field, size_t capacity, const char *key, int64_t value,
                      struct bytes *records)
{
    if (value >= 0 && put_octal(field, capacity, (uint64_t)value))
        return 0;
    put_octal(field, capacity, 0);
    char text[24];
    int size = snprintf(text, sizeof text, "%lld", (long long)value);
    return archive_add_record(records, key, text, (size_t)size);
}

static int put_text(char *field, size_t capacity, const char *key, const char *text,
                    struct bytes *records)
{
    size_t size = strlen(text);
    memcpy(field, text, size < capacity ? size : capacity);
    return size <= capacity ? 0 : archive_add_record(records, key, text, size);
}

static void finish(struct header *header)
{
    memcpy(header->magic, "ustar", sizeof header->magic);
    memcpy(header->version, "00", sizeof header->version);
    memset(header->checksum, ' ', sizeof header->checksum);
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof *header; i++)
        sum += ((const uint8_t *)header)[i];
    put_octal(header->checksum, 7, sum);
}

/* The extended header and its records, padded. */
static int add_extended(struct bytes *out, const struct bytes *records)
{
    static const uint8_t zeros[ARCHIVE_BLOCK];
    struct header header = {.name = "././@PaxHeader", .type = 'x'};
    put_octal(header.mode, sizeof header.mode, 0644);
    put_octal(header.uid, sizeof header.uid, 0);
    put_octal(header.gid, sizeof header.gid, 0);
    put_octal(header.size, sizeof header.size, records->size);
    put_octal(header.mtime, sizeof header.mtime, 0);
    finish(&header);
    size_t padding = -records->size % ARCHIVE_BLOCK;
    if (bytes_append(out, &header, sizeof header) < 0 ||
        bytes_append(out, bytes_data(records), records->size) < 0)
        return -ENOMEM;
    return bytes_append(out, zeros, padding);
}

int archive_add_headers(struct bytes *out, const struct archive_member *member, struct bytes *records)
{
    const struct stat *status = member->status;
    struct header header = {.type = member->type};
    const char *link = member->link_target == NULL ? "" : member->link_target;
    bool is_device = member->type == '3' || member->type == '4';
    put_octal(header.mode, sizeof header.mode, status->st_mode & 07777);
    put_octal(header.major, sizeof header.major, is_device ? major(status->st_rdev) : 0);
    put_octal(header.minor, sizeof header.minor, is_device ? minor(status->st_rdev) : 0);
    if (put_text(header.name, sizeof header.name, "path", member->path, records) < 0 ||
        put_text(header.link, sizeof header.link, "linkpath", link, records) < 0 ||
        put_number(header.uid, sizeof header.uid, "uid", status->st_uid, records) < 0 ||
        put_number(header.gid, sizeof header.gid, "gid", status->st_gid, records) < 0 ||
        put_number(header.size, sizeof header.size, "size", (int64_t)member->size, records) < 0 ||
        put_number(header.mtime, sizeof header.mtime, "mtime", status->st_mtim.tv_sec, records) < 0)
        return -ENOMEM;
    finish(&header);
    if (records->size > 0 && add_extended(out, records) < 0)
        return -ENOMEM;
    return bytes_append(out, &header, sizeof header);
}
