/* The clock that never goes back. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline int64_t dn__nanoseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline double dn__seconds(void) { return 1e-9 * (double)dn__nanoseconds(); }
