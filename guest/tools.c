/* See tools.h. */
#include "tools.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io.h"

enum { LOG_MAX = 1 << 20 };

static const char *helper = "machinen";

int tool_fail(const char *format, ...)
{
    va_list values;
    fprintf(stderr, "%s: ", helper);
    va_start(values, format);
    vfprintf(stderr, format, values);
    va_end(values);
    fputc('\n', stderr);
    return 1;
}

static const char *const names[] = {"machinen-dump", "machinen-restore", "machinen-remount",
                                    "machinen-poweroff"};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

void tools_install(void)
{
    char program[64], path[96];
    make_directories(TOOLS_DIRECTORY, 0755);
    snprintf(program, sizeof program, "/proc/%d/exe", getpid());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, TOOLS_DIRECTORY "/%s", names[i]);
        if (symlink(program, path) < 0 && errno != EEXIST)
            return;
        char link[64];
        snprintf(link, sizeof link, "/sbin/%s", names[i]);
        /* An image may bring a helper of its own, and a root may be read-only: both are fine. */
        if (symlink(path, link) < 0 && errno != EEXIST && errno != EROFS && errno != ENOENT)
            fprintf(stderr, "machinen-agent: making %s failed: %s\n", link, strerror(errno));
    }
    static const char *const fifos[] = {RESTORE_GO, RESTORE_STATUS, DUMP_HELD, DUMP_GO};
    for (size_t i = 0; i < sizeof fifos / sizeof fifos[0]; i++)
        if (mkfifo(fifos[i], 0600) < 0 && errno != EEXIST)
            fprintf(stderr, "machinen-agent: making %s failed: %s\n", fifos[i], strerror(errno));
}

int tools_run(int count, char **arguments)
{
    helper = base_name(arguments[0]);
    /* CRIU's action script is a path alone, and no link of ours is there in every namespace: it is /proc/<pid>/exe. */
    if (strcmp(helper, "exe") == 0 && getenv("CRTOOLS_SCRIPT_ACTION") != NULL)
        return getenv(RESTORE_TCP_CLOSE) == NULL ? tool_dump_files() : tool_restore_connections();
    if (strcmp(helper, names[0]) == 0)
        return tool_dump(count, arguments);
    if (strcmp(helper, names[1]) == 0)
        return tool_restore(count, arguments);
    if (strcmp(helper, names[2]) == 0)
        return tool_remount();
    if (strcmp(helper, names[3]) == 0)
        return tool_poweroff();
    return -1;
}

int tool_spawn(const char *const *arguments, int stdout_fd)
{
    int status;
    pid_t pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0) {
        dup2(stdout_fd, STDOUT_FILENO);
        execvp(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return status;
}

bool tool_has_program(const char *name)
{
    char path[4096];
    const char *search = getenv("PATH");
    while (search != NULL && *search != '\0') {
        size_t size = strcspn(search, ":");
        snprintf(path, sizeof path, "%.*s/%s", (int)size, search, name);
        if (access(path, X_OK) == 0)
            return true;
        search += size + (search[size] == ':');
    }
    return false;
}

void tool_log_errors(const char *path, char *text, size_t capacity)
{
    char *log = malloc(LOG_MAX);
    size_t used = 0;
    text[0] = '\0';
    if (log != NULL && read_text_file(path, log, LOG_MAX) > 0) {
        for (char *rest = log, *line; (line = strsep(&rest, "\n")) != NULL;) {
            size_t size = strlen(line);
            if (strstr(line, "Error") == NULL || size + 2 > capacity)
                continue;
            if (used + size + 2 > capacity) /* the last ones tell more than the first */
                used = 0;
            used += (size_t)snprintf(text + used, capacity - used, "%s\n", line);
        }
    }
    free(log);
}

void tool_remove_directory(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(directory), entry->d_name, 0);
    closedir(directory);
    rmdir(path);
}

/* Look at every live mount, so that one whose host side is gone is named here and not met by the workload. */
int tool_remount(void)
{
    FILE *mounts = setmntent("/proc/self/mounts", "r");
    int failed = 0;
    if (mounts == NULL)
        return tool_fail("reading /proc/self/mounts failed: %s", strerror(errno));
    for (struct mntent *mount; (mount = getmntent(mounts)) != NULL;) {
        struct statvfs found;
        if (strncmp(mount->mnt_type, "fuse", 4) != 0 || strncmp(mount->mnt_dir, "/mnt/", 5) != 0)
            continue;
        if (statvfs(mount->mnt_dir, &found) < 0)
            failed = tool_fail("the live mount %s does not answer: %s", mount->mnt_dir,
                               strerror(errno));
        else
            printf("%s\n", mount->mnt_dir);
    }
    endmntent(mounts);
    return failed;
}

/* End the workload and power off, as the host's POWEROFF does: the agent is told, and ends. */
int tool_poweroff(void)
{
    char path[4096], *number = path + strlen("/proc/");
    ssize_t size = readlink(TOOLS_DIRECTORY "/machinen-poweroff", path, sizeof path - 1);
    if (size < 0)
        return tool_fail("there is no agent: %s", strerror(errno));
    path[size] = '\0';
    if (strncmp(path, "/proc/", strlen("/proc/")) != 0 || kill(atoi(number), SIGTERM) < 0)
        return tool_fail("the agent cannot be reached through %s", path);
    return 0;
}
