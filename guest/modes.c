/* See modes.h. */
#include "modes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint16_t number;
    bool is_default;
} MODES[MODE_COUNT] = {
    {1, false},    {7, true},     {25, true},    {1000, false}, {1001, false},
    {1002, false}, {1003, false}, {1004, false}, {1005, false}, {1006, false},
    {1007, false}, {1015, false}, {2004, false},
};

bool modes_in_ground(const struct mode_tracker *tracker)
{
    return tracker->state == MODE_GROUND;
}

static void reset(struct mode_tracker *tracker)
{
    *tracker = (struct mode_tracker){0};
}

static void set_mode(struct mode_tracker *tracker, unsigned long number, bool on)
{
    if (number == 47 || number == 1047 || number == 1049)
        tracker->alternate_screen = on ? (uint16_t)number : 0;
    for (size_t i = 0; i < MODE_COUNT; i++)
        if (MODES[i].number == number)
            tracker->changed[i] = on != MODES[i].is_default;
}

/* `final` ends a CSI sequence whose parameters have been collected. */
static void finish_csi(struct mode_tracker *tracker, char final)
{
    tracker->parameters[tracker->parameter_size] = '\0';
    const char *next = tracker->parameters;
    if (strcmp(next, "!") == 0 && final == 'p') { /* soft reset, DECSTR */
        tracker->application_keypad = false;
        set_mode(tracker, 1, false);
        set_mode(tracker, 7, true);
        set_mode(tracker, 25, true);
        return;
    }
    if (*next++ != '?' || (final != 'h' && final != 'l'))
        return;
    while (*next >= '0' && *next <= '9') {
        char *end;
        set_mode(tracker, strtoul(next, &end, 10), final == 'h');
        next = *end == ';' ? end + 1 : end;
    }
}

static void csi_byte(struct mode_tracker *tracker, uint8_t byte)
{
    if (byte >= 0x40 && byte <= 0x7e) {
        tracker->state = MODE_GROUND;
        finish_csi(tracker, (char)byte);
    } else if (byte == 0x1b) {
        tracker->state = MODE_ESCAPE;
    } else if (byte == 0x18 || byte == 0x1a) { /* CAN, SUB */
        tracker->state = MODE_GROUND;
    } else if (byte >= 0x20 && tracker->parameter_size + 1 < sizeof tracker->parameters) {
        tracker->parameters[tracker->parameter_size++] = (char)byte;
    }
}

static void escape_byte(struct mode_tracker *tracker, uint8_t byte)
{
    tracker->state = MODE_GROUND;
    switch (byte) {
    case '[':
        tracker->state = MODE_CSI;
        tracker->parameter_size = 0;
        break;
    case ']': /* OSC, DCS, SOS, PM, APC: a string until BEL or ST */
    case 'P':
    case 'X':
    case '^':
    case '_':
        tracker->state = MODE_STRING;
        break;
    case '=':
        tracker->application_keypad = true;
        break;
    case '>':
        tracker->application_keypad = false;
        break;
    case 'c':
        reset(tracker);
        break;
    case 0x1b:
        tracker->state = MODE_ESCAPE;
        break;
    default:
        if (byte >= 0x20 && byte <= 0x2f) /* an intermediate: one more byte to come */
            tracker->state = MODE_ESCAPE;
    }
}

static void feed_byte(struct mode_tracker *tracker, uint8_t byte)
{
    switch (tracker->state) {
    case MODE_GROUND:
        if (byte == 0x1b)
            tracker->state = MODE_ESCAPE;
        break;
    case MODE_ESCAPE:
        escape_byte(tracker, byte);
        break;
    case MODE_CSI:
        csi_byte(tracker, byte);
        break;
    case MODE_STRING:
        if (byte == 0x1b)
            tracker->state = MODE_STRING_ESCAPE;
        else if (byte == 0x07 || byte == 0x18 || byte == 0x1a)
            tracker->state = MODE_GROUND;
        break;
    case MODE_STRING_ESCAPE:
        tracker->state = MODE_GROUND;
        if (byte != '\\')
            escape_byte(tracker, byte);
        break;
    }
}

void modes_feed(struct mode_tracker *tracker, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        feed_byte(tracker, data[i]);
}

size_t modes_text(const struct mode_tracker *tracker, char text[MODES_TEXT_MAX])
{
    size_t size = 0;
    text[0] = '\0';
    if (tracker->alternate_screen != 0)
        size += (size_t)sprintf(text + size, "\033[?%uh", tracker->alternate_screen);
    if (tracker->application_keypad)
        size += (size_t)sprintf(text + size, "\033=");
    for (size_t i = 0; i < MODE_COUNT; i++)
        if (tracker->changed[i])
            size += (size_t)sprintf(text + size, "\033[?%u%c", MODES[i].number,
                                    MODES[i].is_default ? 'l' : 'h');
    return size;
}
