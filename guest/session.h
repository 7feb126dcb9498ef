/* Named terminals that outlive their clients; docs/protocol.md, 3.2. session.c owns the terminal and its output,
 * service_session.c the streams attached to it. */
#ifndef MACHINEN_SESSION_H
#define MACHINEN_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "loop.h"
#include "mux.h"
#include "process.h"
#include "request.h"
#include "ring.h"

enum { MAX_SESSIONS = 64 };

enum client_kind {
    CLIENT_FRAMED, /* S, P and O frames */
    CLIENT_PLAIN,  /* O frames only */
    CLIENT_KILLER, /* no output; waits for the end */
};

/* One stream attached to a session. */
struct client {
    struct stream *stream;
    struct session *session; /* NULL once the session has ended */
    enum client_kind kind;
    struct client_parser parser;
    struct bytes input; /* taken from the stream, not yet typed */
    bool stalled;       /* does not read; the session no longer waits for it */
    uint64_t sent_mark; /* stream->sent_bytes at the last look */
    struct client *next;
};

struct session {
    char name[SESSION_NAME_MAX + 1];
    struct process process;
    uint16_t cols;
    uint16_t rows;
    int64_t start_unix_s;
    struct ring ring;
    struct client *clients;
    bool workload;
    bool started; /* its program runs; not known yet while false */
    bool ended;
    int exit_code;
    int exit_signal;
    watch_id output_watch;
    watch_id input_watch;
    watch_id pid_watch;
    watch_id status_watch;
    timer_id linger;
    timer_id stall_check;
    timer_id kill_timer;
    uint64_t kill_at_ms;
    bool hangs_up; /* it is being ended with HUP, not TERM */
};

struct session *session_find(const char *name);
struct session *session_at(int index); /* NULL: none there; 0..MAX_SESSIONS-1 */
bool session_table_is_full(void);
/* Start a session. Returns 0 or a negative errno. */
int session_create(const struct run_request *request, struct session **created);
void session_add_client(struct session *session, struct client *client);
void session_remove_client(struct client *client);
/* Type what the clients have queued. */
void session_flush_input(struct session *session);
/* A client has room again, or stopped counting: read on if nobody else holds us back. */
void session_continue(struct session *session);
void session_resize(struct session *session, uint16_t cols, uint16_t rows);
/* `signal` now, KILL after `grace_ms`, to the whole session. */
void session_end(struct session *session, int signal, uint64_t grace_ms);

/* service_session.c: what a client is told. */
void client_send_size(struct client *client);
void client_send_output(struct client *client, const uint8_t *data, size_t size);
void client_send_end(struct client *client, const struct session *session);
/* Let a client go that has ended its side, once what it typed is in. */
void client_leave_if_done(struct client *client);
/* Size and replay: what a client hears first. */
void client_greet(struct client *client);
void client_send_failure(struct client *client, const struct process_failure *failure,
                         bool workload);

/* workload.c */
void workload_started(struct session *session);
void workload_ended(int exit_code, int exit_signal);

#endif
