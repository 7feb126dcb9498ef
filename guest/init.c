/*
 * PID 1 of the guest, started by the kernel from the initramfs: modules, root disk, network, then the agent; reaps
 * orphans; powers the VM off when the agent ends. A step the boot cannot do without ends the VM with one line on the
 * console; PID 1 itself must never exit, or the kernel panics.
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "io.h"

#define ROOT_DEVICE "/dev/vda"
#define NEW_ROOT "/newroot"

enum { TERM_GRACE_MS = 500, OOM_PROTECTED = -1000 };

void init_log_failure(const char *what, int error)
{
    fprintf(stderr, "machinen-init: %s failed: %s\n", what, strerror(error));
}

/* Write everything back and switch the machine off; waits for ever if the hardware does not follow. */
_Noreturn static void power_off(void)
{
    sync();
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0 && errno != EBUSY)
        init_log_failure("remounting / read-only", errno);
    sync();
    reboot(RB_POWER_OFF);
    init_log_failure("powering off", errno);
    for (;;)
        pause();
}

_Noreturn static void fail_boot(const char *what, int result)
{
    init_log_failure(what, -result);
    power_off();
}

static void must(const char *what, int result)
{
    if (result < 0)
        fail_boot(what, result);
}

static int mount_at(const char *type, const char *target)
{
    mkdir(target, 0755);
    return mount(type, target, type, MS_NOSUID, NULL) < 0 ? -errno : 0;
}

/* The kernel could not open a console for us if the initramfs has no /dev/console; now there is one. */
static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    for (int target = 0; fd >= 0 && target <= 2; target++)
        dup2(fd, target);
    if (fd > 2)
        close(fd);
    setvbuf(stderr, NULL, _IOLBF, 0);
}

static void boot(void)
{
    int devices = mount_at("devtmpfs", "/dev");
    open_console();
    must("mounting /dev", devices);
    must("mounting /proc", mount_at("proc", "/proc"));
    must("mounting /sys", mount_at("sysfs", "/sys"));
    must("reading /modules/load", load_modules("/modules/load"));
    must("mounting " ROOT_DEVICE, mount_root_disk(ROOT_DEVICE, NEW_ROOT));
    must("switching to the root disk", switch_root(NEW_ROOT));
    must("mounting the run-time file systems", mount_runtime_file_systems());
    must("setting the hostname", sethostname("machinen", strlen("machinen")) < 0 ? -errno : 0);
    must("bringing up lo", bring_up_loopback());
    int network = bring_up_ethernet();
    if (network < 0 && network != -ENODEV)
        init_log_failure("bringing up eth0", -network);
}

/* The agent's file went with the initramfs; its descriptor is enough to run it. */
static pid_t start_agent(int agent_fd)
{
    static char *const arguments[] = {"machinen-agent", NULL};
    static char *const environment[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", NULL};
    pid_t pid = fork();
    if (pid != 0)
        return pid < 0 ? -errno : pid;
    setsid();
    char score[16];
    snprintf(score, sizeof score, "%d", OOM_PROTECTED);
    write_text_file("/proc/self/oom_score_adj", score, 0600);
    syscall(SYS_execveat, agent_fd, "", arguments, environment, AT_EMPTY_PATH);
    init_log_failure("starting the agent", errno);
    _exit(127);
}

/* Settings of the kernel that fit a guest among many. */
static const struct {
    const char *path, *text;
} SETTINGS[] = {
    /* Freed pages would stay by the ten MiB in the processor's own lists (up to an eighth of a zone, from where an idle guest
       hardly moves them), and only what lies in large free blocks is reported to the host. A thousandth is left to them. */
    {"/proc/sys/vm/percpu_pagelist_high_fraction", "1000"},
    /* An idle guest shall sleep. These would wake it every half second, second and five seconds: to see whether memory could be
       compacted ahead of time (it still is when somebody needs that), to sum up counters, to look after neighbours (none). */
    {"/proc/sys/vm/compaction_proactiveness", "0"},
    {"/proc/sys/vm/stat_interval", "10"},
    {"/proc/sys/net/ipv4/neigh/default/interval_probe_time_ms", "60000"},
    {"/proc/sys/net/ipv6/neigh/default/interval_probe_time_ms", "60000"},
};

/* A kernel that has no such setting goes without. */
static void settle_down(void)
{
    for (size_t i = 0; i < sizeof SETTINGS / sizeof SETTINGS[0]; i++) {
        int result = write_text_file(SETTINGS[i].path, SETTINGS[i].text, 0644);
        if (result < 0 && result != -ENOENT)
            init_log_failure(SETTINGS[i].path, -result);
    }
}

/* Reap whatever ends, until it is the agent. Returns its wait status. */
static int reap_until(pid_t agent)
{
    for (;;) {
        int status;
        pid_t ended = waitpid(-1, &status, 0);
        if (ended == agent)
            return status;
    }
}

static void report_agent(int status)
{
    if (WIFSIGNALED(status))
        fprintf(stderr, "machinen-init: the agent was killed by signal %d\n", WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        fprintf(stderr, "machinen-init: the agent ended with status %d\n", WEXITSTATUS(status));
}

/* TERM to all, a moment to obey, KILL to the rest. All processes are our children by now, or will be. */
static void end_processes(void)
{
    sigset_t child_ended;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, NULL);
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    uint64_t deadline = monotonic_ms() + TERM_GRACE_MS;
    for (;;) {
        pid_t ended = waitpid(-1, NULL, WNOHANG);
        uint64_t now = monotonic_ms();
        if (ended < 0 || now >= deadline)
            break;
        struct timespec left = {.tv_nsec = (long)(deadline - now) * 1000000};
        if (ended == 0)
            sigtimedwait(&child_ended, NULL, &left);
    }
    kill(-1, SIGKILL);
}

int main(void)
{
    if (getpid() != 1) {
        fprintf(stderr, "machinen-init: this program is the first process of a guest\n");
        return 2;
    }
    reboot(RB_DISABLE_CAD);
    umask(022);
    int agent_fd = open("/agent", O_RDONLY | O_CLOEXEC);
    int agent_error = agent_fd < 0 ? -errno : 0;
    boot();
    must("opening /agent", agent_error);
    settle_down();
    pid_t agent = start_agent(agent_fd);
    must("starting the agent", agent);
    close(agent_fd);
    report_agent(reap_until(agent));
    end_processes();
    power_off();
}
