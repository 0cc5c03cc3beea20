/* What the ways of computing products of bfloat16 numbers have in common. Within kernels/bf16*.c
 * only.
 *
 * All operands become tiles: 16 lines of 32 numbers that are summed over, as 16 x 16 pairs, 1 KiB.
 * A tile is by lines (pair p of line l at 16 l + p), as AMX takes its first operand, or by pairs
 * (at 16 p + l), as it takes its second. An operand of `lines` lines is blocks of 16 lines, each of
 * which is its tiles one after the other; what is missing in the last ones is zero. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "../dn_real.h"

#ifndef DN_DOUBLE
enum { LINES = 16, DEPTH = 32, TILE = LINES * DEPTH / 2 };

typedef struct dn_bf16_way {
    const char *name;
    /* the columns of x, k x n, as lines: k is summed over. In tiles by lines, or by pairs. */
    void (*columns)(int k, int n, const dn_real *x, size_t ldx, int by_pairs, uint32_t *to);
    /* the rows of x, m x k, as lines: k is summed over. In tiles by pairs, or by lines. */
    void (*rows)(int m, int k, const dn_real *x, size_t ldx, int by_pairs, uint32_t *to);
    /* y[c ldy + i] = sum over `tiles` tiles of line c of b (tiles by lines; c < n) with line i of a
     * (tiles by pairs; i < m) + beta y; a_step, b_step: pairs between blocks of 16 lines */
    void (*product)(int m, int n, int tiles, const uint32_t *a, size_t a_step, const uint32_t *b,
                    size_t b_step, int add, dn_real *y, size_t ldy);
} dn_bf16_way;

/* NULL: not on this processor, or not by this compiler */
const dn_bf16_way *dn__bf16_plain(void);
const dn_bf16_way *dn__bf16_avx512(void);
const dn_bf16_way *dn__bf16_amx(void);

static inline int dn_bf16_blocks(int n, int size) { return n / size + (n % size != 0); }
static inline int dn_bf16_least(int a, int b) { return a < b ? a : b; }
#endif
