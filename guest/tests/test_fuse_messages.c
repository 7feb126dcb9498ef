/* The header line of a mount, the bounds of FUSE messages, and the ledger of requests. */
#include "../fuse_messages.h"

#include <errno.h>
#include <linux/fuse.h>

#include "../frames.h"
#include "check.h"

static void test_header_lines(void)
{
    struct mount_request request;
    CHECK(mount_line_parse("FUSE rw 6", &request) == NULL);
    CHECK(request.kind == MOUNT_LIVE && request.writable && request.path_size == 6);
    CHECK(mount_line_parse("FUSE ro 4000", &request) == NULL && !request.writable);
    CHECK(mount_line_parse("DISK 6", &request) == NULL && request.kind == MOUNT_DISK);
    CHECK(!request.exchanged && request.path_size == 6);
    CHECK(mount_line_parse("DISK new 7", &request) == NULL && request.kind == MOUNT_DISK);
    CHECK(request.exchanged && request.path_size == 7);
}

static void test_wrong_header_lines(void)
{
    static const char *const wrong[] = {"", "FUSE", "FUSE rw", "FUSE rw ", "FUSE rw 0", "FUSE rw 4001", "FUSE rx 6",
                                        "fuse rw 6", "FUSE rw 6 ", "DISK", "DISK 0", "DISK new", "DISK new ", "DISK new new 6", "DISK old 6", "DISK -1", "DISK 0x6"};
    struct mount_request request;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(mount_line_parse(wrong[i], &request) != NULL);
}

static void test_paths_stay_below_mnt(void)
{
    static const char *const fine[] = {"/mnt/a", "/mnt/a/b", "/mnt/.hidden", "/mnt/..a", "/mnt/a.."};
    static const char *const wrong[] = {"/mnt", "/mnt/", "/mntfoo/a", "mnt/a", "/mnt/a/", "/mnt//a", "/mnt/..",
                                        "/mnt/../etc", "/mnt/a/../../etc", "/mnt/.", "/mnt/./a", "/etc"};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++)
        CHECK(mount_path_check(fine[i], strlen(fine[i])) == NULL);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(mount_path_check(wrong[i], strlen(wrong[i])) != NULL);
    CHECK(mount_path_check("/mnt/a\0b", 8) != NULL);
    CHECK(mount_path_covers("/mnt/a", "/mnt/a") && mount_path_covers("/mnt/a", "/mnt/a/b"));
    CHECK(!mount_path_covers("/mnt/a", "/mnt/ab") && !mount_path_covers("/mnt/a/b", "/mnt/a"));
}

static size_t message(uint8_t *out, uint32_t size, uint32_t word)
{
    memset(out, 0, size);
    put_u32(out, size);
    put_u32(out + 4, word);
    return size;
}

static void test_host_messages_are_cut_and_bounded(void)
{
    uint8_t data[64];
    size_t length = 0;
    CHECK(host_message_next(data, 0, &length) == HOST_NEEDS_MORE);
    message(data, 24, 0);
    CHECK(host_message_next(data, 3, &length) == HOST_NEEDS_MORE);
    CHECK(host_message_next(data, 23, &length) == HOST_NEEDS_MORE && length == 24);
    CHECK(host_message_next(data, 40, &length) == HOST_REPLY && length == 24);
    memset(data, 0, sizeof data);
    message(data, 24, FUSE_HINT_CODE);
    CHECK(host_message_next(data, 40, &length) == HOST_HINT && length == 24);
    data[8] = 2; /* an answer with such an error is the kernel's to refuse */
    CHECK(host_message_next(data, 40, &length) == HOST_REPLY);
    CHECK(host_message_next(data, message(data, 8, FUSE_HOLD), &length) == HOST_HOLD && length == 8);
    CHECK(fuse_hold_number(data) == 0);
    CHECK(host_message_next(data, message(data, 8, FUSE_GO), &length) == HOST_GO);
    CHECK(host_message_next(data, message(data, 8, 3), &length) == HOST_BAD);
    CHECK(host_message_next(data, message(data, 8, FUSE_GO | 1 << 8), &length) == HOST_BAD);
    for (uint32_t size = 0; size < FUSE_OUT_HEADER_SIZE; size++) {
        put_u32(data, size);
        CHECK(size == 8 || host_message_next(data, 64, &length) == HOST_BAD);
    }
    put_u32(data, FUSE_MAX_MESSAGE + 1);
    CHECK(host_message_next(data, 64, &length) == HOST_BAD);
    put_u32(data, FUSE_MAX_MESSAGE);
    CHECK(host_message_next(data, 64, &length) == HOST_NEEDS_MORE);
}

static void test_held_repeats_the_number_of_its_hold(void)
{
    uint8_t data[FUSE_CONTROL_SIZE], answer[FUSE_CONTROL_SIZE];
    size_t length;
    for (uint32_t number = 0xffffff; number > 0; number >>= 1) {
        message(data, 8, FUSE_HOLD | number << 8);
        CHECK(host_message_next(data, 8, &length) == HOST_HOLD);
        fuse_held_encode(fuse_hold_number(data), answer);
        CHECK(get_u32(answer) == 8 && get_u32(answer + 4) == (FUSE_HELD | number << 8));
    }
}

static int ask(struct fuse_ledger *ledger, uint32_t opcode, uint64_t unique)
{
    struct fuse_in_header header = {.len = sizeof header, .opcode = opcode, .unique = unique};
    return fuse_ledger_request(ledger, (const uint8_t *)&header, sizeof header);
}

static bool answer(struct fuse_ledger *ledger, uint64_t unique)
{
    struct fuse_out_header header = {.len = sizeof header, .unique = unique};
    struct fuse_open_request request;
    bool known = fuse_ledger_reply(ledger, (const uint8_t *)&header, &request);
    CHECK(!known || request.unique == unique);
    return known;
}

static void test_the_ledger_knows_what_waits(void)
{
    struct fuse_ledger ledger = {0};
    CHECK(fuse_ledger_request(&ledger, (const uint8_t *)"short", 5) == -EPROTO);
    for (uint64_t unique = 2; unique <= 200; unique += 2)
        CHECK(ask(&ledger, FUSE_GETATTR, unique) == 0);
    CHECK(ask(&ledger, FUSE_FORGET, 300) == 0 && ask(&ledger, FUSE_BATCH_FORGET, 302) == 0);
    CHECK(ask(&ledger, FUSE_RELEASE, 306) == 0 && ask(&ledger, FUSE_RELEASEDIR, 308) == 0);
    CHECK(ask(&ledger, FUSE_INTERRUPT, 3) == 0 && ask(&ledger, FUSE_SETLKW, 304) == 0);
    CHECK(fuse_ledger_unanswered(&ledger) == 100 && ledger.count == 101);
    CHECK(!answer(&ledger, 5)); /* to nothing */
    for (uint64_t unique = 2; unique <= 200; unique += 2)
        CHECK(answer(&ledger, unique));
    CHECK(fuse_ledger_unanswered(&ledger) == 0 && ledger.count == 1);
    CHECK(answer(&ledger, 304));
    CHECK(ledger.count == 0);
    fuse_ledger_free(&ledger);
}

int main(void)
{
    test_header_lines();
    test_wrong_header_lines();
    test_paths_stay_below_mnt();
    test_host_messages_are_cut_and_bounded();
    test_held_repeats_the_number_of_its_hold();
    test_the_ledger_knows_what_waits();
    return 0;
}
