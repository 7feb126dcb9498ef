/* The least a unit test needs: a check that says where it failed, and a status. */
#ifndef MACHINEN_CHECK_H
#define MACHINEN_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__,      \
                    #condition);                                                          \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#define CHECK_TEXT(found, expected)                                                       \
    do {                                                                                  \
        const char *found_ = (found), *expected_ = (expected);                            \
        if (found_ == NULL || strcmp(found_, expected_) != 0) {                           \
            fprintf(stderr, "%s:%d: %s: \"%s\" is not \"%s\"\n", __FILE__, __LINE__,      \
                    __func__, found_ == NULL ? "(null)" : found_, expected_);             \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

#endif
