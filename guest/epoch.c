/* See epoch.h. */
#include "epoch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "io.h"
#include "loop.h"
#include "mux.h"

enum { HOSTS_MAX = 65536, ENTROPY_BITS = 256, MACHINE_ID_SIZE = 32, FILES_AFTER_MS = 20 };

static void note(const char *what, int result)
{
    if (result < 0)
        mux_log("%s failed: %s", what, strerror(-result));
}

void epoch_set_time(uint64_t realtime_ns)
{
    struct timespec now = {.tv_sec = (time_t)(realtime_ns / 1000000000),
                           .tv_nsec = (long)(realtime_ns % 1000000000)};
    if (realtime_ns == 0)
        return;
    if (agent_is_sandboxed())
        mux_log("would set the clock to %llu ns", (unsigned long long)realtime_ns);
    else
        note("setting the clock", clock_settime(CLOCK_REALTIME, &now) < 0 ? -errno : 0);
}

/* Two forks of one guest would otherwise draw the same numbers: mix in what differs, and use it at once. */
static int mix_entropy(const uint8_t entropy[32])
{
    struct {
        struct rand_pool_info info;
        uint8_t bytes[32];
    } added = {.info = {.entropy_count = ENTROPY_BITS, .buf_size = 32}};
    memcpy(added.info.buf, entropy, 32);
    int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int result = ioctl(fd, RNDADDENTROPY, &added) < 0 ? -errno : 0;
    if (result == 0 && ioctl(fd, RNDRESEEDCRNG) < 0)
        result = -errno;
    close(fd);
    return result;
}

/* Give 127.0.1.1 the new name, keep every other line. */
static int write_hosts(const char *hostname)
{
    static char text[HOSTS_MAX];
    char path[512];
    snprintf(path, sizeof path, "%s", agent_path("/etc/hosts"));
    ssize_t size = read_text_file(path, text, sizeof text);
    if (size == -ENOENT)
        size = snprintf(text, sizeof text, "127.0.0.1\tlocalhost\n");
    if (size < 0)
        return (int)size;
    char *changed = malloc((size_t)size + 300);
    if (changed == NULL)
        return -ENOMEM;
    int filled = sprintf(changed, "127.0.1.1\t%s\n", hostname);
    for (const char *line = text; *line != '\0';) {
        size_t line_size = strcspn(line, "\n");
        line_size += line[line_size] == '\n';
        if (strncmp(line, "127.0.1.1", 9) != 0 || strchr(" \t", line[9]) == NULL)
            filled += sprintf(changed + filled, "%.*s", (int)line_size, line);
        line += line_size;
    }
    int result = overwrite_text_file(path, changed, 0644);
    free(changed);
    return result;
}

static char files_hostname[256]; /* what /etc/hostname and /etc/hosts are to say */
static char machine_id[MACHINE_ID_SIZE + 2]; /* and /etc/machine-id, with its newline */

static timer_id files_timer;

static void write_files(void *context)
{
    char line[300];
    (void)context;
    files_timer = 0;
    if (files_hostname[0] != '\0') {
        snprintf(line, sizeof line, "%s\n", files_hostname);
        note("writing /etc/hostname", overwrite_text_file(agent_path("/etc/hostname"), line, 0644));
        note("writing /etc/hosts", write_hosts(files_hostname));
        files_hostname[0] = '\0';
    }
    note("writing /etc/machine-id", overwrite_text_file(agent_path("/etc/machine-id"), machine_id, 0444));
}

void epoch_settle(void)
{
    if (files_timer == 0)
        return;
    loop_cancel(&files_timer);
    write_files(NULL);
}

/* As machine-id(5) wants it: 16 random bytes in hexadecimal digits, marked as a UUID of version 4. Drawn here, after the new
 * entropy: a copy that kept its source's id would be taken for its source by whoever counts machines. */
static void draw_machine_id(uint64_t nonce)
{
    static uint64_t drawn_for; /* a host repeats its HELLO until it is answered */
    uint8_t id[MACHINE_ID_SIZE / 2];
    if (machine_id[0] != '\0' && drawn_for == nonce)
        return;
    if (getrandom(id, sizeof id, 0) != sizeof id) {
        note("drawing a machine id", -errno);
        return;
    }
    drawn_for = nonce;
    id[6] = (id[6] & 0x0f) | 0x40;
    id[8] = (id[8] & 0x3f) | 0x80;
    for (size_t i = 0; i < sizeof id; i++)
        sprintf(machine_id + 2 * i, "%02x", id[i]);
    strcat(machine_id, "\n");
}

static void set_hostname(const char *hostname)
{
    if (hostname[0] == '\0' || strpbrk(hostname, " \t\n/") != NULL)
        return;
    if (agent_is_sandboxed())
        mux_log("would set the hostname to %s", hostname);
    else
        note("setting the hostname", sethostname(hostname, strlen(hostname)) < 0 ? -errno : 0);
    snprintf(files_hostname, sizeof files_hostname, "%s", hostname);
}

void epoch_begin(const struct host_hello *hello)
{
    char line[300];
    if (agent_is_sandboxed())
        mux_log("would mix in 32 bytes of entropy");
    else
        note("mixing in entropy", mix_entropy(hello->entropy));
    set_hostname(hello->hostname);
    draw_machine_id(hello->nonce);
    snprintf(line, sizeof line, "%s\n", hello->name);
    note("making /run/machinen", make_directories(agent_path("/run/machinen"), 0755));
    note("writing /run/machinen/name", write_text_file(agent_path("/run/machinen/name"), line, 0644));
    note("writing /run/machinen/machine-id",
         write_text_file(agent_path("/run/machinen/machine-id"), machine_id, 0644));
    /* The disk comes after the answer, and after the time that the host tells then: its whole path through the kernel is cold
     * in a fork. */
    if (files_timer == 0)
        files_timer = loop_after_ms(FILES_AFTER_MS, write_files, NULL);
}
