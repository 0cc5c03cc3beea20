/* exp, log, tanh, logistic, expm1, log1p of one number, written so that GCC makes vector code of a
 * loop over them on every instruction set. Float: own polynomials, at most 3 ulp, right for zeros,
 * denormals, infinities and nan. Double, the build in which gradients are checked: libm. Always
 * inline, so that each clone of a DN_MULTIVERSION loop compiles its own copy. And the macros that
 * the kernels' loops share. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>
#include "../dn_real.h"

#define DN_INLINE static inline __attribute__((always_inline))
/* The iterations of the next loop do not depend on one another (an output may be an input, at the
 * same index). */
#define DN_SIMD _Pragma("omp simd")
/* target[i] = value for i < n; the same + beta target[i]: two loops, because with beta = 0 the
 * target may hold anything, nan included, and must not be read. */
#define EACH(target, value) \
    DN_SIMD for (size_t i = 0; i < n; i++) \
    (target)[i] = (value)
#define EACH_BETA(target, value) \
    if (beta == 0) EACH(target, value); \
    else EACH(target, (target)[i] + (value))

/* Sum over i < n of `term`, an expression in i. It runs in DN_LANES partial sums, element i in sum
 * i % DN_LANES, which are then added as a tree: vector code without -ffast-math, and an order that
 * depends on n alone, not on alignment or instruction set. What is left over runs in short vectors,
 * most sums of small networks being that alone. Of many: DN_MANY. */
enum { DN_LANES = 32, DN_SHORT = 8 };
#define DN_SUM(term) \
    __extension__({ \
        dn_real sum_of_all; \
        if (n <= DN_MANY) sum_of_all = DN_SUM_OF(0, n, term); \
        else { \
            double blocks = 0; \
            for (size_t first = 0, size; first < n; first += size) { \
                size = n - first < DN_MANY ? n - first : DN_MANY; \
                blocks += (double)DN_SUM_OF(first, size, term); \
            } \
            sum_of_all = (dn_real)blocks; \
        } \
        sum_of_all; \
    })
/* of `length` terms from `begin` on */
#define DN_SUM_OF(begin, length, term) \
    __extension__({ \
        dn_real lane[DN_LANES] = {0}; \
        const size_t end = (begin) + (length); \
        size_t start = (begin); \
        for (; start + DN_LANES <= end; start += DN_LANES) { \
            DN_SIMD for (int l = 0; l < DN_LANES; l++) { \
                size_t i = start + l; \
                lane[l] += (term); \
            } \
        } \
        size_t from = start; \
        for (; from + DN_SHORT <= end; from += DN_SHORT) { \
            dn_real *const part = lane + (from - start); \
            DN_SIMD for (int l = 0; l < DN_SHORT; l++) { \
                size_t i = from + l; \
                part[l] += (term); \
            } \
        } \
        for (size_t i = from; i < end; i++) lane[i - start] += (term); \
        dn__sum_lanes((length), lane); \
    })
/* Those that no element has come to are zero, and left out. */
DN_INLINE dn_real dn__sum_lanes(size_t n, dn_real *lane) {
    if (n > DN_LANES / 2)
        for (int l = 0; l < DN_LANES / 2; l++) lane[l] += lane[l + DN_LANES / 2];
    if (n > DN_LANES / 4)
        for (int l = 0; l < DN_LANES / 4; l++) lane[l] += lane[l + DN_LANES / 4];
    for (int width = DN_LANES / 8; width > 0; width /= 2)
        for (int l = 0; l < width; l++) lane[l] += lane[l + width];
    return lane[0];
}

/* y_ij = 0 */
DN_INLINE void dn__zero_matrix(int rows, int cols, dn_real *y, int ld) {
    for (int c = 0; c < cols; c++) memset(y + (size_t)c * (size_t)ld, 0, sizeof *y * (size_t)rows);
}

#ifdef DN_DOUBLE

#define DN_MATH(name) name
DN_INLINE double dn__exp_of(double x) { return exp(x); }
DN_INLINE double dn__log_of(double x) { return log(x); }
DN_INLINE double dn__log_normal_of(double x) { return log(x); }
DN_INLINE int dn__log_special(double x) { return (void)x, 0; }
DN_INLINE double dn__tanh_of(double x) { return tanh(x); }
DN_INLINE double dn__logistic_of(double x) {
    double e = exp(-fabs(x));
    return (x < 0 ? e : 1) / (1 + e);
}
DN_INLINE double dn__expm1_of(double x) { return expm1(x); }
DN_INLINE double dn__log1p_of(double x) { return log1p(x); }

#else

#define DN_MATH(name) name##f

DN_INLINE uint32_t dn__bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
DN_INLINE float dn__from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* exp x = 2^n exp r with n = round(x / ln 2), |r| <= ln 2 / 2, and a polynomial for exp r - 1,
 * which is returned. */
DN_INLINE float dn__expm1_parts(float x, int32_t *n) {
    /* Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits: unlike rintf, vector
     * code on SSE2 too. */
    float t = x * 1.44269504f + 12582912.f;
    float rounded = t - 12582912.f;
    float r = x - rounded * 0.693145752f; /* ln 2 in two parts: the first times n is exact */
    r = r - rounded * 1.42860677e-6f;
    *n = (int32_t)(dn__bits(t) - 0x4b400000u);
    float p = 1.38375e-3f;
    p = p * r + 8.36710073e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 0.16666572f;
    p = p * r + 0.5f;
    return p * r * r + r;
}
/* exp r */
DN_INLINE float dn__exp_parts(float x, int32_t *n) { return dn__expm1_parts(x, n) + 1.f; }
/* -126 <= n <= 127 */
DN_INLINE float dn__power_of_2(int32_t n) { return dn__from_bits((uint32_t)(n + 127) << 23); }

DN_INLINE float dn__exp_of(float x) {
    /* beyond these the result is 0 or inf anyway; nan passes both comparisons */
    x = x < -104.f ? -104.f : x;
    x = x > 89.f ? 89.f : x;
    int32_t n;
    float p = dn__exp_parts(x, &n);
    /* n: -150, result 0 or denormal, to 128 */
    return p * dn__power_of_2(n >> 1) * dn__power_of_2(n - (n >> 1));
}

/* Below -88.7 exp(-x) is inf and the result 0 (instead of a denormal). */
DN_INLINE float dn__logistic_of(float x) { return 1.f / (1.f + dn__exp_of(-x)); }

/* An odd polynomial below 0.625, 1 - 2 / (exp 2|x| + 1) above; both are computed, one is
 * selected. */
DN_INLINE float dn__tanh_of(float x) {
    float a = fabsf(x), s = a * a;
    float p = -5.70498872745e-3f;
    p = p * s + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    p = p * s * a + a;
    float c = a > 10.f ? 10.f : a; /* tanh 10 rounds to 1 */
    int32_t n;
    float e = dn__exp_parts(2.f * c, &n);
    float t = 1.f - 2.f / (e * dn__power_of_2(n) + 1.f);
    return copysignf(a < 0.625f ? p : t, x);
}

/* log x = e ln 2 + log m with m in [sqrt(1/2), sqrt 2), and the polynomial of Cephes' logf for log
 * m. For x with 24 digits: neither zero, denormal, negative, infinite nor nan. */
DN_INLINE float dn__log_normal_of(float x) {
    uint32_t shifted = dn__bits(x) - 0x3f3504f3u; /* of sqrt(1/2) */
    int32_t e = (int32_t)shifted >> 23;
    float m = dn__from_bits((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.f;
    float n = (float)e, z = m * m;
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z;
    y = y - n * 2.12194440e-4f;
    return m + (y - 0.5f * z) + n * 0.693359375f;
}
/* 0 if dn__log_normal_of serves */
DN_INLINE int dn__log_special(float x) { return dn__bits(x) - 0x00800000u >= 0x7f000000u; }

DN_INLINE float dn__log_of(float x) {
    int tiny = x < 1.17549435e-38f; /* denormal: 2^23 x is not */
    float y = dn__log_normal_of(tiny ? x * 8388608.f : x);
    y = tiny ? y - 15.9423851f : y; /* 23 log 2 */
    y = x < INFINITY ? y : x;
    return x > 0 ? y : x == 0 ? -INFINITY : NAN;
}

/* exp(x) - 1 = 2^n (exp r - 1) + (2^n - 1), exact where x is small. For x <= 88: beyond, the power
 * overflows. */
DN_INLINE float dn__expm1_of(float x) {
    x = x < -30.f ? -30.f : x; /* -1 to the last bit */
    int32_t n;
    float q = dn__expm1_parts(x, &n), power = dn__power_of_2(n);
    return power * q + (power - 1.f);
}

/* log(1 + x) = log w + (x - (w - 1)) / w: the second term is what the rounding of w = 1 + x has
 * lost. w is never denormal. */
DN_INLINE float dn__log1p_of(float x) {
    float w = 1.f + x, lost = x - (w - 1.f);
    float y = dn__log_normal_of(w) + lost / w;
    y = w < INFINITY ? y : w;
    return w > 0 ? y : w == 0 ? -INFINITY : NAN;
}

#endif
