/*
 * Child processes: started with pipes or a terminal, signalled as a group, reaped.
 *
 * Every child leads its own session and process group. It is reaped only when its owner is done with it: until then
 * the zombie keeps the group's number from being given to strangers.
 */
#ifndef MACHINEN_PROCESS_H
#define MACHINEN_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

struct process_request {
    const char *program;          /* looked up in the environment's PATH unless it has a slash */
    const char *const *arguments; /* NULL-terminated, with argv[0] */
    char *const *environment;     /* NULL-terminated */
    const char *cwd;
    bool cwd_is_optional; /* fall back to / instead of failing */
    /* Runs in the child before chdir(): looks at paths that may lie in a live mount, where the agent would wait for
     * itself. May change what it finds in `context` and the request. Returns 0 or a negative errno (STAGE_CWD). */
    int (*prepare)(void *context);
    void *context;
    bool change_user; /* to `uid` and `gid`, without other groups */
    uid_t uid;
    gid_t gid;
    bool with_stdin;      /* else /dev/null */
    uint16_t cols;        /* not 0: in a new terminal of this size */
    uint16_t rows;
};

/* Descriptors are non-blocking and close-on-exec; -1 where there is none. */
struct process {
    pid_t pid;
    int pid_fd;    /* readable once the process has ended */
    int status_fd; /* end of file once the program runs; see process_failure() */
    int stdin_fd;
    int stdout_fd;
    int stderr_fd;
    int terminal_fd; /* the master; then stdin_fd is a second descriptor of it and the others are -1 */
};

enum process_stage { STAGE_SETUP, STAGE_CWD, STAGE_EXEC };

/* Why a started child never became the program. */
struct process_failure {
    int32_t stage;
    int32_t error; /* positive errno */
    char program[64]; /* what could not be run: its beginning, if that is long */
};

/* Returns 0 or a negative errno. The caller owns everything in `process`. */
int process_start(const struct process_request *request, struct process *process);
/* Read what status_fd says. 0: the program runs; 1: it failed, see `failure`; -EAGAIN: not known yet. */
int process_failure(struct process *process, struct process_failure *failure);
/* The exit code of a process whose pid_fd is readable, 128 + signal if it was killed. Does not reap. */
int process_exit_code(const struct process *process, int *signal);
void process_signal_group(const struct process *process, int signal);
/* Signal every process of the child's session, whatever group the shell put it in. */
void process_signal_session(const struct process *process, int signal);
int process_resize(const struct process *process, uint16_t cols, uint16_t rows);
/* Close every descriptor and reap; the process has ended. */
void process_release(struct process *process);
/* The client went away: close, HUP, KILL after a moment, reap. `whole_session`: every group of the session. */
void process_abandon(struct process *process, bool whole_session);
/* Keep what a child shall get back: the limits the agent was started with. */
void process_remember_limits(void);

#endif
