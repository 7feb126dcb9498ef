/* See fuse_hints.h. */
#include "fuse_hints.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"

enum { HINT_HEADER_SIZE = FUSE_OUT_HEADER_SIZE + 16, NAMES_MIN_CAPACITY = 64 };

static const char CAPABILITY[] = "security.capability";

_Static_assert(sizeof(struct fuse_attr) == sizeof((struct hinted_directory *)0)->attributes, "linux/fuse.h");
_Static_assert(FUSE_OUT_HEADER_SIZE + sizeof(struct fuse_entry_out) <= FUSE_ANSWER_MAX, "answers fit");

uint32_t fuse_name_sum(const uint8_t *name, size_t size)
{
    uint32_t sum = 0xFFFFFFFF;
    for (size_t i = 0; i < size; i++) {
        sum ^= name[i];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (0xEDB88320 & -(sum & 1));
    }
    return ~sum != 0 ? ~sum : 1;
}

/* -- a set of names ---------------------------------------------------------------------------------------------- */

/* The place of a sum, or the free one where it belongs; there is always one. */
static uint32_t *place_of(const struct name_set *names, uint32_t sum)
{
    uint32_t at = sum & (names->capacity - 1);
    while (names->sums[at] != 0 && names->sums[at] != sum)
        at = (at + 1) & (names->capacity - 1);
    return &names->sums[at];
}

static bool may_hold(const struct name_set *names, uint32_t sum)
{
    return names->capacity > 0 && *place_of(names, sum) != 0;
}

/* Make room for `count` names, half of it free. Returns false without memory, or if that is too many. */
static bool make_room(struct name_set *names, uint32_t count)
{
    struct name_set larger = {.capacity = NAMES_MIN_CAPACITY};
    if (count > HINTED_NAMES_MAX)
        return false;
    while (larger.capacity < count * 2)
        larger.capacity *= 2;
    if (larger.capacity <= names->capacity)
        return true;
    larger.sums = calloc(larger.capacity, sizeof *larger.sums);
    if (larger.sums == NULL)
        return false;
    for (uint32_t i = 0; i < names->capacity; i++)
        if (names->sums[i] != 0)
            *place_of(&larger, names->sums[i]) = names->sums[i];
    larger.count = names->count;
    free(names->sums);
    *names = larger;
    return true;
}

static bool add_name(struct name_set *names, uint32_t sum)
{
    sum = sum != 0 ? sum : 1;
    if (may_hold(names, sum))
        return true;
    if (!make_room(names, names->count + 1))
        return false;
    *place_of(names, sum) = sum;
    names->count++;
    return true;
}

static void free_names(struct name_set *names)
{
    free(names->sums);
    *names = (struct name_set){0};
}

/* -- what is known ----------------------------------------------------------------------------------------------- */

static struct hinted_directory *find_directory(struct fuse_hints *hints, uint64_t node)
{
    for (size_t i = 0; node != 0 && i < HINTED_DIRECTORIES; i++)
        if (hints->directories[i].node == node)
            return &hints->directories[i];
    return NULL;
}

/* Its place, or that of the one that was hinted longest ago. */
static struct hinted_directory *directory_for(struct fuse_hints *hints, uint64_t node)
{
    struct hinted_directory *found = find_directory(hints, node);
    if (found == NULL) {
        found = &hints->directories[0];
        for (size_t i = 1; i < HINTED_DIRECTORIES; i++)
            if (hints->directories[i].used < found->used)
                found = &hints->directories[i];
        free_names(&found->names);
        *found = (struct hinted_directory){.node = node};
    }
    found->used = ++hints->turn;
    return found;
}

static void take_names(struct hinted_directory *directory, const uint8_t *sums, size_t count,
                       uint64_t until_ms)
{
    directory->names_until_ms = 0;
    free_names(&directory->names);
    if (count > HINTED_NAMES_MAX || !make_room(&directory->names, (uint32_t)count))
        return;
    for (size_t i = 0; i < count; i++)
        if (!add_name(&directory->names, get_u32(sums + i * 4)))
            return;
    directory->names_until_ms = until_ms;
}

void fuse_hints_take(struct fuse_hints *hints, const uint8_t *message, size_t size, uint64_t now_ms)
{
    if (size < HINT_HEADER_SIZE)
        return;
    uint64_t node = get_u64(message + FUSE_OUT_HEADER_SIZE);
    uint32_t kind = get_u32(message + FUSE_OUT_HEADER_SIZE + 8);
    uint64_t until_ms = now_ms + get_u32(message + FUSE_OUT_HEADER_SIZE + 12);
    const uint8_t *body = message + HINT_HEADER_SIZE;
    size -= HINT_HEADER_SIZE;
    if (node == 0)
        return;
    if (kind == HINT_ATTRIBUTES && size == sizeof(struct fuse_attr)) {
        struct hinted_directory *directory = directory_for(hints, node);
        memcpy(directory->attributes, body, size);
        directory->attributes_until_ms = until_ms;
    } else if (kind == HINT_NAMES && size % 4 == 0) {
        take_names(directory_for(hints, node), body, size / 4, until_ms);
    } else if (kind == HINT_PLAIN && size == 0) {
        hints->plain[hints->next_plain].node = node;
        hints->plain[hints->next_plain].until_ms = until_ms;
        hints->next_plain = (hints->next_plain + 1) % HINTED_FILES;
    }
}

static void forget_names(struct hinted_directory *directory)
{
    directory->names_until_ms = 0;
    free_names(&directory->names);
}

/* A directory changed; an entry came, or may have come, if `name_sum` is not 0. */
static void directory_changed(struct fuse_hints *hints, uint64_t node, uint32_t name_sum)
{
    struct hinted_directory *directory = find_directory(hints, node);
    if (directory == NULL)
        return;
    directory->attributes_until_ms = 0;
    if (name_sum != 0 && directory->names_until_ms != 0 && !add_name(&directory->names, name_sum))
        forget_names(directory);
}

static void forget_plain(struct fuse_hints *hints, uint64_t node)
{
    for (size_t i = 0; i < HINTED_FILES; i++)
        if (hints->plain[i].node == node)
            hints->plain[i].until_ms = 0;
}

void fuse_hints_clear(struct fuse_hints *hints)
{
    for (size_t i = 0; i < HINTED_DIRECTORIES; i++)
        free_names(&hints->directories[i].names);
    *hints = (struct fuse_hints){0};
}

void fuse_hints_answered(struct fuse_hints *hints, const struct fuse_open_request *request)
{
    switch (request->opcode) {
    case FUSE_CREATE:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_SYMLINK:
    case FUSE_LINK:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
        directory_changed(hints, request->node, request->name_sum);
        directory_changed(hints, request->other_node, request->name_sum);
        break;
    case FUSE_SETATTR: /* takes capabilities away, if anything */
    case FUSE_REMOVEXATTR:
        directory_changed(hints, request->node, 0);
        break;
    case FUSE_SETXATTR:
        directory_changed(hints, request->node, 0);
        forget_plain(hints, request->node);
        break;
    case FUSE_LOOKUP:
    case FUSE_GETATTR:
    case FUSE_READLINK:
    case FUSE_OPEN:
    case FUSE_READ:
    case FUSE_WRITE:
    case FUSE_STATFS:
    case FUSE_RELEASE:
    case FUSE_FSYNC:
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
    case FUSE_FLUSH:
    case FUSE_OPENDIR:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
    case FUSE_RELEASEDIR:
    case FUSE_FSYNCDIR:
    case FUSE_GETLK:
    case FUSE_SETLK:
    case FUSE_SETLKW:
    case FUSE_ACCESS:
    case FUSE_FALLOCATE:
    case FUSE_LSEEK:
    case FUSE_COPY_FILE_RANGE:
        break; /* of files' contents nothing is hinted */
    default:
        fuse_hints_clear(hints);
    }
}

/* -- answers ----------------------------------------------------------------------------------------------------- */

static size_t put_answer(uint8_t *answer, uint64_t unique, int error, const void *body, size_t size)
{
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof header + size), .error = -error, .unique = unique};
    memcpy(answer, &header, sizeof header);
    if (size > 0)
        memcpy(answer + sizeof header, body, size);
    return header.len;
}

/* What is left of a hint's time, in ns: less than the longest any hint has. */
static uint32_t nanoseconds_left(uint64_t until_ms, uint64_t now_ms)
{
    uint64_t left_ms = until_ms - now_ms;
    return left_ms > 999 ? 999000000 : (uint32_t)left_ms * 1000000;
}

static size_t answer_getattr(const struct hinted_directory *directory, const uint8_t *body,
                             size_t size, uint64_t now_ms, uint64_t unique, uint8_t *answer)
{
    struct fuse_attr_out out = {0};
    if (size < sizeof(struct fuse_getattr_in) || get_u32(body) != 0 ||
        directory->attributes_until_ms <= now_ms)
        return 0;
    out.attr_valid_nsec = nanoseconds_left(directory->attributes_until_ms, now_ms);
    memcpy(&out.attr, directory->attributes, sizeof out.attr);
    return put_answer(answer, unique, 0, &out, sizeof out);
}

/* "There is no such name": the only answer to LOOKUP that gives the kernel no node to count. */
static size_t answer_lookup(const struct hinted_directory *directory, const uint8_t *name,
                            size_t size, uint64_t now_ms, uint64_t unique, uint8_t *answer)
{
    struct fuse_entry_out out = {0};
    if (size < 2 || name[size - 1] != '\0' || directory->names_until_ms <= now_ms ||
        may_hold(&directory->names, fuse_name_sum(name, size - 1)))
        return 0;
    out.entry_valid_nsec = nanoseconds_left(directory->names_until_ms, now_ms);
    return put_answer(answer, unique, 0, &out, sizeof out);
}

/* The kernel asks this before the first write to a file, whether to take a capability away. */
static size_t answer_getxattr(const struct fuse_hints *hints, uint64_t node, const uint8_t *body,
                              size_t size, uint64_t now_ms, uint64_t unique, uint8_t *answer)
{
    size_t before = sizeof(struct fuse_getxattr_in);
    if (size != before + sizeof CAPABILITY || memcmp(body + before, CAPABILITY, sizeof CAPABILITY) != 0)
        return 0;
    for (size_t i = 0; i < HINTED_FILES; i++)
        if (hints->plain[i].node == node && hints->plain[i].until_ms > now_ms)
            return put_answer(answer, unique, ENODATA, NULL, 0);
    return 0;
}

size_t fuse_hints_answer(const struct fuse_hints *hints, const uint8_t *message, size_t size,
                         uint64_t now_ms, uint8_t answer[FUSE_ANSWER_MAX])
{
    struct fuse_in_header header;
    memcpy(&header, message, sizeof header);
    const uint8_t *body = message + sizeof header;
    size -= sizeof header;
    if (header.opcode == FUSE_GETXATTR)
        return answer_getxattr(hints, header.nodeid, body, size, now_ms, header.unique, answer);
    if (header.opcode != FUSE_GETATTR && header.opcode != FUSE_LOOKUP)
        return 0;
    for (size_t i = 0; i < HINTED_DIRECTORIES; i++) {
        const struct hinted_directory *directory = &hints->directories[i];
        if (directory->node != header.nodeid)
            continue;
        return header.opcode == FUSE_GETATTR
                   ? answer_getattr(directory, body, size, now_ms, header.unique, answer)
                   : answer_lookup(directory, body, size, now_ms, header.unique, answer);
    }
    return 0;
}
