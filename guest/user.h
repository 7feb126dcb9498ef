/* Whom a process shall run as. Pure: runs under unit tests. */
#ifndef MACHINEN_USER_H
#define MACHINEN_USER_H

#include <stdbool.h>
#include <sys/types.h>

struct user {
    uid_t uid;
    gid_t gid;
    char home[256];
};

/*
 * Resolve "user", "uid", "user:group", … against the texts of passwd(5) and group(5). A number needs no line there: its
 * group is 0 and its home / then. False if a name has no line.
 */
bool user_parse(const char *text, const char *passwd, const char *group, struct user *user);

#endif
