/* Sums of gradients over the ranks of a host, in memory that they share, and over hosts; what
 * crosses the wire in half or a quarter of the bytes. */
#include <float.h>
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

/* A block of int8: its scale, a float, then its codes. Scales below this would lose digits. */
static const float SMALLEST = 1e-30f;
enum { LARGEST = 126, INFINITE = 127, NOT_A_NUMBER = -128 };

static inline __attribute__((always_inline)) float from_int8(int8_t code, float scale) {
    float infinite = code > 0 ? (float)INFINITY : -(float)INFINITY;
    float unusual = code == NOT_A_NUMBER ? (float)NAN : infinite;
    return code > LARGEST || code < -LARGEST ? unusual : (float)code * scale;
}

static inline __attribute__((always_inline)) void encode_block(size_t n, const dn_real *x,
                                                               dn_real *residual, uint8_t *code) {
    int32_t largest = 0; /* the bits of floats that are not negative are in their order */
    for (size_t i = 0; i < n; i++) {
        float wanted = (float)(x[i] + residual[i]);
        int32_t bits;
        memcpy(&bits, &wanted, sizeof bits);
        bits &= 0x7FFFFFFF;
        bits = bits < 0x7F800000 ? bits : 0;
        largest = bits > largest ? bits : largest;
    }
    float size, scale = 0, inverse = 0;
    memcpy(&size, &largest, sizeof size);
    if (size >= SMALLEST) {
        scale = size / LARGEST;
        inverse = LARGEST / size;
    }
    memcpy(code, &scale, sizeof scale);
    int8_t *codes = (int8_t *)code + sizeof scale;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real exact = x[i] + residual[i];
        float wanted = (float)exact;
        int finite = fabsf(wanted) <= FLT_MAX;
        /* to nearest, ties to even: the sum has no digits behind the point */
        float rounded = (finite ? wanted * inverse : 0) + 12582912.0f - 12582912.0f;
        int unusual = wanted > 0 ? INFINITE : wanted < 0 ? -INFINITE : NOT_A_NUMBER;
        codes[i] = (int8_t)(finite ? (int)rounded : unusual);
        residual[i] = finite ? exact - rounded * scale : 0;
    }
}

DN_MULTIVERSION void dn__int8_encode(size_t rows, size_t width, size_t block, const dn_real *x,
                                     dn_real *residual, uint8_t *code) {
    for (size_t row = 0; row < rows; row++)
        for (size_t at = 0, n; at < width; at += n) {
            n = width - at < block ? width - at : block;
            encode_block(n, x, residual, code);
            x += n;
            residual += n;
            code += sizeof(float) + n;
        }
}

DN_MULTIVERSION void dn__int8_decode(size_t rows, size_t width, size_t block, const uint8_t *code,
                                     dn_real *x) {
    for (size_t row = 0; row < rows; row++)
        for (size_t at = 0, n; at < width; at += n) {
            n = width - at < block ? width - at : block;
            float scale;
            memcpy(&scale, code, sizeof scale);
            const int8_t *codes = (const int8_t *)code + sizeof scale;
            DN_SIMD for (size_t i = 0; i < n; i++)
                x[i] = from_int8(codes[i], scale);
            x += n;
            code += sizeof scale + n;
        }
}
