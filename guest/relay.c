/* See relay.h. */
#include "relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"
#include "loop.h"

enum { READ_SIZE = 32768 };

struct relay {
    struct stream *stream;
    int fd;
    bool connected;
    bool reading;     /* false: paused, or the other side has ended */
    bool other_ended;
    bool shut;        /* we have passed the host's EOF on */
    watch_id watch;
};

static void socket_ready(void *context, uint32_t events);

/* Listen for what there is to wait for; nothing at all means unwatch, or a hang-up would spin. */
static void update_watch(struct relay *relay)
{
    uint32_t events = 0;
    if (!relay->connected || relay->stream->in.size > 0)
        events |= EPOLLOUT;
    if (relay->connected && relay->reading)
        events |= EPOLLIN;
    if (events == 0)
        loop_unwatch(&relay->watch);
    else if (relay->watch != 0)
        loop_change(relay->watch, events);
    else
        relay->watch = loop_watch(relay->fd, events, socket_ready, relay);
}

void relay_closed(struct stream *stream)
{
    struct relay *relay = stream->state;
    loop_unwatch(&relay->watch);
    if (!relay->other_ended || !relay->shut) {
        struct linger abort = {.l_onoff = 1}; /* a Unix socket takes no notice */
        setsockopt(relay->fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    }
    close_fd(&relay->fd);
    free(relay);
}

/* Returns false if the stream is gone. */
static bool write_socket(struct relay *relay)
{
    struct stream *stream = relay->stream;
    while (stream->in.size > 0) {
        ssize_t put = send(relay->fd, bytes_data(&stream->in), stream->in.size, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return true;
        if (put < 0) {
            stream_reset(stream, errno, strerror(errno));
            return false;
        }
        stream_take(stream, (size_t)put);
        stream_credit(stream, (size_t)put);
    }
    if (stream->host_eof && !relay->shut) {
        relay->shut = true;
        shutdown(relay->fd, SHUT_WR);
    }
    return true;
}

/* Returns false if the stream is gone. */
static bool read_socket(struct relay *relay)
{
    static uint8_t buffer[READ_SIZE];
    struct stream *stream = relay->stream;
    size_t room = stream_room(stream);
    if (room == 0) {
        relay->reading = false;
        return true;
    }
    ssize_t got = recv(relay->fd, buffer, room < sizeof buffer ? room : sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got < 0) {
        stream_reset(stream, errno, strerror(errno));
        return false;
    }
    if (got == 0) {
        relay->reading = false;
        relay->other_ended = true;
        stream_end_output(stream);
        return !stream->gone;
    }
    stream_write(stream, buffer, (size_t)got);
    return !stream->gone;
}

/* Returns false if the stream is gone. */
static bool finish_connect(struct relay *relay)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(relay->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        stream_reset(relay->stream, error, strerror(error));
        return false;
    }
    relay->connected = true;
    relay->reading = true;
    stream_accept(relay->stream);
    return true;
}

static void socket_ready(void *context, uint32_t events)
{
    struct relay *relay = context;
    if (!relay->connected && !finish_connect(relay))
        return;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && relay->reading && !read_socket(relay))
        return;
    if (write_socket(relay))
        update_watch(relay);
}

void relay_input(struct stream *stream)
{
    struct relay *relay = stream->state;
    if (relay->connected && write_socket(relay))
        update_watch(relay);
}

void relay_writable(struct stream *stream)
{
    struct relay *relay = stream->state;
    relay->reading = !relay->other_ended && stream->accepted;
    update_watch(relay);
}

int relay_attach(struct stream *stream, int fd, enum relay_start start)
{
    struct relay *relay = calloc(1, sizeof *relay);
    if (relay == NULL) {
        close(fd);
        return -ENOMEM;
    }
    *relay = (struct relay){.stream = stream, .fd = fd, .connected = start == RELAY_OPENING};
    stream->state = relay;
    update_watch(relay);
    return 0;
}

void relay_begin(struct stream *stream, const char *greeting)
{
    struct relay *relay = stream->state;
    size_t size = strlen(greeting);
    /* A socket that has taken nothing yet has room for a line. */
    if (size > 0 && send(relay->fd, greeting, size, MSG_NOSIGNAL) != (ssize_t)size) {
        stream_reset(stream, EPIPE, "the program in the guest has gone");
        return;
    }
    relay->reading = true;
    update_watch(relay);
}
