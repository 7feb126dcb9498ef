/* The child's side of process_start(). */
#ifndef MACHINEN_PROCESS_CHILD_H
#define MACHINEN_PROCESS_CHILD_H

#include "process.h"

/* The child's ends, in this order; -1 where there is none. */
struct child_descriptors {
    int input;
    int output;
    int error;
    int terminal;
    int status;
};

/* Become the program, or report why not through `child->status` and exit. */
_Noreturn void child_run(const struct process_request *request,
                         const struct child_descriptors *child);

#endif
