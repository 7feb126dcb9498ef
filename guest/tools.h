/*
 * Helpers of a guest that are called by name: machinen-dump, machinen-restore, machinen-remount, machinen-poweroff. All
 * are the agent's own binary under another name, so every guest has them whatever its image, at no cost.
 */
#ifndef MACHINEN_TOOLS_H
#define MACHINEN_TOOLS_H

#include <stdbool.h>
#include <sys/types.h>

#define TOOLS_DIRECTORY "/run/machinen/bin"
#define WORKLOAD_PID_FILE "/run/machinen/workload.pid"
/* "<pid 1 of the restored tree's namespace, as seen from outside> <the tree's root, as seen inside>". */
#define RESTORED_FILE "/run/machinen/restored"
/* A FIFO: machinen-restore says "ok\n" or why it failed to whoever reads it. */
#define RESTORE_STATUS "/run/machinen/restore.status"
/* A FIFO: `machinen-restore --wait` begins when the host, whose images are all there now, has written a line to it. */
#define RESTORE_GO "/run/machinen/restore.go"
/* In the environment of CRIU's action script: "1" if no TCP connection shall go on, "0" if those that can do. */
#define RESTORE_TCP_CLOSE "MACHINEN_RESTORE_TCP_CLOSE"
/* In the environment of machinen-dump: the path of the VM's mount. Its disks are the host's to keep, at the moment the tree
 * stands still: then DUMP_HELD, a FIFO, says "held\n", and the tree goes on after "go\n" through DUMP_GO; anything else fails the dump. */
#define DUMP_MOUNT "MACHINEN_DUMP_MOUNT"
#define DUMP_HELD "/run/machinen/dump.held"
#define DUMP_GO "/run/machinen/dump.go"
#define RESTORE_DIRECTORY "/run/machinen/restore"
/* What machinen-dump leaves among CRIU's images for machinen-restore. */
#define SESSION_FILE "machinen-session"
#define OPEN_FILES_ARCHIVE "machinen-files.tar"
#define REPLAY_FILE "machinen-replay"

/* Put links to this very process' program where people and hosts look for the helpers. */
void tools_install(void);
/* Run the helper that `count` and `arguments` name. Returns its exit status, or -1: no helper of ours. */
int tools_run(int count, char **arguments);

int tool_dump(int count, char **arguments);
int tool_dump_files(void);
int tool_restore(int count, char **arguments);
int tool_restore_connections(void);
/* CRIU restores a connection only where its own address is there: lend it to a guest without a network card, or end that. */
void tool_stand_in_for_card(bool stands);
int tool_remount(void);
int tool_poweroff(void);

/* One line on stderr: "<helper>: <text>". Returns 1, which is a failed helper's exit status. */
int tool_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Run a program found in PATH with stdout on stderr. Returns its wait status, or a negative errno. */
int tool_spawn(const char *const *arguments, int stdout_fd);
/* Whether a program of this name is in PATH. */
bool tool_has_program(const char *name);
/* Copy the lines of a log that say "Error", the last ones that fit, to `text`. */
void tool_log_errors(const char *path, char *text, size_t capacity);
/* Remove a directory that holds files only. */
void tool_remove_directory(const char *path);

#endif
