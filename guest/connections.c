/*
 * See connections.h. The kernel can destroy other processes' sockets (SOCK_DESTROY), but only with modules that a minimal
 * guest lacks. So we borrow each descriptor (pidfd_getfd(2), Linux 5.6) and disconnect it: connect(2) to AF_UNSPEC sends
 * RST, and its owner reads ECONNRESET.
 */
#include "connections.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"
#include "mux.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* States in /proc/net/tcp; include/net/tcp_states.h of the kernel. */
enum { TIME_WAIT = 6, CLOSE = 7, LISTEN = 10 };

static bool leaves_the_guest(const struct sockaddr_storage *peer)
{
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)peer;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)peer;
    if (peer->ss_family == AF_INET)
        return ntohl(v4->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET;
    if (peer->ss_family != AF_INET6)
        return false;
    if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        return v6->sin6_addr.s6_addr[12] != IN_LOOPBACKNET;
    return !IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* Whether the socket is TCP and connected with another machine. */
static bool is_stale(int fd)
{
    struct sockaddr_storage peer, own;
    socklen_t size = sizeof peer;
    int protocol = 0;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) < 0 || !leaves_the_guest(&peer))
        return false;
    size = sizeof own;
    if (getsockname(fd, (struct sockaddr *)&own, &size) < 0)
        return false;
    size = sizeof protocol;
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) < 0 || protocol != IPPROTO_TCP)
        return false;
    /* With one's own address, such as 10.0.2.15, it has never left. */
    size_t offset = peer.ss_family == AF_INET ? offsetof(struct sockaddr_in, sin_addr)
                                              : offsetof(struct sockaddr_in6, sin6_addr);
    size_t length = peer.ss_family == AF_INET ? 4 : 16;
    return memcmp((char *)&peer + offset, (char *)&own + offset, length) != 0;
}

static bool reset_descriptor(int pidfd, int number)
{
    static const struct sockaddr nowhere = {.sa_family = AF_UNSPEC};
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
    if (fd < 0)
        return false;
    bool done = is_stale(fd) && connect(fd, &nowhere, sizeof nowhere) == 0;
    close(fd);
    return done;
}

/* Returns how many connections of the process were reset. */
static int reset_process(const char *pid)
{
    char path[300], target[32];
    int done = 0;
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    int pidfd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
    DIR *descriptors = pidfd < 0 ? NULL : opendir(path);
    for (struct dirent *entry; descriptors != NULL && (entry = readdir(descriptors)) != NULL;) {
        ssize_t size = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target);
        if (size > 8 && memcmp(target, "socket:[", 8) == 0)
            done += reset_descriptor(pidfd, atoi(entry->d_name));
    }
    if (descriptors != NULL)
        closedir(descriptors);
    close_fd(&pidfd);
    return done;
}

/* A fork answers its first request sooner if we look into processes only when there is something to find. */
static bool table_has_connections(const char *path)
{
    bool found = false;
    FILE *table = fopen(path, "re");
    char line[256];
    while (table != NULL && !found && fgets(line, sizeof line, table) != NULL) {
        unsigned state;
        char remote[40];
        if (sscanf(line, " %*[0-9]: %*[0-9A-F:] %39[0-9A-F:] %X", remote, &state) != 2)
            continue;
        bool is_loopback = strlen(remote) == 13 && memcmp(remote + 6, "7F", 2) == 0;
        found = state != LISTEN && state != TIME_WAIT && state != CLOSE && !is_loopback;
    }
    if (table != NULL)
        fclose(table);
    return found;
}

static void forget_neighbours(void)
{
    static const char *const addresses[] = {"10.0.2.2", "10.0.2.3"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (size_t i = 0; fd >= 0 && i < sizeof addresses / sizeof addresses[0]; i++) {
        struct arpreq request = {.arp_dev = "eth0"};
        struct sockaddr_in address = {.sin_family = AF_INET};
        inet_pton(AF_INET, addresses[i], &address.sin_addr);
        memcpy(&request.arp_pa, &address, sizeof address);
        ioctl(fd, SIOCDARP, &request); /* ENXIO: it was not known */
    }
    close_fd(&fd);
}

void connections_reset(void)
{
    forget_neighbours();
    if (!table_has_connections("/proc/net/tcp") && !table_has_connections("/proc/net/tcp6"))
        return;
    int done = 0;
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes != NULL && (entry = readdir(processes)) != NULL;)
        if (isdigit((unsigned char)entry->d_name[0]))
            done += reset_process(entry->d_name);
    if (processes != NULL)
        closedir(processes);
    if (done > 0)
        mux_log("reset %d connections that the guest had before it was restored", done);
}
