/* Growing a mounted ext4 to the size of its disk. */
#ifndef MACHINEN_GROW_H
#define MACHINEN_GROW_H

/* Does nothing if the disk is no larger. Returns 0 or a negative errno. */
int grow_ext4(const char *device, const char *mount_point);

#endif
