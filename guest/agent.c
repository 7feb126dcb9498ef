/*
 * The agent: holds the virtio-serial port and serves the host; docs/protocol.md.
 *
 *   agent [--port-fd N] [--sandboxed-host] [--root DIR]
 *   agent --archive DIR [--exclude=PATH]...        (run by itself; archive.h)
 *
 * Without --port-fd it opens the virtio port named machinen.0. It ends with status 0 after the workload's end, a POWEROFF,
 * or the end of the --port-fd socket; init powers the VM off then.
 */
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "archive.h"
#include "connections.h"
#include "epoch.h"
#include "guest_streams.h"
#include "io.h"
#include "loop.h"
#include "mux.h"
#include "process.h"
#include "services.h"
#include "tools.h"
#include "workload.h"

enum { PORT_DEADLINE_MS = 10000, PORT_POLL_NS = 5000000, TERM_GRACE_MS = 2000, LARGEST_QUEUE = 4 << 20, KEPT_MEMORY = 16 << 20 };

static struct {
    int port_fd;
    int signal_fd;
    bool sandboxed;
    const char *root;
} options = {.port_fd = -1, .root = ""};

bool agent_is_sandboxed(void)
{
    return options.sandboxed;
}

const char *agent_path(const char *path)
{
    static char full[4096];
    snprintf(full, sizeof full, "%s%s", options.root, path);
    return full;
}

static const struct service *find_service(uint32_t port)
{
    epoch_settle();
    switch (port) {
    case PORT_WINSIZE:
        return &WINSIZE_SERVICE;
    case PORT_SECRETS:
        return &SECRETS_SERVICE;
    case PORT_FILES:
        return &FILES_SERVICE;
    case PORT_MOUNTS:
        return &MOUNTS_SERVICE;
    case PORT_EXEC:
        return &EXEC_SERVICE;
    default:
        return port > PORT_TCP_BASE && port <= PORT_TCP_BASE + 65535 ? &FORWARD_SERVICE : NULL;
    }
}

static void reset_connections(void *context)
{
    (void)context;
    connections_reset();
}

static uint32_t on_hello(const struct host_hello *hello)
{
    static uint64_t restored_by; /* a host repeats its HELLO until it is answered */
    if ((hello->flags & HELLO_SET_TIME) != 0)
        epoch_set_time(hello->realtime_ns);
    if ((hello->flags & HELLO_NEW_EPOCH) != 0)
        epoch_begin(hello);
    if ((hello->flags & HELLO_RESTORED) != 0 && hello->nonce != restored_by &&
        !agent_is_sandboxed()) {
        restored_by = hello->nonce;
        loop_after_ms(0, reset_connections, NULL); /* after the answer */
    }
    guest_streams_set_proxy((hello->flags & HELLO_PROXY) != 0);
    workload_continue();
    return workload_has_started() ? HELLO_WORKLOAD_STARTED : 0;
}

static void on_resume(uint64_t realtime_ns)
{
    epoch_set_time(realtime_ns);
    workload_continue();
}

static void on_socket_end(void)
{
    loop_stop(0);
}

static const struct mux_events MUX_EVENTS = {
    .find_service = find_service,
    .hello = on_hello,
    .resume = on_resume,
    .poweroff = workload_poweroff,
    .pong = workload_pong,
};

/* Look the port up by its name in sysfs: there is no udev that would make /dev/virtio-ports. */
static int open_named_port(const char *wanted)
{
    DIR *ports = opendir("/sys/class/virtio-ports");
    int result = -ENOENT;
    if (ports == NULL)
        return -errno;
    for (struct dirent *entry; result < 0 && (entry = readdir(ports)) != NULL;) {
        char path[320], name[64];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        if (read_text_file(path, name, sizeof name) <= 0)
            continue;
        name[strcspn(name, "\n")] = '\0';
        if (strcmp(name, wanted) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        result = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (result < 0)
            result = -errno;
    }
    closedir(ports);
    return result;
}

/* The driver adds ports some time after its device, and sysfs tells nobody: look until the deadline. */
static int wait_for_port(void)
{
    uint64_t deadline = monotonic_ms() + PORT_DEADLINE_MS;
    int fd;
    while ((fd = open_named_port("machinen.0")) < 0 && monotonic_ms() < deadline)
        nanosleep(&(struct timespec){.tv_nsec = PORT_POLL_NS}, NULL);
    return fd;
}

static bool parse_options(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        uint32_t number;
        if (strcmp(arguments[i], "--sandboxed-host") == 0) {
            options.sandboxed = true;
        } else if (i + 1 < count && strcmp(arguments[i], "--root") == 0) {
            options.root = arguments[++i];
        } else if (i + 1 < count && strcmp(arguments[i], "--port-fd") == 0 &&
                   parse_number(arguments[i + 1], 65535, &number)) {
            options.port_fd = (int)number;
            i++;
        } else {
            fprintf(stderr, "usage: agent [--port-fd N] [--sandboxed-host] [--root DIR]\n");
            return false;
        }
    }
    return true;
}

static int fail(const char *what, int result)
{
    fprintf(stderr, "machinen-agent: %s failed: %s\n", what, strerror(-result));
    return 1;
}

/* TERM is a POWEROFF from inside the guest: machinen-poweroff sends it. */
static void term_arrived(void *context, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)context;
    (void)events;
    if (read(options.signal_fd, &info, sizeof info) == sizeof info)
        workload_poweroff(TERM_GRACE_MS);
}

static int watch_term(void)
{
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &term, NULL) < 0)
        return -errno;
    options.signal_fd = signalfd(-1, &term, SFD_NONBLOCK | SFD_CLOEXEC);
    if (options.signal_fd < 0)
        return -errno;
    return loop_watch(options.signal_fd, EPOLLIN, term_arrived, NULL) == 0 ? -ENOMEM : 0;
}

int main(int count, char **arguments)
{
    int helped = tools_run(count, arguments);
    if (helped >= 0)
        return helped;
    if (count > 1 && strcmp(arguments[1], "--archive") == 0)
        return archive_main(count - 2, arguments + 2);
    if (!parse_options(count, arguments))
        return 2;
    signal(SIGPIPE, SIG_IGN);
    /* A queue of up to some MiB comes and goes with each message: keep its pages, for each costs a fault. */
    mallopt(M_MMAP_THRESHOLD, LARGEST_QUEUE);
    mallopt(M_TRIM_THRESHOLD, KEPT_MEMORY);
    process_remember_limits();
    int result = loop_start();
    if (result < 0)
        return fail("making the event loop", result);
    bool is_virtio_port = options.port_fd < 0;
    if (is_virtio_port) {
        tools_install();
        result = watch_term();
        if (result < 0)
            return fail("watching for TERM", result);
    }
    int port = is_virtio_port ? wait_for_port() : options.port_fd;
    if (port < 0)
        return fail("opening the port machinen.0", port);
    fcntl(port, F_SETFD, FD_CLOEXEC);
    result = set_nonblocking(port);
    if (result == 0)
        result = mux_start(port, is_virtio_port, &MUX_EVENTS, on_socket_end);
    if (result < 0)
        return fail("watching the port machinen.0", result);
    guest_streams_start();
    loop_set_hook(mux_turn);
    return loop_run();
}
