/*
 * What crosses the stream of a live mount: its header line, the bounds of FUSE messages, and which requests of the
 * kernel still wait for an answer; docs/protocol.md, 3.6. Pure: runs under unit tests and the fuzzer.
 */
#ifndef MACHINEN_FUSE_MESSAGES_H
#define MACHINEN_FUSE_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MOUNT_LINE_MAX = 64,
    MOUNT_PATH_MAX = 4000,
    FUSE_IN_HEADER_SIZE = 40,  /* struct fuse_in_header of linux/fuse.h */
    FUSE_OUT_HEADER_SIZE = 16, /* struct fuse_out_header */
    FUSE_CONTROL_SIZE = 8,
    FUSE_WORD_MASK = 0xff, /* of a control message's code; above it, the number of a hold */
    FUSE_NUMBER_SHIFT = 8,
    FUSE_MARK_OFFSET = 38, /* fuse_in_header.padding: 0 from the kernel, 1 to the host: hints are heard here */
    FUSE_HINT_CODE = 1977, /* where a notice of unique 0 has its code; the kernel's are below 100 */
    FUSE_MAX_MESSAGE = (1 << 20) + 4096, /* the kernel's largest request: 1 MiB of data and its headers */
};

enum fuse_control { FUSE_HOLD = 1, FUSE_GO = 2, FUSE_HELD = 1 };

enum mount_kind { MOUNT_LIVE, MOUNT_DISK };

struct mount_request {
    enum mount_kind kind;
    bool writable;
    bool exchanged; /* the disks are others than those the kernel looked at */
    uint32_t path_size;
};

/* Parse "FUSE ro|rw <n>", "DISK <n>" or "DISK new <n>", NUL-terminated, without the newline. Returns NULL or what is wrong. */
const char *mount_line_parse(const char *line, struct mount_request *request);
/* Whether a mount may go there: strictly below /mnt/, nothing to climb. Returns NULL or what is wrong. */
const char *mount_path_check(const char *path, size_t size);
/* Whether `inner` is `outer` or lies below it. */
bool mount_path_covers(const char *outer, const char *inner);

enum host_message { HOST_NEEDS_MORE, HOST_REPLY, HOST_HINT, HOST_HOLD, HOST_GO, HOST_BAD };

/* The kind of the first message in `data`; `length` says how long it is, or is 4 while even that is missing. */
enum host_message host_message_next(const uint8_t *data, size_t size, size_t *length);
/* The number of a whole HOST_HOLD, which HELD repeats. */
uint32_t fuse_hold_number(const uint8_t *message);
/* Write FUSE_CONTROL_SIZE bytes: everything asked before hold `number` is answered. */
void fuse_held_encode(uint32_t number, uint8_t *message);

struct fuse_open_request {
    uint64_t unique;
    bool may_wait; /* a lock somebody else holds: may stay unanswered for ever */
    uint32_t opcode;
    uint64_t node;
    uint64_t other_node; /* where a RENAME leads, else 0 */
    uint32_t name_sum; /* of the name it makes, fuse_name_sum(); 0: none */
};

/* The requests that were read from the kernel and not answered. Zero-initialised: none. */
struct fuse_ledger {
    struct fuse_open_request *open;
    size_t count;
    size_t capacity;
};

/* Note a request of the kernel. Returns 0, -ENOMEM, or -EPROTO if it is too short for one. */
int fuse_ledger_request(struct fuse_ledger *ledger, const uint8_t *message, size_t size);
/* Note an answer of the host (a whole HOST_REPLY). Returns whether it answers a request, which `request` then is. */
bool fuse_ledger_reply(struct fuse_ledger *ledger, const uint8_t *message,
                       struct fuse_open_request *request);
/* Whether the kernel waits for no answer, or for one that says nothing: then the host need not send any. */
bool fuse_is_one_way(uint32_t opcode);
/* Tell the host that its hints are heard here, and that it need not answer what is one way. */
void fuse_mark_request(uint8_t *message);
/* How many wait for an answer that is bound to come. */
size_t fuse_ledger_unanswered(const struct fuse_ledger *ledger);
void fuse_ledger_free(struct fuse_ledger *ledger);

#endif
