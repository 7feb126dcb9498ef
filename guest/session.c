/* See session.h. */
#include "session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "io.h"
#include "services.h"

enum {
    OUTPUT_CHUNK = 32768,
    LINGER_MS = 250,      /* for background processes that keep the terminal open */
    STALL_CHECK_MS = 2000,
    STALL_PROGRESS = 4096, /* a client that took less than this between two looks is not waited for */
    HANGUP_REPEAT_MS = 200,
    DEFAULT_COLS = 80,
    DEFAULT_ROWS = 24,
};

static struct session *sessions[MAX_SESSIONS];

struct session *session_find(const char *name)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (sessions[i] != NULL && strcmp(sessions[i]->name, name) == 0)
            return sessions[i];
    return NULL;
}

struct session *session_at(int index)
{
    return sessions[index];
}

static int free_slot(void)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (sessions[i] == NULL)
            return i;
    return -1;
}

bool session_table_is_full(void)
{
    return free_slot() < 0;
}

static void forget_session(struct session *session)
{
    loop_unwatch(&session->output_watch);
    loop_unwatch(&session->input_watch);
    loop_unwatch(&session->pid_watch);
    loop_unwatch(&session->status_watch);
    loop_cancel(&session->linger);
    loop_cancel(&session->stall_check);
    loop_cancel(&session->kill_timer);
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (sessions[i] == session)
            sessions[i] = NULL;
    process_release(&session->process);
    ring_close(&session->ring);
    free(session);
}

/* Take the first client out of the list; NULL when none is left. */
static struct client *next_to_tell(struct session *session)
{
    struct client *client = session->clients;
    if (client != NULL) {
        session->clients = client->next;
        client->session = NULL;
    }
    return client;
}

static void finish_session(struct session *session)
{
    bool workload = session->workload;
    int code = session->exit_code;
    int signal = session->exit_signal;
    for (struct client *client; (client = next_to_tell(session)) != NULL;)
        client_send_end(client, session);
    forget_session(session);
    if (workload)
        workload_ended(code, signal);
}

static void finish_if_over(struct session *session)
{
    if (session->ended && session->process.terminal_fd < 0 && session->status_watch == 0)
        finish_session(session);
}

static void close_terminal(struct session *session)
{
    loop_unwatch(&session->output_watch);
    loop_unwatch(&session->input_watch);
    close_fd(&session->process.terminal_fd);
    close_fd(&session->process.stdin_fd);
    finish_if_over(session);
}

/* Whether some client that still reads has as much queued as it may. */
static bool must_wait(struct session *session)
{
    bool wait = false;
    for (struct client *client = session->clients; client != NULL; client = client->next)
        if (client->kind != CLIENT_KILLER && stream_room(client->stream) == 0 && !client->stalled)
            wait = true;
    return wait;
}

static void output_ready(void *context, uint32_t events);

static void check_stalls(void *context)
{
    struct session *session = context;
    session->stall_check = 0;
    for (struct client *client = session->clients; client != NULL; client = client->next) {
        uint64_t progress = client->stream->sent_bytes - client->sent_mark;
        client->sent_mark = client->stream->sent_bytes;
        if (progress < STALL_PROGRESS && stream_room(client->stream) == 0)
            client->stalled = true;
    }
    session_continue(session);
}

void session_continue(struct session *session)
{
    if (session->process.terminal_fd < 0)
        return;
    if (!must_wait(session)) {
        loop_cancel(&session->stall_check);
        if (session->output_watch == 0)
            session->output_watch =
                loop_watch(session->process.terminal_fd, EPOLLIN, output_ready, session);
        return;
    }
    loop_unwatch(&session->output_watch);
    if (session->stall_check != 0)
        return;
    for (struct client *client = session->clients; client != NULL; client = client->next)
        client->sent_mark = client->stream->sent_bytes;
    session->stall_check = loop_after_ms(STALL_CHECK_MS, check_stalls, session);
}

static void send_to_clients(struct session *session, const uint8_t *data, size_t size)
{
    struct client *next;
    for (struct client *client = session->clients; client != NULL; client = next) {
        next = client->next; /* one that is cut off leaves the list */
        client_send_output(client, data, size);
    }
}

static void output_ready(void *context, uint32_t events)
{
    static uint8_t buffer[OUTPUT_CHUNK];
    struct session *session = context;
    (void)events;
    ssize_t got = read(session->process.terminal_fd, buffer, sizeof buffer);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) { /* EIO: the last user of the terminal has gone */
        close_terminal(session);
        return;
    }
    ring_append(&session->ring, buffer, (size_t)got);
    send_to_clients(session, buffer, (size_t)got);
    session_continue(session);
}

static void lingered(void *context)
{
    struct session *session = context;
    session->linger = 0;
    if (session->process.terminal_fd >= 0)
        close_terminal(session);
}

static void process_ended(void *context, uint32_t events)
{
    struct session *session = context;
    (void)events;
    loop_unwatch(&session->pid_watch);
    session->exit_code = process_exit_code(&session->process, &session->exit_signal);
    session->ended = true;
    session->linger = loop_after_ms(LINGER_MS, lingered, session);
    finish_if_over(session);
}

static void failed_to_start(struct session *session, const struct process_failure *failure)
{
    bool workload = session->workload;
    for (struct client *client; (client = next_to_tell(session)) != NULL;)
        client_send_failure(client, failure, workload);
    forget_session(session);
    if (workload)
        workload_ended(failure->error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE, 0);
}

static void status_ready(void *context, uint32_t events)
{
    struct session *session = context;
    struct process_failure failure;
    (void)events;
    loop_unwatch(&session->status_watch);
    int result = process_failure(&session->process, &failure);
    if (result == -EAGAIN)
        session->status_watch =
            loop_watch(session->process.status_fd, EPOLLIN, status_ready, session);
    else if (result > 0)
        failed_to_start(session, &failure);
    else {
        session->started = true;
        if (session->workload)
            for (struct client *client = session->clients; client != NULL; client = client->next)
                client_greet(client);
        finish_if_over(session);
    }
}

int session_create(const struct run_request *request, struct session **created)
{
    struct run_request started = *request;
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL)
        return -ENOMEM;
    if (started.cols == 0) {
        started.cols = DEFAULT_COLS;
        started.rows = DEFAULT_ROWS;
    }
    int result = ring_open(&session->ring);
    if (result == 0)
        result = launch(&started, &session->process);
    if (result < 0) {
        ring_close(&session->ring);
        free(session);
        return result;
    }
    strcpy(session->name, request->session);
    session->cols = started.cols;
    session->rows = started.rows;
    session->start_unix_s = time(NULL);
    session->workload = request->workload;
    session->pid_watch = loop_watch(session->process.pid_fd, EPOLLIN, process_ended, session);
    session->status_watch = loop_watch(session->process.status_fd, EPOLLIN, status_ready, session);
    if (session->pid_watch == 0 || session->status_watch == 0) {
        process_signal_group(&session->process, SIGKILL);
        forget_session(session);
        return -ENOMEM;
    }
    sessions[free_slot()] = session;
    session_continue(session);
    if (session->workload)
        workload_started(session);
    *created = session;
    return 0;
}

void session_add_client(struct session *session, struct client *client)
{
    client->session = session;
    client->next = session->clients;
    session->clients = client;
}

void session_remove_client(struct client *client)
{
    struct session *session = client->session;
    struct client **link = &session->clients;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    client->session = NULL;
    session_continue(session);
}

static void input_ready(void *context, uint32_t events)
{
    (void)events;
    session_flush_input(context);
}

/* Returns false if the terminal is full. Typing at a terminal nobody has open is thrown away. */
static bool type_input(struct session *session, struct client *client)
{
    while (client->input.size > 0) {
        ssize_t put = session->process.stdin_fd < 0
                          ? (ssize_t)client->input.size
                          : write(session->process.stdin_fd, bytes_data(&client->input),
                                  client->input.size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return false;
        if (put < 0)
            put = (ssize_t)client->input.size;
        stream_credit(client->stream, (size_t)put);
        bytes_drop(&client->input, (size_t)put);
    }
    return true;
}

static void move_to_end(struct session *session, struct client *client)
{
    struct client **link = &session->clients;
    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    while (*link != NULL)
        link = &(*link)->next;
    *link = client;
    client->next = NULL;
}

void session_flush_input(struct session *session)
{
    struct client *next;
    for (struct client *client = session->clients; client != NULL; client = next) {
        next = client->next;
        if (type_input(session, client)) {
            client_leave_if_done(client);
            continue;
        }
        if (session->input_watch == 0)
            session->input_watch =
                loop_watch(session->process.stdin_fd, EPOLLOUT, input_ready, session);
        move_to_end(session, client); /* the others type first when there is room again */
        return;
    }
    loop_unwatch(&session->input_watch);
}

void session_resize(struct session *session, uint16_t cols, uint16_t rows)
{
    if (session->process.terminal_fd < 0 || (session->cols == cols && session->rows == rows))
        return;
    if (process_resize(&session->process, cols, rows) < 0)
        return;
    session->cols = cols;
    session->rows = rows;
    for (struct client *client = session->clients; client != NULL; client = client->next)
        client_send_size(client);
}

static void signal_hangup(struct session *session)
{
    process_signal_session(&session->process, SIGHUP);
    process_signal_session(&session->process, SIGCONT); /* a stopped one would not notice */
}

/* A shell that is just about to read its next line only notes a HUP and then waits for a key: send it again. */
static void kill_or_hang_up_again(void *context)
{
    struct session *session = context;
    uint64_t now = monotonic_ms();
    session->kill_timer = 0;
    if (now >= session->kill_at_ms) {
        process_signal_session(&session->process, SIGKILL);
        return;
    }
    uint64_t left = session->kill_at_ms - now;
    if (session->hangs_up) {
        signal_hangup(session);
        left = left < HANGUP_REPEAT_MS ? left : HANGUP_REPEAT_MS;
    }
    session->kill_timer = loop_after_ms(left, kill_or_hang_up_again, session);
}

void session_end(struct session *session, int signal, uint64_t grace_ms)
{
    session->hangs_up = signal == SIGHUP;
    session->kill_at_ms = monotonic_ms() + grace_ms;
    if (!session->hangs_up) {
        process_signal_session(&session->process, signal);
        process_signal_session(&session->process, SIGCONT);
    }
    loop_cancel(&session->kill_timer);
    kill_or_hang_up_again(session);
}
