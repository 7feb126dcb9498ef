/* Cutting bytes into frames, whatever the pieces they come in. */
#include <errno.h>

#include "../frames.h"
#include "check.h"

struct seen {
    char log[512]; /* 'M' magic, 'F<type>:<length> ' a frame, '!' malformed */
    int refuse_type;
    uint32_t data_size; /* of DATA in a row, which may come in pieces */
};

static void seen_magic(void *context)
{
    strcat(((struct seen *)context)->log, "M ");
}

static int seen_frame(void *context, const struct frame_header *header, const uint8_t *payload)
{
    struct seen *seen = context;
    bool is_data = header->type == FRAME_DATA;
    for (uint32_t i = 0; i < header->length; i++)
        CHECK(payload[i] == (uint8_t)(is_data ? seen->data_size + i : i));
    if (is_data) {
        seen->data_size += header->length;
        return header->type == seen->refuse_type ? -EPROTO : 0;
    }
    if (seen->data_size > 0)
        snprintf(seen->log + strlen(seen->log), 32, "F%u:%u ", FRAME_DATA, seen->data_size);
    seen->data_size = 0;
    size_t filled = strlen(seen->log);
    snprintf(seen->log + filled, sizeof seen->log - filled, "F%u:%u ", header->type, header->length);
    return header->type == seen->refuse_type ? -EPROTO : 0;
}

static void seen_malformed(void *context, const char *reason)
{
    CHECK(reason != NULL);
    strcat(((struct seen *)context)->log, "! ");
}

/* Feed `size` bytes in pieces of `step` and return what was reported. */
static const char *feed(const uint8_t *data, size_t size, size_t step, int refuse_type)
{
    static struct seen seen;
    static struct frame_parser parser;
    struct frame_events events = {seen_magic, seen_frame, seen_malformed, &seen};
    memset(&seen, 0, sizeof seen);
    memset(&parser, 0, sizeof parser);
    seen.refuse_type = refuse_type;
    for (size_t used = 0; used < size; used += step)
        frame_parser_feed(&parser, data + used, size - used < step ? size - used : step, &events);
    return seen.log;
}

static size_t put_frame(uint8_t *to, uint8_t type, uint32_t stream, uint32_t length)
{
    struct frame_header header = {.length = length, .stream = stream, .type = type};
    frame_header_encode(&header, to);
    for (uint32_t i = 0; i < length; i++)
        to[FRAME_HEADER_SIZE + i] = (uint8_t)i;
    return FRAME_HEADER_SIZE + length;
}

static void test_frames_are_cut_the_same_in_any_pieces(void)
{
    static uint8_t data[200000];
    size_t size = 0;
    memcpy(data, "noise\xff\xff", 7);
    size += 7;
    memcpy(data + size, FRAME_MAGIC, MAGIC_SIZE);
    size += MAGIC_SIZE;
    size += put_frame(data + size, FRAME_PING, 0, 5);
    size += put_frame(data + size, FRAME_DATA, 1, 65536);
    size += put_frame(data + size, FRAME_EOF, 1, 0);
    memcpy(data + size, FRAME_MAGIC, MAGIC_SIZE);
    size += MAGIC_SIZE;
    size += put_frame(data + size, FRAME_PING, 0, 0);
    for (size_t step = 1; step < 70000; step = step * 3 + 1)
        CHECK_TEXT(feed(data, size, step, 0), "M F12:5 F4:65536 F6:0 M F12:0 ");
}

static void test_a_malformed_header_leads_to_scanning(void)
{
    static const struct {
        uint8_t type;
        uint32_t stream, length;
    } wrong[] = {{FRAME_PING, 0, 65}, {FRAME_PING, 1, 0},     {0, 0, 0},
                 {16, 0, 0},          {FRAME_OPEN, 2, 4},     {FRAME_OPEN, 1, 5},
                 {FRAME_DATA, 1, 0},  {FRAME_ACCEPT, 1, 0},   {FRAME_QUIESCED, 0, 8},
                 {FRAME_LOG, 0, 1},   {FRAME_RESET, 1, 3},    {FRAME_RESET, 1, 261},
                 {FRAME_EOF, 0, 0},   {FRAME_POWEROFF, 0, 8}, {FRAME_WORKLOAD_EXIT, 0, 2}};
    uint8_t data[1024];
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        size_t size = MAGIC_SIZE;
        memcpy(data, FRAME_MAGIC, MAGIC_SIZE);
        size += put_frame(data + size, wrong[i].type, wrong[i].stream, wrong[i].length);
        memcpy(data + size, FRAME_MAGIC, MAGIC_SIZE);
        size += MAGIC_SIZE;
        size += put_frame(data + size, FRAME_PONG, 0, 1);
        for (size_t step = 1; step < 100; step += 7)
            CHECK_TEXT(feed(data, size, step, 0), "M ! M F13:1 ");
    }
}

static void test_padding_and_length_are_checked(void)
{
    uint8_t data[MAGIC_SIZE + FRAME_HEADER_SIZE];
    memcpy(data, FRAME_MAGIC, MAGIC_SIZE);
    put_frame(data + MAGIC_SIZE, FRAME_PING, 0, 0);
    for (int at = 9; at < FRAME_HEADER_SIZE; at++) {
        data[MAGIC_SIZE + at] = 1;
        CHECK_TEXT(feed(data, sizeof data, sizeof data, 0), "M ! ");
        data[MAGIC_SIZE + at] = 0;
    }
    put_frame(data + MAGIC_SIZE, FRAME_DATA, 1, 0);
    put_u32(data + MAGIC_SIZE, FRAME_MAX_PAYLOAD + 1);
    CHECK_TEXT(feed(data, sizeof data, sizeof data, 0), "M ! ");
}

static void test_a_magic_right_after_half_a_magic_is_found(void)
{
    uint8_t data[3 * MAGIC_SIZE];
    memcpy(data, FRAME_MAGIC, MAGIC_SIZE);
    memcpy(data + MAGIC_SIZE, FRAME_MAGIC, MAGIC_SIZE);
    data[MAGIC_SIZE + 15] = 0xff; /* broken at its last byte, which begins the next one */
    memcpy(data + MAGIC_SIZE + 16, FRAME_MAGIC + 1, MAGIC_SIZE - 1);
    for (size_t step = 1; step < 48; step++)
        CHECK_TEXT(feed(data, sizeof data - 1, step, 0), "M ! M ");
}

static void test_a_frame_that_is_refused_counts_as_malformed(void)
{
    uint8_t data[256];
    size_t size = MAGIC_SIZE;
    memcpy(data, FRAME_MAGIC, MAGIC_SIZE);
    size += put_frame(data + size, FRAME_PING, 0, 3);
    size += put_frame(data + size, FRAME_PONG, 0, 3);
    CHECK_TEXT(feed(data, size, size, FRAME_PING), "M F12:3 ! ");
    size = MAGIC_SIZE;
    size += put_frame(data + size, FRAME_DATA, 1, 90); /* already its first piece */
    size += put_frame(data + size, FRAME_PONG, 0, 3);
    for (size_t step = 1; step <= size; step += 20)
        CHECK_TEXT(feed(data, size, step, FRAME_DATA), "M ! ");
}

static void test_hello_is_decoded_and_checked(void)
{
    uint8_t payload[60 + 5 + 4] = {0};
    struct host_hello hello;
    put_u32(payload, PROTOCOL_VERSION);
    put_u64(payload + 4, 0x0102030405060708);
    put_u32(payload + 12, 3);
    put_u64(payload + 16, 99);
    memset(payload + 24, 0xab, 32);
    payload[56] = 5;
    payload[58] = 4;
    memcpy(payload + 60, "alphabeta", 9);
    CHECK(host_hello_decode(payload, sizeof payload, &hello) == 0);
    CHECK(hello.nonce == 0x0102030405060708 && hello.flags == 3 && hello.realtime_ns == 99);
    CHECK(hello.entropy[0] == 0xab && hello.entropy[31] == 0xab);
    CHECK_TEXT(hello.hostname, "alpha");
    CHECK_TEXT(hello.name, "beta");
    for (size_t size = 0; size < sizeof payload; size++)
        CHECK(host_hello_decode(payload, size, &hello) == -EPROTO);
    payload[57] = 1; /* 261 bytes of hostname */
    CHECK(host_hello_decode(payload, sizeof payload, &hello) == -EPROTO);
    payload[57] = 0;
    payload[62] = 0; /* a NUL within the hostname */
    CHECK(host_hello_decode(payload, sizeof payload, &hello) == -EPROTO);
    payload[62] = 'p';
    payload[0] = 2;
    CHECK(host_hello_decode(payload, sizeof payload, &hello) == -EPROTO);
}

int main(void)
{
    test_frames_are_cut_the_same_in_any_pieces();
    test_a_malformed_header_leads_to_scanning();
    test_padding_and_length_are_checked();
    test_a_magic_right_after_half_a_magic_is_found();
    test_a_frame_that_is_refused_counts_as_malformed();
    test_hello_is_decoded_and_checked();
    return 0;
}
