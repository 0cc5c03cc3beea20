/* Products of bfloat16 numbers in plain C: rounded on the way into tiles, then float. The same bits
 * as AVX512-BF16 where the processor has fused multiply-add; without, a product that is no normal
 * number is rounded before it is added. Denormals count as zero on x86-64 and aarch64. */
#include "bf16_ways.h"

#ifndef DN_DOUBLE
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#include "math.h"

/* ---- float to tiles ------------------------------------------------------------------- */
DN_INLINE uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
/* To nearest, ties to even; a nan stays one, quiet; a denormal becomes zero. */
DN_INLINE uint32_t round_to_bf16(float x) {
    uint32_t u = bits_of(x), size = u & 0x7fffffffu;
    uint32_t rounded = (u + 0x7fffu + (u >> 16 & 1)) >> 16;
    rounded = size > 0x7f800000u ? u >> 16 | 0x40 : rounded;
    return size < 0x00800000u ? u >> 16 & 0x8000u : rounded;
}

/* 32 numbers of one column */
DN_MULTIVERSION static void line_of(const float *x, uint32_t *to) {
    for (int p = 0; p < LINES; p++)
        to[p] = round_to_bf16(x[2 * p]) | round_to_bf16(x[2 * p + 1]) << 16;
}
/* 16 pairs from two columns */
DN_MULTIVERSION static void pairs_of(const float *even, const float *odd, uint32_t *to) {
    for (int l = 0; l < LINES; l++) to[l] = round_to_bf16(even[l]) | round_to_bf16(odd[l]) << 16;
}
static void flip(uint32_t *tile) {
    for (int i = 0; i < LINES; i++)
        for (int j = 0; j < i; j++) {
            uint32_t t = tile[LINES * i + j];
            tile[LINES * i + j] = tile[LINES * j + i];
            tile[LINES * j + i] = t;
        }
}

static void plain_columns(int k, int n, const float *x, size_t ldx, int by_pairs, uint32_t *to) {
    for (int c = 0; c < n; c += LINES, x += LINES * ldx)
        for (int j = 0; j < k; j += DEPTH, to += TILE) {
            int count = dn_bf16_least(k - j, DEPTH), lines = dn_bf16_least(n - c, LINES);
            if (lines < LINES) memset(to, 0, sizeof(uint32_t) * TILE);
            for (int l = 0; l < lines; l++) {
                float copy[DEPTH] = {0};
                const float *from = x + (size_t)l * ldx + j;
                if (count < DEPTH) from = memcpy(copy, from, sizeof(float) * (size_t)count);
                line_of(from, to + LINES * l);
            }
            if (by_pairs) flip(to);
        }
}

static void plain_rows(int m, int k, const float *x, size_t ldx, int by_pairs, uint32_t *to) {
    static const float none[LINES];
    for (int r = 0; r < m; r += LINES)
        for (int j = 0; j < k; j += DEPTH, to += TILE) {
            int count = dn_bf16_least(m - r, LINES);
            for (int p = 0; p < LINES; p++) {
                float copy[2][LINES] = {{0}};
                const float *from[2];
                for (int h = 0; h < 2; h++) {
                    int at = j + 2 * p + h;
                    from[h] = at < k ? x + (size_t)at * ldx + r : none;
                    if (at < k && count < LINES)
                        from[h] = memcpy(copy[h], from[h], sizeof(float) * (size_t)count);
                }
                pairs_of(from[0], from[1], to + LINES * p);
            }
            if (!by_pairs) flip(to);
        }
}

/* ---- products, for each instruction set ------------------------------------------------ */
#pragma GCC diagnostic ignored "-Wpsabi"
#if defined(DN_TARGET_CLONES) && defined(__x86_64__)
#define CHOOSE_ISA
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define FMA(a, b, c) (V) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#elif defined(__AVX__) && defined(__FMA__)
#define VECTOR_BYTES 32
#define FMA(a, b, c) (V) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#else
#define VECTOR_BYTES 16
#ifdef __aarch64__
#define FMA(a, b, c) (V) vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#endif
#define ISA baseline
#define TARGET
#include "bf16_plain_product.h"

#ifdef CHOOSE_ISA
#define ISA avx2
#define TARGET __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define FMA(a, b, c) (V) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#include "bf16_plain_product.h"

#define ISA avx512
#define TARGET __attribute__((target("avx512f,avx512vl,fma")))
#define VECTOR_BYTES 64
#define FMA(a, b, c) (V) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#include "bf16_plain_product.h"
#endif

/* Denormals count as zero, sums are rounded to nearest; what it was before is returned. */
static uint64_t set_mode(void) {
    uint64_t was = 0;
#if defined(__x86_64__)
    enum { MASKED = 0x1f80, DENORMALS_ARE_ZERO = 0x40, FLUSH_TO_ZERO = 0x8000 };
    was = _mm_getcsr();
    _mm_setcsr(MASKED | DENORMALS_ARE_ZERO | FLUSH_TO_ZERO);
#elif defined(__aarch64__)
    uint64_t flush = (uint64_t)1 << 24;
    __asm__ volatile("mrs %0, fpcr" : "=r"(was));
    __asm__ volatile("msr fpcr, %0" : : "r"(flush) : "memory");
#endif
    return was;
}
static void restore_mode(uint64_t was) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)was);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(was) : "memory");
#else
    (void)was;
#endif
}

static DN_NOT_INLINE void plain_product(int m, int n, int tiles, const uint32_t *a, size_t a_step,
                                        const uint32_t *b, size_t b_step, int add, float *y,
                                        size_t ldy) {
    uint64_t was = set_mode();
#ifdef CHOOSE_ISA
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        bf16_product_avx512(m, n, tiles, a, a_step, b, b_step, add, y, ldy);
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        bf16_product_avx2(m, n, tiles, a, a_step, b, b_step, add, y, ldy);
    else
#endif
        bf16_product_baseline(m, n, tiles, a, a_step, b, b_step, add, y, ldy);
    restore_mode(was);
}

const dn_bf16_way *dn__bf16_plain(void) {
    static const dn_bf16_way way = {"plain", plain_columns, plain_rows, plain_product};
    return &way;
}
#endif
