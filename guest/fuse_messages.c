/* See fuse_messages.h. */
#include "fuse_messages.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "fuse_hints.h"
#include "request.h"

_Static_assert(sizeof(struct fuse_in_header) == FUSE_IN_HEADER_SIZE, "linux/fuse.h");
_Static_assert(sizeof(struct fuse_out_header) == FUSE_OUT_HEADER_SIZE, "linux/fuse.h");

const char *mount_line_parse(const char *line, struct mount_request *request)
{
    const char *size;
    if (strncmp(line, "DISK ", 5) == 0) {
        bool exchanged = strncmp(line + 5, "new ", 4) == 0;
        *request = (struct mount_request){
            .kind = MOUNT_DISK, .writable = true, .exchanged = exchanged};
        size = line + (exchanged ? 9 : 5);
    } else if (strncmp(line, "FUSE rw ", 8) == 0 || strncmp(line, "FUSE ro ", 8) == 0) {
        *request = (struct mount_request){.kind = MOUNT_LIVE, .writable = line[6] == 'w'};
        size = line + 8;
    } else {
        return "the first line is FUSE ro|rw <bytes> or DISK [new] <bytes>";
    }
    if (!parse_number(size, MOUNT_PATH_MAX, &request->path_size) || request->path_size == 0)
        return "the path's size is not from 1 to 4000";
    return NULL;
}

const char *mount_path_check(const char *path, size_t size)
{
    static const char root[] = "/mnt/";
    size_t root_size = sizeof root - 1;
    if (strlen(path) != size)
        return "a NUL in the path";
    if (strncmp(path, root, root_size) != 0 || path[size - 1] == '/' || strstr(path, "//") != NULL)
        return "a mount goes below /mnt/";
    for (const char *part = path; part != NULL; part = strchr(part + 1, '/')) {
        size_t length = strcspn(part + 1, "/");
        if (part[1] == '.' && (length == 1 || (length == 2 && part[2] == '.')))
            return "a mount's path climbs nowhere";
    }
    return NULL;
}

bool mount_path_covers(const char *outer, const char *inner)
{
    size_t size = strlen(outer);
    return strncmp(outer, inner, size) == 0 && (inner[size] == '\0' || inner[size] == '/');
}

enum host_message host_message_next(const uint8_t *data, size_t size, size_t *length)
{
    *length = 4;
    if (size < 4)
        return HOST_NEEDS_MORE;
    uint32_t wanted = get_u32(data);
    if (wanted > FUSE_MAX_MESSAGE || (wanted < FUSE_OUT_HEADER_SIZE && wanted != FUSE_CONTROL_SIZE))
        return HOST_BAD;
    *length = wanted;
    if (size < wanted)
        return HOST_NEEDS_MORE;
    if (wanted != FUSE_CONTROL_SIZE)
        return get_u32(data + 4) == FUSE_HINT_CODE && get_u64(data + 8) == 0 ? HOST_HINT : HOST_REPLY;
    uint32_t code = get_u32(data + 4);
    if ((code & FUSE_WORD_MASK) == FUSE_HOLD)
        return HOST_HOLD;
    return code == FUSE_GO ? HOST_GO : HOST_BAD;
}

uint32_t fuse_hold_number(const uint8_t *message)
{
    return get_u32(message + 4) >> FUSE_NUMBER_SHIFT;
}

void fuse_held_encode(uint32_t number, uint8_t *message)
{
    put_u32(message, FUSE_CONTROL_SIZE);
    put_u32(message + 4, FUSE_HELD | number << FUSE_NUMBER_SHIFT);
}

bool fuse_is_one_way(uint32_t opcode)
{
    return opcode == FUSE_FORGET || opcode == FUSE_BATCH_FORGET || opcode == FUSE_RELEASE ||
           opcode == FUSE_RELEASEDIR;
}

void fuse_mark_request(uint8_t *message)
{
    message[FUSE_MARK_OFFSET] = 1;
}

/* What a request that makes an entry says of it: its name, and the directory it comes into if that is another. */
static void note_entry(struct fuse_open_request *request, const uint8_t *body, size_t size)
{
    size_t before = 0, skipped_names = 0;
    switch (request->opcode) {
    case FUSE_CREATE:
        before = sizeof(struct fuse_create_in);
        break;
    case FUSE_MKNOD:
        before = sizeof(struct fuse_mknod_in);
        break;
    case FUSE_MKDIR:
        before = sizeof(struct fuse_mkdir_in);
        break;
    case FUSE_SYMLINK:
        break;
    case FUSE_LINK:
        before = sizeof(struct fuse_link_in);
        break;
    case FUSE_RENAME:
    case FUSE_RENAME2:
        before = request->opcode == FUSE_RENAME ? sizeof(struct fuse_rename_in)
                                                : sizeof(struct fuse_rename2_in);
        skipped_names = 1;
        request->other_node = size >= 8 ? get_u64(body) : 0;
        break;
    default:
        return;
    }
    for (; before < size && skipped_names > 0; skipped_names--)
        before += strnlen((const char *)body + before, size - before) + 1;
    if (before < size)
        request->name_sum = fuse_name_sum(body + before, strnlen((const char *)body + before, size - before));
}

int fuse_ledger_request(struct fuse_ledger *ledger, const uint8_t *message, size_t size)
{
    struct fuse_in_header header;
    if (size < sizeof header)
        return -EPROTO;
    memcpy(&header, message, sizeof header);
    if (fuse_is_one_way(header.opcode) || header.opcode == FUSE_INTERRUPT)
        return 0;
    if (ledger->count == ledger->capacity) {
        size_t capacity = ledger->capacity == 0 ? 32 : ledger->capacity * 2;
        struct fuse_open_request *open = realloc(ledger->open, capacity * sizeof *open);
        if (open == NULL)
            return -ENOMEM;
        ledger->open = open;
        ledger->capacity = capacity;
    }
    struct fuse_open_request *request = &ledger->open[ledger->count++];
    *request = (struct fuse_open_request){.unique = header.unique,
                                          .may_wait = header.opcode == FUSE_SETLKW,
                                          .opcode = header.opcode,
                                          .node = header.nodeid};
    note_entry(request, message + sizeof header, size - sizeof header);
    return 0;
}

bool fuse_ledger_reply(struct fuse_ledger *ledger, const uint8_t *message,
                       struct fuse_open_request *request)
{
    uint64_t unique = get_u64(message + 8);
    for (size_t i = ledger->count; i-- > 0;) {
        if (ledger->open[i].unique != unique)
            continue;
        *request = ledger->open[i];
        ledger->open[i] = ledger->open[--ledger->count];
        return true;
    }
    return false;
}

size_t fuse_ledger_unanswered(const struct fuse_ledger *ledger)
{
    size_t count = 0;
    for (size_t i = 0; i < ledger->count; i++)
        count += !ledger->open[i].may_wait;
    return count;
}

void fuse_ledger_free(struct fuse_ledger *ledger)
{
    free(ledger->open);
    *ledger = (struct fuse_ledger){0};
}
