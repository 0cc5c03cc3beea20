/* Times of calls of operations, and of what is around them, while somebody asks for them: see
 * dn_profile_begin() in dn_api_params.h. Otherwise operations are called as ever: their rows get
 * other functions when a profile begins. */
#pragma once

#include "op.h"

extern int dn__profiling; /* atomic */

/* A span of what is no operation, a dn_profile_kind, from its beginning to now. */
int64_t dn__profile_open(void);
void dn__profile_close(int kind, int64_t begin);
/* The same of the products of so many nodes, n columns in all, that give the gradient of a matrix
 * (m, k). */
void dn__profile_close_weights(int64_t begin, int m, int k, int n, int nodes);
#define DN_PROFILE_OPEN() \
    (__builtin_expect(__atomic_load_n(&dn__profiling, __ATOMIC_RELAXED), 0) ? dn__profile_open() \
                                                                            : -1)
#define DN_PROFILE_CLOSE(kind, begin) \
    do { \
        if (__builtin_expect((begin) >= 0, 0)) dn__profile_close(kind, begin); \
    } while (0)
