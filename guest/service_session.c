/* The streams attached to sessions: what they send and what they are told; docs/protocol.md, 3.2. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services.h"
#include "session.h"

enum {
    REPLAY_FRAME = 65536,
    BACKLOG_MAX = 1048576 + RING_CAPACITY, /* of which the replay may still be a part */
    KILL_GRACE_MS = 1000,
};

void client_send_size(struct client *client)
{
    if (client->kind == CLIENT_FRAMED)
        stream_printf(client->stream, "S %u %u\n", client->session->cols, client->session->rows);
}

void client_send_output(struct client *client, const uint8_t *data, size_t size)
{
    if (client->kind == CLIENT_KILLER)
        return;
    if (client->stream->out.size + size > BACKLOG_MAX)
        stream_reset(client->stream, ENOBUFS, "this client does not read its session's output");
    else
        stream_write_tagged(client->stream, 'O', data, size);
}

void client_send_end(struct client *client, const struct session *session)
{
    stream_credit(client->stream, client->input.size);
    bytes_free(&client->input);
    stream_printf(client->stream, "X %d\n",
                  client->kind == CLIENT_KILLER ? 0 : session->exit_code);
    stream_finish(client->stream);
}

void client_send_failure(struct client *client, const struct process_failure *failure,
                         bool workload)
{
    struct stream *stream = client->stream;
    char text[256];
    int exit_code;
    if (workload) {
        stream_fail(stream, "SPAWN_FAILED", strerror(failure->error));
        return;
    }
    if (stream_fail_to_start(stream, failure, text, &exit_code))
        return;
    stream_write_tagged(stream, 'O', text, strlen(text));
    stream_printf(stream, "X %d\n", exit_code);
    stream_finish(stream);
}

void client_leave_if_done(struct client *client)
{
    if (!client->stream->host_eof || client->kind == CLIENT_KILLER || client->input.size > 0)
        return;
    session_remove_client(client);
    stream_finish(client->stream);
}

static void session_closed(struct stream *stream)
{
    struct client *client = stream->state;
    if (client->session != NULL)
        session_remove_client(client);
    bytes_free(&client->input);
    free(client);
}

static void session_writable(struct stream *stream)
{
    struct client *client = stream->state;
    client->stalled = false;
    if (client->session != NULL)
        session_continue(client->session);
}

static void take_event(struct client *client, const struct client_event *event)
{
    switch (event->kind) {
    case CLIENT_INPUT:
        if (bytes_append(&client->input, event->data, event->size) < 0)
            stream_reset(client->stream, ENOMEM, "the guest is out of memory");
        break;
    case CLIENT_CLOSE_STDIN: /* leaving never ends a session */
        break;
    case CLIENT_RESIZE:
        session_resize(client->session, event->cols, event->rows);
        break;
    case CLIENT_SIGNAL:
        process_signal_group(&client->session->process, event->signal);
        break;
    default:
        stream_reset(client->stream, EPROTO, "not a frame of a client");
    }
}

static void session_input(struct stream *stream)
{
    struct client *client = stream->state;
    while (!stream->gone && client->session != NULL) {
        struct client_event event;
        size_t took =
            client_parse(&client->parser, bytes_data(&stream->in), stream->in.size, &event);
        if (event.kind == CLIENT_NEEDS_MORE)
            break;
        take_event(client, &event);
        if (stream->gone)
            return;
        stream_take(stream, took);
        stream_credit(stream, took - event.size);
    }
    if (stream->gone || client->session == NULL)
        return;
    session_flush_input(client->session);
}

static const struct service SESSION_SERVICE = {
    .input = session_input, .writable = session_writable, .closed = session_closed};

/* The stream becomes a client of the session. NULL without memory; then the stream has been answered. */
static struct client *add_client(struct stream *stream, struct session *session,
                                 enum client_kind kind)
{
    struct client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        stream_fail(stream, "SPAWN_FAILED", "the guest is out of memory");
        return NULL;
    }
    client->stream = stream;
    client->kind = kind;
    stream->state = client;
    stream->service = &SESSION_SERVICE;
    session_add_client(session, client);
    return client;
}

static void send_replay(struct client *client, const struct session *session)
{
    struct stream *stream = client->stream; /* `client` goes with it if memory runs out */
    char tag = client->kind == CLIENT_FRAMED ? 'P' : 'O';
    struct bytes replay = {0};
    if (ring_replay(&session->ring, &replay) < 0) {
        bytes_free(&replay);
        stream_reset(stream, ENOMEM, "the guest is out of memory");
        return;
    }
    while (replay.size > 0) {
        size_t size = replay.size < REPLAY_FRAME ? replay.size : REPLAY_FRAME;
        stream_write_tagged(stream, tag, bytes_data(&replay), size);
        bytes_drop(&replay, size);
    }
    bytes_free(&replay);
    if (tag == 'P')
        stream_printf(stream, "P 0\n");
}

/* Find or start the session. NULL: the stream has been answered. */
static struct session *ensure_session(struct stream *stream, const struct run_request *request)
{
    struct session *session = session_find(request->session);
    bool can_start = request->command != NULL || request->arguments != NULL || request->login;
    if (session != NULL)
        return session;
    if (request->attach_only || !can_start) {
        stream_fail(stream, "NO_SESSION", request->session);
        return NULL;
    }
    if (session_table_is_full()) {
        stream_fail(stream, "TOO_MANY_SESSIONS", "64 sessions are open");
        return NULL;
    }
    int result = session_create(request, &session);
    if (result < 0) {
        stream_fail(stream, "SPAWN_FAILED", strerror(-result));
        return NULL;
    }
    return session;
}

void attach_session(struct stream *stream, const struct run_request *request,
                    struct session_options options)
{
    struct session *session = ensure_session(stream, request);
    if (session == NULL)
        return;
    if (request->cols > 0)
        session_resize(session, request->cols, request->rows);
    struct client *client =
        add_client(stream, session, options.plain ? CLIENT_PLAIN : CLIENT_FRAMED);
    if (client == NULL)
        return;
    /* Whoever starts the workload wants to hear that it runs, not only that it will be tried. */
    if (!session->workload || session->started)
        client_greet(client);
}

void client_greet(struct client *client)
{
    client_send_size(client);
    send_replay(client, client->session);
}

static int count_clients(const struct session *session)
{
    int count = 0;
    for (const struct client *client = session->clients; client != NULL; client = client->next)
        count += client->kind != CLIENT_KILLER;
    return count;
}

void list_sessions(struct stream *stream)
{
    for (int i = 0; i < MAX_SESSIONS; i++) {
        const struct session *session = session_at(i);
        char line[160];
        if (session == NULL)
            continue;
        int size = snprintf(line, sizeof line, "%s\t%d\t%u\t%u\t%d\t%lld\n", session->name,
                            session->process.pid, session->cols, session->rows,
                            count_clients(session), (long long)session->start_unix_s);
        stream_write_tagged(stream, 'O', line, (size_t)size);
    }
    stream_printf(stream, "X 0\n");
    stream_finish(stream);
}

void kill_session(struct stream *stream, const char *name)
{
    struct session *session = session_find(name);
    if (session == NULL) {
        stream_fail(stream, "NO_SESSION", name);
        return;
    }
    if (add_client(stream, session, CLIENT_KILLER) != NULL)
        session_end(session, SIGHUP, KILL_GRACE_MS);
}
