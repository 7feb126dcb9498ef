/* The request lines and fields of ports 1975, 1976 and 1978, and the frames of clients. */
#include "../connect_line.h"
#include "../environment.h"
#include "../files_request.h"
#include "../request.h"
#include "../secrets.h"
#include "check.h"
#include "../user.h"

static void test_numbers_are_plain_decimals(void)
{
    static const char *const wrong[] = {"", "-1", "+1", " 1", "1 ", "0x1", "11", "99999999999999999999"};
    uint32_t number;
    CHECK(parse_number("10", 10, &number) && number == 10);
    CHECK(parse_number("007", 10, &number) && number == 7);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!parse_number(wrong[i], 10, &number));
}

static void test_head_lines(void)
{
    struct request_head head;
    CHECK(request_head_parse("EXEC echo  hi ", &head) == NULL);
    CHECK(head.kind == REQUEST_EXEC && head.payload_size == 0);
    CHECK_TEXT(head.command, "echo  hi ");
    CHECK(request_head_parse("EXEC2 1048576", &head) == NULL && head.payload_size == 1048576);
    CHECK(request_head_parse("PTY 80 24 5", &head) == NULL);
    CHECK(head.cols == 80 && head.rows == 24 && head.payload_size == 5);
    CHECK(request_head_parse("PTYSESSION 1 65535 64 10", &head) == NULL);
    CHECK(head.rows == 65535 && head.name_size == 64 && head.payload_size == 74);
    CHECK(request_head_parse("PTYLIST", &head) == NULL && head.kind == REQUEST_PTYLIST);
    CHECK(request_head_parse("PTYKILL 4", &head) == NULL && head.payload_size == 4);
}

static void test_wrong_head_lines(void)
{
    static const char *const wrong[] = {
        "", "EXEC", "exec ls", "EXEC2", "EXEC2 ", "EXEC2 1048577", "EXEC2 1 ", "PTY 80 24", "PTY 80 24 1 1",
        "PTY 0 24 1", "PTY 80 65536 1", "PTY  80 24 1", "RUN x", "PTYLIST ", "PTYKILL 0",
        "PTYKILL 65", "PTYSESSION 80 24 0 1", "PTYSESSION 80 24 65 1", "PTYSESSION 80 24 1 1048576",
        "PTYSESSION 80 24 1", "PTY 4294967376 24 1"};
    struct request_head head;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(request_head_parse(wrong[i], &head) != NULL);
}

static const char *run(const char *fields, size_t size, struct run_request *request)
{
    const char *problem = run_request_parse(fields, size, request);
    if (problem != NULL)
        run_request_free(request);
    return problem;
}

#define RUN(fields, request) run(fields, sizeof fields, request)

static void test_run_fields(void)
{
    struct run_request request;
    CHECK(RUN("arg=ls\0arg=-l\0arg=\0env=A=1\0env=B=\0cwd=/tmp\0stdin=1\0pty=90x30", &request) == NULL);
    CHECK(request.argument_count == 3 && request.environment_count == 2);
    CHECK_TEXT(request.arguments[1], "-l");
    CHECK(request.arguments[3] == NULL && request.environment[2] == NULL);
    CHECK_TEXT(request.cwd, "/tmp");
    CHECK(request.with_stdin && request.cols == 90 && request.rows == 30);
    run_request_free(&request);
    CHECK(RUN("session=main\0workload=1\0login=1", &request) == NULL);
    CHECK(request.workload && request.login);
    run_request_free(&request);
    CHECK(RUN("session=x\0attach=1", &request) == NULL && request.attach_only);
    run_request_free(&request);
}

static void test_wrong_run_fields(void)
{
    struct run_request request;
    CHECK(run("", 0, &request) != NULL);
    CHECK(run("cmd=x", 5, &request) != NULL); /* no NUL */
    CHECK(RUN("cmd", &request) != NULL);
    CHECK(RUN("=x", &request) != NULL);
    CHECK(RUN("cmd=x\0", &request) != NULL); /* an empty field */
    CHECK(RUN("cmd=x\0averyveryverylongkeyindeed=1", &request) != NULL);
    CHECK(RUN("cmd=x\0arg=y", &request) != NULL);
    CHECK(RUN("arg=", &request) != NULL);
    CHECK(RUN("cmd=x\0stdin=0", &request) != NULL);
    CHECK(RUN("cmd=x\0pty=0x24", &request) != NULL);
    CHECK(RUN("cmd=x\0pty=80x24x1", &request) != NULL);
    CHECK(RUN("cmd=x\0session=", &request) != NULL);
    CHECK(RUN("cmd=x\0session=a b", &request) != NULL);
    CHECK(RUN("cmd=x\0attach=1", &request) != NULL);
    CHECK(RUN("cmd=x\0workload=1", &request) != NULL);
}

static void test_many_fields_are_bounded(void)
{
    static char fields[5000 * 8];
    struct run_request request;
    size_t size = (size_t)sprintf(fields, "cmd=x") + 1;
    for (int i = 0; i < 4096; i++)
        size += (size_t)sprintf(fields + size, "env=A=") + 1;
    CHECK(run(fields, size, &request) == NULL && request.environment_count == 4096);
    run_request_free(&request);
    size += (size_t)sprintf(fields + size, "env=A=") + 1;
    CHECK(run(fields, size, &request) != NULL);
}

/* Feed `text` in pieces of `step`; returns what was seen, one letter an event. */
static const char *client_events(const char *text, size_t size, size_t step)
{
    static char log[256];
    static uint8_t buffer[256];
    struct client_parser parser = {0};
    struct client_event event;
    size_t filled = 0;
    log[0] = '\0';
    for (size_t used = 0; used < size; used += step) {
        size_t take = size - used < step ? size - used : step;
        memcpy(buffer + filled, text + used, take);
        filled += take;
        for (;;) {
            size_t took = client_parse(&parser, buffer, filled, &event);
            if (event.kind == CLIENT_NEEDS_MORE)
                break;
            char *end = log + strlen(log);
            if (event.kind == CLIENT_INPUT)
                sprintf(end, "%.*s", (int)event.size, (const char *)event.data);
            else if (event.kind == CLIENT_CLOSE_STDIN)
                strcpy(end, "<eof>");
            else if (event.kind == CLIENT_RESIZE)
                sprintf(end, "<%ux%u>", event.cols, event.rows);
            else if (event.kind == CLIENT_SIGNAL)
                sprintf(end, "<kill %d>", event.signal);
            else
                return strcat(log, "<bad>");
            memmove(buffer, buffer + took, filled - took);
            filled -= took;
        }
    }
    return log;
}

static void test_client_frames(void)
{
    static const char text[] = "I 5\nI 2\nbR 80 24\nK 15\nI 0\nI 1\nx";
    for (size_t step = 1; step < sizeof text; step++)
        CHECK_TEXT(client_events(text, sizeof text - 1, step), "I 2\nb<80x24><kill 15><eof>x");
    static const char *const wrong[] = {"\n", "I\n", "I 65537\n", "R 80\n", "R 0 1\n", "K 0\n", "K 65\n", "X 1\n",
                                        "I  1\n", "this is a line without an end, and long"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_TEXT(client_events(wrong[i], strlen(wrong[i]), 3), "<bad>");
    CHECK_TEXT(client_events("K 1\0\n", 5, 5), "<bad>");
}

static void test_files_lines(void)
{
    struct files_request request = {0};
    CHECK(files_request_line(&request, "EXCLUDE *.log") == NULL && request.kind == FILES_EXCLUDE);
    CHECK_TEXT(request.excludes[0], "--exclude=*.log");
    CHECK(files_request_line(&request, "PUSH /x") != NULL); /* EXCLUDE is for PULL */
    CHECK(files_request_line(&request, "PUT /x") != NULL);
    CHECK(files_request_line(&request, "PULL /x y") == NULL && request.kind == FILES_PULL);
    CHECK_TEXT(request.path, "/x y");
    CHECK(files_request_line(&request, "PULL x") != NULL);
    CHECK(files_request_line(&request, "PULL ") != NULL);
    CHECK(files_request_line(&request, "EXCLUDE ") != NULL);
    CHECK(files_request_line(&request, "pull /x") != NULL);
    for (int i = 1; i < FILES_MAX_EXCLUDES; i++)
        CHECK(files_request_line(&request, "EXCLUDE x") == NULL);
    CHECK(files_request_line(&request, "EXCLUDE x") != NULL);
    files_request_free(&request);
    CHECK(files_request_line(&request, "PUSH /x") == NULL && request.kind == FILES_PUSH);
    CHECK(files_request_line(&request, "PUT /x y") == NULL && request.kind == FILES_PUT);
    CHECK(strcmp(request.path, "/x y") == 0 && files_request_line(&request, "PUT x") != NULL);
}

static void test_messages_of_tar(void)
{
    CHECK(tar_only_saw_changes("tar: ./a: file changed as we read it\n"
                               "tar: ./b: File removed before we read it\n"));
    CHECK(!tar_only_saw_changes("tar: ./a: file changed as we read it\ntar: ./c: Cannot open\n"));
    CHECK(!tar_only_saw_changes(""));
}

static void test_secrets(void)
{
    static const char lines[] = "A=1\n\n B_2= x y \t\r\n3C=x\nD\n=y\nE-F=1\nG=\0z\nH==\n_=last";
    struct bytes kept = {0};
    size_t count;
    CHECK(secrets_filter(lines, sizeof lines - 1, &kept, &count) == 0);
    CHECK(count == 4);
    CHECK(bytes_append(&kept, "", 1) == 0);
    CHECK_TEXT((const char *)bytes_data(&kept), "A=1\nB_2= x y\nH==\n_=last\n");
    bytes_free(&kept);
}

static void test_passwd(void)
{
    struct login login;
    login_parse("daemon:x:1:1::/:/bin/no\nadmin:x:0:0:a:/home/a:/bin/zsh\nroot:x:0:0::/r:/bin/b\n", &login);
    CHECK_TEXT(login.user, "admin");
    CHECK_TEXT(login.home, "/home/a");
    CHECK_TEXT(login.shell, "/bin/zsh");
    CHECK_TEXT(login.argument0, "-zsh");
    static const char *const poor[] = {"", "root", "root:x:0:0", "root:x:0:0:::", "a:b:c:d:e:f:g", "\n\n:::::",
                                       "root:x:00:0::/a:/b\n"};
    for (size_t i = 0; i < sizeof poor / sizeof poor[0]; i++) {
        login_parse(poor[i], &login);
        CHECK_TEXT(login.home, "/root");
        CHECK_TEXT(login.argument0, "-sh");
    }
}

static void test_environment(void)
{
    const char *added[] = {"PATH=/x", "A=1", "A=2", "AB=3"};
    struct login login;
    login_parse("root:x:0:0::/home/r:/bin/bash", &login);
    char **environment = environment_build(true, &login, added, 4);
    CHECK(environment != NULL);
    CHECK_TEXT(environment_get(environment, "PATH"), "/x");
    CHECK_TEXT(environment_get(environment, "A"), "2");
    CHECK_TEXT(environment_get(environment, "HOME"), "/home/r");
    CHECK_TEXT(environment_get(environment, "SHELL"), "/bin/bash");
    CHECK_TEXT(environment_get(environment, "TERM"), "xterm-256color");
    CHECK(environment_get(environment, "B") == NULL);
    environment_free(environment);
}

static void test_environment_with_a_proxy(void)
{
    const char *added[] = {"HTTP_PROXY=mine"};
    environment_set_proxy("http://127.0.0.1:3128");
    char **environment = environment_build(false, NULL, added, 1);
    environment_set_proxy(NULL);
    CHECK(environment != NULL);
    CHECK_TEXT(environment_get(environment, "http_proxy"), "http://127.0.0.1:3128");
    CHECK_TEXT(environment_get(environment, "https_proxy"), "http://127.0.0.1:3128");
    CHECK_TEXT(environment_get(environment, "HTTP_PROXY"), "mine");
    CHECK_TEXT(environment_get(environment, "no_proxy"), "localhost,127.0.0.1,::1");
    environment_free(environment);
    environment = environment_build(false, NULL, NULL, 0);
    CHECK(environment != NULL && environment_get(environment, "http_proxy") == NULL);
    environment_free(environment);
}

static int connect_line(const char *text, uint32_t *port)
{
    return connect_line_parse(text, strlen(text), port);
}

static void test_connect_lines(void)
{
    static const char *const wrong[] = {
        "\n", "CONNECT \n", "CONNECT\n", "connect 1\n", "CONNECT -1\n", "CONNECT 1 \n", "CONNECT  1\n",
        "CONNECT 4294967296\n", "CONNECT \r\n", "CONNECT 00000000000000000000000000000000000000",
        "GET / HTTP/1.1\r\nHost: a-name-of-some-length\r\n"};
    uint32_t port = 0;
    CHECK(connect_line("CONNECT 5000\nrest", &port) == 13 && port == 5000);
    CHECK(connect_line("CONNECT 4294967295\r\n", &port) == 20 && port == 4294967295);
    CHECK(connect_line("", &port) == 0 && connect_line("CONNECT 50", &port) == 0);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(connect_line(wrong[i], &port) < 0);
}

static void test_users(void)
{
    static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:,,,:/srv/app:/bin/sh\n"
                                 "bad:x:oops:1:::\nshort:x\n12:x:7:8::/twelve:";
    static const char group[] = "root:x:0:\nweb:x:33:app\n";
    static const char *const wrong[] = {"", ":", "nobody", "bad", "short", "app:", "app:nogroup",
                                        "-1", "4294967296", "99999999999999999999", "app:web:x"};
    struct user user;
    CHECK(user_parse("app", passwd, group, &user) && user.uid == 1000 && user.gid == 1001);
    CHECK_TEXT(user.home, "/srv/app");
    CHECK(user_parse("1000:web", passwd, group, &user) && user.uid == 1000 && user.gid == 33);
    CHECK_TEXT(user.home, "/srv/app");
    CHECK(user_parse("5:6", "", "", &user) && user.uid == 5 && user.gid == 6);
    CHECK_TEXT(user.home, "/");
    CHECK(user_parse("12", passwd, group, &user) && user.uid == 7); /* a name goes first */
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!user_parse(wrong[i], passwd, group, &user));
}

int main(void)
{
    test_users();
    test_numbers_are_plain_decimals();
    test_head_lines();
    test_wrong_head_lines();
    test_run_fields();
    test_wrong_run_fields();
    test_many_fields_are_bounded();
    test_client_frames();
    test_files_lines();
    test_messages_of_tar();
    test_secrets();
    test_passwd();
    test_environment();
    test_environment_with_a_proxy();
    test_connect_lines();
    return 0;
}
