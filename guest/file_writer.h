/*
 * A child that writes what comes on a stream into a file. The bytes lie in memory that both see: a pipe would take a page
 * and two more copies for every 4 KiB. The agent never waits for a disk.
 */
#ifndef MACHINEN_FILE_WRITER_H
#define MACHINEN_FILE_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file_writer {
    uint8_t *ring; /* NULL: not started */
    size_t next;   /* where the next byte goes */
    size_t used;   /* bytes that are not in the file yet */
    size_t untold; /* of these, what the child has not been told of */
};

/* Make the memory, before the child is forked. Returns 0 or a negative errno. */
int file_writer_start(struct file_writer *writer);
void file_writer_free(struct file_writer *writer);
/* Take bytes. Returns how many there was room for. */
size_t file_writer_put(struct file_writer *writer, const uint8_t *data, size_t size);
/* Tell the child, by its standard input, of what was put, once that is `least` bytes. Returns 0 or a negative errno. */
int file_writer_tell(struct file_writer *writer, int child, size_t least);
/* What the child said on its standard output. Returns how many bytes are in the file now that were not before. */
size_t file_writer_hear(struct file_writer *writer, const uint8_t *said, size_t size);

/* In the child: open a plain file that is there, to be written anew. Returns the descriptor or a negative errno. */
int file_writer_open(const char *path);
/* In the child: write until standard input ends; messages go to standard error. Keeps none of the agent's descriptors. */
_Noreturn void file_writer_run(const struct file_writer *writer, int file);

#endif
