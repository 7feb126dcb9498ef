/* Bring up lo and eth0 with fixed addresses; no DHCP, nothing to wait for. See init.h. */
#include "init.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"

#define ADDRESS "10.0.2.15"
#define NETMASK "255.255.255.0"
#define GATEWAY "10.0.2.2"
#define NAME_SERVER "10.0.2.3"

static const char RESOLV_CONF[] = "# written by machinen\nnameserver " NAME_SERVER "\n";

static struct sockaddr internet_address(const char *text)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct sockaddr generic;
    inet_pton(AF_INET, text, &address.sin_addr);
    memcpy(&generic, &address, sizeof generic);
    return generic;
}

static int set_address(int socket_fd, const char *name, const char *address, const char *netmask)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    request.ifr_addr = internet_address(address);
    if (ioctl(socket_fd, SIOCSIFADDR, &request) < 0)
        return -errno;
    request.ifr_netmask = internet_address(netmask);
    return ioctl(socket_fd, SIOCSIFNETMASK, &request) < 0 ? -errno : 0;
}

static int set_up(int socket_fd, const char *name)
{
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(socket_fd, SIOCGIFFLAGS, &request) < 0)
        return -errno;
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return ioctl(socket_fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

static int add_default_route(int socket_fd)
{
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY,
                            .rt_dst = internet_address("0.0.0.0"),
                            .rt_genmask = internet_address("0.0.0.0"),
                            .rt_gateway = internet_address(GATEWAY)};
    return ioctl(socket_fd, SIOCADDRT, &route) < 0 && errno != EEXIST ? -errno : 0;
}

/* Leave a resolv.conf alone that somebody else has written; a dangling symbolic link counts as none. */
static int write_resolv_conf(void)
{
    char text[4096];
    ssize_t size = read_text_file("/etc/resolv.conf", text, sizeof text);
    bool is_ours = size >= 0 && strncmp(text, RESOLV_CONF, strcspn(RESOLV_CONF, "\n")) == 0;
    if (size == -EFBIG || (size > 0 && text[strspn(text, " \t\n")] != '\0' && !is_ours))
        return 0;
    if (size < 0)
        unlink("/etc/resolv.conf");
    return write_text_file("/etc/resolv.conf", RESOLV_CONF, 0644);
}

int bring_up_loopback(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int result = set_up(fd, "lo"); /* the kernel gives it 127.0.0.1 by itself */
    close(fd);
    return result;
}

/* There is none on the way out, but the kernel would ask for routers, and say so to nobody: an idle guest sends nothing. */
static int leave_out_ipv6(void)
{
    int result = write_text_file("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1", 0644);
    return result == -ENOENT ? 0 : result; /* a kernel without IPv6 */
}

int bring_up_ethernet(void)
{
    if (if_nametoindex("eth0") == 0)
        return -ENODEV;
    int quiet = leave_out_ipv6();
    if (quiet < 0)
        return quiet;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    int result = set_address(fd, "eth0", ADDRESS, NETMASK);
    if (result == 0)
        result = set_up(fd, "eth0");
    if (result == 0)
        result = add_default_route(fd);
    close(fd);
    return result == 0 ? write_resolv_conf() : result;
}
