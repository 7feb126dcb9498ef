/* Ports 65536 + n: TCP port n on the guest's 127.0.0.1; docs/protocol.md, chapter 2. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "io.h"
#include "relay.h"
#include "services.h"

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
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        int result = -errno;
        close_fd(&fd);
        return result;
    }
    int result = relay_attach(stream, fd, RELAY_CONNECTING);
    return result < 0 ? result : 1;
}

const struct service FORWARD_SERVICE = {
    .open = forward_open,
    .input = relay_input,
    .writable = relay_writable,
    .closed = relay_closed,
};
