/* Port 1977: live mounts, and the overlay on the mount's disks; docs/protocol.md, 3.6. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fuse_messages.h"
#include "live_mounts.h"
#include "mount_disk.h"
#include "services.h"

/* A stream before it is a live mount's, which then is its state. */
static int mounts_open(struct stream *stream)
{
    stream->state = NULL;
    return 0;
}

static void answer_error(struct stream *stream, const char *text)
{
    stream_printf(stream, "ERR %zu\n", strlen(text));
    stream_write(stream, text, strlen(text));
    stream_finish(stream);
}

/* Take the header, once it is all there. Returns its mount request, or false if it is not, or was answered. */
static bool take_request(struct stream *stream, struct mount_request *request,
                         char path[MOUNT_PATH_MAX + 1])
{
    const char *data = (const char *)bytes_data(&stream->in);
    size_t limit = stream->in.size < MOUNT_LINE_MAX ? stream->in.size : MOUNT_LINE_MAX;
    const char *newline = memchr(data, '\n', limit);
    char line[MOUNT_LINE_MAX];
    if (newline == NULL) {
        if (limit == MOUNT_LINE_MAX || stream->host_eof)
            answer_error(stream, "no FUSE or DISK line");
        return false;
    }
    size_t line_size = (size_t)(newline - data);
    memcpy(line, data, line_size);
    line[line_size] = '\0';
    const char *problem =
        strlen(line) == line_size ? mount_line_parse(line, request) : "a NUL in the header line";
    if (problem == NULL && stream->in.size < line_size + 1 + request->path_size) {
        if (stream->host_eof)
            answer_error(stream, "the path is cut short");
        return false;
    }
    if (problem == NULL) {
        memcpy(path, newline + 1, request->path_size);
        path[request->path_size] = '\0';
        problem = mount_path_check(path, request->path_size);
        stream_take(stream, line_size + 1 + request->path_size);
        stream_credit(stream, line_size + 1 + request->path_size);
    }
    if (problem != NULL)
        answer_error(stream, problem);
    return problem == NULL;
}

static void attach_live(struct stream *stream, const char *path, bool writable)
{
    const char *problem = NULL;
    struct live_mount *mount = live_mount_attach(stream, path, writable, &problem);
    if (mount == NULL) {
        answer_error(stream, problem);
        return;
    }
    stream->state = mount;
    stream_printf(stream, "OK\n");
    live_mount_input(mount);
}

static void attach_disk(struct stream *stream, const char *path, bool exchanged)
{
    const char *problem = live_mounts_touch(path)
                              ? "the mount and a live mount cannot lie in each other"
                              : mount_disk(path, exchanged);
    if (problem != NULL) {
        answer_error(stream, problem);
        return;
    }
    stream_printf(stream, "OK\n");
    stream_finish(stream);
}

static void mounts_input(struct stream *stream)
{
    struct mount_request request;
    char path[MOUNT_PATH_MAX + 1];
    if (stream->state != NULL)
        live_mount_input(stream->state);
    else if (!stream->finished && take_request(stream, &request, path)) {
        if (request.kind == MOUNT_LIVE)
            attach_live(stream, path, request.writable);
        else
            attach_disk(stream, path, request.exchanged);
    }
}

static void mounts_writable(struct stream *stream)
{
    if (stream->state != NULL)
        live_mount_writable(stream->state);
}

static void mounts_closed(struct stream *stream)
{
    if (stream->state != NULL)
        live_mount_detach(stream->state);
}

const struct service MOUNTS_SERVICE = {.open = mounts_open,
                                       .input = mounts_input,
                                       .writable = mounts_writable,
                                       .closed = mounts_closed};
