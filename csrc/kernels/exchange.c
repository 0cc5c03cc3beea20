/* Sums of gradients over the ranks of a host, in memory that they share, and over hosts; what
 * crosses the network in half of the bytes. */
#include <string.h>

#include "kernels.h"
#include "math.h"
#include "unfused.h"

/* numbers: the sum of a block stays in the first-level cache until it is written to every rank */
enum { BLOCK = 1024 };

static inline __attribute__((always_inline)) void sum_two(size_t n, dn_real f0, dn_real f1,
                                                          dn_real *a, dn_real *b) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        a[i] = b[i] = f0 * a[i] + f1 * b[i];
}
static inline __attribute__((always_inline)) void
sum_two_into(size_t n, dn_real f0, dn_real f1, const dn_real *a, const dn_real *b, dn_real *sum) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        sum[i] = f0 * a[i] + f1 * b[i];
}

DN_MULTIVERSION void dn__sum_ranks(int ranks, int only, dn_real *const *segments,
                                   const dn_real *factors, const uint8_t *filled, size_t from,
                                   size_t to) {
    if (ranks == 2 && filled[0] && filled[1] && only >= 0) {
        sum_two_into(to - from, factors[0], factors[1], segments[0] + from, segments[1] + from,
                     segments[only] + from);
        return;
    }
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
                DN_SIMD for (size_t i = 0; i < n; i++)
                    sum[i] = f * g[i];
            } else {
                DN_SIMD for (size_t i = 0; i < n; i++)
                    sum[i] += f * g[i];
            }
            first = 0;
        }
        if (first) DN_SIMD
            for (size_t i = 0; i < n; i++) sum[i] = 0;
        for (int r = only < 0 ? 0 : only; r < (only < 0 ? ranks : only + 1); r++) {
            dn_real *g = segments[r] + from;
            DN_SIMD for (size_t i = 0; i < n; i++)
                g[i] = sum[i];
        }
    }
}

DN_MULTIVERSION void dn__sum_arrays(int count, dn_real *const *x, size_t n, dn_real *sum) {
    dn_real block[BLOCK];
    for (size_t from = 0; from < n; from += BLOCK) {
        size_t m = n - from < BLOCK ? n - from : BLOCK;
        const dn_real *first = x[0] + from;
        DN_SIMD for (size_t i = 0; i < m; i++)
            block[i] = first[i];
        for (int k = 1; k < count; k++) {
            const dn_real *next = x[k] + from;
            DN_SIMD for (size_t i = 0; i < m; i++)
                block[i] += next[i];
        }
        dn_real *to = sum + from;
        DN_SIMD for (size_t i = 0; i < m; i++)
            to[i] = block[i];
    }
}

static inline __attribute__((always_inline)) uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    /* the last kept bit decides ties */
    uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    /* rounding could make an infinity of it */
    uint32_t nan = (bits >> 16) | 0x40;
    return (uint16_t)((bits & 0x7FFFFFFF) > 0x7F800000 ? nan : rounded);
}

static inline __attribute__((always_inline)) float from_bf16(uint16_t code) {
    uint32_t bits = (uint32_t)code << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

DN_MULTIVERSION void dn__bf16_encode(size_t n, const dn_real *x, dn_real *residual,
                                     uint16_t *code) {
    if (!residual) {
        DN_SIMD for (size_t i = 0; i < n; i++)
            code[i] = to_bf16((float)x[i]);
        return;
    }
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real wanted = x[i] + residual[i];
        code[i] = to_bf16((float)wanted);
        dn_real lacking = wanted - from_bf16(code[i]);
        residual[i] = lacking - lacking == 0 ? lacking : 0;
    }
}

DN_MULTIVERSION void dn__bf16_decode(size_t n, const uint16_t *code, dn_real *x) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        x[i] = from_bf16(code[i]);
}
