/* The environment of what the agent starts; docs/protocol.md, 3.1. */
#ifndef MACHINEN_ENVIRONMENT_H
#define MACHINEN_ENVIRONMENT_H

#include <stdbool.h>
#include <stddef.h>

/* root's line of /etc/passwd, with fallbacks when there is none. */
struct login {
    char user[64];
    char home[256];
    char shell[256];
    char argument0[64]; /* "-bash" */
};

/* Parse the content of a passwd file for uid 0. */
void login_parse(const char *passwd, struct login *login);
void login_read(const char *path, struct login *login);

/* The web proxy of everything built from here on, NULL: none. The text is kept by reference. */
void environment_set_proxy(const char *url);
/* The base with the proxy, what a terminal and a login add (`login` may be NULL), then the `count` texts of `added` ("K=V").
 * Returns a NULL-terminated array to give to environment_free(), or NULL without memory. */
char **environment_build(bool terminal, const struct login *login, const char *const *added,
                         size_t count);
/* Replace the HOME that every environment has. Returns 0 or -ENOMEM. */
int environment_set_home(char **environment, const char *home);
const char *environment_get(char *const *environment, const char *name);
void environment_free(char **environment);

#endif
