/*
 * Follows the private modes a terminal program has switched (DEC private modes, see xterm's ctlseqs), in bytes that
 * are about to be forgotten, so that a replay of the rest can begin in the right state. Pure.
 */
#ifndef MACHINEN_MODES_H
#define MACHINEN_MODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MODE_COUNT = 13, MODES_TEXT_MAX = 160 };

enum mode_state { MODE_GROUND, MODE_ESCAPE, MODE_CSI, MODE_STRING, MODE_STRING_ESCAPE };

struct mode_tracker {
    enum mode_state state;
    char parameters[64]; /* of the CSI being read, without its final byte */
    size_t parameter_size;
    uint16_t alternate_screen; /* 47, 1047, 1049, or 0 */
    bool application_keypad;
    bool changed[MODE_COUNT]; /* differs from the default of the mode at this index */
};

/* Zero-initialised is a terminal after a reset. */
void modes_feed(struct mode_tracker *tracker, const uint8_t *data, size_t size);
/* Whether the bytes so far end between two characters or sequences. */
bool modes_in_ground(const struct mode_tracker *tracker);
/* Write the sequences that switch what is in force. Returns the text's length. */
size_t modes_text(const struct mode_tracker *tracker, char text[MODES_TEXT_MAX]);

#endif
