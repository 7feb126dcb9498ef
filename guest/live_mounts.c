/* See live_mounts.h. */
#include "live_mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"
#include "frames.h"
#include "fuse_hints.h"
#include "fuse_messages.h"
#include "io.h"
#include "loop.h"

enum {
    READS_PER_TURN = 8,
    READ_AHEAD_KIB = 1024,
    LATER_MS = 20, /* how long what the host need not answer may wait for company */
    LATER_BYTES = 4096,
    LARGE_BYTES = 16384,
    HEADROOM = 64, /* for the first frame's header, and the message stays aligned */
};

struct live_mount {
    char path[MOUNT_PATH_MAX + 1];
    int fuse_fd;
    struct stream *stream; /* NULL: the host is away */
    watch_id watch;        /* 0: nothing is read */
    bool holding;
    uint32_t hold_number; /* of the last hold */
    bool held;
    bool tuned;
    size_t credited; /* of what is in stream->in: a message may be longer than the window */
    struct fuse_ledger ledger;
    struct fuse_hints hints;
    struct bytes later; /* one-way requests that leave with the next other one */
    timer_id later_timer;
    struct live_mount *next;
};

static struct live_mount *mounts;

static void read_requests(void *context, uint32_t events);

static struct live_mount *find_mount(const char *path)
{
    struct live_mount *mount = mounts;
    while (mount != NULL && strcmp(mount->path, path) != 0)
        mount = mount->next;
    return mount;
}

bool live_mounts_touch(const char *path)
{
    for (struct live_mount *mount = mounts; mount != NULL; mount = mount->next)
        if (mount_path_covers(mount->path, path) || mount_path_covers(path, mount->path))
            return true;
    return false;
}

static void start_reading(struct live_mount *mount)
{
    if (mount->stream == NULL || mount->holding || mount->watch != 0)
        return;
    mount->watch = loop_watch(mount->fuse_fd, EPOLLIN, read_requests, mount);
    if (mount->watch == 0)
        stream_reset(mount->stream, ENOMEM, "the guest is out of memory");
}

static void drop_later(struct live_mount *mount)
{
    loop_cancel(&mount->later_timer);
    bytes_free(&mount->later);
}

static void send_later_now(struct live_mount *mount)
{
    loop_cancel(&mount->later_timer);
    if (mount->later.size > 0)
        stream_write(mount->stream, bytes_data(&mount->later), mount->later.size);
    if (mount->stream != NULL)
        bytes_drop(&mount->later, mount->later.size);
}

static void later_is_now(void *context)
{
    struct live_mount *mount = context;
    mount->later_timer = 0;
    send_later_now(mount);
}

static void say_held(struct live_mount *mount)
{
    uint8_t message[FUSE_CONTROL_SIZE];
    if (!mount->holding || mount->held || fuse_ledger_unanswered(&mount->ledger) > 0)
        return;
    mount->held = true;
    send_later_now(mount);
    if (mount->stream == NULL)
        return;
    fuse_held_encode(mount->hold_number, message);
    stream_write(mount->stream, message, sizeof message);
}

/* Somebody in the guest unmounted it: the host's part ends too. Ends `mount`. */
static void forget(struct live_mount *mount)
{
    struct stream *stream = mount->stream;
    for (struct live_mount **link = &mounts; *link != NULL; link = &(*link)->next) {
        if (*link != mount)
            continue;
        *link = mount->next;
        break;
    }
    mount->stream = NULL;
    if (stream != NULL) {
        stream->state = NULL;
        stream_reset(stream, ENODEV, "unmounted in the guest");
    }
    loop_unwatch(&mount->watch);
    close_fd(&mount->fuse_fd);
    drop_later(mount);
    fuse_hints_clear(&mount->hints);
    fuse_ledger_free(&mount->ledger);
    free(mount);
}

static uint32_t request_opcode(const uint8_t *message)
{
    return get_u32(message + 4);
}

static void write_to_kernel(struct live_mount *mount, const uint8_t *message, size_t size);

/* Answer from the host's hints, if they say enough. */
static bool answer_here(struct live_mount *mount, const uint8_t *message, size_t size)
{
    uint8_t answer[FUSE_ANSWER_MAX];
    size_t answered = fuse_hints_answer(&mount->hints, message, size, monotonic_ms(), answer);
    if (answered > 0)
        write_to_kernel(mount, answer, answered);
    return answered > 0;
}

/* Overwrites the message. Returns false if the stream ended. */
static bool forward(struct live_mount *mount, uint8_t *message, size_t size)
{
    send_later_now(mount);
    if (mount->stream == NULL)
        return false;
    int result = fuse_ledger_request(&mount->ledger, message, size);
    if (result < 0) {
        stream_reset(mount->stream, -result, strerror(-result));
        return false;
    }
    if (size < LARGE_BYTES)
        stream_write(mount->stream, message, size); /* others may leave with it */
    else
        stream_write_over(mount->stream, message, size);
    return mount->stream != NULL;
}

/* The kernel hears at once that a file is closed, as nobody does anything with that answer; the host hears it, without a
 * wake-up of its own, before the next request. Returns false if the stream ended. */
static bool forward_later(struct live_mount *mount, const uint8_t *message, size_t size)
{
    uint32_t opcode = request_opcode(message);
    if (bytes_append(&mount->later, message, size) < 0) {
        stream_reset(mount->stream, ENOMEM, "the guest is out of memory");
        return false;
    }
    if (opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR) {
        struct fuse_out_header done = {.len = sizeof done, .unique = get_u64(message + 8)};
        write_to_kernel(mount, (const uint8_t *)&done, sizeof done);
    }
    if (mount->later_timer == 0)
        mount->later_timer = loop_after_ms(LATER_MS, later_is_now, mount);
    bool somebody_waits_for_locks = mount->ledger.count > fuse_ledger_unanswered(&mount->ledger);
    if (mount->later_timer == 0 || mount->later.size >= LATER_BYTES || somebody_waits_for_locks)
        send_later_now(mount);
    return mount->stream != NULL;
}

/* The kernel gives one whole request per read, or says EAGAIN. Returns false if the mount has gone. */
static bool read_request(struct live_mount *mount, bool *more)
{
    static uint8_t memory[HEADROOM + FUSE_MAX_MESSAGE];
    uint8_t *message = memory + HEADROOM;
    ssize_t got = read(mount->fuse_fd, message, FUSE_MAX_MESSAGE);
    *more = got > 0;
    if (got < 0 && errno == ENODEV) {
        forget(mount);
        return false;
    }
    /* ENOENT: it was interrupted before anybody read it, Documentation/filesystems/fuse.rst. */
    if (got < 0)
        return true;
    if ((size_t)got < FUSE_IN_HEADER_SIZE) {
        stream_reset(mount->stream, EPROTO, "no request of a kernel's");
        return false;
    }
    if (answer_here(mount, message, (size_t)got)) {
        *more = false; /* who asked has to run first, to ask more */
        return true;
    }
    fuse_mark_request(message);
    return fuse_is_one_way(request_opcode(message)) ? forward_later(mount, message, (size_t)got)
                                                    : forward(mount, message, (size_t)got);
}

static void read_requests(void *context, uint32_t events)
{
    struct live_mount *mount = context;
    bool more = true;
    (void)events;
    for (int reads = 0; more && reads < READS_PER_TURN; reads++) {
        if (stream_room(mount->stream) == 0) {
            loop_unwatch(&mount->watch);
            return;
        }
        if (!read_request(mount, &more))
            return;
    }
}

/* Read further ahead than the 128 KiB of other file systems: each request waits for the host. INIT's answer would
 * undo it (fs/fuse/inode.c), so it has to come after that. */
static void read_far_ahead(struct live_mount *mount)
{
    char path[128], text[16];
    struct statx root;
    mount->tuned = true;
    /* DONT_SYNC: what the kernel knows already, without a request to ourselves. */
    if (statx(AT_FDCWD, agent_path(mount->path), AT_STATX_DONT_SYNC, STATX_TYPE, &root) < 0)
        return;
    snprintf(path, sizeof path, "/sys/class/bdi/%u:%u/read_ahead_kb", root.stx_dev_major,
             root.stx_dev_minor);
    snprintf(text, sizeof text, "%d", READ_AHEAD_KIB);
    int result = write_text_file(path, text, 0644);
    if (result < 0)
        mux_log("live mount %s: reads stay short: %s", mount->path, strerror(-result));
}

/* It refuses answers to requests that were interrupted: nobody misses those. */
static void write_to_kernel(struct live_mount *mount, const uint8_t *message, size_t size)
{
    if (write(mount->fuse_fd, message, size) < 0 && errno != ENOENT && errno != ENODEV)
        mux_log("live mount %s: the kernel refuses an answer: %s", mount->path, strerror(errno));
}

static void write_reply(struct live_mount *mount, const uint8_t *message, size_t size)
{
    struct fuse_open_request request;
    bool answers = fuse_ledger_reply(&mount->ledger, message, &request);
    if (answers)
        fuse_hints_answered(&mount->hints, &request);
    write_to_kernel(mount, message, size);
    if (!mount->tuned && answers)
        read_far_ahead(mount);
}

void live_mount_input(struct live_mount *mount)
{
    struct stream *stream = mount->stream;
    stream_credit(stream, stream->in.size - mount->credited);
    mount->credited = stream->in.size;
    for (;;) {
        const uint8_t *data = bytes_data(&stream->in);
        size_t length;
        enum host_message kind = host_message_next(data, stream->in.size, &length);
        if (kind == HOST_BAD) {
            stream_reset(stream, EPROTO, "no FUSE message");
            return;
        }
        if (kind == HOST_NEEDS_MORE) {
            /* Without memory the next piece says so. */
            (void)bytes_expect(&stream->in, length);
            break;
        }
        if (kind == HOST_REPLY) {
            write_reply(mount, data, length);
        } else if (kind == HOST_HINT) {
            fuse_hints_take(&mount->hints, data, length, monotonic_ms());
        } else {
            mount->holding = kind == HOST_HOLD;
            mount->hold_number = fuse_hold_number(data);
            mount->held = false;
            fuse_hints_clear(&mount->hints); /* time may pass that our clock does not count */
        }
        stream_take(stream, length);
        mount->credited -= length;
    }
    if (stream->host_eof) {
        stream->state = NULL;
        stream_finish(stream);
        live_mount_detach(mount);
        return;
    }
    if (mount->holding)
        loop_unwatch(&mount->watch);
    say_held(mount);
    start_reading(mount);
}

void live_mount_writable(struct live_mount *mount)
{
    start_reading(mount);
}

/* What the old stream carried is lost, and so are its answers: nobody shall wait for them. A lock that was waited
 * for is the host's to grant still: it remembers the waiters. */
static void fail_unanswered(struct live_mount *mount)
{
    size_t kept = 0;
    for (size_t i = 0; i < mount->ledger.count; i++) {
        struct fuse_open_request request = mount->ledger.open[i];
        if (request.may_wait) {
            mount->ledger.open[kept++] = request;
            continue;
        }
        struct fuse_out_header failure = {
            .len = sizeof failure, .error = -EIO, .unique = request.unique};
        if (write(mount->fuse_fd, &failure, sizeof failure) < 0)
            continue; /* interrupted meanwhile, or unmounted */
    }
    mount->ledger.count = kept;
}

void live_mount_detach(struct live_mount *mount)
{
    mount->stream = NULL;
    mount->holding = mount->held = false;
    loop_unwatch(&mount->watch);
    drop_later(mount);
    fuse_hints_clear(&mount->hints);
    fail_unanswered(mount);
}

/* The flags are those of this mount alone, so that they can change while programs use it. */
static int set_writable(const char *path, bool writable)
{
    unsigned long flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | (writable ? 0 : MS_RDONLY);
    return mount(NULL, agent_path(path), NULL, flags, NULL) < 0 ? -errno : 0;
}

static int mount_fuse(struct live_mount *mount_, bool writable)
{
    char options[128];
    int result = make_directories(agent_path(mount_->path), 0755);
    if (result < 0)
        return result;
    mount_->fuse_fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (mount_->fuse_fd < 0)
        return -errno;
    snprintf(options, sizeof options,
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
             mount_->fuse_fd);
    if (mount("machinen", agent_path(mount_->path), "fuse.machinen", MS_NOSUID | MS_NODEV, options) < 0)
        return -errno;
    return writable ? 0 : set_writable(mount_->path, false);
}

static struct live_mount *new_mount(const char *path, bool writable, const char **problem)
{
    if (live_mounts_touch(path)) {
        *problem = "a live mount cannot lie in another";
        return NULL;
    }
    struct live_mount *mount = calloc(1, sizeof *mount);
    int result = mount == NULL ? -ENOMEM : 0;
    if (result == 0) {
        mount->fuse_fd = -1;
        strcpy(mount->path, path);
        result = mount_fuse(mount, writable);
    }
    if (result < 0) {
        *problem = strerror(-result);
        if (mount != NULL)
            close_fd(&mount->fuse_fd);
        free(mount);
        return NULL;
    }
    mount->next = mounts;
    mounts = mount;
    return mount;
}

struct live_mount *live_mount_attach(struct stream *stream, const char *path, bool writable,
                                     const char **problem)
{
    struct live_mount *mount = find_mount(path);
    if (mount != NULL && mount->stream != NULL) {
        *problem = "this live mount has a stream already";
        return NULL;
    }
    int result = mount == NULL ? 0 : set_writable(path, writable);
    /* EINVAL: unmounted; reading will tell. EBUSY: files are open for writing, and the host refuses the writes. */
    if (result < 0 && result != -EINVAL && result != -EBUSY) {
        *problem = strerror(-result);
        return NULL;
    }
    if (mount == NULL)
        mount = new_mount(path, writable, problem);
    if (mount == NULL)
        return NULL;
    mount->stream = stream;
    mount->credited = 0;
    start_reading(mount);
    return mount;
}
