/*
 * What the host says beside its answers, from which the agent answers some of the kernel's requests by itself: the way to
 * the host and back costs an emulated guest a millisecond or two. docs/protocol.md, 3.6.
 *
 * Hints come in order with the answers, so they tell how things were after the last change that was answered; a change
 * that was answered without a new hint ends the old one. What changes on the host shows when a hint's time is over, which
 * is what the guest's kernel allows its own caches, too. Pure: runs under unit tests and the fuzzer.
 */
#ifndef MACHINEN_FUSE_HINTS_H
#define MACHINEN_FUSE_HINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fuse_messages.h"

enum {
    HINTED_DIRECTORIES = 16,
    HINTED_FILES = 64,
    HINTED_NAMES_MAX = 4096, /* of a directory; more are not kept */
    FUSE_ANSWER_MAX = 256,
};

enum fuse_hint_kind { HINT_ATTRIBUTES = 1, HINT_NAMES = 2, HINT_PLAIN = 3 };

/* The check sums of all names in a directory, and maybe of more. Open addressing; 0 is a free place. */
struct name_set {
    uint32_t *sums;
    uint32_t capacity; /* a power of two, or 0 */
    uint32_t count;
};

struct hinted_directory {
    uint64_t node; /* 0: free */
    uint64_t used; /* when it was hinted last, for choosing whom to forget */
    uint64_t attributes_until_ms;
    uint64_t names_until_ms;
    uint8_t attributes[88]; /* struct fuse_attr */
    struct name_set names;
};

/* Zero-initialised: nothing is known. */
struct fuse_hints {
    struct hinted_directory directories[HINTED_DIRECTORIES];
    struct {
        uint64_t node;
        uint64_t until_ms;
    } plain[HINTED_FILES]; /* files without capabilities */
    size_t next_plain;
    uint64_t turn;
};

/* Take in a whole HOST_HINT. One that makes no sense is ignored: a host newer than we are may know more kinds. */
void fuse_hints_take(struct fuse_hints *hints, const uint8_t *message, size_t size, uint64_t now_ms);
/* Answer a request of the kernel (`message`, `size` ≥ FUSE_IN_HEADER_SIZE) into `answer`. Returns its size, 0: ask the host. */
size_t fuse_hints_answer(const struct fuse_hints *hints, const uint8_t *message, size_t size,
                         uint64_t now_ms, uint8_t answer[FUSE_ANSWER_MAX]);
/* The host has answered that request: what it changed is not as it was hinted before. */
void fuse_hints_answered(struct fuse_hints *hints, const struct fuse_open_request *request);
void fuse_hints_clear(struct fuse_hints *hints);
/* The CRC-32 of a name, as in zlib and RFC 1952; never 0. */
uint32_t fuse_name_sum(const uint8_t *name, size_t size);

#endif
