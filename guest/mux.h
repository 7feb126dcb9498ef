/*
 * The connection to the host and the streams on it; docs/protocol.md, chapter 1.
 *
 * A service is a set of callbacks. It reads what came in from stream->in, takes it with stream_take()
 * and widens the host's window with stream_credit() once the bytes have reached their destination.
 * It may call any stream_ function from any callback; a stream that has gone stays allocated until the
 * end of the loop's round and takes no more calls.
 */
#ifndef MACHINEN_MUX_H
#define MACHINEN_MUX_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "bytes.h"
#include "frames.h"

struct stream;

struct service {
    /* The host asks for this service: 0 accepts at once, 1 means stream_accept() follows, a negative errno refuses. */
    int (*open)(struct stream *stream);
    /* The host has accepted a stream that we opened; NULL for services of ours. */
    void (*accepted)(struct stream *stream);
    /* Bytes or the host's EOF arrived. */
    void (*input)(struct stream *stream);
    /* stream_room() was 0 and no longer is; may be NULL for services that never fill it. */
    void (*writable)(struct stream *stream);
    /* The stream is over, for whatever reason: let go of stream->state. Comes exactly once after `open` succeeded. */
    void (*closed)(struct stream *stream);
};

struct stream {
    uint32_t id;
    uint32_t port;
    const struct service *service;
    void *state; /* the service's own */
    struct bytes in;
    struct bytes out;
    uint64_t sent_bytes; /* payload sent so far: shows a reader's progress */
    uint32_t send_window;
    uint32_t receive_window;
    uint32_t window; /* what either side may send before anything of it is consumed */
    uint32_t credit_due;
    bool accepted;
    bool host_eof;
    bool output_ended; /* we have no more to send than what is in `out` */
    bool finished;     /* nor do we want to hear any more */
    bool eof_sent;
    bool wants_room;
    bool wants_window;
    bool gone;
    struct stream *next_gone;
};

/* What the rest of the agent does with frames on stream 0. */
struct mux_events {
    const struct service *(*find_service)(uint32_t port);
    uint32_t (*hello)(const struct host_hello *hello); /* returns the flags of our HELLO */
    void (*resume)(uint64_t realtime_ns);
    void (*poweroff)(uint32_t grace_ms);
    void (*pong)(void);
};

/* `fd` is non-blocking. A virtio port hangs up and comes back; a socket ends once (`ends` is called). */
int mux_start(int fd, bool is_virtio_port, const struct mux_events *events, void (*ends)(void));
/* The loop's hook: send what can be sent, free what is gone. True if there is more to read at once. */
bool mux_turn(void);
bool mux_is_connected(void);
bool mux_is_quiet(void);
bool mux_has_output(void);
void mux_send_workload_exit(uint8_t code, uint8_t signal);
void mux_send_ping(void);
/* One line for the console log: a LOG frame, or stderr while nobody is connected. */
void mux_log(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Ask the host for a stream; the caller sets `state` before it returns to the loop. NULL: there is no connection, or
 * there are too many streams. */
struct stream *stream_open(uint32_t port, const struct service *service);
/* End a stream whose `state` was never set: `closed` is not called. */
void stream_abandon(struct stream *stream, int error);
void stream_accept(struct stream *stream);
/* Remove `size` bytes from stream->in; says nothing to the host yet. */
void stream_take(struct stream *stream, size_t size);
/* `size` taken bytes have been consumed: widen the host's window by that much. */
void stream_credit(struct stream *stream, size_t size);
/* Bytes that may be queued before the service should stop reading its source; 0 asks for `writable`. */
size_t stream_room(struct stream *stream);
/* Queue bytes. Without memory the stream is reset. */
void stream_write(struct stream *stream, const void *data, size_t size);
/* The same, but what the port takes at once is not copied. Overwrites `data`, and FRAME_HEADER_SIZE bytes before it. */
void stream_write_over(struct stream *stream, uint8_t *data, size_t size);
/* Queue an agent frame of chapter 3: "<tag> <size>\n" and the bytes. */
void stream_write_tagged(struct stream *stream, char tag, const void *data, size_t size);
/* The same for at most `limit` bytes that are in `pipe`, moved instead of copied. Returns how many; 0: they are few, or others
 * wait for the port, so read them; -EAGAIN: the port or the host takes no more now, `writable` follows. */
ssize_t stream_splice_tagged(struct stream *stream, char tag, int pipe, size_t limit);
void stream_printf(struct stream *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* No more output: EOF follows what is queued. Input goes on. */
void stream_end_output(struct stream *stream);
/* The conversation is over: no more output, and input that still comes is thrown away. */
void stream_finish(struct stream *stream);
void stream_reset(struct stream *stream, int error, const char *text);

#endif
