/* Port 1976: push and pull by the guest's own tar, archive and put by ourselves; docs/protocol.md, 3.5. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "environment.h"
#include "file_writer.h"
#include "files_request.h"
#include "io.h"
#include "loop.h"
#include "services.h"

#define OWN_PROGRAM "/proc/self/exe"

enum {
    CHUNK = 65536,
    TELL_SHARE = 4, /* of a window: each word wakes the writer, and what is left keeps the host busy meanwhile */
    ERROR_MAX = 4096,
    LINGER_MS = 250,
    MAX_ARGUMENTS = FILES_MAX_EXCLUDES + 16,
};

struct transfer {
    struct stream *stream;
    struct files_request request;
    bool started;
    bool answered;
    bool ended;
    int exit_code;
    struct process tar; /* or who archives or writes in its place */
    struct file_writer writer; /* of a PUT */
    char error[ERROR_MAX + 1];
    size_t error_size;
    watch_id input_watch;
    watch_id output_watch;
    watch_id error_watch;
    watch_id pid_watch;
    timer_id linger;
};

static void output_ready(void *context, uint32_t events);
static void input_ready(void *context, uint32_t events);

static int files_open(struct stream *stream)
{
    struct transfer *transfer = calloc(1, sizeof *transfer);
    if (transfer == NULL)
        return -ENOMEM;
    transfer->stream = stream;
    stream->state = transfer;
    return 0;
}

static void stop_watching(struct transfer *transfer)
{
    loop_unwatch(&transfer->input_watch);
    loop_unwatch(&transfer->output_watch);
    loop_unwatch(&transfer->error_watch);
    loop_unwatch(&transfer->pid_watch);
    loop_cancel(&transfer->linger);
}

static void files_closed(struct stream *stream)
{
    struct transfer *transfer = stream->state;
    stop_watching(transfer);
    if (transfer->started && !transfer->answered)
        process_abandon(&transfer->tar, false);
    file_writer_free(&transfer->writer);
    files_request_free(&transfer->request);
    free(transfer);
}

static void answer_error(struct stream *stream, const char *text)
{
    stream_printf(stream, "ERR %zu\n", strlen(text));
    stream_write(stream, text, strlen(text));
    stream_finish(stream);
}

/* tar has ended and said all it had to say. */
static void answer(struct transfer *transfer)
{
    struct stream *stream = transfer->stream;
    bool pulled = transfer->request.kind == FILES_PULL; /* tar ends with 1 if a file changed */
    transfer->answered = true;
    stop_watching(transfer);
    process_release(&transfer->tar);
    stream_credit(stream, transfer->writer.used); /* nobody writes it any more */
    file_writer_free(&transfer->writer);
    transfer->error[transfer->error_size] = '\0';
    bool fine = transfer->exit_code == 0 ||
                (pulled && transfer->exit_code == 1 && tar_only_saw_changes(transfer->error));
    if (!fine) {
        bool puts = transfer->request.kind == FILES_PUT;
        const char *text = puts ? "the writer was killed in the guest" : "tar failed in the guest";
        answer_error(stream, transfer->error_size > 0 ? transfer->error : text);
        return;
    }
    stream_printf(stream, "OK\n");
    stream_finish(stream);
}

static void answer_if_over(struct transfer *transfer)
{
    if (transfer->ended && transfer->tar.stdout_fd < 0 && transfer->tar.stderr_fd < 0)
        answer(transfer);
}

static void watch_output(struct transfer *transfer)
{
    if (transfer->tar.stdout_fd >= 0 && transfer->output_watch == 0)
        transfer->output_watch =
            loop_watch(transfer->tar.stdout_fd, EPOLLIN, output_ready, transfer);
}

static void put_input(struct transfer *transfer);

static void output_ready(void *context, uint32_t events)
{
    static uint8_t buffer[CHUNK];
    struct transfer *transfer = context;
    struct stream *stream = transfer->stream;
    (void)events;
    bool puts = transfer->request.kind == FILES_PUT;
    bool pulls = !puts && transfer->request.kind != FILES_PUSH;
    ssize_t moved = pulls ? stream_splice_tagged(stream, 'D', transfer->tar.stdout_fd, SIZE_MAX) : 0;
    if (moved > 0)
        return;
    if (moved < 0 || stream_room(stream) == 0) {
        loop_unwatch(&transfer->output_watch);
        return;
    }
    ssize_t got = read(transfer->tar.stdout_fd, buffer, sizeof buffer);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        loop_unwatch(&transfer->output_watch);
        close_fd(&transfer->tar.stdout_fd);
        answer_if_over(transfer);
    } else if (pulls) {
        stream_write_tagged(stream, 'D', buffer, (size_t)got);
    } else if (puts) {
        stream_credit(stream, file_writer_hear(&transfer->writer, buffer, (size_t)got));
        put_input(transfer);
    }
}

static void error_ready(void *context, uint32_t events)
{
    char buffer[ERROR_MAX];
    struct transfer *transfer = context;
    (void)events;
    ssize_t got = read(transfer->tar.stderr_fd, buffer, sizeof buffer);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        loop_unwatch(&transfer->error_watch);
        close_fd(&transfer->tar.stderr_fd);
        answer_if_over(transfer);
        return;
    }
    size_t kept = ERROR_MAX - transfer->error_size;
    kept = (size_t)got < kept ? (size_t)got : kept;
    memcpy(transfer->error + transfer->error_size, buffer, kept);
    transfer->error_size += kept;
}

/* A child of tar (a decompressor) may keep the pipes open for longer than tar lives. */
static void lingered(void *context)
{
    struct transfer *transfer = context;
    transfer->linger = 0;
    if (transfer->output_watch == 0 && transfer->tar.stdout_fd >= 0) {
        transfer->linger = loop_after_ms(LINGER_MS, lingered, transfer); /* our client is slow */
        return;
    }
    answer(transfer);
}

static void tar_ended(void *context, uint32_t events)
{
    struct transfer *transfer = context;
    struct process_failure failure;
    int signal;
    (void)events;
    loop_unwatch(&transfer->pid_watch);
    transfer->exit_code = process_exit_code(&transfer->tar, &signal);
    transfer->ended = true;
    if (process_failure(&transfer->tar, &failure) == 1)
        transfer->error_size =
            (size_t)snprintf(transfer->error, ERROR_MAX, "%s%s",
                             failure.stage == STAGE_EXEC ? "tar cannot be run: " : "",
                             strerror(failure.error));
    transfer->linger = loop_after_ms(LINGER_MS, lingered, transfer);
    answer_if_over(transfer);
}

/* Feed tar what has come in. */
static void push_input(struct transfer *transfer)
{
    struct stream *stream = transfer->stream;
    while (stream->in.size > 0) {
        ssize_t put = transfer->tar.stdin_fd < 0
                          ? (ssize_t)stream->in.size
                          : write(transfer->tar.stdin_fd, bytes_data(&stream->in), stream->in.size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN) {
            if (transfer->input_watch == 0)
                transfer->input_watch =
                    loop_watch(transfer->tar.stdin_fd, EPOLLOUT, input_ready, transfer);
            return;
        }
        if (put < 0) { /* tar has given up and will say why; what else comes is thrown away */
            loop_unwatch(&transfer->input_watch);
            close_fd(&transfer->tar.stdin_fd);
            continue;
        }
        stream_take(stream, (size_t)put);
        stream_credit(stream, (size_t)put);
    }
    loop_unwatch(&transfer->input_watch);
    if (stream->host_eof)
        close_fd(&transfer->tar.stdin_fd);
}

/* Give the writer what has come in; the rest waits until it says that there is room. */
static void put_input(struct transfer *transfer)
{
    struct stream *stream = transfer->stream;
    int *child = &transfer->tar.stdin_fd;
    bool is_over = stream->host_eof;
    if (*child >= 0) {
        stream_take(stream, file_writer_put(&transfer->writer, bytes_data(&stream->in), stream->in.size));
        is_over = is_over && stream->in.size == 0;
        if (file_writer_tell(&transfer->writer, *child, is_over ? 0 : stream->window / TELL_SHARE) < 0)
            close_fd(child); /* it has given up and will say why */
    }
    if (*child < 0) {
        stream_credit(stream, stream->in.size);
        stream_take(stream, stream->in.size);
    } else if (is_over && transfer->writer.untold == 0) {
        close_fd(child);
    }
}

static void input_ready(void *context, uint32_t events)
{
    (void)events;
    push_input(context);
}

/* What tar is started with; the child fills in what depends on files. */
struct tar_start {
    struct files_request *request;
    const struct file_writer *writer;
    struct process_request process;
    const char *arguments[MAX_ARGUMENTS];
};

/* In the child: the directory may have to be made. */
static int prepare_push(void *context)
{
    struct tar_start *start = context;
    return make_directories(start->request->path, 0755);
}

/* In the child, which becomes no program but writes. */
static int prepare_put(void *context)
{
    struct tar_start *start = context;
    int file = file_writer_open(start->request->path);
    if (file < 0)
        return file;
    file_writer_run(start->writer, file);
}

/* In the child: a directory gives what is in it; anything else gives itself, followed if it is a symbolic link. */
static int prepare_pull(void *context)
{
    struct tar_start *start = context;
    char *path = start->request->path;
    struct stat found;
    size_t count = 4;
    if (stat(path, &found) < 0)
        return -errno;
    for (size_t i = 0; i < start->request->exclude_count; i++)
        start->arguments[count++] = start->request->excludes[i];
    const char *directory = path, *name = ".";
    if (!S_ISDIR(found.st_mode)) {
        char *slash = strrchr(path, '/');
        name = slash + 1;
        directory = slash == path ? "/" : path;
        *slash = '\0';
        start->arguments[count++] = "-h";
    }
    const char *rest[] = {"-C", directory, "--", name, NULL};
    memcpy(start->arguments + count, rest, sizeof rest);
    return 0;
}

/* In the child: no tar, but this very program, whose file is gone but can still be run. */
static int prepare_archive(void *context)
{
    struct tar_start *start = context;
    struct files_request *request = start->request;
    const char *fixed[] = {OWN_PROGRAM, "--archive", request->path};
    size_t count = sizeof fixed / sizeof fixed[0];
    memcpy(start->arguments, fixed, sizeof fixed);
    for (size_t i = 0; i < request->exclude_count; i++)
        start->arguments[count++] = request->excludes[i];
    start->arguments[count] = NULL;
    start->process.program = OWN_PROGRAM;
    return 0;
}

static void fill_start(struct tar_start *start, struct files_request *request)
{
    static int (*const preparations[])(void *) = {
        [FILES_PUSH] = prepare_push, [FILES_PULL] = prepare_pull, [FILES_ARCHIVE] = prepare_archive,
        [FILES_PUT] = prepare_put};
    bool pushes = request->kind == FILES_PUSH;
    const char *push[] = {"tar", "-x", "-m", "-f", "-", "-C", request->path, NULL};
    const char *pull[] = {"tar", "-c", "-f", "-", NULL};
    *start = (struct tar_start){.request = request};
    memcpy(start->arguments, pushes ? push : pull, pushes ? sizeof push : sizeof pull);
    start->process = (struct process_request){.program = "tar",
                                              .arguments = start->arguments,
                                              .cwd = "/",
                                              .with_stdin = pushes || request->kind == FILES_PUT,
                                              .prepare = preparations[request->kind],
                                              .context = start};
}

static void start_tar(struct transfer *transfer)
{
    struct tar_start start;
    fill_start(&start, &transfer->request);
    start.writer = &transfer->writer;
    /* Few large reads and writes: a record of 10 KiB would cost an emulated guest twice as much.
     * GNU tar alone knows the variable; a busybox does without. */
    const char *settings[] = {"LC_ALL=C", "TAR_OPTIONS=--blocking-factor=128"};
    char **environment = environment_build(false, NULL, settings, 2);
    start.process.environment = environment;
    int result = environment == NULL ? -ENOMEM : 0;
    if (result == 0 && transfer->request.kind == FILES_PUT)
        result = file_writer_start(&transfer->writer);
    if (result == 0)
        result = process_start(&start.process, &transfer->tar);
    environment_free(environment);
    if (result < 0) {
        answer_error(transfer->stream, strerror(-result));
        return;
    }
    transfer->started = true;
    transfer->pid_watch = loop_watch(transfer->tar.pid_fd, EPOLLIN, tar_ended, transfer);
    transfer->error_watch = loop_watch(transfer->tar.stderr_fd, EPOLLIN, error_ready, transfer);
    watch_output(transfer);
    if (transfer->pid_watch == 0 || transfer->error_watch == 0 || transfer->output_watch == 0)
        stream_reset(transfer->stream, ENOMEM, "the guest is out of memory");
}

/* Take one header line. Returns false if there is none yet, or the stream has been answered. */
static bool take_line(struct transfer *transfer)
{
    struct stream *stream = transfer->stream;
    const char *data = (const char *)bytes_data(&stream->in);
    const char *newline = memchr(data, '\n', stream->in.size);
    size_t size = newline == NULL ? stream->in.size : (size_t)(newline - data);
    if (size >= FILES_MAX_LINE || (newline == NULL && stream->host_eof)) {
        answer_error(stream, "no PUSH, PUT or PULL line");
        return false;
    }
    if (newline == NULL)
        return false;
    char line[FILES_MAX_LINE];
    memcpy(line, data, size);
    line[size] = '\0';
    stream_take(stream, size + 1);
    stream_credit(stream, size + 1);
    const char *problem = strlen(line) == size ? files_request_line(&transfer->request, line)
                                               : "a NUL in a header line";
    if (problem != NULL)
        answer_error(stream, problem);
    return problem == NULL;
}

static void files_input(struct stream *stream)
{
    struct transfer *transfer = stream->state;
    while (!transfer->started && !stream->finished && !stream->gone) {
        if (!take_line(transfer))
            return;
        if (transfer->request.kind != FILES_EXCLUDE)
            start_tar(transfer);
    }
    if (stream->finished || stream->gone)
        return;
    if (transfer->request.kind == FILES_PUSH) {
        push_input(transfer);
    } else if (transfer->request.kind == FILES_PUT) {
        put_input(transfer);
    } else {
        stream_credit(stream, stream->in.size);
        stream_take(stream, stream->in.size);
    }
}

static void files_writable(struct stream *stream)
{
    struct transfer *transfer = stream->state;
    if (transfer->started && !transfer->answered)
        watch_output(transfer);
}

const struct service FILES_SERVICE = {
    .open = files_open, .input = files_input, .writable = files_writable, .closed = files_closed};
