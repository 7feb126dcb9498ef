/* Ports 65536 + n: TCP port n on the guest's 127.0.0.1; docs/protocol.md, chapter 2. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"
#include "loop.h"
#include "services.h"

enum { READ_SIZE = 32768 };

struct forward {
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
static void update_watch(struct forward *forward)
{
    uint32_t events = 0;
    if (!forward->connected || forward->stream->in.size > 0)
        events |= EPOLLOUT;
    if (forward->connected && forward->reading)
        events |= EPOLLIN;
    if (events == 0)
        loop_unwatch(&forward->watch);
    else if (forward->watch != 0)
        loop_change(forward->watch, events);
    else
        forward->watch = loop_watch(forward->fd, events, socket_ready, forward);
}

static void forward_closed(struct stream *stream)
{
    struct forward *forward = stream->state;
    loop_unwatch(&forward->watch);
    if (!forward->other_ended || !forward->shut) {
        struct linger abort = {.l_onoff = 1}; /* an abort on one side is an abort on the other */
        setsockopt(forward->fd, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    }
    close_fd(&forward->fd);
    free(forward);
}

/* Returns false if the stream is gone. */
static bool write_socket(struct forward *forward)
{
    struct stream *stream = forward->stream;
    while (stream->in.size > 0) {
        ssize_t put = send(forward->fd, bytes_data(&stream->in), stream->in.size, MSG_NOSIGNAL);
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
    if (stream->host_eof && !forward->shut) {
        forward->shut = true;
        shutdown(forward->fd, SHUT_WR);
    }
    return true;
}

/* Returns false if the stream is gone. */
static bool read_socket(struct forward *forward)
{
    static uint8_t buffer[READ_SIZE];
    struct stream *stream = forward->stream;
    size_t room = stream_room(stream);
    if (room == 0) {
        forward->reading = false;
        return true;
    }
    ssize_t got = recv(forward->fd, buffer, room < sizeof buffer ? room : sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (got < 0) {
        stream_reset(stream, errno, strerror(errno));
        return false;
    }
    if (got == 0) {
        forward->reading = false;
        forward->other_ended = true;
        stream_end_output(stream);
        return !stream->gone;
    }
    stream_write(stream, buffer, (size_t)got);
    return !stream->gone;
}

/* Returns false if the stream is gone. */
static bool finish_connect(struct forward *forward)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(forward->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
        stream_reset(forward->stream, error, strerror(error));
        return false;
    }
    forward->connected = true;
    forward->reading = true;
    stream_accept(forward->stream);
    return true;
}

static void socket_ready(void *context, uint32_t events)
{
    struct forward *forward = context;
    if (!forward->connected && !finish_connect(forward))
        return;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && forward->reading &&
        !read_socket(forward))
        return;
    if (write_socket(forward))
        update_watch(forward);
}

static void forward_input(struct stream *stream)
{
    struct forward *forward = stream->state;
    if (forward->connected && write_socket(forward))
        update_watch(forward);
}

static void forward_writable(struct stream *stream)
{
    struct forward *forward = stream->state;
    forward->reading = !forward->other_ended;
    update_watch(forward);
}

static int forward_open(struct stream *stream)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)(stream->port - PORT_TCP_BASE)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int at_once = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    struct forward *forward = calloc(1, sizeof *forward);
    int result = forward == NULL ? -ENOMEM : 0;
    if (result == 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0 &&
        errno != EINPROGRESS)
        result = -errno;
    if (result < 0) {
        close_fd(&fd);
        free(forward);
        return result;
    }
    *forward = (struct forward){.stream = stream, .fd = fd};
    stream->state = forward;
    update_watch(forward);
    return 1;
}

const struct service FORWARD_SERVICE = {
    .open = forward_open,
    .input = forward_input,
    .writable = forward_writable,
    .closed = forward_closed,
};
