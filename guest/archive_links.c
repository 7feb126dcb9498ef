/* See archive_links.h. A hash table with open addressing, at most half full. */
#include "archive_links.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST_TABLE = 256 };

struct link {
    dev_t device;
    ino_t inode;
    char *path; /* NULL: free */
};

static struct {
    struct link *slots;
    size_t capacity; /* a power of two */
    size_t used;
} links;

/* The slot of a file, or the free one where it belongs. */
static struct link *find_slot(struct link *slots, size_t capacity, dev_t device, ino_t inode)
{
    uint64_t hash = ((uint64_t)inode ^ (uint64_t)device << 40) * 0x9e3779b97f4a7c15;
    size_t index = (size_t)(hash >> 32) & (capacity - 1);
    while (slots[index].path != NULL &&
           (slots[index].inode != inode || slots[index].device != device))
        index = (index + 1) & (capacity - 1);
    return &slots[index];
}

static int grow(void)
{
    size_t capacity = links.capacity == 0 ? SMALLEST_TABLE : links.capacity * 2;
    struct link *slots = calloc(capacity, sizeof *slots);
    if (slots == NULL)
        return -1;
    for (size_t i = 0; i < links.capacity; i++) {
        struct link *old = &links.slots[i];
        if (old->path != NULL)
            *find_slot(slots, capacity, old->device, old->inode) = *old;
    }
    free(links.slots);
    links.slots = slots;
    links.capacity = capacity;
    return 0;
}

const char *archive_first_link(const struct stat *status, const char *path)
{
    if (links.used * 2 >= links.capacity && grow() < 0)
        return NULL;
    struct link *slot = find_slot(links.slots, links.capacity, status->st_dev, status->st_ino);
    if (slot->path != NULL)
        return slot->path;
    char *copy = strdup(path);
    if (copy == NULL)
        return NULL;
    *slot = (struct link){.device = status->st_dev, .inode = status->st_ino, .path = copy};
    links.used++;
    return path;
}

void archive_forget_links(void)
{
    for (size_t i = 0; i < links.capacity; i++)
        free(links.slots[i].path);
    free(links.slots);
    links.slots = NULL;
    links.capacity = links.used = 0;
}
