/*
 * Fuzz target: every parser that reads bytes from outside. The first byte chooses the parser, the rest is its input.
 * With clang: make -C guest fuzz CC=clang. Otherwise driver.c replays inputs and mutates them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../connect_line.h"
#include "../environment.h"
#include "../files_request.h"
#include "../frames.h"
#include "../fuse_hints.h"
#include "../fuse_messages.h"
#include "../request.h"
#include "../ring.h"
#include "../secrets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Sums up what it is given, so that the optimiser keeps every read and the sanitizers see it. */
static volatile uint32_t sum;

static void touch(const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sum += ((const uint8_t *)data)[i];
}

/* A NUL-terminated copy. */
static char *copy_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (text == NULL)
        abort();
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

static void on_magic(void *context)
{
    ++*(int *)context;
}

static int on_frame(void *context, const struct frame_header *header, const uint8_t *payload)
{
    struct host_hello hello;
    ++*(int *)context;
    touch(payload, header->length);
    if (!frame_is_valid_from_host(header))
        abort();
    if (header->type == FRAME_HELLO)
        return host_hello_decode(payload, header->length, &hello);
    return header->type == FRAME_RESET ? -EPROTO : 0;
}

static void on_malformed(void *context, const char *reason)
{
    ++*(int *)context;
    touch(reason, strlen(reason));
}

static void fuzz_frames(const uint8_t *data, size_t size)
{
    static struct frame_parser parser;
    int count = 0;
    struct frame_events events = {on_magic, on_frame, on_malformed, &count};
    memset(&parser, 0, sizeof parser);
    parser.state = size > 0 && data[0] % 2 == 0 ? PARSER_HEADER : PARSER_SCANNING;
    size_t first = size / 2;
    frame_parser_feed(&parser, data, first, &events);
    frame_parser_feed(&parser, data + first, size - first, &events);
}

static void fuzz_head(const uint8_t *data, size_t size)
{
    char *line = copy_text(data, size);
    struct request_head head;
    if (request_head_parse(line, &head) == NULL &&
        (head.payload_size > REQUEST_MAX_PAYLOAD || head.name_size > head.payload_size))
        abort();
    free(line);
}

static void fuzz_run(const uint8_t *data, size_t size)
{
    char *fields = copy_text(data, size);
    struct run_request request;
    if (run_request_parse(fields, size, &request) == NULL) {
        for (size_t i = 0; i < request.argument_count; i++)
            touch(request.arguments[i], strlen(request.arguments[i]));
        char **environment = environment_build(request.cols > 0, NULL, request.environment,
                                               request.environment_count);
        if (environment == NULL || environment_get(environment, "PATH") == NULL)
            abort();
        environment_free(environment);
    }
    run_request_free(&request);
    free(fields);
}

static void fuzz_client(const uint8_t *data, size_t size)
{
    struct client_parser parser = {0};
    struct client_event event;
    for (size_t used = 0; used <= size;) {
        size_t took = client_parse(&parser, data + used, size - used, &event);
        if (event.kind == CLIENT_INPUT)
            touch(event.data, event.size);
        if (event.kind == CLIENT_NEEDS_MORE || event.kind == CLIENT_BAD)
            break;
        if (took == 0 || took > size - used || event.size > took)
            abort();
        used += took;
    }
}

static void fuzz_files(const uint8_t *data, size_t size)
{
    struct files_request request = {0};
    char *text = copy_text(data, size);
    for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL;)
        files_request_line(&request, line);
    sum += tar_only_saw_changes(text);
    files_request_free(&request);
    free(text);
}

static void fuzz_secrets(const uint8_t *data, size_t size)
{
    struct bytes kept = {0};
    size_t count;
    if (secrets_filter((const char *)data, size, &kept, &count) < 0)
        abort();
    bytes_free(&kept);
}

static void fuzz_terminal(const uint8_t *data, size_t size)
{
    static struct ring ring;
    struct bytes replay = {0};
    if (ring.memory == NULL && ring_open(&ring) < 0)
        abort();
    for (int i = 0; size > 0 && i < 3; i++)
        ring_append(&ring, data, size);
    if (ring_replay(&ring, &replay) < 0 || replay.size > RING_CAPACITY + MODES_TEXT_MAX)
        abort();
    bytes_free(&replay);
}

static void fuzz_passwd(const uint8_t *data, size_t size)
{
    char *text = copy_text(data, size);
    struct login login;
    login_parse(text, &login);
    if (login.home[0] != '/' || login.shell[0] != '/' || login.argument0[0] != '-')
        abort();
    free(text);
}

static void fuzz_mount(const uint8_t *data, size_t size)
{
    char *line = copy_text(data, size);
    struct mount_request request;
    char *path = strchr(line, '\n');
    if (path != NULL)
        *path++ = '\0';
    if (mount_line_parse(line, &request) == NULL && request.path_size > MOUNT_PATH_MAX)
        abort();
    if (path != NULL && mount_path_check(path, strlen(path)) == NULL &&
        (strncmp(path, "/mnt/", 5) != 0 || strstr(path, "/../") != NULL))
        abort();
    free(line);
}

enum { FUZZED_REQUEST = 64 };

/* First a request of the kernel, then what the host says. */
static void fuzz_fuse(const uint8_t *data, size_t size)
{
    struct fuse_ledger ledger = {0};
    struct fuse_hints hints = {0};
    struct fuse_open_request request;
    uint8_t answer[FUSE_ANSWER_MAX];
    size_t asked_size = size < FUZZED_REQUEST ? size : FUZZED_REQUEST;
    uint8_t *asked = malloc(asked_size > 0 ? asked_size : 1); /* of just that size, for the sanitizers */
    if (asked == NULL)
        abort();
    memcpy(asked, data, asked_size);
    fuse_ledger_request(&ledger, asked, asked_size);
    data += asked_size;
    size -= asked_size;
    for (size_t length = 0; size > 0; data += length, size -= length) {
        enum host_message kind = host_message_next(data, size, &length);
        if (kind == HOST_NEEDS_MORE || kind == HOST_BAD)
            break;
        if (length == 0 || length > size || (kind == HOST_REPLY && length < FUSE_OUT_HEADER_SIZE))
            abort();
        touch(data, length);
        if (kind == HOST_REPLY && fuse_ledger_reply(&ledger, data, &request))
            fuse_hints_answered(&hints, &request);
        if (kind == HOST_HINT)
            fuse_hints_take(&hints, data, length, 1);
        if (asked_size >= FUSE_IN_HEADER_SIZE &&
            fuse_hints_answer(&hints, asked, asked_size, 2, answer) > FUSE_ANSWER_MAX)
            abort();
    }
    free(asked);
    fuse_hints_clear(&hints);
    fuse_ledger_free(&ledger);
}

static void fuzz_connect(const uint8_t *data, size_t size)
{
    char *text = copy_text(data, size);
    uint32_t port = 0;
    int line = connect_line_parse(text, size, &port);
    if (line > CONNECT_LINE_MAX || (line > 0 && text[line - 1] != '\n') ||
        (line == 0 && size >= CONNECT_LINE_MAX))
        abort();
    sum += port;
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const parsers[])(const uint8_t *data, size_t size) = {
        fuzz_frames, fuzz_head,    fuzz_run,      fuzz_client,
        fuzz_files,  fuzz_secrets, fuzz_terminal, fuzz_passwd,
        fuzz_mount,  fuzz_fuse,    fuzz_connect};
    if (size > 0)
        parsers[data[0] % (sizeof parsers / sizeof parsers[0])](data + 1, size - 1);
    return 0;
}
