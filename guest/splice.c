/* See splice.h.
 *
 * Two pipes of our own. `taken` makes the count known before the header that states it: the program may be writing, or reading
 * back, at the same time. `queue` is what the port gets, all of it in one call and never a part of it: virtio_console.c
 * makes room for every page of the pipe, and leaves unused entries in the list it gives to the device
 * (port_fops_splice_write, sg_init_table). */
#include "splice.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io.h"
#include "loop.h"
#include "mux_internal.h"

enum {
    LEAST = 16384, /* fewer bytes are copied sooner than their pages are moved */
    MOST = 245760, /* bytes in one go: a pipe of 262144 whose first and last page are not full */
    PIPE_BYTES = 262144,
    PAYLOAD = 61440, /* of a frame: whole pages, so that none is divided between two frames */
    EVERYTHING = 1 << 30,
};

static int taken_pipe[2] = {-1, -1};
static int queue_pipe[2] = {-1, -1};
static size_t queued;
static uint32_t queued_stream;

static bool open_pipe(int ends[2], int size)
{
    if (ends[0] >= 0)
        return true;
    return pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0 && fcntl(ends[0], F_SETPIPE_SZ, size) >= size;
}

static void close_pipe(int ends[2])
{
    close_fd(&ends[0]);
    close_fd(&ends[1]);
}

void splice_drop(void)
{
    close_pipe(taken_pipe);
    close_pipe(queue_pipe);
    queued = 0;
}

bool splice_is_pending(void)
{
    return queued > 0;
}

/* What was promised by a header has to come, whatever the kernel lacks: move it, or copy it. */
static void queue_pages(size_t size)
{
    static uint8_t copy[PAYLOAD];
    while (size > 0) {
        ssize_t put = splice(taken_pipe[0], NULL, queue_pipe[1], NULL, size, SPLICE_F_NONBLOCK);
        if (put < 0) {
            ssize_t got = read(taken_pipe[0], copy, size);
            put = got > 0 && write_exactly(queue_pipe[1], copy, (size_t)got) == 0 ? got : -1;
        }
        if (put <= 0) {
            /* A connection with half a frame is worth nothing; the VM cannot go on without memory. */
            fprintf(stderr, "machinen-agent: a pipe took no pages\n");
            loop_stop(1);
            return;
        }
        size -= (size_t)put;
        queued += (size_t)put;
    }
}

static bool queue_bytes(const void *data, size_t size)
{
    if (write_exactly(queue_pipe[1], data, size) < 0)
        return false;
    queued += size;
    return true;
}

/* Take at most `size` bytes of `pipe` and put them into the queue as DATA frames of `stream`, behind the line
 * "<tag> <count>\n". The queue is empty. Returns the payload's bytes with that line, and sets `*taken`; 0 if the pipe gave
 * nothing. */
static size_t load(uint32_t stream, char tag, int pipe, size_t size, size_t *taken)
{
    *taken = 0;
    if (!open_pipe(taken_pipe, PIPE_BYTES) || !open_pipe(queue_pipe, 2 * PIPE_BYTES)) {
        splice_drop();
        return 0;
    }
    ssize_t got = splice(pipe, NULL, taken_pipe[1], NULL, size, SPLICE_F_NONBLOCK);
    if (got <= 0)
        return 0;
    queued_stream = stream;
    char line[32];
    size_t line_size = (size_t)snprintf(line, sizeof line, "%c %zd\n", tag, got);
    size_t left = (size_t)got, payload = 0;
    for (size_t ahead = line_size; left > 0; ahead = 0) {
        size_t piece = left < PAYLOAD ? left : PAYLOAD;
        uint8_t header[FRAME_HEADER_SIZE];
        frame_header_encode(
            &(struct frame_header){.length = (uint32_t)(ahead + piece), .stream = stream, .type = FRAME_DATA}, header);
        if (!queue_bytes(header, sizeof header) || !queue_bytes(line, ahead)) {
            loop_stop(1); /* an empty pipe that takes no line: as above */
            return 0;
        }
        queue_pages(piece);
        payload += ahead + piece;
        left -= piece;
    }
    *taken = (size_t)got;
    return payload;
}

/* A writer that is not done gets its turn first: the more pages move at once, the less each costs. */
static size_t readable_after_a_turn(int pipe)
{
    int size = 0;
    if (ioctl(pipe, FIONREAD, &size) < 0 || size < LEAST)
        return 0;
    if (size < MOST / 2) {
        sched_yield();
        ioctl(pipe, FIONREAD, &size);
    }
    return (size_t)size;
}

ssize_t stream_splice_tagged(struct stream *stream, char tag, int pipe, size_t limit)
{
    size_t size = readable_after_a_turn(pipe);
    if (stream->gone || stream->output_ended || size < LEAST || limit < LEAST)
        return 0;
    if (splice_is_pending() || stream->send_window == 0) {
        stream->wants_window = true;
        return -EAGAIN;
    }
    size_t window = stream->send_window, most = limit < MOST ? limit : MOST;
    size_t line = (size_t)snprintf(NULL, 0, "%c %zu\n", tag, window < most ? window : most);
    if (window <= line || stream->out.size > 0 || streams_have_output() || !mux_is_idle())
        return 0;
    size_t taken;
    size_t payload =
        load(stream->id, tag, pipe, window - line < most ? window - line : most, &taken);
    stream->send_window -= (uint32_t)payload;
    stream->sent_bytes += payload;
    mux_send_spliced();
    return (ssize_t)taken;
}

int splice_send(int port, uint32_t *lost)
{
    *lost = 0;
    while (queued > 0) {
        ssize_t put = splice(queue_pipe[0], NULL, port, NULL, EVERYTHING, SPLICE_F_NONBLOCK);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return -errno;
        if (put == 0) { /* no memory for the list: the driver has dropped all of it (__send_to_port) */
            queued = 0;
            *lost = queued_stream;
        }
        queued -= (size_t)put;
    }
    return 0;
}
