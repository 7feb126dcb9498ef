/* The streams of a connection: windows, turns, lifetimes; see mux.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mux_internal.h"
#include "splice.h"

enum {
    OUT_LIMIT = 131072,       /* a source is paused above this much queued output */
    DATA_CHUNK = 32768 - FRAME_HEADER_SIZE, /* one write to the port; a key typed elsewhere gets its turn soon */
    CREDIT_SHARE = 4,         /* of the window that is credited at once: the host never runs dry waiting for it */
    WINDOW_MAX = 4 << 20,     /* memory one stream may take */
};

static struct {
    struct stream *all[MAX_STREAMS];
    size_t count;
    size_t turn; /* index of the stream that sends next */
    uint32_t last_id;      /* of the host's */
    uint32_t last_own_id;
    struct stream *gone;
    const struct service *(*find_service)(uint32_t port);
} streams;

void streams_init(const struct service *(*find_service)(uint32_t port))
{
    streams.find_service = find_service;
}

static struct stream *find_stream(uint32_t id)
{
    for (size_t i = 0; i < streams.count; i++)
        if (streams.all[i]->id == id)
            return streams.all[i];
    return NULL;
}

/* Take a stream out of the table and tell its service. */
static void close_stream(struct stream *stream)
{
    if (stream->gone)
        return;
    stream->gone = true;
    for (size_t i = 0; i < streams.count; i++) {
        if (streams.all[i] != stream)
            continue;
        memmove(&streams.all[i], &streams.all[i + 1],
                (streams.count - i - 1) * sizeof streams.all[0]);
        streams.count--;
        if (streams.turn > i)
            streams.turn--;
        break;
    }
    stream->next_gone = streams.gone;
    streams.gone = stream;
    if (stream->service != NULL)
        stream->service->closed(stream);
    bytes_free(&stream->in);
    bytes_free(&stream->out);
}

void streams_drop_all(void)
{
    while (streams.count > 0)
        close_stream(streams.all[streams.count - 1]);
    streams.last_id = streams.last_own_id = 0;
}

static void send_reset(uint32_t id, int error, const char *text)
{
    uint8_t payload[4 + FRAME_MAX_RESET_TEXT];
    size_t size = strnlen(text, FRAME_MAX_RESET_TEXT);
    put_u32(payload, (uint32_t)error);
    memcpy(payload + 4, text, size);
    mux_queue_control(FRAME_RESET, id, payload, 4 + size);
}

void stream_reset(struct stream *stream, int error, const char *text)
{
    if (stream->gone)
        return;
    send_reset(stream->id, error, text);
    close_stream(stream);
}

void streams_lost(uint32_t id)
{
    struct stream *stream = find_stream(id);
    if (stream != NULL)
        stream_reset(stream, ENOMEM, "the guest is out of memory");
}

/* Returns NULL if there is no room or no memory. */
static struct stream *new_stream(uint32_t id, uint32_t port)
{
    struct stream *stream = streams.count < MAX_STREAMS ? calloc(1, sizeof *stream) : NULL;
    if (stream == NULL)
        return NULL;
    stream->id = id;
    stream->port = port;
    stream->send_window = WINDOW_SIZE;
    stream->receive_window = stream->window = WINDOW_SIZE;
    streams.all[streams.count++] = stream;
    return stream;
}

static bool is_own(const struct stream *stream)
{
    return stream->id % 2 == 0;
}

struct stream *stream_open(uint32_t port, const struct service *service)
{
    size_t own = 0;
    for (size_t i = 0; i < streams.count; i++)
        own += is_own(streams.all[i]);
    if (!mux_is_connected() || own >= MAX_GUEST_STREAMS || streams.last_own_id > UINT32_MAX - 2)
        return NULL;
    struct stream *stream = new_stream(streams.last_own_id + 2, port);
    if (stream == NULL)
        return NULL;
    streams.last_own_id = stream->id;
    stream->service = service;
    uint8_t payload[4];
    put_u32(payload, port);
    mux_queue_control(FRAME_OPEN, stream->id, payload, sizeof payload);
    return stream;
}

void stream_abandon(struct stream *stream, int error)
{
    stream->service = NULL;
    stream_reset(stream, error, strerror(error));
}

static int open_stream(uint32_t id, uint32_t port)
{
    if (id <= streams.last_id)
        return -EPROTO; /* ids are never reused within a connection */
    streams.last_id = id;
    const struct service *service = streams.find_service(port);
    if (service == NULL) {
        send_reset(id, ECONNREFUSED, "no such port");
        return 0;
    }
    struct stream *stream = new_stream(id, port);
    if (stream == NULL) {
        send_reset(id, EMFILE, "too many streams");
        return 0;
    }
    int result = service->open(stream);
    if (result < 0) {
        stream_reset(stream, -result, strerror(-result));
        return 0;
    }
    stream->service = service;
    if (result == 0)
        stream_accept(stream);
    return 0;
}

static void stream_data(struct stream *stream, const uint8_t *data, size_t size)
{
    if (size > stream->receive_window) {
        stream_reset(stream, EPROTO, "more data than the window allows");
        return;
    }
    if (stream->host_eof) {
        stream_reset(stream, EPROTO, "data after EOF");
        return;
    }
    stream->receive_window -= (uint32_t)size;
    if (stream->finished) {
        stream_credit(stream, size);
        return;
    }
    if (bytes_append(&stream->in, data, size) < 0) {
        stream_reset(stream, ENOMEM, "the guest is out of memory");
        return;
    }
    stream->service->input(stream);
}

static void queue_credit(struct stream *stream, uint32_t credit)
{
    uint8_t payload[4];
    put_u32(payload, credit);
    stream->receive_window += credit;
    mux_queue_control(FRAME_CREDIT, stream->id, payload, sizeof payload);
}

/* A host that gives us a wider window than every stream begins with may be given as much. */
static void stream_credited(struct stream *stream, uint32_t credit)
{
    if (credit > UINT32_MAX - stream->send_window) {
        stream_reset(stream, EPROTO, "the window overflows");
        return;
    }
    stream->send_window += credit;
    if (stream->send_window <= stream->window || stream->send_window > WINDOW_MAX)
        return;
    uint32_t more = stream->send_window - stream->window;
    stream->window = stream->send_window;
    queue_credit(stream, more);
}

static int stream_accepted(struct stream *stream)
{
    if (stream->accepted)
        return -EPROTO;
    stream->accepted = true;
    stream->service->accepted(stream);
    return 0;
}

int streams_frame(const struct frame_header *header, const uint8_t *payload)
{
    if (header->type == FRAME_OPEN)
        return open_stream(header->stream, get_u32(payload));
    struct stream *stream = find_stream(header->stream);
    if (stream == NULL) /* it crossed our RESET on the way */
        return 0;
    if (header->type != FRAME_RESET && is_own(stream) && !stream->accepted &&
        header->type != FRAME_ACCEPT)
        return -EPROTO; /* first the host accepts, or refuses */
    switch (header->type) {
    case FRAME_ACCEPT:
        return stream_accepted(stream);
    case FRAME_DATA:
        stream_data(stream, payload, header->length);
        return 0;
    case FRAME_CREDIT:
        stream_credited(stream, get_u32(payload));
        return 0;
    case FRAME_EOF:
        stream->host_eof = true;
        if (!stream->finished)
            stream->service->input(stream);
        return 0;
    case FRAME_RESET:
        close_stream(stream);
        return 0;
    default:
        return -EPROTO;
    }
}

static bool can_send(const struct stream *stream)
{
    if (!stream->accepted || stream->eof_sent)
        return false;
    if (stream->out.size > 0)
        return stream->send_window > 0;
    return stream->output_ended;
}

bool streams_have_output(void)
{
    for (size_t i = 0; i < streams.count; i++)
        if (can_send(streams.all[i]))
            return true;
    return false;
}

/* Bytes of payload the stream's next frame has; 0: an EOF. */
static size_t next_payload(const struct stream *stream)
{
    size_t size = stream->out.size;
    if (size > stream->send_window)
        size = stream->send_window;
    return size > DATA_CHUNK ? DATA_CHUNK : size;
}

/* Encode one frame of this stream and account for it. */
static size_t encode_stream_frame(struct stream *stream, uint8_t *out, size_t size)
{
    struct frame_header header = {
        .length = (uint32_t)size, .stream = stream->id, .type = size > 0 ? FRAME_DATA : FRAME_EOF};
    frame_header_encode(&header, out);
    if (size > 0) {
        memcpy(out + FRAME_HEADER_SIZE, bytes_data(&stream->out), size);
        bytes_drop(&stream->out, size);
        stream->send_window -= (uint32_t)size;
        stream->sent_bytes += size;
    } else {
        stream->eof_sent = true;
    }
    return FRAME_HEADER_SIZE + size;
}

size_t streams_next_frame(uint8_t *out, size_t room)
{
    for (size_t tried = 0; tried < streams.count; tried++) {
        if (streams.turn >= streams.count)
            streams.turn = 0;
        struct stream *stream = streams.all[streams.turn];
        size_t size = next_payload(stream);
        if (can_send(stream) && FRAME_HEADER_SIZE + size > room)
            return 0; /* its turn comes with the next buffer */
        streams.turn++;
        if (can_send(stream))
            return encode_stream_frame(stream, out, size);
    }
    return 0;
}

/* Whether a source that was told to wait may go on. */
static bool has_room_again(const struct stream *stream)
{
    if (stream->wants_window)
        return !splice_is_pending() && stream->send_window > 0;
    return stream->wants_room && stream->out.size <= OUT_LIMIT / 2;
}

void streams_settle(void)
{
    for (size_t i = streams.count; i-- > 0;) {
        if (i >= streams.count) /* a callback closed some */
            continue;
        struct stream *stream = streams.all[i];
        if (stream->eof_sent && stream->host_eof && stream->in.size == 0) {
            close_stream(stream);
            continue;
        }
        if (has_room_again(stream)) {
            stream->wants_room = stream->wants_window = false;
            if (stream->service->writable != NULL)
                stream->service->writable(stream);
        }
    }
    while (streams.gone != NULL) {
        struct stream *stream = streams.gone;
        streams.gone = stream->next_gone;
        bytes_free(&stream->in);
        bytes_free(&stream->out);
        free(stream);
    }
}

void stream_accept(struct stream *stream)
{
    if (stream->gone || stream->accepted)
        return;
    stream->accepted = true;
    mux_queue_control(FRAME_ACCEPT, stream->id, NULL, 0);
}

void stream_take(struct stream *stream, size_t size)
{
    if (!stream->gone)
        bytes_drop(&stream->in, size);
}

void stream_credit(struct stream *stream, size_t size)
{
    if (stream->gone)
        return;
    stream->credit_due += (uint32_t)size;
    if (stream->credit_due < stream->window / CREDIT_SHARE || stream->host_eof)
        return;
    uint32_t credit = stream->credit_due;
    stream->credit_due = 0;
    queue_credit(stream, credit);
}

size_t stream_room(struct stream *stream)
{
    if (stream->gone)
        return 0;
    if (stream->out.size < OUT_LIMIT)
        return OUT_LIMIT - stream->out.size;
    stream->wants_room = true;
    return 0;
}

void stream_write(struct stream *stream, const void *data, size_t size)
{
    if (stream->gone || stream->output_ended)
        return;
    if (bytes_append(&stream->out, data, size) < 0)
        stream_reset(stream, ENOMEM, "the guest is out of memory");
}

/* The header of each frame goes where the frame before it ended: that is on its way already. */
void stream_write_over(struct stream *stream, uint8_t *data, size_t size)
{
    while (size > 0 && !stream->output_ended && stream->out.size == 0 && stream->accepted &&
           stream->send_window > 0 && !streams_have_output()) {
        size_t piece = stream->send_window < DATA_CHUNK ? stream->send_window : DATA_CHUNK;
        piece = piece < size ? piece : size;
        frame_header_encode(&(struct frame_header){.length = (uint32_t)piece, .stream = stream->id, .type = FRAME_DATA},
                            data - FRAME_HEADER_SIZE);
        if (stream->gone || !mux_write_now(data - FRAME_HEADER_SIZE, FRAME_HEADER_SIZE + piece))
            break;
        stream->send_window -= (uint32_t)piece;
        stream->sent_bytes += piece;
        data += piece;
        size -= piece;
    }
    stream_write(stream, data, size);
}

void stream_write_tagged(struct stream *stream, char tag, const void *data, size_t size)
{
    stream_printf(stream, "%c %zu\n", tag, size);
    stream_write(stream, data, size);
}

void stream_printf(struct stream *stream, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size > 0)
        stream_write(stream, text, (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

void stream_end_output(struct stream *stream)
{
    stream->output_ended = true;
}

void stream_finish(struct stream *stream)
{
    if (stream->gone || stream->finished)
        return;
    stream->output_ended = true;
    stream->finished = true;
    stream_credit(stream, stream->in.size);
    bytes_drop(&stream->in, stream->in.size);
}
