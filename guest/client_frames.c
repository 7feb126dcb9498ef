/* The frames a client of exec or of a session sends: I, R and K; see request.h. */
#include <signal.h>
#include <string.h>

#include "request.h"

static void parse_line(struct client_parser *parser, const char *line, struct client_event *event)
{
    uint32_t number;
    event->kind = CLIENT_BAD;
    if (line[0] == '\0' || line[1] != ' ')
        return;
    const char *rest = line + 2;
    if (line[0] == 'I' && parse_number(rest, CLIENT_INPUT_MAX, &number)) {
        parser->input_left = number;
        event->kind = number == 0 ? CLIENT_CLOSE_STDIN : CLIENT_INPUT;
    } else if (line[0] == 'R' && parse_size(rest, ' ', &event->cols, &event->rows)) {
        event->kind = CLIENT_RESIZE;
    } else if (line[0] == 'K' && parse_number(rest, 64, &number) && number > 0) {
        event->kind = CLIENT_SIGNAL;
        event->signal = (int)number;
    }
}

static size_t take_input(struct client_parser *parser, const uint8_t *data, size_t size,
                         struct client_event *event)
{
    event->kind = CLIENT_INPUT;
    event->data = data;
    event->size = size < parser->input_left ? size : parser->input_left;
    parser->input_left -= (uint32_t)event->size;
    return event->size;
}

size_t client_parse(struct client_parser *parser, const uint8_t *data, size_t size,
                    struct client_event *event)
{
    *event = (struct client_event){.kind = CLIENT_NEEDS_MORE};
    if (size == 0)
        return 0;
    if (parser->input_left > 0)
        return take_input(parser, data, size, event);
    char line[CLIENT_LINE_MAX];
    const uint8_t *newline = memchr(data, '\n', size < sizeof line ? size : sizeof line);
    if (newline == NULL) {
        if (size >= sizeof line)
            event->kind = CLIENT_BAD;
        return 0;
    }
    size_t line_size = (size_t)(newline - data);
    memcpy(line, data, line_size);
    line[line_size] = '\0';
    if (strlen(line) == line_size)
        parse_line(parser, line, event);
    else
        event->kind = CLIENT_BAD;
    return line_size + 1;
}
