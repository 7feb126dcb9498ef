/* What the agent offers on its ports, one service a file, and what those files ask of each other. */
#ifndef MACHINEN_SERVICES_H
#define MACHINEN_SERVICES_H

#include <stdbool.h>
#include <stdint.h>

#include "mux.h"
#include "process.h"
#include "request.h"

extern const struct service EXEC_SERVICE;    /* service_exec.c: reads a request of port 1978 */
extern const struct service WINSIZE_SERVICE; /* service_winsize.c */
extern const struct service SECRETS_SERVICE; /* service_secrets.c */
extern const struct service FILES_SERVICE;   /* service_files.c */
extern const struct service MOUNTS_SERVICE;  /* service_mounts.c */
extern const struct service FORWARD_SERVICE; /* service_forward.c */

/* launch.c: start what a request asks for. Returns 0 or a negative errno. */
int launch(const struct run_request *request, struct process *process);
/* Answer "F": the request could not be carried out; `code` is one of docs/protocol.md, 3.1. */
void stream_fail(struct stream *stream, const char *code, const char *message);
/* The same for a process that never became its program. True if it was answered; false: not found or not
 * executable, which is told as output and an exit code: `text` and `exit_code` are filled. */
bool stream_fail_to_start(struct stream *stream, const struct process_failure *failure, char text[256],
                          int *exit_code);

/* run_command.c: run one command for this stream, which it takes over. */
void run_command(struct stream *stream, const struct run_request *request);

/* service_session.c: attach this stream to a session, or list and kill them. */
struct session_options {
    bool plain; /* PTYSESSION: no S and P frames */
};
void attach_session(struct stream *stream, const struct run_request *request,
                    struct session_options options);
void list_sessions(struct stream *stream);
void kill_session(struct stream *stream, const char *name);

#endif
