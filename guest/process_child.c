/* Between fork and exec; also finds the processes of a session. See process.h. */
#include "process_child.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"

static struct rlimit first_file_limit;
static bool reset_oom_score;
static sigset_t ignored; /* by us: a program would ignore them as well. What we handle, exec() resets */

void process_remember_limits(void)
{
    getrlimit(RLIMIT_NOFILE, &first_file_limit);
    struct rlimit raised = {.rlim_cur = first_file_limit.rlim_max,
                            .rlim_max = first_file_limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &raised);
    char score[16];
    reset_oom_score =
        read_text_file("/proc/self/oom_score_adj", score, sizeof score) > 0 && score[0] == '-';
    sigemptyset(&ignored);
    for (int signal = 1; signal < NSIG; signal++) {
        struct sigaction action;
        if (sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            sigaddset(&ignored, signal);
    }
}

_Noreturn static void report(const struct process_request *request, int status_fd,
                              enum process_stage stage, int error)
{
    struct process_failure failure = {.stage = stage, .error = error};
    snprintf(failure.program, sizeof failure.program, "%s", request->program);
    if (write(status_fd, &failure, sizeof failure) < 0)
        _exit(EXIT_NOT_EXECUTABLE);
    _exit(EXIT_NOT_FOUND);
}

static void reset_signals(void)
{
    struct sigaction normal = {.sa_handler = SIG_DFL};
    for (int signal = 1; signal < NSIG; signal++) /* a system call each: few of them are ignored */
        if (sigismember(&ignored, signal) == 1)
            sigaction(signal, &normal, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Put the ends on 0, 1 and 2. dup2() clears close-on-exec. */
static int take_descriptors(const struct child_descriptors *child)
{
    int input = child->input;
    if (child->terminal >= 0) {
        if (ioctl(child->terminal, TIOCSCTTY, 0) < 0)
            return -errno;
        for (int fd = 0; fd <= 2; fd++)
            if (dup2(child->terminal, fd) < 0)
                return -errno;
        return 0;
    }
    if (input < 0)
        input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0 || dup2(input, 0) < 0)
        return -errno;
    if (dup2(child->output, 1) < 0 || dup2(child->error, 2) < 0)
        return -errno;
    return 0;
}

static int change_user(const struct process_request *request)
{
    if (request->cols > 0 && fchown(0, request->uid, (gid_t)-1) < 0)
        return -errno;
    if (setgroups(0, NULL) < 0 || setgid(request->gid) < 0 || setuid(request->uid) < 0)
        return -errno;
    return 0;
}

_Noreturn void child_run(const struct process_request *request,
                         const struct child_descriptors *child)
{
    reset_signals();
    setsid();
    int result = take_descriptors(child);
    if (result < 0)
        report(request, child->status, STAGE_SETUP, -result);
    syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
    if (reset_oom_score)
        write_text_file("/proc/self/oom_score_adj", "0", 0600);
    setrlimit(RLIMIT_NOFILE, &first_file_limit);
    umask(022);
    if (request->prepare != NULL && (result = request->prepare(request->context)) < 0)
        report(request, child->status, STAGE_CWD, -result);
    if (chdir(request->cwd) < 0) {
        int error = errno;
        if (!request->cwd_is_optional || chdir("/") < 0)
            report(request, child->status, STAGE_CWD, error);
    }
    if (request->change_user && (result = change_user(request)) < 0)
        report(request, child->status, STAGE_SETUP, -result);
    environ = (char **)request->environment;
    execvp(request->program, (char *const *)request->arguments);
    report(request, child->status, STAGE_EXEC, errno);
}

/* The session of a process, from /proc/<pid>/stat: the 4th field after the name's last ')'. -1 if it has gone. */
static long session_of(const char *pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%.16s/stat", pid);
    if (read_text_file(path, text, sizeof text) <= 0)
        return -1;
    const char *rest = strrchr(text, ')');
    long session;
    if (rest == NULL || sscanf(rest, ") %*c %*d %*d %ld", &session) != 1)
        return -1;
    return session;
}

void process_signal_session(const struct process *process, int signal)
{
    DIR *proc = opendir("/proc");
    if (proc == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(proc)) != NULL;)
        if (isdigit((unsigned char)entry->d_name[0]) && session_of(entry->d_name) == process->pid)
            kill((pid_t)atol(entry->d_name), signal);
    closedir(proc);
}
