/*
 * What a client may ask of port 1978, as bytes → structs; docs/protocol.md, 3.1 and 3.2.
 * Pure: runs under unit tests and the fuzzer.
 */
#ifndef MACHINEN_REQUEST_H
#define MACHINEN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    REQUEST_MAX_LINE = 4096,
    REQUEST_MAX_PAYLOAD = 1048576,
    SESSION_NAME_MAX = 64,
    CLIENT_INPUT_MAX = 65536,
    CLIENT_LINE_MAX = 32,
};

enum request_kind {
    REQUEST_EXEC,
    REQUEST_EXEC2,
    REQUEST_PTY,
    REQUEST_RUN,
    REQUEST_PTYLIST,
    REQUEST_PTYKILL,
    REQUEST_PTYSESSION,
};

/* A request's first line. `payload_size` bytes follow it. */
struct request_head {
    enum request_kind kind;
    uint16_t cols;
    uint16_t rows;
    uint32_t name_size;    /* PTYSESSION: the name's part of the payload */
    uint32_t payload_size;
    const char *command;   /* EXEC: points into the line */
};

/* Parse a header line, NUL-terminated, without its newline. Returns NULL or what is wrong with it. */
const char *request_head_parse(const char *line, struct request_head *head);

/* What shall run, and how. All pointers lead into the payload; the arrays are the struct's own. */
struct run_request {
    const char *command; /* for /bin/sh -c, or NULL */
    const char **arguments; /* NULL-terminated, or NULL */
    size_t argument_count;
    const char **environment; /* "K=V" texts, NULL-terminated, or NULL */
    size_t environment_count;
    const char *cwd;
    const char *user; /* "name", "1000", "name:group", …; NULL: root */
    const char *session;
    uint16_t cols; /* 0: no terminal asked for */
    uint16_t rows;
    bool login;
    bool with_stdin;
    bool attach_only;
    bool workload;
};

/* Parse RUN's fields. `payload` is `size` bytes. Returns NULL or what is wrong; free in either case. */
const char *run_request_parse(const char *payload, size_t size, struct run_request *request);
void run_request_free(struct run_request *request);
bool session_name_is_valid(const char *name);
/* Parse "COLSxROWS" or "COLS ROWS" (`separator`); 1..65535 each. */
bool parse_size(const char *text, char separator, uint16_t *cols, uint16_t *rows);
/* Parse all of `text` as a decimal number of at most `maximum`; no sign, no blank. */
bool parse_number(const char *text, uint32_t maximum, uint32_t *number);

enum client_event_kind {
    CLIENT_NEEDS_MORE,
    CLIENT_INPUT,       /* data, size */
    CLIENT_CLOSE_STDIN,
    CLIENT_RESIZE,      /* cols, rows */
    CLIENT_SIGNAL,      /* signal */
    CLIENT_BAD,
};

struct client_event {
    enum client_event_kind kind;
    const uint8_t *data;
    size_t size;
    uint16_t cols;
    uint16_t rows;
    int signal;
};

/* Where a client's frames have been cut: bytes of the current I frame still to come. */
struct client_parser {
    uint32_t input_left;
};

/* Look at the first frame in `data`. Returns how many bytes it took; INPUT may be a part of an I frame. */
size_t client_parse(struct client_parser *parser, const uint8_t *data, size_t size,
                    struct client_event *event);

#endif
