/* See listener.h. */
#include "listener.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"

enum { BACKLOG = 128, RETRY_MS = 100 };

static void accept_client(void *context, uint32_t events);

static void try_again(void *context)
{
    struct listener *listener = context;
    listener->retry = 0;
    listener->watch = loop_watch(listener->fd, EPOLLIN, accept_client, listener);
}

static void accept_client(void *context, uint32_t events)
{
    struct listener *listener = context;
    (void)events;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        listener->client(fd);
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
        return;
    loop_unwatch(&listener->watch); /* it would stay readable */
    listener->retry = loop_after_ms(RETRY_MS, try_again, listener);
}

int listener_start(struct listener *listener, int fd, void (*client)(int fd))
{
    *listener = (struct listener){.fd = fd, .client = client};
    if (listen(fd, BACKLOG) < 0) {
        int result = -errno;
        close_fd(&listener->fd);
        return result;
    }
    listener->watch = loop_watch(fd, EPOLLIN, accept_client, listener);
    return 0;
}

void listener_stop(struct listener *listener)
{
    loop_unwatch(&listener->watch);
    loop_cancel(&listener->retry);
    close_fd(&listener->fd);
}
