/* The sum of gradients over the ranks of a host, in memory that they share. */
#include "kernels.h"
#include "math.h"

enum { BLOCK = 1024 }; /* numbers: the sum of a block stays in the first-level cache until it is written to every rank */

static inline __attribute__((always_inline)) void sum_two(size_t n, dn_real f0, dn_real f1, dn_real *a, dn_real *b) {
    DN_SIMD for (size_t i = 0; i < n; i++) a[i] = b[i] = f0 * a[i] + f1 * b[i];
}

DN_MULTIVERSION void dn__sum_ranks(int ranks, dn_real *const *segments, const dn_real *factors, const uint8_t *filled, size_t from, size_t to) {
    if (ranks == 2 && filled[0] && filled[1]) {
        sum_two(to - from, factors[0], factors[1], segments[0] + from, segments[1] + from);
        return;
    }
    dn_real sum[BLOCK];
    for (; from < to; from += BLOCK) {
        size_t n = to - from < BLOCK ? to - from : BLOCK;
        int first = 1;
        for (int r = 0; r < ranks; r++) {
            if (!filled[r]) continue;
            const dn_real *g = segments[r] + from;
            dn_real f = factors[r];
            if (first) {
                DN_SIMD for (size_t i = 0; i < n; i++) sum[i] = f * g[i];
            } else {
                DN_SIMD for (size_t i = 0; i < n; i++) sum[i] += f * g[i];
            }
            first = 0;
        }
        if (first) DN_SIMD for (size_t i = 0; i < n; i++) sum[i] = 0;
        for (int r = 0; r < ranks; r++) {
            dn_real *g = segments[r] + from;
            DN_SIMD for (size_t i = 0; i < n; i++) g[i] = sum[i];
        }
    }
}
