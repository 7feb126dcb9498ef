/*
 * The live mounts of this guest: each a FUSE file system whose requests go to the host over a stream of port 1977.
 * A mount outlives its stream: its programs wait until the host opens another for the same path.
 *
 * Nothing in the agent may look at a path inside a live mount: it would wait for an answer that only it can fetch.
 */
#ifndef MACHINEN_LIVE_MOUNTS_H
#define MACHINEN_LIVE_MOUNTS_H

#include <stdbool.h>

#include "mux.h"

struct live_mount;

/* Mount at `path`, or find the mount that is there, and relay for `stream`. NULL: `problem` says why not. */
struct live_mount *live_mount_attach(struct stream *stream, const char *path, bool writable,
                                     const char **problem);
/* Messages of the host, or its end, are in the stream. */
void live_mount_input(struct live_mount *mount);
/* There is room in the stream again. */
void live_mount_writable(struct live_mount *mount);
/* The stream is over. What it left unanswered fails with EIO; what comes next waits. */
void live_mount_detach(struct live_mount *mount);
/* Whether `path` is a live mount, lies in one, or has one below it. */
bool live_mounts_touch(const char *path);

#endif
