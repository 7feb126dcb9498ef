/*
 * CRIU restores a session whose terminal comes from outside without making it the controlling terminal, so that Ctrl-C
 * would do nothing. Only the leader itself can ask for it (TIOCSCTTY, tty_ioctl(4)), so it is made to: with ptrace(2) two
 * system calls are run in it, on two borrowed instructions, and everything is put back.
 */
#include "tool_terminal.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SCRATCH_BELOW_STACK = 512 /* clear of the 128-byte red zone */ };

#if defined(__x86_64__)
typedef struct user_regs_struct registers;
/* syscall; int3 */
#define CALL_AND_TRAP 0xcc050fULL
#define CALL_AND_TRAP_MASK 0xffffffULL
static uint64_t program_counter(const registers *set) { return set->rip; }
static uint64_t stack_pointer(const registers *set) { return set->rsp; }
static long call_result(const registers *set) { return (long)set->rax; }
static void prepare_call(registers *set, long number, const uint64_t argument[3])
{
    set->rax = (unsigned long)number;
    set->orig_rax = (unsigned long)-1; /* no interrupted call to restart */
    set->rdi = argument[0];
    set->rsi = argument[1];
    set->rdx = argument[2];
}
#elif defined(__aarch64__)
typedef struct user_regs_struct registers;
/* svc #0; brk #0 */
#define CALL_AND_TRAP 0xd4200000d4000001ULL
#define CALL_AND_TRAP_MASK 0xffffffffffffffffULL
static uint64_t program_counter(const registers *set) { return set->pc; }
static uint64_t stack_pointer(const registers *set) { return set->sp; }
static long call_result(const registers *set) { return (long)set->regs[0]; }
static void prepare_call(registers *set, long number, const uint64_t argument[3])
{
    set->regs[8] = (uint64_t)number;
    for (int i = 0; i < 3; i++)
        set->regs[i] = argument[i];
}
#else
#error "no guest for this processor"
#endif

static int get_registers(pid_t pid, registers *set)
{
    struct iovec place = {.iov_base = set, .iov_len = sizeof *set};
    return ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &place) < 0 ? -errno : 0;
}

static int set_registers(pid_t pid, registers *set)
{
    struct iovec place = {.iov_base = set, .iov_len = sizeof *set};
    return ptrace(PTRACE_SETREGSET, pid, (void *)NT_PRSTATUS, &place) < 0 ? -errno : 0;
}

static int peek(pid_t pid, uint64_t address, uint64_t *word)
{
    errno = 0;
    *word = (uint64_t)ptrace(PTRACE_PEEKDATA, pid, (void *)address, NULL);
    return errno != 0 ? -errno : 0;
}

static int poke(pid_t pid, uint64_t address, uint64_t word)
{
    return ptrace(PTRACE_POKEDATA, pid, (void *)address, (void *)word) < 0 ? -errno : 0;
}

/* Wait until the process stops for SIGTRAP; other signals are kept for later in `held` (0: none). */
static int wait_for_trap(pid_t pid, int *held)
{
    int status;
    for (;;) {
        if (waitpid(pid, &status, __WALL) < 0)
            return -errno;
        if (!WIFSTOPPED(status))
            return -ESRCH;
        if (WSTOPSIG(status) == SIGTRAP)
            return 0;
        *held = WSTOPSIG(status);
        if (ptrace(PTRACE_CONT, pid, NULL, NULL) < 0)
            return -errno;
    }
}

struct borrowed {
    pid_t pid;
    registers before;
    uint64_t code;    /* the word at the program counter */
    uint64_t scratch; /* the word at `scratch_at` */
    uint64_t scratch_at;
    int held_signal;
};

/* Run one system call in the stopped process. Returns its result, or a negative errno. */
static long call(struct borrowed *process, long number, const uint64_t argument[3])
{
    registers set = process->before;
    prepare_call(&set, number, argument);
    int result = set_registers(process->pid, &set);
    if (result == 0 && ptrace(PTRACE_CONT, process->pid, NULL, NULL) < 0)
        result = -errno;
    if (result == 0)
        result = wait_for_trap(process->pid, &process->held_signal);
    if (result == 0)
        result = get_registers(process->pid, &set);
    return result < 0 ? result : call_result(&set);
}

static int take_over(struct borrowed *process)
{
    if (ptrace(PTRACE_SEIZE, process->pid, NULL, NULL) < 0 ||
        ptrace(PTRACE_INTERRUPT, process->pid, NULL, NULL) < 0)
        return -errno;
    int result = wait_for_trap(process->pid, &process->held_signal);
    if (result == 0)
        result = get_registers(process->pid, &process->before);
    if (result < 0)
        return result;
    process->scratch_at =
        (stack_pointer(&process->before) - SCRATCH_BELOW_STACK) & ~(uint64_t)(sizeof(uint64_t) - 1);
    result = peek(process->pid, process->scratch_at, &process->scratch);
    if (result == 0)
        result = peek(process->pid, program_counter(&process->before), &process->code);
    if (result == 0)
        result = poke(process->pid, program_counter(&process->before),
                      (process->code & ~CALL_AND_TRAP_MASK) | CALL_AND_TRAP);
    return result;
}

static void give_back(struct borrowed *process)
{
    poke(process->pid, program_counter(&process->before), process->code);
    poke(process->pid, process->scratch_at, process->scratch);
    set_registers(process->pid, &process->before);
    ptrace(PTRACE_DETACH, process->pid, NULL, NULL);
    if (process->held_signal != 0)
        kill(process->pid, process->held_signal);
}

/* A descriptor of `pid` that is the terminal `name`, or -ENOENT. */
static int find_terminal(pid_t pid, const char *name)
{
    char path[64], target[128];
    int found = -ENOENT;
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *descriptors = opendir(path);
    if (descriptors == NULL)
        return -errno;
    for (struct dirent *entry; found < 0 && (entry = readdir(descriptors)) != NULL;) {
        ssize_t size = readlinkat(dirfd(descriptors), entry->d_name, target, sizeof target - 1);
        if (size > 0 && (size_t)size == strlen(name) && memcmp(target, name, (size_t)size) == 0)
            found = atoi(entry->d_name);
    }
    closedir(descriptors);
    return found;
}

int terminal_give(pid_t pid, const char *name, pid_t foreground)
{
    struct borrowed process = {.pid = pid};
    int fd = find_terminal(pid, name);
    if (fd < 0)
        return fd;
    int result = take_over(&process);
    if (result < 0) {
        ptrace(PTRACE_DETACH, pid, NULL, NULL);
        return result;
    }
    const uint64_t take[3] = {(uint64_t)fd, TIOCSCTTY, 0};
    const uint64_t choose[3] = {(uint64_t)fd, TIOCSPGRP, process.scratch_at};
    long done = call(&process, SYS_ioctl, take);
    if (done == 0 && foreground > 0) {
        poke(pid, process.scratch_at, (uint64_t)(uint32_t)foreground);
        done = call(&process, SYS_ioctl, choose);
    }
    give_back(&process);
    return (int)done;
}
