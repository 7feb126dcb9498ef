/*
 * The frames that cross the virtio-serial port, twin of vmm/frames.py; docs/protocol.md, chapter 1.
 * Pure: no descriptor is touched here, so the parser runs under unit tests and the fuzzer.
 */
#ifndef MACHINEN_FRAMES_H
#define MACHINEN_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRAME_HEADER_SIZE = 12,
    FRAME_MAX_PAYLOAD = 65536,
    FRAME_MAX_LOG = 1024,
    FRAME_MAX_PING = 64,
    FRAME_MAX_RESET_TEXT = 256,
    MAGIC_SIZE = 16,
    WINDOW_SIZE = 262144,
    MAX_STREAMS = 512,
    MAX_GUEST_STREAMS = 256, /* of them, those the guest has opened */
    PROTOCOL_VERSION = 1,
};

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_OPEN = 2,
    FRAME_ACCEPT = 3,
    FRAME_DATA = 4,
    FRAME_CREDIT = 5,
    FRAME_EOF = 6,
    FRAME_RESET = 7,
    FRAME_QUIESCE = 8,
    FRAME_QUIESCED = 9,
    FRAME_RESUME = 10,
    FRAME_WORKLOAD_EXIT = 11,
    FRAME_PING = 12,
    FRAME_PONG = 13,
    FRAME_POWEROFF = 14,
    FRAME_LOG = 15,
};

enum hello_flag {
    HELLO_SET_TIME = 1,
    HELLO_NEW_EPOCH = 2,
    HELLO_PROXY = 4, /* the host runs a web proxy for this guest */
    HELLO_RESTORED = 8, /* connections to other hosts are gone: reset them */
    HELLO_WORKLOAD_STARTED = 1, /* in the guest's answer */
};

enum port {
    PORT_WINSIZE = 1974,
    PORT_SECRETS = 1975,
    PORT_FILES = 1976,
    PORT_MOUNTS = 1977,
    PORT_EXEC = 1978,
    PORT_PROXY = 1979, /* opened by the guest */
    PORT_TCP_BASE = 65536,
};

extern const uint8_t FRAME_MAGIC[MAGIC_SIZE];

struct frame_header {
    uint32_t length; /* payload bytes */
    uint32_t stream;
    uint8_t type;
};

/* The host's HELLO; the texts are NUL-terminated copies. */
struct host_hello {
    uint64_t nonce;
    uint32_t flags;
    uint64_t realtime_ns;
    uint8_t entropy[32];
    char hostname[256];
    char name[256];
};

uint16_t get_u16(const uint8_t *from);
uint32_t get_u32(const uint8_t *from);
uint64_t get_u64(const uint8_t *from);
void put_u32(uint8_t *to, uint32_t value);
void put_u64(uint8_t *to, uint64_t value);

void frame_header_encode(const struct frame_header *header, uint8_t out[FRAME_HEADER_SIZE]);

/* Whether the host may send such a frame: type, stream parity and payload size. */
bool frame_is_valid_from_host(const struct frame_header *header);

/* Returns 0, or -EPROTO for a wrong version, a length that does not add up, or a NUL in a text. */
int host_hello_decode(const uint8_t *payload, size_t size, struct host_hello *hello);

enum parser_state { PARSER_SCANNING, PARSER_HEADER, PARSER_PAYLOAD };

/* Cuts a byte stream into frames. Zero-initialised it scans for the first MAGIC. */
struct frame_parser {
    enum parser_state state;
    uint8_t head[MAGIC_SIZE];
    size_t head_filled;
    struct frame_header frame;
    size_t payload_filled;
    uint8_t payload[FRAME_MAX_PAYLOAD];
};

/* What a parser reports: every frame whole, but DATA in the pieces it comes in. `frame` returns 0, or a negative errno to call the frame a violation. */
struct frame_events {
    void (*magic)(void *context);
    int (*frame)(void *context, const struct frame_header *header, const uint8_t *payload);
    void (*malformed)(void *context, const char *reason);
    void *context;
};

void frame_parser_feed(struct frame_parser *parser, const uint8_t *data, size_t size,
                       const struct frame_events *events);
bool frame_parser_is_mid_frame(const struct frame_parser *parser);
/* Forget a half-read frame; the next byte starts a header, or is scanned for a MAGIC. */
void frame_parser_restart(struct frame_parser *parser, enum parser_state state);

#endif
