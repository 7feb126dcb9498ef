/* The connection: reading and writing the port, HELLO, quiescing; see mux.h. */
#include "mux.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "hold.h"
#include "io.h"
#include "loop.h"
#include "mux_internal.h"
#include "splice.h"

enum {
    CONTROL_LIMIT = 262144, /* stop reading while this much of our answers is unsent */
    STALE_FRAME_MS = 200, /* the host repeats MAGIC + HELLO every 250 ms */
    PIECE_SIZE = 4096, /* virtio_console.c fills its buffers with so much, and gives one per read() */
    PIECES = 16,
    WRITE_SIZE = 32768, /* and takes so much in a write() */
    WRITES_PER_TURN = 16,
};

static struct {
    int fd;
    bool is_virtio_port;
    bool hung_up;
    bool connected; /* HELLO was answered on this connection */
    bool readable;
    bool port_full; /* until the port's next event */
    bool quiet;
    bool quiesce_due;
    uint64_t quiesce_token;
    uint64_t last_read_ms;
    watch_id watch;
    const struct mux_events *events;
    void (*ends)(void);
    struct frame_parser parser;
    struct bytes control; /* whole frames, sent before any DATA */
    uint8_t out[WRITE_SIZE]; /* whole frames on their way */
    size_t out_size;
    size_t out_sent;
} mux;

_Static_assert(WRITE_SIZE > MAGIC_SIZE + FRAME_HEADER_SIZE + FRAME_MAX_LOG, "any control frame fits");

bool mux_is_connected(void)
{
    return mux.connected && !mux.hung_up;
}

bool mux_is_quiet(void)
{
    return mux.quiet || mux.quiesce_due;
}

bool mux_has_output(void)
{
    return mux.out_sent < mux.out_size || splice_is_pending() || mux.control.size > 0 || streams_have_output();
}

void mux_queue_control(uint8_t type, uint32_t stream, const void *payload, size_t size)
{
    uint8_t header[FRAME_HEADER_SIZE];
    frame_header_encode(
        &(struct frame_header){.length = (uint32_t)size, .stream = stream, .type = type}, header);
    if (!mux_is_connected())
        return;
    if (bytes_append(&mux.control, header, sizeof header) < 0 ||
        bytes_append(&mux.control, payload, size) < 0) {
        /* A connection that lost a frame is worth nothing; the VM cannot go on without memory. */
        fprintf(stderr, "machinen-agent: out of memory\n");
        loop_stop(1);
    }
}

void mux_send_workload_exit(uint8_t code, uint8_t signal)
{
    uint8_t payload[2] = {code, signal};
    mux_queue_control(FRAME_WORKLOAD_EXIT, 0, payload, sizeof payload);
}

void mux_send_ping(void)
{
    mux_queue_control(FRAME_PING, 0, "flush", 5);
}

void mux_log(const char *format, ...)
{
    char text[FRAME_MAX_LOG];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (size < 0)
        return;
    if (!mux_is_connected()) {
        fprintf(stderr, "machinen-agent: %s\n", text);
        return;
    }
    if (mux.control.size < CONTROL_LIMIT)
        mux_queue_control(FRAME_LOG, 0, text, strlen(text));
}

/* Forget everything about the connection; the next one begins with a MAGIC. */
static void drop_connection(void)
{
    mux.connected = false;
    mux.quiet = false;
    mux.quiesce_due = false;
    mux.out_size = mux.out_sent = 0;
    splice_drop();
    streams_drop_all();
    bytes_free(&mux.control);
}

static void on_magic(void *context)
{
    (void)context;
    drop_connection();
}

static void on_malformed(void *context, const char *reason)
{
    (void)context;
    drop_connection();
    fprintf(stderr, "machinen-agent: the host broke the protocol: %s\n", reason);
}

/* Apply the host's HELLO, then answer it with its nonce. */
static int hello_frame(const uint8_t *payload, size_t size)
{
    struct host_hello hello;
    int result = host_hello_decode(payload, size, &hello);
    if (result < 0)
        return result;
    drop_connection();
    uint32_t flags = mux.events->hello(&hello);
    hold_ends_soon(); /* with the RESUME that the host sends when it hears the answer */
    mux.connected = true;
    uint8_t answer[16];
    put_u32(answer, PROTOCOL_VERSION);
    put_u64(answer + 4, hello.nonce);
    put_u32(answer + 12, flags);
    memcpy(mux.out, FRAME_MAGIC, MAGIC_SIZE);
    mux.out_size = MAGIC_SIZE;
    mux_queue_control(FRAME_HELLO, 0, answer, sizeof answer);
    return 0;
}

static int connection_frame(const struct frame_header *header, const uint8_t *payload)
{
    switch (header->type) {
    case FRAME_HELLO:
        return hello_frame(payload, header->length);
    case FRAME_QUIESCE:
        mux.quiesce_due = true;
        mux.quiesce_token = get_u64(payload);
        return 0;
    case FRAME_RESUME:
        mux.quiet = mux.quiesce_due = false;
        mux.events->resume(get_u64(payload));
        hold_end();
        return 0;
    case FRAME_PING:
        mux_queue_control(FRAME_PONG, 0, payload, header->length);
        return 0;
    case FRAME_PONG:
        mux.events->pong();
        return 0;
    case FRAME_POWEROFF:
        mux.events->poweroff(get_u32(payload));
        return 0;
    default:
        return -EPROTO;
    }
}

static int on_frame(void *context, const struct frame_header *header, const uint8_t *payload)
{
    (void)context;
    if (!mux.connected && header->type != FRAME_HELLO)
        return -EPROTO;
    return header->stream == 0 ? connection_frame(header, payload) : streams_frame(header, payload);
}

static const struct frame_events PARSER_EVENTS = {
    .magic = on_magic, .frame = on_frame, .malformed = on_malformed};

static void hang_up(void);

/* After a restore the host may have gone in the middle of a frame without a hang-up that we could see.
 * Its MAGIC then arrives where we expect payload: after a pause, and at the start of a read. */
static void notice_new_host(const uint8_t *data, size_t size)
{
    if (!frame_parser_is_mid_frame(&mux.parser) || size < MAGIC_SIZE)
        return;
    if (monotonic_ms() - mux.last_read_ms < STALE_FRAME_MS)
        return;
    if (memcmp(data, FRAME_MAGIC, MAGIC_SIZE) == 0)
        frame_parser_restart(&mux.parser, PARSER_HEADER);
}

/* One buffer of the port goes into each piece, so that one call empties many of them: a readv() of a driver that only
 * has read() goes on until a piece stays short (do_loop_readv_writev, fs/read_write.c). */
static void read_port(void)
{
    static uint8_t buffer[PIECES * PIECE_SIZE];
    struct iovec pieces[PIECES];
    for (size_t i = 0; i < PIECES; i++)
        pieces[i] = (struct iovec){.iov_base = buffer + i * PIECE_SIZE, .iov_len = PIECE_SIZE};
    ssize_t got = readv(mux.fd, pieces, PIECES);
    if (got < 0 && errno == EINTR)
        return;
    if (got < 0 && errno == EAGAIN) {
        mux.readable = false;
        return;
    }
    if (got <= 0) {
        hang_up();
        return;
    }
    notice_new_host(buffer, (size_t)got);
    mux.last_read_ms = monotonic_ms();
    frame_parser_feed(&mux.parser, buffer, (size_t)got, &PARSER_EVENTS);
}

/* Append the next whole frame to mux.out. Returns false if there is none, or no room for it. */
static bool load_frame(void)
{
    uint8_t *out = mux.out + mux.out_size;
    size_t room = WRITE_SIZE - mux.out_size;
    if (mux.quiesce_due) {
        if (room < FRAME_HEADER_SIZE + 8)
            return false;
        mux.quiesce_due = false;
        mux.quiet = true;
        if (mux.is_virtio_port)
            hold_begin();
        frame_header_encode(&(struct frame_header){.length = 8, .type = FRAME_QUIESCED}, out);
        put_u64(out + FRAME_HEADER_SIZE, mux.quiesce_token);
        mux.out_size += FRAME_HEADER_SIZE + 8;
        return true;
    }
    if (mux.quiet)
        return false;
    if (mux.control.size == 0) {
        size_t size = streams_next_frame(out, room);
        mux.out_size += size;
        return size > 0;
    }
    size_t size = FRAME_HEADER_SIZE + get_u32(bytes_data(&mux.control));
    if (size > room)
        return false;
    memcpy(out, bytes_data(&mux.control), size);
    bytes_drop(&mux.control, size);
    mux.out_size += size;
    return true;
}

/* Fill mux.out: each write() wakes the host, and interrupts us when it was taken. Returns false if there is nothing. */
static bool load_frames(void)
{
    mux.out_sent = mux.out_size = 0;
    while (load_frame())
        continue;
    return mux.out_size > 0;
}

/* Ask for the port's next event. That there is room again is worth waking for only when there was none. */
static void set_port_full(bool full)
{
    if (mux.port_full == full)
        return;
    mux.port_full = full;
    loop_change(mux.watch, EPOLLIN | EPOLLHUP | EPOLLET | (full ? EPOLLOUT : 0));
}

bool mux_is_idle(void)
{
    return mux_is_connected() && !mux_is_quiet() && !mux.port_full && mux.out_sent == mux.out_size &&
           mux.control.size == 0 && !splice_is_pending();
}

bool mux_write_now(const uint8_t *frame, size_t size)
{
    if (!mux_is_idle())
        return false;
    ssize_t put = write(mux.fd, frame, size);
    if (put < 0 && errno == EAGAIN)
        set_port_full(true);
    if (put < 0)
        return false; /* write_port() sees the same end, where it may be acted on */
    mux.out_sent = 0;
    mux.out_size = size - (size_t)put;
    memcpy(mux.out, frame + put, mux.out_size);
    return true;
}

void mux_send_spliced(void)
{
    uint32_t lost;
    int result = splice_send(mux.fd, &lost);
    if (lost != 0)
        streams_lost(lost);
    if (result == -EAGAIN)
        set_port_full(true);
    else if (result < 0)
        hang_up();
}

/* Write until the port is full, there is nothing more, or others should have a turn. */
static void write_port(void)
{
    if (splice_is_pending())
        mux_send_spliced();
    for (int writes = 0; writes < WRITES_PER_TURN && !splice_is_pending(); writes++) {
        if (mux.out_sent == mux.out_size && !load_frames())
            return;
        ssize_t put = write(mux.fd, mux.out + mux.out_sent, mux.out_size - mux.out_sent);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN) {
            set_port_full(true);
            return;
        }
        if (put < 0) {
            hang_up();
            return;
        }
        mux.out_sent += (size_t)put;
    }
}

/* The host closed its end: streams end here; a virtio port may be opened again. */
static void hang_up(void)
{
    drop_connection();
    frame_parser_restart(&mux.parser, PARSER_SCANNING);
    mux.readable = false;
    if (mux.hung_up)
        return;
    mux.hung_up = true;
    if (!mux.is_virtio_port)
        mux.ends();
}

/* Edge-triggered, because a virtio port reports POLLHUP for as long as nobody is connected on the host;
 * the kernel wakes us at each change of that (virtio_console.c, VIRTIO_CONSOLE_PORT_OPEN). */
static void on_port_event(void *context, uint32_t events)
{
    (void)context;
    set_port_full(false);
    if ((events & EPOLLIN) != 0)
        mux.readable = true;
    if ((events & EPOLLHUP) == 0)
        mux.hung_up = false;
    else if ((events & EPOLLIN) == 0)
        hang_up();
}

int mux_start(int fd, bool is_virtio_port, const struct mux_events *events, void (*ends)(void))
{
    mux.fd = fd;
    mux.is_virtio_port = is_virtio_port;
    mux.events = events;
    mux.ends = ends;
    streams_init(events->find_service);
    mux.watch = loop_watch(fd, EPOLLIN | EPOLLHUP | EPOLLET, on_port_event, NULL);
    mux.readable = true;
    return mux.watch == 0 ? -ENOMEM : 0;
}

static bool can_read(void)
{
    /* While quiet nothing drains `control`, and only the host's RESUME can change that. */
    return mux.readable && !mux.hung_up && (mux.quiet || mux.control.size < CONTROL_LIMIT);
}

static bool can_write(void)
{
    if (mux.hung_up || mux.port_full)
        return false;
    if (mux.out_sent < mux.out_size || splice_is_pending() || mux.quiesce_due)
        return true;
    return !mux.quiet && (mux.control.size > 0 || streams_have_output());
}

bool mux_turn(void)
{
    if (can_read())
        read_port();
    if (can_write())
        write_port();
    streams_settle();
    return can_read() || can_write() || hold_is_on();
}
