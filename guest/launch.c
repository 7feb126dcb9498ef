/* From a checked request to a started process; see services.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"
#include "environment.h"
#include "services.h"

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

int launch(const struct run_request *request, struct process *process)
{
    struct login login;
    const char *shell[4] = {NULL};
    struct process_request started = {
        .with_stdin = request->with_stdin, .cols = request->cols, .rows = request->rows};
    if (request->login)
        login_read(agent_path("/etc/passwd"), &login);
    char **environment = environment_build(request->cols > 0, request->login ? &login : NULL,
                                           request->environment, request->environment_count);
    if (environment == NULL)
        return -ENOMEM;
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
    snprintf(text, 256, "machinen: the command cannot be run: %s\n", reason);
    *exit_code = failure->error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
    return false;
}
