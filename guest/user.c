/* See user.h. glibc's getpwnam() is not for static binaries. */
#include "user.h"

#include <stdint.h>
#include <string.h>

#include "request.h"

enum { NAME_SIZE = 64, HIGHEST_ID = INT32_MAX };

/* Copy field `index` of a line of fields separated by ':'. False if the line is too short or the field too long. */
static bool take_field(const char *line, int index, char *to, size_t capacity)
{
    for (; index > 0; index--) {
        line += strcspn(line, ":\n");
        if (*line++ != ':')
            return false;
    }
    size_t size = strcspn(line, ":\n");
    if (size >= capacity)
        return false;
    memcpy(to, line, size);
    to[size] = '\0';
    return true;
}

/* The line whose field `index` is `wanted`, or NULL. */
static const char *find_line(const char *lines, int index, const char *wanted)
{
    char field[NAME_SIZE];
    for (const char *line = lines; *line != '\0'; line += *line == '\n') {
        if (take_field(line, index, field, sizeof field) && strcmp(field, wanted) == 0)
            return line;
        line += strcspn(line, "\n");
    }
    return NULL;
}

static bool field_number(const char *line, int index, uint32_t *number)
{
    char field[NAME_SIZE];
    return take_field(line, index, field, sizeof field) && parse_number(field, HIGHEST_ID, number);
}

/* group(5): name:password:gid:members */
static bool parse_group(const char *text, const char *group, gid_t *gid)
{
    uint32_t number;
    const char *line = find_line(group, 0, text);
    if (line == NULL ? !parse_number(text, HIGHEST_ID, &number) : !field_number(line, 2, &number))
        return false;
    *gid = number;
    return true;
}

bool user_parse(const char *text, const char *passwd, const char *group, struct user *user)
{
    char name[NAME_SIZE];
    uint32_t uid, gid = 0;
    if (!take_field(text, 0, name, sizeof name) || name[0] == '\0')
        return false;
    *user = (struct user){.home = "/"};
    const char *line = find_line(passwd, 0, name);
    if (line == NULL) {
        if (!parse_number(name, HIGHEST_ID, &uid))
            return false;
        line = find_line(passwd, 2, name);
    } else if (!field_number(line, 2, &uid)) {
        return false;
    }
    if (line != NULL) {
        if (!field_number(line, 3, &gid))
            return false;
        if (!take_field(line, 5, user->home, sizeof user->home) || user->home[0] != '/')
            strcpy(user->home, "/");
    }
    user->uid = uid;
    user->gid = gid;
    const char *colon = strchr(text, ':');
    return colon == NULL || parse_group(colon + 1, group, &user->gid);
}
