/*
 * `agent --archive DIR [--exclude=PATH]…`: a directory as a tar archive on standard output, so that an image needs no tar
 * of its own. The same tree gives the same bytes: names are sorted, owners are numbers, hard links and extended attributes
 * are kept. It does not leave the file system. PATH is relative to DIR; "tmp/" leaves out what is in tmp, "tmp" also tmp.
 */
#ifndef MACHINEN_ARCHIVE_H
#define MACHINEN_ARCHIVE_H

/* `arguments` begin after --archive. Returns the exit status; messages go to standard error. */
int archive_main(int count, char **arguments);

#endif
