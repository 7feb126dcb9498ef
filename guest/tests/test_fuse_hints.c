/* What the agent answers by itself, for how long, and what ends that. */
#include <errno.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../frames.h"
#include "../fuse_hints.h"
#include "check.h"

static struct fuse_hints hints;

static void hint(uint64_t node, uint32_t kind, uint32_t valid_ms, const void *body, size_t size)
{
    uint8_t *message = malloc(32 + size); /* of just that size, for the sanitizers */
    CHECK(message != NULL);
    put_u32(message, (uint32_t)(32 + size));
    put_u32(message + 4, FUSE_HINT_CODE);
    put_u64(message + 8, 0);
    put_u64(message + 16, node);
    put_u32(message + 24, kind);
    put_u32(message + 28, valid_ms);
    if (size > 0)
        memcpy(message + 32, body, size);
    fuse_hints_take(&hints, message, 32 + size, 1000);
    free(message);
}

static void hint_attributes(uint64_t node, uint64_t inode)
{
    struct fuse_attr attributes = {.ino = inode, .mode = 040755};
    hint(node, HINT_ATTRIBUTES, 1000, &attributes, sizeof attributes);
}

static void hint_names(uint64_t node, const char *const *names, size_t count)
{
    uint8_t sums[64 * 4];
    for (size_t i = 0; i < count; i++)
        put_u32(sums + i * 4, fuse_name_sum((const uint8_t *)names[i], strlen(names[i])));
    hint(node, HINT_NAMES, 200, sums, count * 4);
}

static uint8_t answer[FUSE_ANSWER_MAX];

static size_t ask(uint32_t opcode, uint64_t node, const void *body, size_t size, uint64_t now_ms)
{
    struct fuse_in_header header = {
        .len = (uint32_t)(sizeof header + size), .opcode = opcode, .unique = 8, .nodeid = node};
    uint8_t *message = malloc(sizeof header + size);
    CHECK(message != NULL);
    memcpy(message, &header, sizeof header);
    if (size > 0)
        memcpy(message + sizeof header, body, size);
    size_t answered = fuse_hints_answer(&hints, message, sizeof header + size, now_ms, answer);
    CHECK(answered == 0 || (get_u32(answer) == answered && get_u64(answer + 8) == 8));
    free(message);
    return answered;
}

static size_t look_up(uint64_t node, const char *name, uint64_t now_ms)
{
    return ask(FUSE_LOOKUP, node, name, strlen(name) + 1, now_ms);
}

static size_t get_attributes(uint64_t node, uint64_t now_ms)
{
    struct fuse_getattr_in in = {0};
    return ask(FUSE_GETATTR, node, &in, sizeof in, now_ms);
}

static size_t get_capability(uint64_t node, const char *name, uint64_t now_ms)
{
    uint8_t body[64] = {0};
    strcpy((char *)body + sizeof(struct fuse_getxattr_in), name);
    return ask(FUSE_GETXATTR, node, body, sizeof(struct fuse_getxattr_in) + strlen(name) + 1, now_ms);
}

/* A request with `body` was forwarded and is answered now. */
static void changed(uint32_t opcode, uint64_t node, const void *body, size_t size)
{
    struct fuse_ledger ledger = {0};
    struct fuse_open_request request;
    struct fuse_out_header done = {.len = sizeof done, .unique = 4};
    struct fuse_in_header header = {
        .len = (uint32_t)(sizeof header + size), .opcode = opcode, .unique = 4, .nodeid = node};
    uint8_t *message = malloc(sizeof header + size);
    CHECK(message != NULL);
    memcpy(message, &header, sizeof header);
    if (size > 0)
        memcpy(message + sizeof header, body, size);
    CHECK(fuse_ledger_request(&ledger, message, sizeof header + size) == 0);
    CHECK(fuse_ledger_reply(&ledger, (const uint8_t *)&done, &request));
    fuse_hints_answered(&hints, &request);
    free(message);
    fuse_ledger_free(&ledger);
}

static void test_sums_are_those_of_zlib(void)
{
    CHECK(fuse_name_sum((const uint8_t *)"123456789", 9) == 0xCBF43926);
    CHECK(fuse_name_sum((const uint8_t *)"", 0) == 1); /* 0 would be a free place */
}

static void test_attributes_last_for_what_is_left_of_their_time(void)
{
    struct fuse_attr_out out;
    hint_attributes(7, 70);
    CHECK(get_attributes(8, 1000) == 0);
    CHECK(get_attributes(7, 1400) == sizeof(struct fuse_out_header) + sizeof out);
    memcpy(&out, answer + sizeof(struct fuse_out_header), sizeof out);
    CHECK(out.attr.ino == 70 && out.attr_valid == 0 && out.attr_valid_nsec == 600000000);
    CHECK(get_attributes(7, 1999) > 0 && get_attributes(7, 2000) == 0);
    struct fuse_getattr_in by_handle = {.getattr_flags = FUSE_GETATTR_FH};
    CHECK(ask(FUSE_GETATTR, 7, &by_handle, sizeof by_handle, 1400) == 0);
    CHECK(ask(FUSE_GETATTR, 7, "", 0, 1400) == 0);
    fuse_hints_clear(&hints);
    CHECK(get_attributes(7, 1400) == 0);
}

static void test_names_that_are_not_there(void)
{
    struct fuse_entry_out out;
    const char *names[] = {"one", "two"};
    hint_names(7, names, 2);
    CHECK(look_up(7, "one", 1000) == 0 && look_up(7, "two", 1000) == 0);
    CHECK(look_up(8, "three", 1000) == 0);
    CHECK(look_up(7, "three", 1050) == sizeof(struct fuse_out_header) + sizeof out);
    memcpy(&out, answer + sizeof(struct fuse_out_header), sizeof out);
    CHECK(out.nodeid == 0 && out.entry_valid == 0 && out.entry_valid_nsec == 150000000);
    CHECK(look_up(7, "three", 1200) == 0);
    CHECK(ask(FUSE_LOOKUP, 7, "three", 5, 1050) == 0); /* without its NUL */
    CHECK(ask(FUSE_LOOKUP, 7, "", 1, 1050) == 0);
    hint_names(9, names, 0);
    CHECK(look_up(9, "one", 1100) > 0);
    fuse_hints_clear(&hints);
}

static void test_what_was_made_is_there(void)
{
    const struct {
        uint32_t opcode;
        size_t before;
    } makers[] = {{FUSE_CREATE, sizeof(struct fuse_create_in)},
                  {FUSE_MKNOD, sizeof(struct fuse_mknod_in)},
                  {FUSE_MKDIR, sizeof(struct fuse_mkdir_in)},
                  {FUSE_SYMLINK, 0},
                  {FUSE_LINK, sizeof(struct fuse_link_in)}};
    for (size_t i = 0; i < sizeof makers / sizeof makers[0]; i++) {
        uint8_t body[64] = {0};
        hint_names(7, NULL, 0);
        hint_attributes(7, 70);
        strcpy((char *)body + makers[i].before, "new");
        changed(makers[i].opcode, 7, body, makers[i].before + 4);
        CHECK(look_up(7, "new", 1000) == 0 && look_up(7, "other", 1000) > 0);
        CHECK(get_attributes(7, 1000) == 0);
        changed(makers[i].opcode, 7, body, makers[i].before / 2); /* cut short */
    }
    fuse_hints_clear(&hints);
}

static void test_a_rename_shows_in_both_directories(void)
{
    for (int second = 0; second < 2; second++) {
        size_t before = second ? sizeof(struct fuse_rename2_in) : sizeof(struct fuse_rename_in);
        uint8_t body[64] = {0};
        put_u64(body, 9);
        memcpy(body + before, "old\0new", 8);
        for (uint64_t node = 7; node <= 9; node += 2) {
            hint_names(node, NULL, 0);
            hint_attributes(node, 70);
        }
        changed(second ? FUSE_RENAME2 : FUSE_RENAME, 7, body, before + 8);
        CHECK(look_up(9, "new", 1000) == 0 && look_up(9, "old", 1000) > 0);
        CHECK(get_attributes(7, 1000) == 0 && get_attributes(9, 1000) == 0);
        changed(FUSE_RENAME2, 7, body, 4);
        changed(FUSE_RENAME2, 7, body, before + 3); /* no second name */
    }
    fuse_hints_clear(&hints);
}

static void test_a_new_file_has_no_capability(void)
{
    hint(7, HINT_PLAIN, 1000, NULL, 0);
    CHECK(get_capability(7, "security.capability", 1500) == sizeof(struct fuse_out_header));
    CHECK((int32_t)get_u32(answer + 4) == -ENODATA);
    CHECK(get_capability(7, "security.capability", 2000) == 0);
    CHECK(get_capability(7, "security.capabilitz", 1500) == 0);
    CHECK(get_capability(7, "user.comment", 1500) == 0);
    CHECK(get_capability(8, "security.capability", 1500) == 0);
    changed(FUSE_WRITE, 7, "", 0);
    changed(FUSE_SETATTR, 7, "", 0);
    CHECK(get_capability(7, "security.capability", 1500) > 0);
    changed(FUSE_SETXATTR, 7, "", 0);
    CHECK(get_capability(7, "security.capability", 1500) == 0);
    fuse_hints_clear(&hints);
}

static void test_other_changes_end_hints(void)
{
    hint_attributes(7, 70);
    hint_names(7, NULL, 0);
    changed(FUSE_GETATTR, 7, "", 0);
    CHECK(get_attributes(7, 1000) > 0);
    changed(FUSE_SETATTR, 7, "", 0);
    CHECK(get_attributes(7, 1000) == 0 && look_up(7, "x", 1000) > 0);
    hint_attributes(7, 70);
    changed(FUSE_UNLINK, 7, "x", 2);
    CHECK(get_attributes(7, 1000) == 0 && look_up(7, "y", 1000) > 0);
    hint_attributes(7, 70);
    changed(9999, 1, "", 0); /* nobody knows what that does */
    CHECK(get_attributes(7, 1000) == 0 && look_up(7, "x", 1000) == 0);
}

static void test_what_is_kept_is_bounded(void)
{
    uint8_t *sums = calloc(HINTED_NAMES_MAX + 1, 4);
    CHECK(sums != NULL);
    for (uint32_t i = 0; i <= HINTED_NAMES_MAX; i++)
        put_u32(sums + i * 4, i + 1);
    hint(7, HINT_NAMES, 200, sums, (HINTED_NAMES_MAX + 1) * 4);
    CHECK(look_up(7, "x", 1000) == 0);
    hint(7, HINT_NAMES, 200, sums, HINTED_NAMES_MAX * 4);
    CHECK(look_up(7, "x", 1000) > 0);
    changed(FUSE_SYMLINK, 7, "one too many", 13);
    CHECK(look_up(7, "x", 1000) == 0);
    for (uint64_t node = 1; node <= 100; node++)
        hint_attributes(node, node);
    CHECK(get_attributes(84, 1000) == 0 && get_attributes(85, 1000) > 0);
    hint(0, HINT_ATTRIBUTES, 1000, sums, 88);
    hint(1, HINT_ATTRIBUTES, 1000, sums, 87);
    hint(1, HINT_NAMES, 1000, sums, 3);
    hint(1, 99, 1000, sums, 8);
    fuse_hints_take(&hints, sums, 31, 1000);
    CHECK(get_attributes(1, 1000) == 0 && look_up(1, "x", 1000) == 0);
    free(sums);
    fuse_hints_clear(&hints);
}

int main(void)
{
    test_sums_are_those_of_zlib();
    test_attributes_last_for_what_is_left_of_their_time();
    test_names_that_are_not_there();
    test_what_was_made_is_there();
    test_a_rename_shows_in_both_directories();
    test_a_new_file_has_no_capability();
    test_other_changes_end_hints();
    test_what_is_kept_is_bounded();
    return 0;
}
