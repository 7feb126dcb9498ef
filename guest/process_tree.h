/* A process and all its descendants, from /proc; proc_pid_stat(5). */
#ifndef MACHINEN_PROCESS_TREE_H
#define MACHINEN_PROCESS_TREE_H

#include <stddef.h>
#include <sys/types.h>

enum { TREE_MAX = 4096, PROCESS_NAME_MAX = 64 };

struct process_stat {
    pid_t pid;
    pid_t parent;
    pid_t foreground; /* foreground process group of its terminal, or -1 */
    char name[PROCESS_NAME_MAX + 1];
};

/* Parse the text of /proc/<pid>/stat. Returns 0 or -EINVAL. */
int process_stat_parse(const char *text, struct process_stat *found);
/* Read it. Returns 0 or a negative errno. */
int process_stat_read(pid_t pid, struct process_stat *found);
/* Fill `tree` with `root` (first) and its descendants. Returns how many, or a negative errno. */
int process_tree(pid_t root, struct process_stat *tree, size_t capacity);

#endif
