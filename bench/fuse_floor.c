/*
 * What a file system in user space can reach in a guest at best: a FUSE server in the guest itself that answers at once and
 * keeps nothing, and a program that makes small files in it. The same requests as a live mount's, without a host.
 *
 *   gcc -O2 -static -o floor bench/fuse_floor.c; then, as root in the guest: floor <directory> <files>
 *
 * Prints files a second. Layouts: linux/fuse.h, 7.31.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE_MAX = (1 << 20) + 4096, NO_FLUSH = 1 << 5 };

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct fuse_attr attributes(uint64_t node)
{
    return (struct fuse_attr){.ino = node,
                              .mode = node == FUSE_ROOT_ID ? 040755 : 0100644,
                              .nlink = 1,
                              .blksize = 4096};
}

static size_t put_init(const struct fuse_init_in *in, struct fuse_init_out *out)
{
    *out = (struct fuse_init_out){.major = 7,
                                  .minor = 31,
                                  .max_readahead = in->max_readahead,
                                  .flags = in->flags & (FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA),
                                  .max_write = 131072,
                                  .time_gran = 1};
    return sizeof *out;
}

static size_t put_created(uint64_t node, struct fuse_entry_out *out)
{
    struct fuse_open_out *opened = (struct fuse_open_out *)(out + 1);
    *out = (struct fuse_entry_out){
        .nodeid = node, .entry_valid = 1, .attr_valid = 1, .attr = attributes(node)};
    *opened = (struct fuse_open_out){.fh = 1, .open_flags = FOPEN_DIRECT_IO | NO_FLUSH};
    return sizeof *out + sizeof *opened;
}

/* Make the answer's body. Returns its size, or a negative errno. */
static ssize_t answer(const struct fuse_in_header *request, void *body)
{
    static uint64_t last_node = FUSE_ROOT_ID;
    const void *arguments = request + 1;
    switch (request->opcode) {
    case FUSE_INIT:
        return (ssize_t)put_init(arguments, body);
    case FUSE_LOOKUP:
        return -ENOENT;
    case FUSE_GETATTR:
        *(struct fuse_attr_out *)body =
            (struct fuse_attr_out){.attr_valid = 1, .attr = attributes(request->nodeid)};
        return sizeof(struct fuse_attr_out);
    case FUSE_CREATE:
        return (ssize_t)put_created(++last_node, body);
    case FUSE_WRITE:
        *(struct fuse_write_out *)body =
            (struct fuse_write_out){.size = ((const struct fuse_write_in *)arguments)->size};
        return sizeof(struct fuse_write_out);
    case FUSE_RELEASE:
        return 0;
    default:
        return -ENOSYS;
    }
}

static void serve(int fuse)
{
    static char request[MESSAGE_MAX];
    static struct {
        struct fuse_out_header header;
        char body[512];
    } reply;
    for (;;) {
        const struct fuse_in_header *header = (const void *)request;
        if (read(fuse, request, sizeof request) < 0) {
            if (errno == ENODEV)
                _exit(0);
            continue;
        }
        if (header->opcode == FUSE_FORGET || header->opcode == FUSE_BATCH_FORGET)
            continue;
        ssize_t size = answer(header, reply.body);
        reply.header = (struct fuse_out_header){
            .len = (uint32_t)(sizeof reply.header + (size > 0 ? (size_t)size : 0)),
            .error = size < 0 ? (int)size : 0,
            .unique = header->unique};
        if (write(fuse, &reply, reply.header.len) < 0 && errno != ENOENT && errno != ENODEV)
            die("an answer");
    }
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double make_files(const char *directory, int count)
{
    char path[4096];
    double start = seconds();
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%d", directory, i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0 || write(fd, "small", 5) != 5)
            die(path);
        close(fd);
    }
    return count / (seconds() - start);
}

int main(int argc, char **argv)
{
    char options[128];
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (argc != 3 || fuse < 0)
        die("floor <directory> <files>");
    snprintf(options, sizeof options,
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fuse);
    if (mount("floor", argv[1], "fuse.floor", MS_NOSUID | MS_NODEV, options) < 0)
        die("mount");
    pid_t server = fork();
    if (server < 0)
        die("fork");
    if (server == 0)
        serve(fuse);
    close(fuse);
    printf("%.0f\n", make_files(argv[1], atoi(argv[2])));
    if (umount2(argv[1], MNT_DETACH) < 0)
        die("umount");
    return waitpid(server, NULL, 0) == server ? 0 : 1;
}
