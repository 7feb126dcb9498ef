/* See process_tree.h. */
#include "process_tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io.h"

int process_stat_parse(const char *text, struct process_stat *found)
{
    const char *open = strchr(text, '('), *close = strrchr(text, ')'); /* a name may hold both */
    int parent, foreground, pid;
    if (open == NULL || close == NULL || close < open || sscanf(text, "%d", &pid) != 1)
        return -EINVAL;
    if (sscanf(close + 1, " %*c %d %*d %*d %*d %d", &parent, &foreground) != 2)
        return -EINVAL;
    size_t size = (size_t)(close - open - 1);
    *found = (struct process_stat){.pid = pid, .parent = parent, .foreground = foreground};
    memcpy(found->name, open + 1, size < PROCESS_NAME_MAX ? size : PROCESS_NAME_MAX);
    return 0;
}

int process_stat_read(pid_t pid, struct process_stat *found)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    ssize_t size = read_text_file(path, text, sizeof text);
    return size < 0 ? (int)size : process_stat_parse(text, found);
}

/* All processes there are. Returns how many, or a negative errno. */
static int read_all(struct process_stat *all, size_t capacity)
{
    DIR *proc = opendir("/proc");
    size_t count = 0;
    if (proc == NULL)
        return -errno;
    for (struct dirent *entry; count < capacity && (entry = readdir(proc)) != NULL;)
        if (isdigit((unsigned char)entry->d_name[0]) &&
            process_stat_read((pid_t)atol(entry->d_name), &all[count]) == 0)
            count++;
    closedir(proc);
    return count == capacity ? -E2BIG : (int)count;
}

int process_tree(pid_t root, struct process_stat *tree, size_t capacity)
{
    struct process_stat *all = calloc(TREE_MAX, sizeof *all);
    if (all == NULL)
        return -ENOMEM;
    int count = read_all(all, TREE_MAX), result = count < 0 ? count : process_stat_read(root, tree);
    size_t found = 1;
    /* Each round looks for children of one process already found, so the list is in breadth-first order. */
    for (size_t parent = 0; result == 0 && parent < found; parent++)
        for (int i = 0; i < count && found < capacity; i++)
            if (all[i].parent == tree[parent].pid)
                tree[found++] = all[i];
    free(all);
    return result < 0 ? result : (int)found;
}
