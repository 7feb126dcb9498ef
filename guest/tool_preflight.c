/*
 * Refusals with a name: which process holds which descriptor that CRIU cannot dump. CRIU says so too, but only with a
 * number, after it has stopped everything; https://criu.org/What_cannot_be_checkpointed lists the cases.
 */
#include "tool_preflight.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"
#include "tools.h"

const char *descriptor_problem(const char *target)
{
    static const struct {
        const char *prefix;
        const char *what;
    } refused[] = {
        {"anon_inode:[io_uring]", "an io_uring"},
        {"anon_inode:[userfaultfd]", "a userfaultfd"},
        {"anon_inode:[perf_event]", "a performance counter"},
        {"anon_inode:bpf", "an eBPF object"},
        {"anon_inode:kvm", "a KVM machine"},
        {"/dev/fuse", "a live FUSE connection"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (strncmp(target, refused[i].prefix, strlen(refused[i].prefix)) == 0)
            return refused[i].what;
    return NULL;
}

const char *socket_problem(int domain, int type)
{
    switch (domain) {
    case AF_INET:
    case AF_INET6:
        return type == SOCK_RAW ? "a raw IP socket" : NULL;
    case AF_UNIX:
    case AF_NETLINK:
    case AF_PACKET:
        return NULL;
    case AF_VSOCK:
        return "an AF_VSOCK socket";
    default:
        return "a socket of a family CRIU does not know";
    }
}

/* Look at another process' socket through a copy of its descriptor. Returns NULL if it cannot be had any more. */
static const char *socket_problem_of(int pid_fd, int fd)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof domain;
    int copy = (int)syscall(SYS_pidfd_getfd, pid_fd, fd, 0);
    if (copy < 0)
        return NULL;
    bool known = getsockopt(copy, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
                 getsockopt(copy, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
    close(copy);
    return known ? socket_problem(domain, type) : NULL;
}

static bool refuses_descriptors(const struct process_stat *process)
{
    char path[64], target[4096];
    bool refused = false;
    snprintf(path, sizeof path, "/proc/%d/fd", process->pid);
    DIR *descriptors = opendir(path);
    int pid_fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    for (struct dirent *entry; descriptors != NULL && (entry = readdir(descriptors)) != NULL;) {
        ssize_t size = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target - 1);
        if (size < 0)
            continue;
        target[size] = '\0';
        const char *what = strncmp(target, "socket:", 7) == 0
                               ? socket_problem_of(pid_fd, atoi(entry->d_name))
                               : descriptor_problem(target);
        if (what == NULL)
            continue;
        tool_fail("CRIU cannot dump process %d (%s): its descriptor %s is %s", process->pid,
                  process->name, entry->d_name, what);
        refused = true;
    }
    if (descriptors != NULL)
        closedir(descriptors);
    close_fd(&pid_fd);
    return refused;
}

static bool refuses_tracer(const struct process_stat *process)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", process->pid);
    if (read_text_file(path, text, sizeof text) <= 0)
        return false;
    const char *line = strstr(text, "\nTracerPid:");
    int tracer = line == NULL ? 0 : atoi(line + strlen("\nTracerPid:"));
    if (tracer == 0)
        return false;
    tool_fail("CRIU cannot dump process %d (%s): process %d is debugging it", process->pid,
              process->name, tracer);
    return true;
}

bool preflight_refuses(const struct process_stat *tree, size_t count)
{
    bool refused = false;
    for (size_t i = 0; i < count; i++) {
        refused |= refuses_descriptors(&tree[i]);
        refused |= refuses_tracer(&tree[i]);
    }
    return refused;
}
