/* Encode, decode and cut frames; see frames.h. */
#include "frames.h"

#include <errno.h>
#include <string.h>

const uint8_t FRAME_MAGIC[MAGIC_SIZE] = {0xff, 0xff, 0xff, 0xff, 'M', 'A', 'C', 'H',
                                         'I',  'N',  'E',  'N',  0,   1,   0x0d, 0x0a};
/* version, nonce, flags, realtime_ns, entropy, two lengths */
enum { HOST_HELLO_FIXED = 4 + 8 + 4 + 8 + 32 + 2 + 2 };

uint16_t get_u16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

uint32_t get_u32(const uint8_t *from)
{
    return (uint32_t)get_u16(from) | (uint32_t)get_u16(from + 2) << 16;
}

uint64_t get_u64(const uint8_t *from)
{
    return (uint64_t)get_u32(from) | (uint64_t)get_u32(from + 4) << 32;
}

void put_u32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (8 * i));
}

void put_u64(uint8_t *to, uint64_t value)
{
    put_u32(to, (uint32_t)value);
    put_u32(to + 4, (uint32_t)(value >> 32));
}

void frame_header_encode(const struct frame_header *header, uint8_t out[FRAME_HEADER_SIZE])
{
    memset(out, 0, FRAME_HEADER_SIZE);
    put_u32(out, header->length);
    put_u32(out + 4, header->stream);
    out[8] = header->type;
}

bool frame_is_valid_from_host(const struct frame_header *header)
{
    uint32_t length = header->length;
    bool on_connection = header->stream == 0;
    bool host_stream = header->stream % 2 == 1;
    bool any_stream = header->stream != 0;
    switch (header->type) {
    case FRAME_HELLO:
        return on_connection && length >= HOST_HELLO_FIXED && length <= HOST_HELLO_FIXED + 2 * 255;
    case FRAME_OPEN:
        return host_stream && length == 4;
    case FRAME_ACCEPT:
        return any_stream && !host_stream && length == 0;
    case FRAME_DATA:
        return any_stream && length >= 1 && length <= FRAME_MAX_PAYLOAD;
    case FRAME_CREDIT:
        return any_stream && length == 4;
    case FRAME_EOF:
        return any_stream && length == 0;
    case FRAME_RESET:
        return any_stream && length >= 4 && length <= 4 + FRAME_MAX_RESET_TEXT;
    case FRAME_QUIESCE:
    case FRAME_RESUME:
        return on_connection && length == 8;
    case FRAME_PING:
    case FRAME_PONG:
        return on_connection && length <= FRAME_MAX_PING;
    case FRAME_POWEROFF:
        return on_connection && length == 4;
    default: /* QUIESCED, WORKLOAD_EXIT and LOG are ours to send */
        return false;
    }
}

int host_hello_decode(const uint8_t *payload, size_t size, struct host_hello *hello)
{
    memset(hello, 0, sizeof *hello);
    if (size < HOST_HELLO_FIXED || get_u32(payload) != PROTOCOL_VERSION)
        return -EPROTO;
    hello->nonce = get_u64(payload + 4);
    hello->flags = get_u32(payload + 12);
    hello->realtime_ns = get_u64(payload + 16);
    memcpy(hello->entropy, payload + 24, sizeof hello->entropy);
    size_t hostname_size = get_u16(payload + 56);
    size_t name_size = get_u16(payload + 58);
    if (hostname_size > 255 || name_size > 255)
        return -EPROTO;
    if (size != HOST_HELLO_FIXED + hostname_size + name_size)
        return -EPROTO;
    memcpy(hello->hostname, payload + HOST_HELLO_FIXED, hostname_size);
    memcpy(hello->name, payload + HOST_HELLO_FIXED + hostname_size, name_size);
    if (strlen(hello->hostname) != hostname_size || strlen(hello->name) != name_size)
        return -EPROTO;
    return 0;
}

void frame_parser_restart(struct frame_parser *parser, enum parser_state state)
{
    parser->state = state;
    parser->head_filled = 0;
    parser->payload_filled = 0;
}

bool frame_parser_is_mid_frame(const struct frame_parser *parser)
{
    return parser->state == PARSER_PAYLOAD ||
           (parser->state == PARSER_HEADER && parser->head_filled > 0);
}

/* Take one byte while looking for a MAGIC; on a mismatch fall back to the longest prefix that fits. */
static void scan_byte(struct frame_parser *parser, uint8_t byte, const struct frame_events *events)
{
    parser->head[parser->head_filled++] = byte;
    while (memcmp(parser->head, FRAME_MAGIC, parser->head_filled) != 0)
        memmove(parser->head, parser->head + 1, --parser->head_filled);
    if (parser->head_filled == MAGIC_SIZE) {
        frame_parser_restart(parser, PARSER_HEADER);
        events->magic(events->context);
    }
}

/* Give up on this connection. The header's bytes may already hold the start of the next MAGIC. */
static void fail_parser(struct frame_parser *parser, const struct frame_events *events,
                        const char *reason)
{
    uint8_t head[MAGIC_SIZE];
    size_t filled = parser->head_filled;
    memcpy(head, parser->head, filled);
    frame_parser_restart(parser, PARSER_SCANNING);
    events->malformed(events->context, reason);
    for (size_t i = 0; i < filled; i++)
        scan_byte(parser, head[i], events);
}

static void deliver_frame(struct frame_parser *parser, const struct frame_events *events)
{
    struct frame_header frame = parser->frame;
    frame_parser_restart(parser, PARSER_HEADER);
    if (events->frame(events->context, &frame, parser->payload) < 0) {
        frame_parser_restart(parser, PARSER_SCANNING);
        events->malformed(events->context, "a frame that breaks the protocol");
    }
}

static void finish_header(struct frame_parser *parser, const struct frame_events *events)
{
    const uint8_t *head = parser->head;
    parser->frame = (struct frame_header){
        .length = get_u32(head), .stream = get_u32(head + 4), .type = head[8]};
    if (head[9] != 0 || head[10] != 0 || head[11] != 0) {
        fail_parser(parser, events, "a frame with padding that is not zero");
        return;
    }
    if (!frame_is_valid_from_host(&parser->frame)) {
        fail_parser(parser, events, "a frame header that the host may not send");
        return;
    }
    parser->head_filled = 0;
    parser->state = PARSER_PAYLOAD;
    if (parser->frame.length == 0)
        deliver_frame(parser, events);
}

/* Take one byte of a header, or of the MAGIC that may stand in its place. */
static void header_byte(struct frame_parser *parser, uint8_t byte,
                        const struct frame_events *events)
{
    parser->head[parser->head_filled++] = byte;
    bool is_magic = parser->head_filled >= 4 && memcmp(parser->head, FRAME_MAGIC, 4) == 0;
    if (is_magic && parser->head_filled == MAGIC_SIZE) {
        if (memcmp(parser->head, FRAME_MAGIC, MAGIC_SIZE) != 0) {
            fail_parser(parser, events, "ffffffff that no MAGIC follows");
            return;
        }
        frame_parser_restart(parser, PARSER_HEADER);
        events->magic(events->context);
    } else if (!is_magic && parser->head_filled == FRAME_HEADER_SIZE) {
        finish_header(parser, events);
    }
}

/* Hand on what has come of a DATA frame as if it were one: bytes of a stream need not wait for each other. */
static void deliver_piece(struct frame_parser *parser, const uint8_t *data, size_t size,
                          const struct frame_events *events)
{
    struct frame_header piece = parser->frame;
    piece.length = (uint32_t)size;
    parser->payload_filled += size;
    if (parser->payload_filled == parser->frame.length)
        frame_parser_restart(parser, PARSER_HEADER);
    if (events->frame(events->context, &piece, data) < 0) {
        frame_parser_restart(parser, PARSER_SCANNING);
        events->malformed(events->context, "a frame that breaks the protocol");
    }
}

static size_t payload_bytes(struct frame_parser *parser, const uint8_t *data, size_t size,
                            const struct frame_events *events)
{
    size_t take = parser->frame.length - parser->payload_filled;
    if (take > size)
        take = size;
    if (parser->frame.type == FRAME_DATA) {
        deliver_piece(parser, data, take, events);
        return take;
    }
    memcpy(parser->payload + parser->payload_filled, data, take);
    parser->payload_filled += take;
    if (parser->payload_filled == parser->frame.length)
        deliver_frame(parser, events);
    return take;
}

void frame_parser_feed(struct frame_parser *parser, const uint8_t *data, size_t size,
                       const struct frame_events *events)
{
    for (size_t used = 0; used < size;) {
        if (parser->state == PARSER_PAYLOAD)
            used += payload_bytes(parser, data + used, size - used, events);
        else if (parser->state == PARSER_HEADER)
            header_byte(parser, data[used++], events);
        else
            scan_byte(parser, data[used++], events);
    }
}
