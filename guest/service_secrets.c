/* Port 1975: "KEY=VALUE\n" lines until EOF become /etc/machinen.env; docs/protocol.md, 3.4. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "io.h"
#include "secrets.h"
#include "services.h"

enum { SECRETS_MAX = 1048576 };

static int secrets_open(struct stream *stream)
{
    stream->state = calloc(1, sizeof(struct bytes));
    return stream->state == NULL ? -ENOMEM : 0;
}

static void secrets_closed(struct stream *stream)
{
    bytes_free(stream->state);
    free(stream->state);
}

/* Write beside the file and rename, so that no reader ever sees half of it. Returns 0 or a negative errno. */
static int replace_file(const char *text, size_t size)
{
    char path[512], temporary[528];
    snprintf(path, sizeof path, "%s", agent_path("/etc/machinen.env"));
    snprintf(temporary, sizeof temporary, "%s.new", path);
    if (unlink(temporary) < 0 && errno != ENOENT)
        return -errno;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int result = write_exactly(fd, text, size);
    if (close(fd) < 0 && result == 0)
        result = -errno;
    if (result == 0 && rename(temporary, path) < 0)
        result = -errno;
    if (result < 0)
        unlink(temporary);
    return result;
}

static void store(struct stream *stream, const struct bytes *lines)
{
    struct bytes kept = {0};
    size_t count = 0;
    int result = secrets_filter((const char *)bytes_data(lines), lines->size, &kept, &count);
    if (result == 0)
        result = replace_file((const char *)bytes_data(&kept), kept.size);
    bytes_free(&kept);
    if (result < 0)
        stream_printf(stream, "err /etc/machinen.env: %s\n", strerror(-result));
    else
        stream_printf(stream, "ok %zu\n", count);
    stream_finish(stream);
}

static void secrets_input(struct stream *stream)
{
    struct bytes *lines = stream->state;
    size_t size = stream->in.size;
    if (lines->size + size > SECRETS_MAX) {
        stream_printf(stream, "err more than %d bytes of secrets\n", SECRETS_MAX);
        stream_finish(stream);
        return;
    }
    if (bytes_append(lines, bytes_data(&stream->in), size) < 0) {
        stream_reset(stream, ENOMEM, "the guest is out of memory");
        return;
    }
    stream_take(stream, size);
    stream_credit(stream, size);
    if (stream->host_eof)
        store(stream, lines);
}

const struct service SECRETS_SERVICE = {
    .open = secrets_open, .input = secrets_input, .closed = secrets_closed};
