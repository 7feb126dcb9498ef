/* Port 1978: read a request, then hand the stream to run_command.c or service_session.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "services.h"

/* A request on its way in. The payload keeps one byte more than announced: a NUL. */
struct reading {
    bool has_head;
    struct request_head head;
    char line[REQUEST_MAX_LINE];
    char *payload;
    size_t filled;
};

static int exec_open(struct stream *stream)
{
    stream->state = calloc(1, sizeof(struct reading));
    return stream->state == NULL ? -ENOMEM : 0;
}

static void free_reading(struct reading *reading)
{
    if (reading != NULL)
        free(reading->payload);
    free(reading);
}

static void exec_closed(struct stream *stream)
{
    free_reading(stream->state);
    stream->state = NULL;
}

/* Returns NULL, or what is wrong. `reading->has_head` tells whether the line is complete. */
static const char *read_head(struct stream *stream, struct reading *reading)
{
    const uint8_t *data = bytes_data(&stream->in);
    size_t limit = stream->in.size < REQUEST_MAX_LINE ? stream->in.size : REQUEST_MAX_LINE;
    const uint8_t *newline = memchr(data, '\n', limit);
    if (newline == NULL) {
        if (stream->in.size >= REQUEST_MAX_LINE)
            return "the first line is longer than 4096 bytes";
        return stream->host_eof ? "the stream ended within the first line" : NULL;
    }
    size_t size = (size_t)(newline - data);
    memcpy(reading->line, data, size);
    reading->line[size] = '\0';
    stream_take(stream, size + 1);
    stream_credit(stream, size + 1);
    if (strlen(reading->line) != size)
        return "a NUL in the first line";
    const char *problem = request_head_parse(reading->line, &reading->head);
    if (problem != NULL)
        return problem;
    reading->payload = malloc(reading->head.payload_size + 1);
    if (reading->payload == NULL)
        return "the guest is out of memory";
    reading->has_head = true;
    return NULL;
}

/* Returns true once the payload is complete. */
static bool read_payload(struct stream *stream, struct reading *reading)
{
    size_t take = reading->head.payload_size - reading->filled;
    if (take > stream->in.size)
        take = stream->in.size;
    memcpy(reading->payload + reading->filled, bytes_data(&stream->in), take);
    reading->filled += take;
    stream_take(stream, take);
    stream_credit(stream, take);
    reading->payload[reading->filled] = '\0';
    return reading->filled == reading->head.payload_size;
}

static void run_fields(struct stream *stream, const struct reading *reading)
{
    struct run_request request;
    const char *problem = run_request_parse(reading->payload, reading->filled, &request);
    if (problem != NULL)
        stream_fail(stream, "BAD_REQUEST", problem);
    else if (request.session != NULL)
        attach_session(stream, &request, (struct session_options){0});
    else
        run_command(stream, &request);
    run_request_free(&request);
}

static void run_ptysession(struct stream *stream, const struct reading *reading)
{
    char name[SESSION_NAME_MAX + 1] = "";
    memcpy(name, reading->payload, reading->head.name_size);
    const char *command = reading->payload + reading->head.name_size;
    struct run_request request = {.session = name,
                                  .cols = reading->head.cols,
                                  .rows = reading->head.rows,
                                  .command = *command == '\0' ? NULL : command};
    if (strlen(name) != reading->head.name_size || !session_name_is_valid(name))
        stream_fail(stream, "BAD_REQUEST", "not a session name");
    else
        attach_session(stream, &request, (struct session_options){.plain = true});
}

static void run_shell_command(struct stream *stream, const struct reading *reading)
{
    const struct request_head *head = &reading->head;
    struct run_request request = {
        .command = head->kind == REQUEST_EXEC ? head->command : reading->payload,
        .cols = head->cols,
        .rows = head->rows,
    };
    run_command(stream, &request);
}

static void dispatch(struct stream *stream, const struct reading *reading)
{
    enum request_kind kind = reading->head.kind;
    if (kind != REQUEST_RUN && strlen(reading->payload) != reading->filled)
        stream_fail(stream, "BAD_REQUEST", "a NUL in the command");
    else if (kind == REQUEST_RUN)
        run_fields(stream, reading);
    else if (kind == REQUEST_PTYLIST)
        list_sessions(stream);
    else if (kind == REQUEST_PTYKILL)
        kill_session(stream, reading->payload);
    else if (kind == REQUEST_PTYSESSION)
        run_ptysession(stream, reading);
    else
        run_shell_command(stream, reading);
}

static void exec_input(struct stream *stream)
{
    struct reading *reading = stream->state;
    if (!reading->has_head) {
        const char *problem = read_head(stream, reading);
        if (problem != NULL)
            stream_fail(stream, "BAD_REQUEST", problem);
        if (problem != NULL || !reading->has_head)
            return;
    }
    if (!read_payload(stream, reading)) {
        if (stream->host_eof)
            stream_fail(stream, "BAD_REQUEST", "the stream ended within the request");
        return;
    }
    stream->state = NULL; /* the next owner brings its own, or the stream just ends */
    dispatch(stream, reading);
    free_reading(reading);
    if (stream->service != &EXEC_SERVICE && !stream->gone)
        stream->service->input(stream);
}

const struct service EXEC_SERVICE = {
    .open = exec_open, .input = exec_input, .closed = exec_closed};
