/*
 * machinen-restore [--wait] [--lazy] [DIR]: the workload of a guest that was booted to go on with a dumped process tree.
 * DIR has CRIU's images and what machinen-dump added; --wait: as soon as a line comes through RESTORE_GO; --lazy: DIR is
 * a read-only mount of the host, and memory is read from it when it is touched, the rest meanwhile.
 *
 * Two processes stay: the outer one is the session's leader to the agent; the inner one is process 1 of a pid namespace
 * made for the tree, so that every process gets its old number. The inner one is the tree's parent, passes signals on and
 * ends as the tree's root does; the outer one ends as the inner one does. RESTORE_STATUS hears how it went.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "io.h"
#include "tool_terminal.h"
#include "tools.h"
#include "workload.h"

enum {
    STATUS_SECONDS = 15, /* how long a failure waits to be heard before the guest powers off */
    TEXT_MAX = 4096,
    COPY_SIZE = 32768,
    KEPT_SIGNAL = 128,
};

struct plan {
    const char *directory;
    char terminal[128]; /* its name, or empty */
    int foreground;
    bool tcp_close;
    bool lazy;
};

static const char LAZY_LOG[] = "/run/machinen/lazy-pages.log";
static volatile sig_atomic_t tree_root; /* for the signal handler */

static void path_in(const struct plan *plan, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s", plan->directory, name);
}

/* Tell whoever reads the FIFO; a child does it, because opening waits for the reader. Gives up after a while. */
static void announce(const char *text)
{
    if (fork() != 0)
        return;
    alarm(STATUS_SECONDS);
    signal(SIGALRM, SIG_DFL);
    int fd = open(RESTORE_STATUS, O_WRONLY | O_CLOEXEC);
    _exit(fd >= 0 && write_exactly(fd, text, strlen(text)) == 0 ? 0 : 1);
}

static void ignore_alarm(int signal_number)
{
    (void)signal_number; /* it only ends a wait */
}

/* Say why on the terminal and to the host, and do not power off before the host has heard it. No child does this: once
 * the inner process has ended, none can be born into its namespace any more. */
static int fail(const char *what, const char *why)
{
    char text[TEXT_MAX + 256];
    struct sigaction action = {.sa_handler = ignore_alarm}; /* without SA_RESTART */
    snprintf(text, sizeof text, "failed\n%s: %s", what, why);
    tool_fail("%s: %s", what, why);
    sigaction(SIGALRM, &action, NULL);
    alarm(STATUS_SECONDS);
    int fd = open(RESTORE_STATUS, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        write_exactly(fd, text, strlen(text));
    close_fd(&fd);
    return 1;
}

static int read_plan(struct plan *plan)
{
    char path[512], text[256];
    path_in(plan, SESSION_FILE, path);
    if (read_text_file(path, text, sizeof text) > 0) {
        const char *foreground = strstr(text, "foreground=");
        plan->foreground = foreground == NULL ? 0 : atoi(foreground + strlen("foreground="));
        plan->tcp_close = strstr(text, "tcp_close=1") != NULL;
    }
    path_in(plan, "inventory.img", path);
    if (access(path, R_OK) < 0)
        return -errno;
    if (ttyname_r(STDIN_FILENO, plan->terminal, sizeof plan->terminal) != 0)
        plan->terminal[0] = '\0';
    return 0;
}

/* The screen as it was goes to the terminal byte for byte, and so into the ring of the new session. */
static void show_replay(const struct plan *plan)
{
    static char buffer[COPY_SIZE];
    char path[512];
    struct termios before, raw;
    path_in(plan, REPLAY_FILE, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || tcgetattr(STDOUT_FILENO, &before) < 0) {
        close_fd(&fd);
        return;
    }
    raw = before;
    cfmakeraw(&raw);
    tcsetattr(STDOUT_FILENO, TCSANOW, &raw);
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;)
        if (write_exactly(STDOUT_FILENO, buffer, (size_t)got) < 0)
            break;
    tcsetattr(STDOUT_FILENO, TCSADRAIN, &before);
    close(fd);
}

static int unpack_open_files(const struct plan *plan)
{
    char archive[512];
    path_in(plan, OPEN_FILES_ARCHIVE, archive);
    if (access(archive, R_OK) < 0)
        return 0;
    const char *unpack[] = {"tar", "-xpf", archive, "-C", "/", NULL};
    return tool_spawn(unpack, STDERR_FILENO);
}

/* -- the inner process -- */

static void pass_on(int signal_number)
{
    pid_t root = (pid_t)tree_root;
    if (root <= 0)
        return;
    /* As workload_poweroff() does: an interactive shell ignores TERM and ends by HUP. */
    if (signal_number == SIGTERM && ignores_term(root))
        signal_number = SIGHUP;
    kill(root, signal_number);
    if (signal_number == SIGHUP || signal_number == SIGTERM)
        kill(root, SIGCONT);
}

static void handle_signals(void (*handler)(int))
{
    static const int passed[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    for (size_t i = 0; i < sizeof passed / sizeof passed[0]; i++)
        sigaction(passed[i], &action, NULL);
}

static int start_page_server(const struct plan *plan)
{
    const char *serve[] = {"criu", "lazy-pages", "--images-dir", plan->directory, "--work-dir", "/run/machinen",
                           "-v2", "--log-file", LAZY_LOG, "--daemon", NULL};
    return tool_spawn(serve, STDERR_FILENO);
}

static int spawn_with_address(const char *const *restore)
{
    bool has_card = if_nametoindex("eth0") > 0;
    if (!has_card)
        tool_stand_in_for_card(true);
    int status = tool_spawn(restore, STDERR_FILENO);
    if (!has_card)
        tool_stand_in_for_card(false);
    return status;
}

/* Run criu. Returns the root's pid in this namespace, or a negative number after `why` was filled. */
static pid_t run_criu(const struct plan *plan, char *why, size_t capacity)
{
    static const char pid_file[] = "/run/machinen/restore.pid", log[] = "/run/machinen/restore.log";
    char text[32], script[64];
    snprintf(script, sizeof script, "/proc/%d/exe", getpid());
    setenv(RESTORE_TCP_CLOSE, plan->tcp_close ? "1" : "0", 1);
    const char *restore[24] = {"criu", "restore", "--images-dir", plan->directory, "--work-dir",
                               "/run/machinen", "--shell-job", "--restore-detached", "--file-locks",
                               "-v2", "--log-file", log, "--pidfile", pid_file, "--tcp-established",
                               "--action-script", script};
    if (plan->lazy)
        restore[17] = "--lazy-pages";
    unlink(pid_file);
    int status = plan->lazy ? start_page_server(plan) : 0;
    if (status == 0)
        status = spawn_with_address(restore);
    if (status == 0 && read_text_file(pid_file, text, sizeof text) > 0 && atoi(text) > 0)
        return (pid_t)atoi(text);
    tool_log_errors(log, why, capacity);
    if (plan->lazy && why[0] == '\0')
        tool_log_errors(LAZY_LOG, why, capacity);
    if (why[0] == '\0')
        snprintf(why, capacity, "status %d", status);
    return -1;
}

/* Reap whatever ends until it is the tree's root; end as it ended. */
_Noreturn static void live_for(pid_t root)
{
    int status;
    for (;;) {
        pid_t ended = waitpid(-1, &status, 0);
        if (ended == root)
            _exit(WIFSIGNALED(status) ? KEPT_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status));
        if (ended < 0 && errno == ECHILD)
            _exit(1);
    }
}

_Noreturn static void run_inner(const struct plan *plan, int report_fd)
{
    char why[TEXT_MAX] = "";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    handle_signals(pass_on);
    mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL); /* mounts made later outside show in here too */
    if (mount("proc", "/proc", "proc", MS_NOSUID, NULL) < 0)
        snprintf(why, sizeof why, "mounting /proc: %s", strerror(errno));
    pid_t root = why[0] == '\0' ? run_criu(plan, why, sizeof why) : -1;
    int32_t answer = root;
    write_exactly(report_fd, &answer, sizeof answer);
    if (root < 0)
        write_exactly(report_fd, why, strlen(why));
    close(report_fd);
    if (root < 0)
        _exit(1);
    tree_root = root;
    if (plan->terminal[0] != '\0') {
        int result = terminal_give(root, plan->terminal, plan->foreground);
        if (result < 0 && result != -ENOENT)
            tool_fail("giving the terminal back failed: %s", strerror(-result));
    }
    live_for(root);
}

/* -- the outer process -- */

static void stay(int signal_number)
{
    (void)signal_number; /* the inner process, of the same session, gets it as well and passes it on */
}

static pid_t start_inner(const struct plan *plan, int *report_fd)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL);
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
        return -errno;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        run_inner(plan, ends[1]);
    }
    close(ends[1]);
    *report_fd = ends[0];
    return pid < 0 ? -errno : pid;
}

/* Wait for the inner process' word. Returns the root's pid in there, or -1 after `why` was filled. */
static pid_t hear(int report_fd, char *why, size_t capacity)
{
    int32_t root;
    if (read_exactly(report_fd, &root, sizeof root) < 0) {
        snprintf(why, capacity, "the process that runs criu was killed");
        return -1;
    }
    size_t used = 0;
    for (ssize_t got; root < 0 && (got = read(report_fd, why + used, capacity - 1 - used)) > 0;)
        used += (size_t)got;
    if (root < 0)
        why[used] = '\0';
    return root;
}

static int end_as(int status)
{
    int code = WIFSIGNALED(status) ? KEPT_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
    if (code <= KEPT_SIGNAL || code > KEPT_SIGNAL + 64)
        return code;
    signal(code - KEPT_SIGNAL, SIG_DFL);
    raise(code - KEPT_SIGNAL);
    return code;
}

static int go_on(const struct plan *plan)
{
    char why[TEXT_MAX] = "", text[64];
    int report_fd = -1, status;
    handle_signals(stay);
    signal(SIGHUP, SIG_IGN); /* sent when a leader gives its terminal away */
    if (plan->terminal[0] != '\0')
        ioctl(STDIN_FILENO, TIOCNOTTY);
    handle_signals(stay);
    pid_t inner = start_inner(plan, &report_fd);
    if (inner < 0)
        return fail("making namespaces failed", strerror(-inner));
    pid_t root = hear(report_fd, why, sizeof why);
    close(report_fd);
    if (root < 0)
        return fail("CRIU cannot restore these images here", why);
    snprintf(text, sizeof text, "%d %d\n", inner, root);
    write_text_file(RESTORED_FILE, text, 0600);
    if (!plan->lazy)
        tool_remove_directory(plan->directory);
    announce("ok\n");
    /* The child that announces is born into the new namespace too, which does not end before it is reaped. */
    for (pid_t ended = 0; ended != inner;) {
        ended = waitpid(-1, &status, 0);
        if (ended < 0 && errno != EINTR)
            return 1;
    }
    return end_as(status);
}

/* Opening waits for the writer, reading for its line. */
static int wait_for_images(void)
{
    char line[64];
    int fd = open(RESTORE_GO, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof line);
    int result = got > 0 ? 0 : got < 0 ? -errno : -EPIPE;
    close_fd(&fd);
    return result;
}

int tool_restore(int count, char **arguments)
{
    bool waits = count > 1 && strcmp(arguments[1], "--wait") == 0;
    bool lazy = count > 1 + waits && strcmp(arguments[1 + waits], "--lazy") == 0;
    int next = 1 + waits + lazy;
    struct plan plan = {.directory = count > next ? arguments[next] : RESTORE_DIRECTORY, .lazy = lazy};
    int result = waits ? wait_for_images() : 0;
    if (result == 0)
        result = read_plan(&plan);
    if (result < 0)
        return fail("there are no images to restore", strerror(-result));
    if (!tool_has_program("criu"))
        return fail("there is no criu in this image", "install it there (apt-get install criu)");
    result = unpack_open_files(&plan);
    if (result != 0)
        return fail("unpacking the files the tree had open failed", "tar reported an error");
    show_replay(&plan);
    return go_on(&plan);
}
