/*
 * Run by CRIU in a restored guest just before the tree goes on: reset the TCP connections that cannot or shall not.
 * With MACHINEN_RESTORE_TCP_CLOSE=1 these are all; else those whose other end is in this guest but not in the tree, such
 * as a port forward's: the agent that had it is another one; and in a guest without a network card those with other
 * hosts. As in connections.c each descriptor is borrowed and disconnected, so the program reads ECONNRESET.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"
#include "tools.h"

enum { CONNECTIONS_MAX = 4096 };

/* A guest's address, see init_network.c; and where it stands while there is no card. */
#define GUEST_ADDRESS "10.0.2.15"
#define STAND_IN "lo:criu"

struct address {
    struct in6_addr host; /* an IPv4 one is mapped: both ends of one connection may speak of it differently */
    in_port_t port;
};

struct connection {
    pid_t pid;
    int number;
    struct address own, peer;
};

struct connections {
    size_t count;
    struct connection items[CONNECTIONS_MAX];
};

static struct address address_of(const struct sockaddr_storage *name)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)name;
    struct address found = {.host = v6->sin6_addr, .port = v6->sin6_port};
    if (name->ss_family != AF_INET)
        return found;
    found = (struct address){.port = v4->sin_port};
    memset(&found.host.s6_addr[10], 0xff, 2);
    memcpy(&found.host.s6_addr[12], &v4->sin_addr, sizeof v4->sin_addr);
    return found;
}

static bool is_same(const struct address *one, const struct address *other)
{
    return one->port == other->port && memcmp(&one->host, &other->host, sizeof one->host) == 0;
}

static bool is_loopback(const struct in6_addr *host)
{
    return IN6_IS_ADDR_LOOPBACK(host) ||
           (IN6_IS_ADDR_V4MAPPED(host) && host->s6_addr[12] == IN_LOOPBACKNET);
}

/* Fill in both ends if the socket is TCP and connected. */
static bool look_at(int fd, struct connection *found)
{
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_size = sizeof own, peer_size = sizeof peer, size = sizeof(int);
    int protocol = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) < 0 || protocol != IPPROTO_TCP ||
        getsockname(fd, (struct sockaddr *)&own, &own_size) < 0 ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0)
        return false;
    found->own = address_of(&own);
    found->peer = address_of(&peer);
    return true;
}

static int borrow(pid_t pid, int number)
{
    int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int fd = pid_fd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pid_fd, number, 0);
    close_fd(&pid_fd);
    return fd;
}

static void collect(struct connections *all, pid_t pid)
{
    char path[64], target[32];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    for (struct dirent *entry; descriptors != NULL && (entry = readdir(descriptors)) != NULL;) {
        ssize_t size = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target);
        if (size <= 8 || memcmp(target, "socket:[", 8) != 0 || all->count == CONNECTIONS_MAX)
            continue;
        struct connection *next = &all->items[all->count];
        *next = (struct connection){.pid = pid, .number = atoi(entry->d_name)};
        int fd = borrow(pid, next->number);
        all->count += fd >= 0 && look_at(fd, next);
        close_fd(&fd);
    }
    if (descriptors != NULL)
        closedir(descriptors);
}

static bool has_other_end(const struct connections *all, const struct connection *one)
{
    for (size_t i = 0; i < all->count; i++)
        if (is_same(&all->items[i].own, &one->peer) && is_same(&all->items[i].peer, &one->own))
            return true;
    return false;
}

static bool stays_inside(const struct connection *one)
{
    return is_loopback(&one->peer.host) || memcmp(&one->peer.host, &one->own.host, sizeof one->own.host) == 0;
}

static void reset(const struct connection *one)
{
    static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    int fd = borrow(one->pid, one->number);
    if (fd >= 0 && connect(fd, &nowhere, sizeof nowhere) < 0 && errno != ENOTCONN)
        tool_fail("resetting descriptor %d of process %d failed: %s", one->number, one->pid, strerror(errno));
    close_fd(&fd);
}

int tool_restore_connections(void)
{
    const char *action = getenv("CRTOOLS_SCRIPT_ACTION"), *close_all = getenv(RESTORE_TCP_CLOSE);
    if (action == NULL || strcmp(action, "pre-resume") != 0)
        return 0;
    struct connections *all = calloc(1, sizeof *all);
    DIR *processes = opendir("/proc");
    if (all == NULL || processes == NULL)
        return tool_fail("looking for connections failed: %s", strerror(errno));
    for (struct dirent *entry; (entry = readdir(processes)) != NULL;)
        if (atoi(entry->d_name) > 0)
            collect(all, (pid_t)atoi(entry->d_name));
    closedir(processes);
    bool closes_all = close_all != NULL && strcmp(close_all, "1") == 0, has_card = if_nametoindex("eth0") > 0;
    for (size_t i = 0; i < all->count; i++) {
        const struct connection *one = &all->items[i];
        if (closes_all || (stays_inside(one) ? !has_other_end(all, one) : !has_card))
            reset(one);
    }
    free(all);
    return 0;
}

static struct sockaddr internet_address(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct sockaddr generic;
    inet_pton(AF_INET, text, &address.sin_addr);
    memcpy(&generic, &address, sizeof generic);
    return generic;
}

void tool_stand_in_for_card(bool stands)
{
    static char loopback[] = "lo";
    struct ifreq request = {.ifr_name = STAND_IN};
    struct rtentry route = {.rt_flags = RTF_UP,
                            .rt_dst = internet_address("0.0.0.0"),
                            .rt_genmask = internet_address("0.0.0.0"),
                            .rt_dev = loopback};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && stands) {
        request.ifr_addr = internet_address(GUEST_ADDRESS);
        if (ioctl(fd, SIOCSIFADDR, &request) < 0 || ioctl(fd, SIOCADDRT, &route) < 0)
            tool_fail("an address for connections of before cannot be had: %s", strerror(errno));
    } else if (fd >= 0) {
        ioctl(fd, SIOCDELRT, &route);
        request.ifr_flags = 0; /* an alias that is down is gone; netdevice(7) */
        ioctl(fd, SIOCSIFFLAGS, &request);
    }
    close_fd(&fd);
}
