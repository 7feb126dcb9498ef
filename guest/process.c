/* See process.h. The child's side of the fork is in process_child.c. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "io.h"
#include "loop.h"
#include "process_child.h"

enum {
    KILL_DELAY_MS = 1000, /* on a busy host a shell needs its time to remove what it had begun */
    PIPE_SIZE = 262144, /* as much as a window: fewer switches between a fast writer and the agent */
};

static const struct process NO_PROCESS = {.pid = -1, .pid_fd = -1, .status_fd = -1, .stdin_fd = -1,
                                          .stdout_fd = -1, .stderr_fd = -1, .terminal_fd = -1};

static void close_descriptors(struct process *process)
{
    close_fd(&process->status_fd);
    close_fd(&process->stdin_fd);
    close_fd(&process->stdout_fd);
    close_fd(&process->stderr_fd);
    close_fd(&process->terminal_fd);
}

/* A pipe whose end for us is non-blocking; `ours` is 0 (we read) or 1 (we write). */
static int make_pipe(int ours, int *our_end, int *child_end)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    *our_end = ends[ours];
    *child_end = ends[1 - ours];
    fcntl(*our_end, F_SETPIPE_SZ, PIPE_SIZE); /* if that is too much for the kernel, its default does */
    return set_nonblocking(*our_end);
}

static int make_pipes(const struct process_request *request, struct process *process,
                      struct child_descriptors *child)
{
    int result = make_pipe(0, &process->stdout_fd, &child->output);
    if (result == 0)
        result = make_pipe(0, &process->stderr_fd, &child->error);
    if (result == 0 && request->with_stdin)
        result = make_pipe(1, &process->stdin_fd, &child->input);
    return result;
}

/* Open a terminal of the wanted size. The slave is opened through the master, so no path matters. */
static int make_terminal(const struct process_request *request, struct process *process,
                         struct child_descriptors *child)
{
    process->terminal_fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (process->terminal_fd < 0)
        return -errno;
    int locked = 0;
    if (ioctl(process->terminal_fd, TIOCSPTLCK, &locked) < 0)
        return -errno;
    child->terminal = ioctl(process->terminal_fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (child->terminal < 0)
        return -errno;
    /* A second descriptor for typing, because epoll takes each descriptor once. */
    process->stdin_fd = fcntl(process->terminal_fd, F_DUPFD_CLOEXEC, 3);
    if (process->stdin_fd < 0)
        return -errno;
    struct termios settings;
    if (tcgetattr(child->terminal, &settings) == 0) {
        settings.c_iflag |= IUTF8; /* backspace takes a character, not a byte */
        tcsetattr(child->terminal, TCSANOW, &settings);
    }
    return process_resize(process, request->cols, request->rows);
}

static void close_child_descriptors(struct child_descriptors *child)
{
    close_fd(&child->input);
    close_fd(&child->output);
    close_fd(&child->error);
    close_fd(&child->terminal);
    close_fd(&child->status);
}

int process_start(const struct process_request *request, struct process *process)
{
    struct child_descriptors child = {-1, -1, -1, -1, -1};
    *process = NO_PROCESS;
    int result = make_pipe(0, &process->status_fd, &child.status);
    if (result == 0)
        result = request->cols > 0 ? make_terminal(request, process, &child)
                                   : make_pipes(request, process, &child);
    if (result == 0) {
        process->pid = fork();
        if (process->pid == 0)
            child_run(request, &child);
        if (process->pid < 0)
            result = -errno;
    }
    close_child_descriptors(&child);
    if (result == 0) {
        process->pid_fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
        if (process->pid_fd < 0) {
            result = -errno;
            kill(process->pid, SIGKILL);
            waitpid(process->pid, NULL, 0);
        }
    }
    if (result < 0)
        close_descriptors(process);
    return result;
}

int process_failure(struct process *process, struct process_failure *failure)
{
    ssize_t got = read(process->status_fd, failure, sizeof *failure);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    close_fd(&process->status_fd);
    failure->program[sizeof failure->program - 1] = 0;
    return got == sizeof *failure ? 1 : 0;
}

int process_exit_code(const struct process *process, int *signal)
{
    siginfo_t info = {0};
    *signal = 0;
    if (waitid(P_PID, (id_t)process->pid, &info, WEXITED | WNOWAIT) < 0)
        return 255;
    if (info.si_code == CLD_EXITED)
        return info.si_status & 255;
    *signal = info.si_status;
    return 128 + info.si_status;
}

void process_signal_group(const struct process *process, int signal)
{
    /* A child that has not come to setsid() yet leads no group; by its pidfd no stranger is hit. */
    if (kill(-process->pid, signal) < 0 && errno == ESRCH && process->pid_fd >= 0)
        syscall(SYS_pidfd_send_signal, process->pid_fd, signal, NULL, 0);
}

int process_resize(const struct process *process, uint16_t cols, uint16_t rows)
{
    struct winsize size = {.ws_col = cols, .ws_row = rows};
    return ioctl(process->terminal_fd, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

void process_release(struct process *process)
{
    close_descriptors(process);
    close_fd(&process->pid_fd);
    if (process->pid > 0)
        waitpid(process->pid, NULL, 0);
    process->pid = -1;
}

/* A process nobody waits for any more, between its HUP and its reaping. */
struct dying {
    struct process process;
    bool whole_session;
    bool ended;
    bool killed;
    watch_id pid_watch;
};

static void reap_if_over(struct dying *dying)
{
    if (!dying->ended || !dying->killed)
        return;
    process_release(&dying->process);
    free(dying);
}

static void dying_ended(void *context, uint32_t events)
{
    struct dying *dying = context;
    (void)events;
    loop_unwatch(&dying->pid_watch);
    dying->ended = true;
    reap_if_over(dying);
}

static void signal_dying(struct dying *dying, int signal)
{
    process_signal_group(&dying->process, signal);
    if (dying->whole_session)
        process_signal_session(&dying->process, signal);
}

static void kill_dying(void *context)
{
    struct dying *dying = context;
    signal_dying(dying, SIGKILL);
    dying->killed = true;
    reap_if_over(dying);
}

void process_abandon(struct process *process, bool whole_session)
{
    struct dying *dying = malloc(sizeof *dying);
    close_descriptors(process);
    if (dying != NULL) {
        *dying = (struct dying){.process = *process, .whole_session = whole_session};
        dying->pid_watch = loop_watch(process->pid_fd, EPOLLIN, dying_ended, dying);
        if (dying->pid_watch != 0 && loop_after_ms(KILL_DELAY_MS, kill_dying, dying) != 0) {
            signal_dying(dying, SIGHUP);
            signal_dying(dying, SIGCONT); /* a stopped process would not notice */
            *process = NO_PROCESS;
            return;
        }
        loop_unwatch(&dying->pid_watch);
        free(dying);
    }
    process_signal_group(process, SIGKILL); /* no memory for manners */
    process_release(process);
}
