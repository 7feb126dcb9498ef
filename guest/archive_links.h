/* Which files with several names an archive holds already. */
#ifndef MACHINEN_ARCHIVE_LINKS_H
#define MACHINEN_ARCHIVE_LINKS_H

#include <sys/stat.h>

/*
 * The path under which the file was met first: `path` itself if this is the first time, and it is remembered then.
 * NULL without memory.
 */
const char *archive_first_link(const struct stat *status, const char *path);
void archive_forget_links(void);

#endif
