/*
 * Keep every other program of the guest from running while it is copied, so that none sees a copy before that copy knows
 * who it is: no program draws a random number, reads the clock or sends a byte twice.
 */
#ifndef MACHINEN_HOLD_H
#define MACHINEN_HOLD_H

#include <stdbool.h>

/* Take every processor. Returns when the others have stopped, or after some milliseconds without it. */
void hold_begin(void);
/* Let them go on. */
void hold_end(void);
/* Let them go on when hold_end() is called, or a moment from now. */
void hold_ends_soon(void);
/* Whether the loop shall not sleep. False once nobody has ended the hold for half a second of the guest's time. */
bool hold_is_on(void);

#endif
