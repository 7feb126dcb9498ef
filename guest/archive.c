/* See archive.h. */
#include "archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "archive_header.h"
#include "archive_links.h"
#include "bytes.h"

enum { COPY_SIZE = 262144, ATTRIBUTES_MAX = 65536 /* XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux */ };

static struct {
    char path[PATH_MAX + 2]; /* of what is being written, "./…" */
    size_t path_size;
    dev_t file_system;
    char *const *excludes;
    int exclude_count;
    uint8_t *buffer; /* COPY_SIZE bytes */
} archive;

static int write_directory(int directory_fd);

/* Remember the failure's place once, on the way out. */
static int fail(const char *what, int error)
{
    fprintf(stderr, "%s: %s: %s\n", archive.path, what, strerror(error));
    return -1;
}

static int put(const void *data, size_t size)
{
    return size == 0 || fwrite(data, size, 1, stdout) == 1 ? 0 : fail("writing", errno);
}

static int put_padding(uint64_t size)
{
    static const uint8_t zeros[ARCHIVE_BLOCK];
    return put(zeros, -size % ARCHIVE_BLOCK);
}

/* `suffix` is "" or "/": whether to leave out what the path names, or all that is in it. */
static bool is_excluded(const char *suffix)
{
    const char *relative = archive.path + strlen("./");
    size_t size = strlen(relative);
    for (int i = 0; i < archive.exclude_count; i++) {
        const char *excluded = archive.excludes[i] + strlen("--exclude=");
        if (strncmp(excluded, relative, size) == 0 && strcmp(excluded + size, suffix) == 0)
            return true;
    }
    return false;
}

/* -- one member --------------------------------------------------------------------------------- */

/* The extended attributes of `name` as records; a file system without any has none. */
static int read_attributes(int directory_fd, const char *name, struct bytes *records)
{
    static char names[ATTRIBUTES_MAX], value[ATTRIBUTES_MAX];
    char path[NAME_MAX + 64], key[XATTR_NAME_MAX + 32];
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", directory_fd, name);
    ssize_t size = llistxattr(path, names, sizeof names);
    if (size < 0)
        return errno == ENOTSUP || errno == ENOENT ? 0 : fail("listing attributes", errno);
    for (char *next = names; next < names + size; next += strlen(next) + 1) {
        ssize_t value_size = lgetxattr(path, next, value, sizeof value);
        if (value_size < 0 && errno == ENODATA)
            continue;
        if (value_size < 0)
            return fail("reading an attribute", errno);
        snprintf(key, sizeof key, "SCHILY.xattr.%.255s", next); /* XATTR_NAME_MAX */
        if (archive_add_record(records, key, value, (size_t)value_size) < 0)
            return fail("reading an attribute", ENOMEM);
    }
    return 0;
}

static int put_headers(int directory_fd, const char *name, const struct archive_member *member)
{
    struct bytes records = {0}, headers = {0};
    int result = 0;
    if (member->type != '1')
        result = read_attributes(directory_fd, name, &records);
    if (result == 0 && archive_add_headers(&headers, member, &records) < 0)
        result = fail("writing", ENOMEM);
    if (result == 0)
        result = put(bytes_data(&headers), headers.size);
    bytes_free(&records);
    bytes_free(&headers);
    return result;
}

/* Exactly `size` bytes: a file that shrinks meanwhile is filled up with zeros, one that grows is cut. */
static int put_contents(int fd, uint64_t size)
{
    for (uint64_t left = size; left > 0;) {
        size_t wanted = left < COPY_SIZE ? (size_t)left : COPY_SIZE;
        ssize_t got = read(fd, archive.buffer, wanted);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail("reading", errno);
        if (got == 0) {
            memset(archive.buffer, 0, wanted);
            got = (ssize_t)wanted;
        }
        if (put(archive.buffer, (size_t)got) < 0)
            return -1;
        left -= (uint64_t)got;
    }
    return put_padding(size);
}

static int write_file(int directory_fd, const char *name, const struct stat *status)
{
    int fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : fail("opening", errno);
    struct archive_member member = {.path = archive.path, .type = '0', .status = status,
                                    .size = (uint64_t)status->st_size};
    int result = put_headers(directory_fd, name, &member);
    if (result == 0)
        result = put_contents(fd, member.size);
    close(fd);
    return result;
}

static int write_symbolic_link(int directory_fd, const char *name, const struct stat *status)
{
    char target[PATH_MAX];
    ssize_t size = readlinkat(directory_fd, name, target, sizeof target - 1);
    if (size < 0)
        return errno == ENOENT ? 0 : fail("reading the link", errno);
    target[size] = '\0';
    struct archive_member member = {
        .path = archive.path, .link_target = target, .type = '2', .status = status};
    return put_headers(directory_fd, name, &member);
}

static int write_subdirectory(int directory_fd, const char *name, const struct stat *status)
{
    int fd = openat(directory_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : fail("opening", errno);
    bool is_empty = status->st_dev != archive.file_system || is_excluded("/");
    strcpy(archive.path + archive.path_size++, "/");
    struct archive_member member = {.path = archive.path, .type = '5', .status = status};
    int result = put_headers(directory_fd, name, &member);
    if (result == 0 && !is_empty)
        return write_directory(fd);
    close(fd);
    return result;
}

static int write_special(int directory_fd, const char *name, const struct stat *status)
{
    mode_t mode = status->st_mode;
    struct archive_member member = {.path = archive.path, .status = status,
                                    .type = S_ISCHR(mode) ? '3' : S_ISBLK(mode) ? '4' : '6'};
    return put_headers(directory_fd, name, &member);
}

/* A socket is nobody's without the process that listens on it, so it is left out. */
static int write_member(int directory_fd, const char *name)
{
    struct stat status;
    if (is_excluded(""))
        return 0;
    if (fstatat(directory_fd, name, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : fail("looking", errno);
    if (S_ISSOCK(status.st_mode))
        return 0;
    if (S_ISDIR(status.st_mode))
        return write_subdirectory(directory_fd, name, &status);
    if (status.st_nlink > 1) {
        const char *first = archive_first_link(&status, archive.path);
        if (first == NULL)
            return fail("remembering a link", ENOMEM);
        struct archive_member link = {
            .path = archive.path, .link_target = first, .type = '1', .status = &status};
        if (first != archive.path)
            return put_headers(directory_fd, name, &link);
    }
    if (S_ISREG(status.st_mode))
        return write_file(directory_fd, name, &status);
    if (S_ISLNK(status.st_mode))
        return write_symbolic_link(directory_fd, name, &status);
    return write_special(directory_fd, name, &status);
}

/* -- the tree ----------------------------------------------------------------------------------- */

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void free_names(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
}

/* The names in a directory, sorted by their bytes. Returns their number or -1. */
static ssize_t read_names(DIR *directory, char ***sorted)
{
    char **names = NULL;
    size_t count = 0;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL; errno = 0) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if ((count & (count - 1)) == 0) { /* 0, 1, 2, 4, …: full */
            char **grown = realloc(names, (count == 0 ? 1 : count * 2) * sizeof *grown);
            if (grown == NULL)
                break;
            names = grown;
        }
        if ((names[count] = strdup(entry->d_name)) == NULL)
            break;
        count++;
    }
    if (errno != 0) {
        fail("reading the directory", errno);
        free_names(names, count);
        return -1;
    }
    if (count > 0)
        qsort(names, count, sizeof *names, compare_names);
    *sorted = names;
    return (ssize_t)count;
}

/* Write all that is in the directory whose path is archive.path. Takes the descriptor over. */
static int write_directory(int directory_fd)
{
    DIR *directory = fdopendir(directory_fd);
    char **names = NULL;
    if (directory == NULL) {
        close(directory_fd);
        return fail("opening", errno);
    }
    ssize_t count = read_names(directory, &names);
    size_t parent_size = archive.path_size;
    int result = count < 0 ? -1 : 0;
    for (ssize_t i = 0; result == 0 && i < count; i++) {
        size_t size = strlen(names[i]);
        if (parent_size + size + 2 > sizeof archive.path) {
            result = fail(names[i], ENAMETOOLONG);
            break;
        }
        memcpy(archive.path + parent_size, names[i], size + 1);
        archive.path_size = parent_size + size;
        result = write_member(directory_fd, names[i]);
        archive.path_size = parent_size;
        archive.path[parent_size] = '\0';
    }
    if (count > 0)
        free_names(names, (size_t)count);
    closedir(directory);
    return result;
}

static int write_root(const char *path)
{
    static const uint8_t end[2 * ARCHIVE_BLOCK];
    struct stat status;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    strcpy(archive.path, "./");
    archive.path_size = 2;
    if (fd < 0 || fstat(fd, &status) < 0)
        return fail(path, errno);
    archive.file_system = status.st_dev;
    struct archive_member member = {.path = "./", .type = '5', .status = &status};
    if (put_headers(fd, ".", &member) < 0 || write_directory(fd) < 0)
        return -1;
    return put(end, sizeof end);
}

int archive_main(int count, char **arguments)
{
    static char output[COPY_SIZE];
    archive.buffer = malloc(COPY_SIZE);
    if (count < 1 || archive.buffer == NULL) {
        fprintf(stderr, "usage: agent --archive DIR [--exclude=PATH]...\n");
        return 2;
    }
    archive.excludes = arguments + 1;
    archive.exclude_count = count - 1;
    setvbuf(stdout, output, _IOFBF, sizeof output);
    int result = write_root(arguments[0]);
    if (fflush(stdout) != 0)
        result = fail("writing", errno);
    free(archive.buffer);
    archive_forget_links();
    return result == 0 ? 0 : 1;
}
