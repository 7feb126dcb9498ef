/* Port 1974: "<cols> <rows>\n" resizes session main; docs/protocol.md, 3.3. */
#include <errno.h>
#include <string.h>

#include "services.h"
#include "session.h"

enum { LINE_MAX_SIZE = 32 };

static int winsize_open(struct stream *stream)
{
    (void)stream;
    return 0;
}

static void winsize_closed(struct stream *stream)
{
    (void)stream;
}

static void answer_line(struct stream *stream, const char *line)
{
    uint16_t cols, rows;
    struct session *session = session_find("main");
    if (!parse_size(line, ' ', &cols, &rows)) {
        stream_printf(stream, "err a line is <cols> <rows>, 1 to 65535 each\n");
    } else if (session == NULL) {
        stream_printf(stream, "err there is no session main\n");
    } else {
        session_resize(session, cols, rows);
        stream_printf(stream, "ok %u %u\n", session->cols, session->rows);
    }
}

static void winsize_input(struct stream *stream)
{
    char line[LINE_MAX_SIZE];
    while (!stream->gone && stream_room(stream) > 0) {
        const uint8_t *data = bytes_data(&stream->in);
        const uint8_t *newline = memchr(data, '\n', stream->in.size);
        size_t size = newline == NULL ? stream->in.size : (size_t)(newline - data);
        if (size >= sizeof line) {
            stream_reset(stream, EPROTO, "a line of the window size port is too long");
            return;
        }
        if (newline == NULL) {
            if (stream->host_eof)
                stream_finish(stream);
            return;
        }
        memcpy(line, data, size);
        line[size] = '\0';
        stream_take(stream, size + 1);
        stream_credit(stream, size + 1);
        answer_line(stream, line);
    }
}

const struct service WINSIZE_SERVICE = {
    .open = winsize_open,
    .input = winsize_input,
    .writable = winsize_input,
    .closed = winsize_closed,
};
