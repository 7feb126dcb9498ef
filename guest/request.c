/* See request.h. */
#include "request.h"

#include <stdlib.h>
#include <string.h>

enum { ENVIRONMENT_MAX = 4096 };

bool parse_number(const char *text, uint32_t maximum, uint32_t *number)
{
    uint64_t value = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > maximum)
            return false;
    }
    *number = (uint32_t)value;
    return true;
}

/* Split `line` at single blanks into exactly `count` numbers, each at most its maximum. */
static bool parse_numbers(const char *line, size_t count, const uint32_t *maxima, uint32_t *numbers)
{
    for (size_t i = 0; i < count; i++) {
        char digits[12];
        size_t size = strcspn(line, " ");
        if (size >= sizeof digits)
            return false;
        memcpy(digits, line, size);
        digits[size] = '\0';
        if (!parse_number(digits, maxima[i], &numbers[i]))
            return false;
        line += size;
        if (i + 1 < count && *line++ != ' ')
            return false;
    }
    return *line == '\0';
}

bool parse_size(const char *text, char separator, uint16_t *cols, uint16_t *rows)
{
    char copy[16];
    size_t size = strlen(text);
    if (size >= sizeof copy)
        return false;
    memcpy(copy, text, size + 1);
    char *middle = strchr(copy, separator);
    if (middle == NULL)
        return false;
    *middle = '\0';
    uint32_t wide, high;
    if (!parse_number(copy, 65535, &wide) || !parse_number(middle + 1, 65535, &high))
        return false;
    *cols = (uint16_t)wide;
    *rows = (uint16_t)high;
    return wide > 0 && high > 0;
}

static const char *parse_exec2(const char *rest, struct request_head *head)
{
    if (!parse_number(rest, REQUEST_MAX_PAYLOAD, &head->payload_size))
        return "EXEC2 wants a length of at most 1048576";
    return NULL;
}

static const char *parse_pty(const char *rest, struct request_head *head)
{
    uint32_t numbers[3];
    static const uint32_t maxima[3] = {65535, 65535, REQUEST_MAX_PAYLOAD};
    if (!parse_numbers(rest, 3, maxima, numbers) || numbers[0] == 0 || numbers[1] == 0)
        return "PTY wants <cols> <rows> <bytes>";
    head->cols = (uint16_t)numbers[0];
    head->rows = (uint16_t)numbers[1];
    head->payload_size = numbers[2];
    return NULL;
}

static const char *parse_run(const char *rest, struct request_head *head)
{
    if (!parse_number(rest, REQUEST_MAX_PAYLOAD, &head->payload_size))
        return "RUN wants a length of at most 1048576";
    return NULL;
}

static const char *parse_ptykill(const char *rest, struct request_head *head)
{
    if (!parse_number(rest, SESSION_NAME_MAX, &head->payload_size) || head->payload_size == 0)
        return "PTYKILL wants the length of a session name";
    return NULL;
}

static const char *parse_ptysession(const char *rest, struct request_head *head)
{
    uint32_t numbers[4];
    static const uint32_t maxima[4] = {65535, 65535, SESSION_NAME_MAX,
                                       REQUEST_MAX_PAYLOAD - SESSION_NAME_MAX};
    if (!parse_numbers(rest, 4, maxima, numbers) || numbers[0] == 0 || numbers[1] == 0 ||
        numbers[2] == 0)
        return "PTYSESSION wants <cols> <rows> <namelen> <cmdlen>";
    head->cols = (uint16_t)numbers[0];
    head->rows = (uint16_t)numbers[1];
    head->name_size = numbers[2];
    head->payload_size = numbers[2] + numbers[3];
    return NULL;
}

const char *request_head_parse(const char *line, struct request_head *head)
{
    static const struct {
        const char *word;
        enum request_kind kind;
        const char *(*parse)(const char *rest, struct request_head *head);
    } requests[] = {
        {"EXEC2 ", REQUEST_EXEC2, parse_exec2},
        {"PTY ", REQUEST_PTY, parse_pty},
        {"RUN ", REQUEST_RUN, parse_run},
        {"PTYKILL ", REQUEST_PTYKILL, parse_ptykill},
        {"PTYSESSION ", REQUEST_PTYSESSION, parse_ptysession},
    };
    memset(head, 0, sizeof *head);
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        size_t size = strlen(requests[i].word);
        if (strncmp(line, requests[i].word, size) != 0)
            continue;
        head->kind = requests[i].kind;
        return requests[i].parse(line + size, head);
    }
    if (strncmp(line, "EXEC ", 5) == 0) {
        head->kind = REQUEST_EXEC;
        head->command = line + 5;
        return NULL;
    }
    if (strcmp(line, "PTYLIST") == 0) {
        head->kind = REQUEST_PTYLIST;
        return NULL;
    }
    return "no such request on this port";
}

bool session_name_is_valid(const char *name)
{
    size_t size = strlen(name);
    if (size < 1 || size > SESSION_NAME_MAX)
        return false;
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    return strspn(name, allowed) == size;
}

/* One more text for a growing, NULL-terminated array. */
static bool add_text(const char ***texts, size_t *count, const char *text)
{
    if ((*count & (*count + 1)) == 0) { /* 0, 1, 3, 7, …: full with its NULL, double it */
        const char **grown = realloc(*texts, (*count * 2 + 2) * sizeof *grown);
        if (grown == NULL)
            return false;
        *texts = grown;
    }
    (*texts)[(*count)++] = text;
    (*texts)[*count] = NULL;
    return true;
}

static const char *parse_flag(const char *value, bool *flag)
{
    *flag = true;
    return strcmp(value, "1") == 0 ? NULL : "a flag of RUN is not 1";
}

static const char *parse_env(const char *value, struct run_request *request)
{
    const char *equals = strchr(value, '=');
    if (equals == NULL || equals == value)
        return "env= wants NAME=VALUE";
    if (request->environment_count >= ENVIRONMENT_MAX)
        return "more than 4096 env=";
    return add_text(&request->environment, &request->environment_count, value) ? NULL : "no memory";
}

static const char *parse_field(const char *key, const char *value, struct run_request *request)
{
    if (strcmp(key, "cmd") == 0)
        return request->command = value, NULL;
    if (strcmp(key, "arg") == 0)
        return add_text(&request->arguments, &request->argument_count, value) ? NULL : "no memory";
    if (strcmp(key, "env") == 0)
        return parse_env(value, request);
    if (strcmp(key, "cwd") == 0)
        return request->cwd = value, *value == '/' ? NULL : "cwd= wants an absolute path";
    if (strcmp(key, "user") == 0)
        return request->user = value, *value != '\0' ? NULL : "user= is empty";
    if (strcmp(key, "pty") == 0)
        return parse_size(value, 'x', &request->cols, &request->rows) ? NULL : "pty= wants COLSxROWS";
    if (strcmp(key, "session") == 0)
        return request->session = value, session_name_is_valid(value) ? NULL : "not a session name";
    if (strcmp(key, "login") == 0)
        return parse_flag(value, &request->login);
    if (strcmp(key, "stdin") == 0)
        return parse_flag(value, &request->with_stdin);
    if (strcmp(key, "attach") == 0)
        return parse_flag(value, &request->attach_only);
    if (strcmp(key, "workload") == 0)
        return parse_flag(value, &request->workload);
    return "RUN has no such field";
}

/* What no single field can tell. */
static const char *check_run_request(const struct run_request *request)
{
    int programs = (request->command != NULL) + (request->arguments != NULL) + request->login;
    if (programs > 1)
        return "RUN wants one of cmd=, arg= and login=";
    if (programs == 0 && request->session == NULL)
        return "RUN has nothing to run";
    if (request->attach_only && request->session == NULL)
        return "attach= wants session=";
    if (request->workload && (request->session == NULL || strcmp(request->session, "main") != 0))
        return "workload= wants session=main";
    if (request->arguments != NULL && request->arguments[0][0] == '\0')
        return "the first arg= is empty";
    return NULL;
}

const char *run_request_parse(const char *payload, size_t size, struct run_request *request)
{
    memset(request, 0, sizeof *request);
    if (size > 0 && payload[size - 1] != '\0')
        return "RUN's last field has no NUL";
    for (size_t used = 0; used < size;) {
        const char *field = payload + used;
        size_t field_size = strlen(field);
        used += field_size + 1;
        const char *equals = memchr(field, '=', field_size);
        char key[16];
        if (equals == NULL || (size_t)(equals - field) >= sizeof key)
            return "RUN has no such field";
        memcpy(key, field, (size_t)(equals - field));
        key[equals - field] = '\0';
        const char *problem = parse_field(key, equals + 1, request);
        if (problem != NULL)
            return problem;
    }
    return check_run_request(request);
}

void run_request_free(struct run_request *request)
{
    free(request->arguments);
    free(request->environment);
    request->arguments = NULL;
    request->environment = NULL;
}
