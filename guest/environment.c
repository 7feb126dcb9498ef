/* See environment.h. glibc's getpwnam() is not for static binaries, so passwd is parsed here. */
#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

enum { BASE_ENTRIES = 14, PASSWD_MAX = 65536 };

/* Copy the field up to the next ':' or line end; returns what follows it, or NULL after the last one. */
static const char *take_field(const char *from, char *to, size_t capacity)
{
    size_t size = strcspn(from, ":\n");
    size_t copied = size < capacity ? size : capacity - 1;
    memcpy(to, from, copied);
    to[copied] = '\0';
    return from[size] == ':' ? from + size + 1 : NULL;
}

/* name:password:uid:gid:gecos:home:shell */
static bool parse_line(const char *line, struct login *login)
{
    char uid[16], skipped[16];
    struct login found = {0};
    const char *next = take_field(line, found.user, sizeof found.user);
    next = next == NULL ? NULL : take_field(next, skipped, sizeof skipped);
    next = next == NULL ? NULL : take_field(next, uid, sizeof uid);
    if (next == NULL || strcmp(uid, "0") != 0)
        return false;
    next = take_field(next, skipped, sizeof skipped);
    next = next == NULL ? NULL : take_field(next, skipped, sizeof skipped);
    if (next == NULL)
        return false;
    next = take_field(next, found.home, sizeof found.home);
    if (next != NULL)
        take_field(next, found.shell, sizeof found.shell);
    if (found.home[0] == '/')
        strcpy(login->home, found.home);
    if (found.shell[0] == '/')
        strcpy(login->shell, found.shell);
    strcpy(login->user, found.user);
    return true;
}

void login_parse(const char *passwd, struct login *login)
{
    *login = (struct login){.user = "root", .home = "/root", .shell = "/bin/sh"};
    for (const char *line = passwd; line != NULL && *line != '\0';) {
        if (parse_line(line, login))
            break;
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    const char *name = strrchr(login->shell, '/') + 1;
    snprintf(login->argument0, sizeof login->argument0, "-%.62s", name);
}

void login_read(const char *path, struct login *login)
{
    char *text = malloc(PASSWD_MAX);
    if (text == NULL || read_text_file(path, text, PASSWD_MAX) < 0)
        login_parse("", login);
    else
        login_parse(text, login);
    free(text);
}

/* Replace the entry of the same name, or append. `entry` is copied. */
static bool set_entry(char **environment, size_t *filled, const char *entry)
{
    size_t name_size = strcspn(entry, "=") + 1;
    char *copy = strdup(entry);
    if (copy == NULL)
        return false;
    for (size_t i = 0; i < *filled; i++) {
        if (strncmp(environment[i], entry, name_size) == 0) {
            free(environment[i]);
            environment[i] = copy;
            return true;
        }
    }
    environment[(*filled)++] = copy;
    return true;
}

static bool set_login(char **environment, size_t *filled, const struct login *login)
{
    const struct {
        const char *name;
        const char *value;
    } entries[] = {{"HOME", login->home}, {"SHELL", login->shell}, {"USER", login->user},
                   {"LOGNAME", login->user}};
    for (size_t i = 0; i < sizeof entries / sizeof entries[0]; i++) {
        char entry[300];
        snprintf(entry, sizeof entry, "%s=%s", entries[i].name, entries[i].value);
        if (!set_entry(environment, filled, entry))
            return false;
    }
    return true;
}

static const char *proxy_url;

void environment_set_proxy(const char *url)
{
    proxy_url = url;
}

/* Programs disagree on the case of these names: curl reads http_proxy only in lower case, others want upper. */
static bool set_proxy(char **environment, size_t *filled)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"};
    if (proxy_url == NULL)
        return true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char entry[128];
        snprintf(entry, sizeof entry, "%s=%s", names[i], proxy_url);
        if (!set_entry(environment, filled, entry))
            return false;
    }
    return set_entry(environment, filled, "no_proxy=localhost,127.0.0.1,::1") &&
           set_entry(environment, filled, "NO_PROXY=localhost,127.0.0.1,::1");
}

char **environment_build(bool terminal, const struct login *login, const char *const *added,
                         size_t count)
{
    static const char *const base[] = {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
        "TERM=xterm-256color", "LANG=C.UTF-8"};
    size_t filled = 0;
    char **environment = calloc(BASE_ENTRIES + count + 1, sizeof *environment);
    bool fine = environment != NULL;
    for (size_t i = 0; fine && i < (terminal ? 4 : 2); i++)
        fine = set_entry(environment, &filled, base[i]);
    fine = fine && set_proxy(environment, &filled);
    if (fine && login != NULL)
        fine = set_login(environment, &filled, login);
    for (size_t i = 0; fine && i < count; i++)
        fine = set_entry(environment, &filled, added[i]);
    if (fine)
        return environment;
    environment_free(environment);
    return NULL;
}

int environment_set_home(char **environment, const char *home)
{
    size_t filled = 0;
    char entry[300];
    while (environment[filled] != NULL)
        filled++;
    snprintf(entry, sizeof entry, "HOME=%s", home);
    return set_entry(environment, &filled, entry) ? 0 : -ENOMEM;
}

const char *environment_get(char *const *environment, const char *name)
{
    size_t size = strlen(name);
    for (; *environment != NULL; environment++)
        if (strncmp(*environment, name, size) == 0 && (*environment)[size] == '=')
            return *environment + size + 1;
    return NULL;
}

void environment_free(char **environment)
{
    for (char **entry = environment; entry != NULL && *entry != NULL; entry++)
        free(*entry);
    free(environment);
}
