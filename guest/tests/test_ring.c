/* The ring, the tracker of private modes, and the byte queue. */
#include "../ring.h"
#include "check.h"

/* What the tracker says after `text`. */
static const char *modes_after(const char *text)
{
    static char result[MODES_TEXT_MAX];
    struct mode_tracker tracker = {0};
    modes_feed(&tracker, (const uint8_t *)text, strlen(text));
    modes_text(&tracker, result);
    return result;
}

static void test_modes(void)
{
    CHECK_TEXT(modes_after("plain"), "");
    CHECK_TEXT(modes_after("\033[?25l\033[?1049h"), "\033[?1049h\033[?25l");
    CHECK_TEXT(modes_after("\033[?25l\033[?25h"), "");
    CHECK_TEXT(modes_after("\033[?7l\033[?1;2004h"), "\033[?1h\033[?7l\033[?2004h");
    CHECK_TEXT(modes_after("\033[?1002;1006h\033[?1002l"), "\033[?1006h");
    CHECK_TEXT(modes_after("\033[?47h\033[?1049l"), "");
    CHECK_TEXT(modes_after("\033=\033[?1h"), "\033=\033[?1h");
    CHECK_TEXT(modes_after("\033=\033>"), "");
    CHECK_TEXT(modes_after("\033[?1049h\033[?25l\033c"), "");
    CHECK_TEXT(modes_after("\033[?25l\033[?2004h\033[!p"), "\033[?2004h");
    CHECK_TEXT(modes_after("\033[25l\033[?25$p\033[>25l\033[?99999999999999999999h"), "");
}

static void test_modes_within_strings_and_broken_sequences_do_not_count(void)
{
    CHECK_TEXT(modes_after("\033]0;title \033\\[?25l"), "");
    CHECK_TEXT(modes_after("\033]0;[?25l\007"), "");
    CHECK_TEXT(modes_after("\033P\033[?25l"), "\033[?25l"); /* ESC ends the string, as in xterm */
    CHECK_TEXT(modes_after("\033[?25\030l"), "");
    CHECK_TEXT(modes_after("\033[?2\033[?25l"), "\033[?25l");
    CHECK_TEXT(modes_after("\033(0\033[?25l"), "\033[?25l");
    char text[400] = "\033[?";
    memset(text + 3, '1', 300);
    strcat(text, "h\033[?25l");
    CHECK_TEXT(modes_after(text), "\033[?25l");
}

static void check_replay(const struct ring *ring, const char *expected, size_t size)
{
    struct bytes replay = {0};
    CHECK(ring_replay(ring, &replay) == 0);
    CHECK(replay.size == size);
    CHECK(size == 0 || memcmp(bytes_data(&replay), expected, size) == 0);
    bytes_free(&replay);
}

static void append(struct ring *ring, const char *text)
{
    ring_append(ring, (const uint8_t *)text, strlen(text));
}

static void fill(struct ring *ring, char letter, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ring_append(ring, (const uint8_t *)&letter, 1);
}

static void test_a_ring_that_is_not_full_replays_all(void)
{
    struct ring ring;
    CHECK(ring_open(&ring) == 0);
    check_replay(&ring, "", 0);
    append(&ring, "\x80 half\nand \033[?25l");
    check_replay(&ring, "\x80 half\nand \033[?25l", 17);
    ring_close(&ring);
}

static void test_a_full_ring_replays_from_a_line_with_the_lost_modes(void)
{
    static char expected[RING_CAPACITY + 64];
    struct ring ring;
    CHECK(ring_open(&ring) == 0);
    append(&ring, "\033[?1049h");
    fill(&ring, 'a', 100);
    append(&ring, "tail\033[?25l of a line\n");
    fill(&ring, 'b', RING_CAPACITY - 10);
    memcpy(expected, "\033[?1049h\033[?25l", 14);
    memset(expected + 14, 'b', RING_CAPACITY - 10);
    check_replay(&ring, expected, 14 + RING_CAPACITY - 10);
    ring_close(&ring);
}

static void test_without_a_line_the_cut_is_between_characters(void)
{
    struct ring ring;
    struct bytes replay = {0};
    CHECK(ring_open(&ring) == 0);
    for (size_t i = 0; i < RING_CAPACITY / 3 + 2; i++)
        append(&ring, "\xe2\x82\xac"); /* RING_CAPACITY is no multiple of 3 */
    CHECK(ring_replay(&ring, &replay) == 0);
    CHECK(replay.size % 3 == 0 && replay.size >= RING_CAPACITY - 3);
    CHECK(memcmp(bytes_data(&replay), "\xe2\x82\xac", 3) == 0);
    bytes_free(&replay);
    ring_close(&ring);
}

static void test_without_a_line_the_cut_is_not_inside_a_sequence(void)
{
    struct ring ring;
    struct bytes replay = {0};
    CHECK(ring_open(&ring) == 0);
    append(&ring, "\033[?25l");
    fill(&ring, 'x', RING_CAPACITY - 3); /* the ring begins with "25l" */
    CHECK(ring_replay(&ring, &replay) == 0);
    CHECK(replay.size == 6 + RING_CAPACITY - 3);
    CHECK(memcmp(bytes_data(&replay), "\033[?25lxxx", 9) == 0);
    bytes_free(&replay);
    ring_close(&ring);
}

static void test_one_write_larger_than_the_ring(void)
{
    static uint8_t big[RING_CAPACITY * 2];
    struct ring ring;
    struct bytes replay = {0};
    CHECK(ring_open(&ring) == 0);
    append(&ring, "\033[?7l before\n");
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = i % 64 == 0 ? '\n' : (uint8_t)('0' + i % 10);
    memcpy(big + 100, "\033[?2004h", 8);
    ring_append(&ring, big, sizeof big);
    CHECK(ring_replay(&ring, &replay) == 0);
    CHECK(memcmp(bytes_data(&replay), "\033[?7l\033[?2004h", 13) == 0);
    size_t rest = replay.size - 13;
    CHECK(memcmp(bytes_data(&replay) + 13, big + sizeof big - rest, rest) == 0);
    CHECK(big[sizeof big - rest - 1] == '\n');
    bytes_free(&replay);
    ring_close(&ring);
}

static void test_a_queue_keeps_its_order_and_gives_memory_back(void)
{
    struct bytes queue = {0};
    unsigned char next_in = 0, next_out = 0;
    for (int round = 0; round < 2000; round++) {
        unsigned char piece[97];
        size_t in = (size_t)(round * 31 % 97), out = (size_t)(round * 17 % 89);
        for (size_t i = 0; i < in; i++)
            piece[i] = next_in++;
        CHECK(bytes_append(&queue, piece, in) == 0);
        out = out < queue.size ? out : queue.size;
        for (size_t i = 0; i < out; i++)
            CHECK(bytes_data(&queue)[i] == next_out++);
        bytes_drop(&queue, out);
    }
    static char large[100000];
    CHECK(bytes_append(&queue, large, sizeof large) == 0);
    bytes_drop(&queue, queue.size);
    CHECK(queue.memory == NULL && queue.capacity == 0);
}

int main(void)
{
    test_modes();
    test_modes_within_strings_and_broken_sequences_do_not_count();
    test_a_ring_that_is_not_full_replays_all();
    test_a_full_ring_replays_from_a_line_with_the_lost_modes();
    test_without_a_line_the_cut_is_between_characters();
    test_without_a_line_the_cut_is_not_inside_a_sequence();
    test_one_write_larger_than_the_ring();
    test_a_queue_keeps_its_order_and_gives_memory_back();
    return 0;
}
