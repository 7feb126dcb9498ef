/* From a checked request to a started process; see services.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent.h"
#include "environment.h"
#include "io.h"
#include "services.h"
#include "user.h"

/* Fill what depends on the kind of request: cmd=, arg= or login=. `shell` has room for four. */
static void choose_program(const struct run_request *request, const struct login *login,
                           const char **shell, struct process_request *started)
{
    started->arguments = shell;
    if (request->login) {
        shell[0] = login->argument0;
        started->program = login->shell;
    } else if (request->command != NULL) {
        shell[0] = "/bin/sh";
        shell[1] = "-c";
        shell[2] = request->command;
        started->program = shell[0];
    } else {
        started->arguments = (const char *const *)request->arguments;
        started->program = request->arguments[0];
    }
}

static bool names_home(const struct run_request *request)
{
    for (size_t i = 0; i < request->environment_count; i++)
        if (strncmp(request->environment[i], "HOME=", strlen("HOME=")) == 0)
            return true;
    return false;
}

/* Whom user= means; root decides what stands in these files. */
static int user_read(const char *text, struct user *user)
{
    enum { FILE_MAX = 262144 };
    char *passwd = calloc(1, FILE_MAX), *group = calloc(1, FILE_MAX);
    int result = passwd == NULL || group == NULL ? -ENOMEM : 0;
    if (result == 0) {
        if (read_text_file(agent_path("/etc/passwd"), passwd, FILE_MAX) < 0)
            passwd[0] = '\0';
        if (read_text_file(agent_path("/etc/group"), group, FILE_MAX) < 0)
            group[0] = '\0';
        result = user_parse(text, passwd, group, user) ? 0 : -ENOENT;
    }
    free(passwd);
    free(group);
    return result;
}

int launch(const struct run_request *request, struct process *process)
{
    struct login login;
    const char *shell[4] = {NULL};
    struct process_request started = {
        .with_stdin = request->with_stdin, .cols = request->cols, .rows = request->rows};
    if (request->login)
        login_read(agent_path("/etc/passwd"), &login);
    struct user user = {0};
    if (request->user != NULL) {
        int found = user_read(request->user, &user);
        if (found < 0)
            return found;
        started.change_user = true;
        started.uid = user.uid;
        started.gid = user.gid;
    }
    char **environment = environment_build(request->cols > 0, request->login ? &login : NULL,
                                           request->environment, request->environment_count);
    if (environment == NULL)
        return -ENOMEM;
    if (request->user != NULL && !names_home(request)) {
        int result = environment_set_home(environment, user.home);
        if (result < 0) {
            environment_free(environment);
            return result;
        }
    }
    choose_program(request, &login, shell, &started);
    started.environment = environment;
    started.cwd = request->cwd;
    if (started.cwd == NULL) {
        const char *home = environment_get(environment, "HOME");
        started.cwd = home != NULL && home[0] == '/' ? home : "/";
        started.cwd_is_optional = true;
    }
    int result = process_start(&started, process);
    environment_free(environment);
    return result;
}

void stream_fail(struct stream *stream, const char *code, const char *message)
{
    char text[320];
    int size = snprintf(text, sizeof text, "%s %s", code, message);
    stream_write_tagged(stream, 'F', text,
                        (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
    stream_finish(stream);
}

bool stream_fail_to_start(struct stream *stream, const struct process_failure *failure,
                          char text[256], int *exit_code)
{
    const char *reason = strerror(failure->error);
    if (failure->stage == STAGE_CWD) {
        stream_fail(stream, "CWD_INVALID", reason);
        return true;
    }
    if (failure->stage != STAGE_EXEC) {
        stream_fail(stream, "SPAWN_FAILED", reason);
        return true;
    }
    snprintf(text, 256, "machinen: %s cannot be run: %s\n", failure->program, reason);
    *exit_code = failure->error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
    return false;
}
