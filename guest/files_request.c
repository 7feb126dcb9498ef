/* See files_request.h. */
#include "files_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *take_path(struct files_request *request, const char *path)
{
    if (path[0] != '/')
        return "the path is not absolute";
    if (strlen(path) >= sizeof request->path)
        return "the path is too long";
    strcpy(request->path, path);
    return NULL;
}

static const char *take_exclude(struct files_request *request, const char *pattern)
{
    if (pattern[0] == '\0')
        return "EXCLUDE wants a pattern";
    if (request->exclude_count == FILES_MAX_EXCLUDES)
        return "more than 256 EXCLUDE lines";
    size_t size = strlen(pattern) + sizeof "--exclude=";
    char *argument = malloc(size);
    if (argument == NULL)
        return "the guest is out of memory";
    snprintf(argument, size, "--exclude=%s", pattern);
    request->excludes[request->exclude_count++] = argument;
    request->kind = FILES_EXCLUDE;
    return NULL;
}

const char *files_request_line(struct files_request *request, const char *line)
{
    if (strncmp(line, "EXCLUDE ", 8) == 0)
        return take_exclude(request, line + 8);
    if (strncmp(line, "PUSH ", 5) == 0 && request->exclude_count == 0) {
        request->kind = FILES_PUSH;
        return take_path(request, line + 5);
    }
    if (strncmp(line, "PUT ", 4) == 0 && request->exclude_count == 0) {
        request->kind = FILES_PUT;
        return take_path(request, line + 4);
    }
    if (strncmp(line, "PULL ", 5) == 0) {
        request->kind = FILES_PULL;
        return take_path(request, line + 5);
    }
    if (strncmp(line, "ARCHIVE ", 8) == 0) {
        request->kind = FILES_ARCHIVE;
        return take_path(request, line + 8);
    }
    return "the first line is PUSH <path>, PUT <path>, PULL <path>, ARCHIVE <path> or EXCLUDE <pattern>";
}

void files_request_free(struct files_request *request)
{
    for (size_t i = 0; i < request->exclude_count; i++)
        free(request->excludes[i]);
    request->exclude_count = 0;
}

static bool ends_with(const char *line, size_t size, const char *end)
{
    size_t end_size = strlen(end);
    return size >= end_size && memcmp(line + size - end_size, end, end_size) == 0;
}

bool tar_only_saw_changes(const char *messages)
{
    bool any = false;
    for (const char *line = messages; *line != '\0';) {
        size_t size = strcspn(line, "\n");
        if (size > 0 && !ends_with(line, size, ": file changed as we read it") &&
            !ends_with(line, size, ": File removed before we read it"))
            return false;
        any = any || size > 0;
        line += size + (line[size] == '\n');
    }
    return any;
}
