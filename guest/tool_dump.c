/*
 * machinen-dump [PID]: freeze the workload's process tree (or PID's) with CRIU, let it go on, and write the images to
 * stdout as a tar. With MACHINEN_DUMP_TCP_CLOSE=1 in the environment open TCP connections are not kept.
 *
 * Beside CRIU's own files the archive has SESSION_FILE (key=value lines for machinen-restore) and OPEN_FILES_ARCHIVE: the
 * files the tree has open, or names on a command line, which are not as the image has them. They are packed while the
 * tree is still frozen. Connections are always dumped; machinen-restore resets those that shall not go on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io.h"
#include "process_tree.h"
#include "tool_preflight.h"
#include "tools.h"

enum { OPEN_FILES_MAX = 4096, LOG_TEXT_MAX = 4096, COMMAND_LINE_MAX = 16384, HOLD_SECONDS = 60 };

static const char *const file_links[] = {"fd", "map_files"};

/* The number in a file of one line, or -1. */
static long number_in(const char *path, const char *format)
{
    char text[16384];
    long number = -1;
    if (read_text_file(path, text, sizeof text) <= 0)
        return -1;
    const char *at = *format == '\0' ? text : strstr(text, format);
    if (at == NULL || sscanf(at + strlen(format), "%ld", &number) != 1)
        return -1;
    return number;
}

/* -- the files a tree has open -- */

struct open_files {
    FILE *list;
    const char *mount; /* what is below it travels with its disks; NULL: there is none */
    time_t booted;
    size_t count;
    struct {
        dev_t device;
        ino_t inode;
    } seen[OPEN_FILES_MAX];
};

static bool is_below(const char *path, const char *directory)
{
    size_t size = directory == NULL ? 0 : strlen(directory);
    return size > 0 && strncmp(path, directory, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

static bool is_new(struct open_files *files, const struct stat *found)
{
    for (size_t i = 0; i < files->count; i++)
        if (files->seen[i].device == found->st_dev && files->seen[i].inode == found->st_ino)
            return false;
    if (files->count == OPEN_FILES_MAX)
        return false;
    files->seen[files->count].device = found->st_dev;
    files->seen[files->count++].inode = found->st_ino;
    return true;
}

/* Whether a file has to travel: it has a name, and it was made or changed after the guest had booted from its image. */
static bool must_travel(struct open_files *files, const char *target, const struct stat *found)
{
    static const char *const elsewhere[] = {"/proc/", "/sys/", "/dev/pts/"};
    struct statfs system;
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; i++)
        if (strncmp(target, elsewhere[i], strlen(elsewhere[i])) == 0)
            return false;
    if (!S_ISREG(found->st_mode) && !S_ISDIR(found->st_mode) && !S_ISFIFO(found->st_mode))
        return false;
    if (target[0] != '/' || target[1] == '\0' || strchr(target, '\n') != NULL ||
        is_below(target, files->mount) || found->st_nlink == 0 || found->st_ctim.tv_sec + 1 < files->booted)
        return false;
    /* What a live mount shows is the host's, and there again after the restore. */
    return statfs(target, &system) == 0 && system.f_type != FUSE_SUPER_MAGIC;
}

static void list_file(struct open_files *files, const char *link)
{
    char target[4096];
    struct stat found, named;
    ssize_t size = readlink(link, target, sizeof target - 1);
    if (size < 0 || stat(link, &found) < 0)
        return;
    target[size] = '\0';
    if (lstat(target, &named) < 0 || named.st_ino != found.st_ino || named.st_dev != found.st_dev)
        return; /* removed or replaced: CRIU keeps the contents of such a file itself */
    if (must_travel(files, target, &found) && is_new(files, &found))
        fprintf(files->list, ".%s\n", target);
}

/* A file a process was started with. An interpreter closes its script once it is read, but a shell's next command, or the
 * program itself, may want it again. */
static void list_named(struct open_files *files, const char *directory, const char *argument)
{
    char path[8300], target[PATH_MAX];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", *argument == '/' ? "" : directory, argument);
    if (realpath(path, target) != NULL && stat(target, &found) == 0 && S_ISREG(found.st_mode) &&
        must_travel(files, target, &found) && is_new(files, &found))
        fprintf(files->list, ".%s\n", target);
}

static void list_arguments(struct open_files *files, pid_t pid)
{
    char path[64], directory[PATH_MAX], text[COMMAND_LINE_MAX];
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    ssize_t size = readlink(path, directory, sizeof directory - 1);
    if (size < 0)
        return;
    directory[size] = '\0';
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int used = read_text_file(path, text, sizeof text);
    for (int at = 0; at < used; at += (int)strlen(text + at) + 1)
        if (text[at] != '\0' && strlen(text + at) < PATH_MAX)
            list_named(files, directory, text + at);
}

static void list_process(struct open_files *files, pid_t pid)
{
    char path[64], link[512];
    for (size_t i = 0; i < sizeof file_links / sizeof file_links[0]; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, file_links[i]);
        DIR *directory = opendir(path);
        for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
            snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
            list_file(files, link);
        }
        if (directory != NULL)
            closedir(directory);
    }
    snprintf(link, sizeof link, "/proc/%d/cwd", pid);
    list_file(files, link);
    list_arguments(files, pid);
}

/* Let the host keep the mount's disks before anything is written to them again. Gives up after a while: the tree is waiting. */
static int hold_for_mount(void)
{
    char line[16];
    sync();
    alarm(HOLD_SECONDS); /* ends us, and that fails the dump */
    int held = open(DUMP_HELD, O_WRONLY | O_CLOEXEC);
    int result = held < 0 ? -errno : write_exactly(held, "held\n", 5);
    close_fd(&held);
    int go = result < 0 ? -1 : open(DUMP_GO, O_RDONLY | O_CLOEXEC);
    if (result == 0 && (go < 0 || read(go, line, sizeof line) != 3 || memcmp(line, "go\n", 3) != 0))
        result = -ECANCELED;
    close_fd(&go);
    alarm(0);
    return result == 0 ? 0 : tool_fail("waiting for the host to keep the mount failed: %s", strerror(-result));
}

/* Run by CRIU while the tree stands still: pack what it has open. A failure here is a failed dump. */
int tool_dump_files(void)
{
    static struct process_stat tree[TREE_MAX];
    const char *action = getenv("CRTOOLS_SCRIPT_ACTION"), *root = getenv("MACHINEN_DUMP_ROOT");
    const char *directory = getenv("MACHINEN_DUMP_DIRECTORY");
    char list[256], archive[256];
    if (action == NULL || strcmp(action, "post-dump") != 0)
        return 0;
    if (root == NULL || directory == NULL)
        return tool_fail("this is CRIU's to call");
    int count = process_tree((pid_t)atol(root), tree, TREE_MAX);
    snprintf(list, sizeof list, "%s/files", directory);
    snprintf(archive, sizeof archive, "%s/" OPEN_FILES_ARCHIVE, directory);
    struct open_files *files = calloc(1, sizeof *files);
    if (count < 0 || files == NULL || (files->list = fopen(list, "we")) == NULL)
        return tool_fail("listing open files failed");
    files->mount = getenv(DUMP_MOUNT);
    files->booted = number_in("/proc/stat", "\nbtime ");
    for (int i = 0; i < count; i++)
        list_process(files, tree[i].pid);
    fclose(files->list);
    const char *pack[] = {"tar", "-cf", archive, "--no-recursion", "-C", "/", "-T", list, NULL};
    int status = tool_spawn(pack, STDERR_FILENO);
    unlink(list);
    if (status != 0)
        return tool_fail("packing open files failed (status %d)", status);
    return files->mount == NULL ? 0 : hold_for_mount();
}

/* -- the dump -- */

/* Anonymous memory of the tree in KiB: about what the images will take. */
static long image_kib(const struct process_stat *tree, int count)
{
    long total = 0;
    for (int i = 0; i < count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/status", tree[i].pid);
        long anonymous = number_in(path, "\nRssAnon:"), shared = number_in(path, "\nRssShmem:");
        total += (anonymous > 0 ? anonymous : 0) + (shared > 0 ? shared : 0);
    }
    return total;
}

/* In memory if there is plenty, else on the root disk. */
static const char *image_parent(long wanted_kib)
{
    struct statvfs run;
    long available = number_in("/proc/meminfo", "\nMemAvailable:");
    if (statvfs("/run", &run) < 0 || available < 2 * wanted_kib ||
        (long)(run.f_bavail * run.f_frsize / 1024) < wanted_kib + wanted_kib / 4)
        return "/var/tmp";
    return "/run/machinen";
}

static int write_session(const char *directory, const struct process_stat *root, bool tcp_close)
{
    char path[256], text[128];
    snprintf(path, sizeof path, "%s/" SESSION_FILE, directory);
    snprintf(text, sizeof text, "root=%d\nforeground=%d\ntcp_close=%d\n", root->pid,
             root->foreground, tcp_close);
    return write_text_file(path, text, 0600);
}

static int run_criu(const char *directory, const struct process_stat *root)
{
    char pid[16], script[64], log[256], errors[LOG_TEXT_MAX];
    snprintf(pid, sizeof pid, "%d", root->pid);
    snprintf(script, sizeof script, "/proc/%d/exe", getpid());
    setenv("MACHINEN_DUMP_ROOT", pid, 1);
    setenv("MACHINEN_DUMP_DIRECTORY", directory, 1);
    const char *dump[] = {"criu", "dump", "--tree", pid, "--images-dir", directory,
                          "--leave-running", "--shell-job", "--file-locks", "--ghost-limit", "64M",
                          "--action-script", script, "--network-lock", "nftables", "-v2", "--log-file",
                          "dump.log", "--tcp-established",
                          "--skip-in-flight", NULL};
    int status = tool_spawn(dump, STDERR_FILENO);
    if (status == 0)
        return 0;
    snprintf(log, sizeof log, "%s/dump.log", directory);
    tool_log_errors(log, errors, sizeof errors);
    return tool_fail("criu dump failed (status %d)\n%s", status, errors);
}

static int dump_tree(pid_t pid)
{
    static struct process_stat tree[TREE_MAX];
    const char *close_tcp = getenv("MACHINEN_DUMP_TCP_CLOSE");
    bool tcp_close = close_tcp != NULL && strcmp(close_tcp, "1") == 0;
    char directory[64];
    int count = process_tree(pid, tree, TREE_MAX);
    if (count < 0)
        return tool_fail("there is no process %d to dump: %s", pid, strerror(-count));
    if (preflight_refuses(tree, (size_t)count))
        return 1;
    snprintf(directory, sizeof directory, "%s/dump-XXXXXX", image_parent(image_kib(tree, count)));
    if (mkdtemp(directory) == NULL)
        return tool_fail("making %s failed: %s", directory, strerror(errno));
    int result = write_session(directory, &tree[0], tcp_close);
    result = result < 0 ? tool_fail("writing to %s failed: %s", directory, strerror(-result))
                        : run_criu(directory, &tree[0]);
    if (result == 0) {
        const char *pack[] = {"tar", "-cf", "-", "-C", directory, ".", NULL};
        int status = tool_spawn(pack, STDOUT_FILENO);
        result = status == 0 ? 0 : tool_fail("sending the images failed (status %d)", status);
    }
    tool_remove_directory(directory);
    return result;
}

/* A restored tree lives in a pid namespace of its own, and CRIU has to look at it from there. */
static int enter_restored(pid_t *root)
{
    static const char *const kinds[] = {"pid", "mnt"};
    char text[64], path[64];
    int first, inner, opened[2];
    if (read_text_file(RESTORED_FILE, text, sizeof text) <= 0)
        return 0;
    if (sscanf(text, "%d %d", &first, &inner) != 2)
        return -EINVAL;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%d/ns/%s", first, kinds[i]);
        opened[i] = open(path, O_RDONLY | O_CLOEXEC);
        if (opened[i] < 0)
            return -errno;
    }
    for (int i = 0; i < 2; i++)
        if (setns(opened[i], 0) < 0)
            return -errno;
    *root = inner;
    return 0;
}

int tool_dump(int count, char **arguments)
{
    pid_t root = count > 1 ? (pid_t)atol(arguments[1]) : (pid_t)number_in(WORKLOAD_PID_FILE, "");
    if (root <= 1)
        return tool_fail(root == 1 ? "CRIU cannot dump process 1, the guest's init"
                                   : "no workload runs in this guest");
    if (!tool_has_program("criu"))
        return tool_fail("there is no criu in this image: install it there (apt-get install criu), "
                         "or use the engine vmstate");
    int result = count > 1 ? 0 : enter_restored(&root);
    if (result < 0)
        return tool_fail("entering the restored tree's namespaces failed: %s", strerror(-result));
    pid_t child = fork(); /* only a child is inside of the pid namespace that was entered */
    if (child == 0) {
        /* Whoever asked may go away and take our group along: criu must never be killed while it holds the tree. */
        setsid();
        signal(SIGPIPE, SIG_IGN);
        _exit(dump_tree(root));
    }
    int status;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (child < 0)
        return tool_fail("starting a process failed: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : tool_fail("ended with status %d", status);
}
