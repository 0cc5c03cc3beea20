/* Products of bfloat16 numbers by AVX512-BF16. Its instructions round to nearest even, take
 * denormals for zero and give none, whatever MXCSR says. */
#include "bf16_ways.h"

#ifndef DN_DOUBLE
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>
#include <immintrin.h>

#define ISA __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE ISA static inline __attribute__((always_inline))

enum { AHEAD = 4 * DEPTH }; /* numbers of a column that are fetched before they are read */

/* ---- float to tiles ------------------------------------------------------------------- */
INLINE __mmask16 first(int lanes) {
    return (__mmask16)(lanes >= 16 ? 0xffff : lanes <= 0 ? 0 : (1u << lanes) - 1);
}
/* A tile by lines becomes one by pairs, and the other way round. */
INLINE void flip(__m512i v[LINES]) {
    __m512i t[LINES];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int h = 0; h < 2; h++) {
            v[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
            v[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
        }
    /* v[i + q], i a multiple of 4: element 4 g + q of lines i .. i + 3, g = 0 .. 3 */
    for (int q = 0; q < 4; q++) {
        t[q] = _mm512_shuffle_i32x4(v[q], v[4 + q], 0x88);
        t[4 + q] = _mm512_shuffle_i32x4(v[q], v[4 + q], 0xdd);
        t[8 + q] = _mm512_shuffle_i32x4(v[8 + q], v[12 + q], 0x88);
        t[12 + q] = _mm512_shuffle_i32x4(v[8 + q], v[12 + q], 0xdd);
    }
    for (int q = 0; q < 4; q++) {
        v[q] = _mm512_shuffle_i32x4(t[q], t[8 + q], 0x88);
        v[8 + q] = _mm512_shuffle_i32x4(t[q], t[8 + q], 0xdd);
        v[4 + q] = _mm512_shuffle_i32x4(t[4 + q], t[12 + q], 0x88);
        v[12 + q] = _mm512_shuffle_i32x4(t[4 + q], t[12 + q], 0xdd);
    }
}

/* 16 numbers and 16 others, rounded */
INLINE __m512i line_of(__mmask16 lows, __mmask16 highs, const float *low, const float *high) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(highs, high),
                                        _mm512_maskz_loadu_ps(lows, low));
}

ISA static void avx512_columns(int k, int n, const float *x, size_t ldx, int by_pairs,
                               uint32_t *to) {
    for (int c = 0; c < n; c += LINES, x += LINES * ldx)
        for (int j = 0; j < k; j += DEPTH, to += TILE) {
            __mmask16 low = first(k - j), high = first(k - j - 16);
            __m512i v[LINES];
            for (int i = 0; i < LINES; i++) {
                const float *line = x + i * ldx + j;
                __builtin_prefetch(line + AHEAD);
                __builtin_prefetch(line + AHEAD + 16);
                v[i] = i < n - c ? line_of(low, high, line, high ? line + 16 : line)
                                 : _mm512_setzero_si512();
            }
            if (by_pairs) flip(v);
            for (int i = 0; i < LINES; i++) _mm512_storeu_si512(to + LINES * i, v[i]);
        }
}

/* 16 pairs of numbers from two columns */
INLINE __m512i pairs_of(__mmask16 evens, const float *even, __mmask16 odds, const float *odd,
                        __m512i order) {
    return _mm512_permutexvar_epi16(order, line_of(evens, odds, even, odd));
}

ISA static void avx512_rows(int m, int k, const float *x, size_t ldx, int by_pairs, uint32_t *to) {
    size_t step = (size_t)dn_bf16_blocks(k, DEPTH) * TILE;
    __m512i even_places = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
            order =
                _mm512_add_epi32(_mm512_or_si512(even_places, _mm512_slli_epi32(even_places, 16)),
                                 _mm512_set1_epi32(16 << 16));
    for (int j = 0; j < k; j += DEPTH, to += TILE) {
        /* along the columns, since the next one may be far away */
        for (int p = 0; p < LINES; p++) {
            int at = j + 2 * p;
            __mmask16 even_is_there = at < k ? 0xffff : 0, odd_is_there = at + 1 < k ? 0xffff : 0;
            const float *even = x + (size_t)(even_is_there ? at : 0) * ldx,
                        *odd = x + (size_t)(odd_is_there ? at + 1 : 0) * ldx;
            uint32_t *line = to + LINES * p;
            int r = 0, far = at + 3 < k ? 2 : 0;
            for (; r + LINES <= m; r += LINES, line += step) {
                __builtin_prefetch(even + far * ldx + r);
                __builtin_prefetch(odd + far * ldx + r);
                _mm512_storeu_si512(line, pairs_of(even_is_there, even + r, odd_is_there, odd + r,
                                                   order));
            }
            if (r < m)
                _mm512_storeu_si512(line, pairs_of(first(m - r) & even_is_there, even + r,
                                                   first(m - r) & odd_is_there, odd + r, order));
        }
        for (int r = 0; !by_pairs && r < m; r += LINES) {
            uint32_t *tile = to + r / LINES * step;
            __m512i v[LINES];
            for (int i = 0; i < LINES; i++) v[i] = _mm512_loadu_si512(tile + LINES * i);
            flip(v);
            for (int i = 0; i < LINES; i++) _mm512_storeu_si512(tile + LINES * i, v[i]);
        }
    }
}

/* ---- products ------------------------------------------------------------------------- */
/* `panels` blocks of 16 rows of y by `count` columns; a line of b is one column */
INLINE void block(int panels, int count, int tiles, const uint32_t *a, size_t a_step,
                  const uint32_t *b, int add, float *y, size_t ldy, __mmask16 last) {
    __m512 sum[8][8];
    for (int c = 0; c < count; c++)
        for (int p = 0; p < panels; p++)
            sum[c][p] = add ? _mm512_maskz_loadu_ps(p == panels - 1 ? last : 0xffff,
                                                    y + (size_t)c * ldy + p * LINES)
                            : _mm512_setzero_ps();
    for (int t = 0; t < tiles; t++, a += TILE, b += TILE)
        for (int q = 0; q < 16; q++) {
            __m512bh v[8];
            for (int p = 0; p < panels; p++)
                v[p] = (__m512bh)_mm512_loadu_si512(a + p * a_step + LINES * q);
            for (int c = 0; c < count; c++) {
                __m512bh one = (__m512bh)_mm512_set1_epi32((int)b[LINES * c + q]);
                for (int p = 0; p < panels; p++) sum[c][p] = _mm512_dpbf16_ps(sum[c][p], v[p], one);
            }
        }
    for (int c = 0; c < count; c++)
        for (int p = 0; p < panels; p++)
            _mm512_mask_storeu_ps(y + (size_t)c * ldy + p * LINES, p == panels - 1 ? last : 0xffff,
                                  sum[c][p]);
}

#define BLOCK(PANELS, COUNT) \
    ISA static void block_##PANELS##_##COUNT(int tiles, const uint32_t *a, size_t a_step, \
                                             const uint32_t *b, int add, float *y, size_t ldy, \
                                             __mmask16 last) { \
        block(PANELS, COUNT, tiles, a, a_step, b, add, y, ldy, last); \
    }
BLOCK(1, 1)
BLOCK(1, 2)
BLOCK(1, 3)
BLOCK(1, 4)
BLOCK(1, 5)
BLOCK(1, 6)
BLOCK(1, 7)
BLOCK(1, 8)
BLOCK(2, 1)
BLOCK(2, 2)
BLOCK(2, 3)
BLOCK(2, 4)
BLOCK(2, 5)
BLOCK(2, 6)
BLOCK(2, 7)
BLOCK(2, 8)
BLOCK(4, 1)
BLOCK(4, 2)
BLOCK(4, 3)
BLOCK(4, 4)
BLOCK(8, 1)
BLOCK(8, 2)
typedef void block_fn(int tiles, const uint32_t *a, size_t a_step, const uint32_t *b, int add,
                      float *y, size_t ldy, __mmask16 last);
static block_fn *const BLOCKS[4][8] = {
    {block_1_1, block_1_2, block_1_3, block_1_4, block_1_5, block_1_6, block_1_7, block_1_8},
    {block_2_1, block_2_2, block_2_3, block_2_4, block_2_5, block_2_6, block_2_7, block_2_8},
    {block_4_1, block_4_2, block_4_3, block_4_4, NULL, NULL, NULL, NULL},
    {block_8_1, block_8_2, NULL, NULL, NULL, NULL, NULL, NULL},
};

ISA static void avx512_product(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                               const uint32_t *b, size_t b_step, int add, float *y, size_t ldy) {
    /* few columns: as many sums as hide the latency of one, by more rows */
    int most = n <= 2 ? 3 : n <= 4 ? 2 : 1;
    for (int i = 0; i < m;) {
        int left = dn_bf16_blocks(m - i, LINES), level = most;
        while (left < 1 << level) level--;
        int done = dn_bf16_least(m - i, LINES << level);
        __mmask16 last = first(done - (LINES << level) + LINES);
        for (int c = 0, count; c < n; c += count) {
            count = dn_bf16_least(8, n - c);
            BLOCKS[level][count - 1](tiles, a, a_step, b + (c / LINES) * b_step + c % LINES * LINES,
                                     add, y + (size_t)c * ldy + i, ldy, last);
        }
        a += a_step << level;
        i += done;
    }
}

/* ---- the processor -------------------------------------------------------------------- */
static int has_avx512_bf16(void) {
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6) != 0xe6) return 0; /* the system keeps all of the vector registers */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || a < 1) return 0;
    unsigned f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    if ((b & f_dq_bw_vl) != f_dq_bw_vl) return 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

const dn_bf16_way *dn__bf16_avx512(void) {
    static const dn_bf16_way way = {"avx512", avx512_columns, avx512_rows, avx512_product};
    return has_avx512_bf16() ? &way : NULL;
}
#else
const dn_bf16_way *dn__bf16_avx512(void) { return NULL; }
#endif
#endif
