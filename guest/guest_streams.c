/* See guest_streams.h. */
#include "guest_streams.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"
#include "connect_line.h"
#include "environment.h"
#include "io.h"
#include "listener.h"
#include "loop.h"
#include "mux.h"
#include "relay.h"

#define DIRECTORY "/run/machinen"

enum { HANDSHAKE_MS = 5000, MAX_WAITING = 64 };

/* A program that has connected to /run/machinen/vsock and not yet said where it wants to go. */
struct waiting {
    int fd;
    watch_id watch;
    timer_id deadline;
    size_t filled;
    char text[CONNECT_LINE_MAX]; /* the line, and what came right behind it */
};

static struct listener vsock = {.fd = -1};
static struct listener proxy = {.fd = -1};
static size_t waiting_count;

static void vsock_accepted(struct stream *stream)
{
    char greeting[32];
    snprintf(greeting, sizeof greeting, "OK %u\n", stream->id);
    relay_begin(stream, greeting);
}

static void proxy_accepted(struct stream *stream)
{
    relay_begin(stream, "");
}

static const struct service VSOCK_STREAM = {
    .accepted = vsock_accepted,
    .input = relay_input,
    .writable = relay_writable,
    .closed = relay_closed,
};

static const struct service PROXY_STREAM = {
    .accepted = proxy_accepted,
    .input = relay_input,
    .writable = relay_writable,
    .closed = relay_closed,
};

/* Returns the stream, or NULL: `fd` is closed then. */
static struct stream *open_for(int fd, uint32_t port, const struct service *service)
{
    struct stream *stream = stream_open(port, service);
    if (stream == NULL) {
        close(fd);
        return NULL;
    }
    if (relay_attach(stream, fd, RELAY_OPENING) < 0) {
        stream_abandon(stream, ENOMEM);
        return NULL;
    }
    return stream;
}

static void forget(struct waiting *waiting)
{
    loop_unwatch(&waiting->watch);
    loop_cancel(&waiting->deadline);
    waiting_count--;
    free(waiting);
}

static void give_up(void *context)
{
    struct waiting *waiting = context;
    waiting->deadline = 0;
    close(waiting->fd);
    forget(waiting);
}

static void read_line(void *context, uint32_t events)
{
    struct waiting *waiting = context;
    (void)events;
    ssize_t got = recv(waiting->fd, waiting->text + waiting->filled,
                       sizeof waiting->text - waiting->filled, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    waiting->filled += got > 0 ? (size_t)got : 0;
    uint32_t port;
    int line = got <= 0 ? -EPROTO : connect_line_parse(waiting->text, waiting->filled, &port);
    if (line == 0)
        return;
    if (line < 0) {
        close(waiting->fd);
    } else {
        loop_unwatch(&waiting->watch); /* the relay watches it from here on */
        struct stream *stream = open_for(waiting->fd, port, &VSOCK_STREAM);
        if (stream != NULL)
            stream_write(stream, waiting->text + line, waiting->filled - (size_t)line);
    }
    forget(waiting);
}

static void vsock_client(int fd)
{
    struct waiting *waiting = waiting_count < MAX_WAITING ? calloc(1, sizeof *waiting) : NULL;
    if (waiting == NULL) {
        close(fd);
        return;
    }
    waiting_count++;
    waiting->fd = fd;
    waiting->watch = loop_watch(fd, EPOLLIN, read_line, waiting);
    waiting->deadline = loop_after_ms(HANDSHAKE_MS, give_up, waiting);
}

static void proxy_client(int fd)
{
    int at_once = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    open_for(fd, PORT_PROXY, &PROXY_STREAM);
}

static void note(const char *what, int result)
{
    if (result < 0)
        mux_log("%s failed: %s", what, strerror(-result));
}

/* Bound by a descriptor of its directory: the path below --root may be longer than a socket address. */
static int bind_vsock(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int result = make_directories(agent_path(DIRECTORY), 0755);
    int directory = result < 0 ? -1 : open(agent_path(DIRECTORY), O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (directory >= 0 && fd >= 0) {
        snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/vsock", directory);
        unlinkat(directory, "vsock", 0);
    }
    if (directory < 0 || fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(address.sun_path, 0666) < 0) { /* as open to every program as AF_VSOCK is */
        result = result < 0 ? result : -errno;
        close_fd(&fd);
    }
    close_fd(&directory);
    return fd >= 0 ? fd : result;
}

void guest_streams_start(void)
{
    int fd = bind_vsock();
    note("listening on " DIRECTORY "/vsock",
         fd < 0 ? fd : listener_start(&vsock, fd, vsock_client));
}

/* Returns a bound socket and fills `url`, or a negative errno. */
static int bind_proxy(char *url, size_t capacity)
{
    /* On a developer's host the port may be somebody's. */
    uint16_t port = agent_is_sandboxed() ? 0 : PROXY_TCP_PORT;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int reuse = 1;
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    if (bind(fd, (struct sockaddr *)&address, size) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        int result = -errno;
        close_fd(&fd);
        return result;
    }
    snprintf(url, capacity, "http://127.0.0.1:%u", ntohs(address.sin_port));
    return fd;
}

static void start_proxy(void)
{
    static char url[64];
    int fd = bind_proxy(url, sizeof url);
    int result = fd < 0 ? fd : listener_start(&proxy, fd, proxy_client);
    note("listening for the web proxy", result);
    if (result == 0)
        environment_set_proxy(url);
}

void guest_streams_set_proxy(bool on)
{
    if (on && proxy.fd < 0)
        start_proxy();
    if (on || proxy.fd < 0)
        return;
    environment_set_proxy(NULL);
    listener_stop(&proxy);
}
