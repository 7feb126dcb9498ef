/*
 * Drives LLVMFuzzerTestOneInput() without libFuzzer: replays every file of a corpus directory, then as many
 * pseudo-random mutations of them as asked for, always the same for the same seed.
 *
 *   fuzz CORPUS_DIR MUTATIONS SEED
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUTS = 256, MAX_SIZE = 8192 };

static struct {
    uint8_t data[MAX_SIZE];
    size_t size;
} inputs[MAX_INPUTS];
static size_t input_count;
static uint64_t random_state;

/* xorshift64*, Vigna 2016 */
static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1dULL) >> 32) % limit;
}

static void read_corpus(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL) {
        perror(path);
        exit(2);
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL && input_count < MAX_INPUTS;) {
        char name[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        FILE *file = fopen(name, "rb");
        if (file == NULL) {
            perror(name);
            exit(2);
        }
        inputs[input_count].size = fread(inputs[input_count].data, 1, MAX_SIZE, file);
        input_count++;
        fclose(file);
    }
    closedir(directory);
}

/* Change one thing: a bit, a byte, a cut, a repetition, or a piece of another input. */
static size_t mutate(uint8_t *data, size_t size)
{
    static const uint8_t interesting[] = {0, 1, 0x7f, 0x80, 0xff, '\n', ' ', '=', '9', 0x1b};
    uint32_t at = size > 0 ? random_below((uint32_t)size) : 0;
    uint32_t length = size > 0 ? random_below((uint32_t)(size - at)) + 1 : 0;
    size_t other = random_below((uint32_t)input_count);
    switch (random_below(size > 0 ? 6 : 1)) {
    case 0:
        if (size < MAX_SIZE)
            data[size++] = (uint8_t)random_below(256);
        return size;
    case 1:
        data[at] ^= (uint8_t)(1 << random_below(8));
        return size;
    case 2:
        data[at] = interesting[random_below(sizeof interesting)];
        return size;
    case 3:
        memmove(data + at, data + at + length, size - at - length);
        return size - length;
    case 4:
        if (size + length > MAX_SIZE)
            return size;
        memmove(data + at + length, data + at, size - at);
        return size + length;
    default:
        if (length > inputs[other].size)
            length = (uint32_t)inputs[other].size;
        memcpy(data + at, inputs[other].data, length);
        return size;
    }
}

static void run(const uint8_t *data, size_t size)
{
    uint8_t *exact = malloc(size + (size == 0)); /* of the exact size: the sanitizer sees one byte too many */
    if (exact == NULL)
        exit(2);
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

int main(int count, char **arguments)
{
    static uint8_t data[MAX_SIZE];
    if (count != 4) {
        fprintf(stderr, "usage: fuzz CORPUS_DIR MUTATIONS SEED\n");
        return 2;
    }
    long mutations = atol(arguments[2]);
    random_state = strtoull(arguments[3], NULL, 10) * 2 + 1;
    read_corpus(arguments[1]);
    if (input_count == 0) {
        fprintf(stderr, "%s: no inputs\n", arguments[1]);
        return 2;
    }
    for (size_t i = 0; i < input_count; i++)
        run(inputs[i].data, inputs[i].size);
    for (long i = 0; i < mutations; i++) {
        size_t chosen = random_below((uint32_t)input_count);
        size_t size = inputs[chosen].size;
        memcpy(data, inputs[chosen].data, size);
        for (uint32_t changes = random_below(8) + 1; changes > 0; changes--)
            size = mutate(data, size);
        run(data, size);
    }
    printf("%zu inputs, %ld mutations\n", input_count, mutations);
    return 0;
}
