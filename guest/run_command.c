/* One command for one stream: pipes or a terminal, pumped both ways until it ends; docs/protocol.md, 3.1. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "io.h"
#include "loop.h"
#include "services.h"

enum {
    OUTPUT_CHUNK = 65536,
    /* How long a background process may keep the output open after the command itself has ended. */
    LINGER_MS = 250,
};

struct command;

/* One direction of output: stdout (or the terminal), or stderr. */
struct source {
    struct command *command;
    int fd; /* the process's own; -1 once it is over */
    char tag;
    watch_id watch;
};

struct command {
    struct stream *stream;
    struct process process;
    bool terminal;
    bool answered; /* X or F was sent */
    bool ended;
    bool last_call; /* only `left` more bytes are waited for */
    int exit_code;
    int left[2];
    struct source sources[2];
    struct client_parser parser;
    struct bytes input; /* taken from the stream, not yet written to the process */
    bool input_closes;
    bool is_within_line; /* the last byte of input was no newline */
    watch_id input_watch;
    watch_id pid_watch;
    timer_id linger;
};

static void source_ready(void *context, uint32_t events);
static void flush_input(struct command *command);

static void watch_sources(struct command *command)
{
    for (int i = 0; i < 2; i++) {
        struct source *source = &command->sources[i];
        if (source->fd >= 0 && source->watch == 0)
            source->watch = loop_watch(source->fd, EPOLLIN, source_ready, source);
    }
}

/* Stop listening altogether: a hung-up pipe would wake us for as long as it is watched. */
static void pause_sources(struct command *command)
{
    loop_unwatch(&command->sources[0].watch);
    loop_unwatch(&command->sources[1].watch);
}

static void stop_watching(struct command *command)
{
    pause_sources(command);
    loop_unwatch(&command->input_watch);
    loop_unwatch(&command->pid_watch);
    loop_cancel(&command->linger);
}

static void command_closed(struct stream *stream)
{
    struct command *command = stream->state;
    stop_watching(command);
    if (command->process.pid > 0)
        process_abandon(&command->process, command->terminal);
    bytes_free(&command->input);
    free(command);
}

/* The answer was given: nothing of the process is needed any more. */
static void let_go(struct command *command)
{
    command->answered = true;
    stop_watching(command);
    process_release(&command->process);
    stream_credit(command->stream, command->input.size);
    bytes_free(&command->input);
}

static void answer_if_over(struct command *command)
{
    if (command->answered || !command->ended)
        return;
    if (command->sources[0].fd >= 0 || command->sources[1].fd >= 0)
        return;
    let_go(command);
    stream_printf(command->stream, "X %d\n", command->exit_code);
    stream_finish(command->stream);
}

static void close_source(struct source *source)
{
    loop_unwatch(&source->watch);
    source->fd = -1;
}

/* Give the client what there is, at most `limit` bytes. Returns how many, 0: there will be no more, or -EAGAIN. */
static ssize_t pump_output(struct source *source, size_t limit)
{
    static uint8_t buffer[OUTPUT_CHUNK];
    struct command *command = source->command;
    struct stream *stream = command->stream;
    ssize_t moved =
        command->terminal ? 0 : stream_splice_tagged(stream, source->tag, source->fd, limit);
    size_t room = moved == 0 ? stream_room(stream) : 0;
    if ((moved == 0 && room == 0) || moved == -EAGAIN) {
        pause_sources(command);
        return -EAGAIN;
    }
    if (moved != 0)
        return moved;
    size_t want = limit < sizeof buffer ? limit : sizeof buffer;
    ssize_t got = read(source->fd, buffer, want < room ? want : room);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return -EAGAIN;
    if (got <= 0) /* a terminal whose last user has gone reads as EIO */
        return 0;
    stream_write_tagged(stream, source->tag, buffer, (size_t)got);
    return got;
}

static void source_ready(void *context, uint32_t events)
{
    struct source *source = context;
    struct command *command = source->command;
    struct stream *stream = command->stream;
    int *left = &command->left[source - command->sources];
    (void)events;
    ssize_t got = pump_output(source, command->last_call ? (size_t)*left : SIZE_MAX);
    if (got < 0 || stream->gone)
        return;
    if (command->last_call)
        *left -= (int)got;
    if (got > 0 && !(command->last_call && *left == 0))
        return;
    close_source(source);
    answer_if_over(command);
}

static void command_writable(struct stream *stream)
{
    watch_sources(stream->state);
}

/* The command ended, but somebody else holds its output open: give what is there now, and no more. */
static void lingered(void *context)
{
    struct command *command = context;
    command->linger = 0;
    command->last_call = true;
    for (int i = 0; i < 2; i++) {
        struct source *source = &command->sources[i];
        if (source->fd < 0)
            continue;
        if (ioctl(source->fd, FIONREAD, &command->left[i]) < 0)
            command->left[i] = 0;
        if (command->left[i] == 0)
            close_source(source);
    }
    answer_if_over(command);
}

/* The process never became its program. */
static void failed_to_start(struct command *command, const struct process_failure *failure)
{
    struct stream *stream = command->stream;
    char tag = command->terminal ? 'O' : 'E';
    char text[256];
    int exit_code;
    let_go(command);
    if (stream_fail_to_start(stream, failure, text, &exit_code))
        return;
    stream_write_tagged(stream, tag, text, strlen(text));
    stream_printf(stream, "X %d\n", exit_code);
    stream_finish(stream);
}

/* Whether it ever became its program is asked now: to be woken when it does would interrupt it as it starts. */
static void process_ended(void *context, uint32_t events)
{
    struct command *command = context;
    struct process_failure failure;
    int signal;
    (void)events;
    loop_unwatch(&command->pid_watch);
    if (process_failure(&command->process, &failure) == 1) {
        failed_to_start(command, &failure);
        return;
    }
    command->exit_code = process_exit_code(&command->process, &signal);
    command->ended = true;
    command->linger = loop_after_ms(LINGER_MS, lingered, command);
    answer_if_over(command);
}

/* Within a line, a terminal's end-of-file character only ends the line: type it twice then. */
static void type_end_of_file(struct command *command)
{
    struct termios settings;
    if (tcgetattr(command->process.terminal_fd, &settings) < 0 ||
        (settings.c_lflag & ICANON) == 0)
        return;
    char typed[2] = {(char)settings.c_cc[VEOF], (char)settings.c_cc[VEOF]};
    if (write(command->process.stdin_fd, typed, command->is_within_line ? 2 : 1) < 0)
        stream_reset(command->stream, errno, "the terminal takes no more input");
}

/* The client closed stdin. A terminal cannot be half-closed. */
static void end_input(struct command *command)
{
    if (command->terminal) {
        type_end_of_file(command);
        return;
    }
    loop_unwatch(&command->input_watch);
    close_fd(&command->process.stdin_fd);
}

static void input_ready(void *context, uint32_t events)
{
    (void)events;
    flush_input(context);
}

/* Write what is queued; input for a process that does not read any more is thrown away. */
static void flush_input(struct command *command)
{
    int fd = command->process.stdin_fd;
    while (command->input.size > 0) {
        ssize_t put = fd < 0 ? (ssize_t)command->input.size
                             : write(fd, bytes_data(&command->input), command->input.size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN) {
            if (command->input_watch == 0)
                command->input_watch = loop_watch(fd, EPOLLOUT, input_ready, command);
            return;
        }
        if (put < 0) {
            put = (ssize_t)command->input.size;
            command->input_closes = true;
        }
        stream_credit(command->stream, (size_t)put);
        bytes_drop(&command->input, (size_t)put);
    }
    loop_unwatch(&command->input_watch);
    if (command->input_closes) {
        command->input_closes = false;
        end_input(command);
    }
}

static void take_event(struct command *command, const struct client_event *event)
{
    switch (event->kind) {
    case CLIENT_INPUT:
        if (event->size > 0)
            command->is_within_line = event->data[event->size - 1] != '\n';
        if (bytes_append(&command->input, event->data, event->size) < 0)
            stream_reset(command->stream, ENOMEM, "the guest is out of memory");
        break;
    case CLIENT_CLOSE_STDIN:
        command->input_closes = true;
        break;
    case CLIENT_RESIZE:
        if (command->terminal)
            process_resize(&command->process, event->cols, event->rows);
        break;
    case CLIENT_SIGNAL:
        process_signal_group(&command->process, event->signal);
        break;
    default:
        stream_reset(command->stream, EPROTO, "not a frame of a client");
    }
}

static void command_input(struct stream *stream)
{
    struct command *command = stream->state;
    while (!command->answered && !stream->gone) {
        struct client_event event;
        size_t took =
            client_parse(&command->parser, bytes_data(&stream->in), stream->in.size, &event);
        if (event.kind == CLIENT_NEEDS_MORE)
            break;
        take_event(command, &event);
        if (stream->gone)
            return;
        stream_take(stream, took);
        stream_credit(stream, took - event.size); /* the input itself when it has been written */
    }
    if (stream->gone || command->answered)
        return;
    if (stream->host_eof)
        command->input_closes = true;
    flush_input(command);
}

static const struct service COMMAND_SERVICE = {
    .input = command_input, .writable = command_writable, .closed = command_closed};

static void start_watching(struct command *command)
{
    struct process *process = &command->process;
    int output = command->terminal ? process->terminal_fd : process->stdout_fd;
    command->sources[0] = (struct source){.command = command, .fd = output, .tag = 'O'};
    command->sources[1] = (struct source){.command = command, .fd = process->stderr_fd, .tag = 'E'};
    command->pid_watch = loop_watch(process->pid_fd, EPOLLIN, process_ended, command);
    watch_sources(command);
}

void run_command(struct stream *stream, const struct run_request *request)
{
    struct command *command = calloc(1, sizeof *command);
    int result = command == NULL ? -ENOMEM : launch(request, &command->process);
    if (result < 0) {
        free(command);
        stream_fail(stream, "SPAWN_FAILED", strerror(-result));
        return;
    }
    command->stream = stream;
    command->terminal = request->cols > 0;
    stream->state = command;
    stream->service = &COMMAND_SERVICE;
    start_watching(command);
    if (command->pid_watch == 0)
        stream_reset(stream, ENOMEM, "the guest is out of memory");
}
