/* Trigonometric, hyperbolic and error functions of one number, in the manner of math.h: float as
 * polynomials that become vector code, a few ulp (minimax fits, the weight being the function
 * itself); double by libm. */
#pragma once

#include "math.h"

#ifdef DN_DOUBLE

DN_INLINE double dn__sin_of(double x) { return sin(x); }
DN_INLINE double dn__cos_of(double x) { return cos(x); }
DN_INLINE double dn__tan_of(double x) { return tan(x); }
DN_INLINE double dn__asin_of(double x) { return asin(x); }
DN_INLINE double dn__acos_of(double x) { return acos(x); }
DN_INLINE double dn__atan_of(double x) { return atan(x); }
DN_INLINE double dn__sinh_of(double x) { return sinh(x); }
DN_INLINE double dn__cosh_of(double x) { return cosh(x); }
DN_INLINE double dn__asinh_of(double x) { return asinh(x); }
DN_INLINE double dn__acosh_of(double x) { return acosh(x); }
DN_INLINE double dn__atanh_of(double x) { return atanh(x); }
DN_INLINE double dn__erf_of(double x) { return erf(x); }
DN_INLINE double dn__erfc_of(double x) { return erfc(x); }
DN_INLINE double dn__pow_normal_of(double x, double e) { return pow(x, e); }
DN_INLINE int dn__pow_special(double x) { return (void)x, 1; }

#else

/* Beyond this, sin, cos and tan are left to libm: the reduction below would lose digits. */
#define DN_TRIGONOMETRIC_LIMIT 6000.f

/* x = n pi / 2 + r with |r| <= pi / 4; sin r and cos r, and n mod 4. pi / 2 in three parts: the
 * first two times n are exact. */
DN_INLINE uint32_t dn__quadrant(float x, float *sine, float *cosine) {
    /* rounds to an integer, left in the low bits: see dn__expm1_parts */
    float t = x * 0.636619772f + 12582912.f;
    float n = t - 12582912.f;
    float r = x - n * 1.5703125f;
    r = r - n * 4.83751297e-4f;
    r = r - n * 7.54979013e-8f;
    float z = r * r;
    float p = -1.951697745e-4f;
    p = p * z + 8.332175846e-3f;
    p = p * z - 1.666665491e-1f;
    *sine = p * z * r + r;
    float q = 2.443809085e-5f;
    q = q * z - 1.388736448e-3f;
    q = q * z + 4.166664681e-2f;
    *cosine = q * z * z - 0.5f * z + 1.f;
    return dn__bits(t) & 3u;
}
DN_INLINE float dn__sin_of(float x) {
    float s, c;
    uint32_t n = dn__quadrant(x, &s, &c);
    float y = n & 1u ? c : s;
    return n & 2u ? -y : y;
}
DN_INLINE float dn__cos_of(float x) {
    float s, c;
    uint32_t n = dn__quadrant(x, &s, &c);
    float y = n & 1u ? -s : c;
    return n & 2u ? -y : y;
}
DN_INLINE float dn__tan_of(float x) {
    float s, c;
    uint32_t n = dn__quadrant(x, &s, &c);
    return (n & 1u ? -c : s) / (n & 1u ? s : c);
}

/* asin |x| where |x| <= 1/2, else asin sqrt((1 - |x|) / 2), of which asin and acos are made;
 * `large` tells which. */
DN_INLINE float dn__asin_parts(float x, int *large) {
    float a = fabsf(x);
    *large = a > 0.5f;
    float z = *large ? 0.5f * (1.f - a) : a * a, s = *large ? sqrtf(z) : a;
    float p = 4.221856654e-2f;
    p = p * z + 2.414760110e-2f;
    p = p * z + 4.547709886e-2f;
    p = p * z + 7.495241770e-2f;
    p = p * z + 1.666675393e-1f;
    return p * z * s + s;
}
DN_INLINE float dn__asin_of(float x) {
    int large;
    float p = dn__asin_parts(x, &large);
    return copysignf(large ? 1.57079633f - 2.f * p : p, x);
}
DN_INLINE float dn__acos_of(float x) {
    int large;
    float p = dn__asin_parts(x, &large);
    float far = x > 0 ? 2.f * p : 3.14159265f - 2.f * p;
    return large ? far : 1.57079633f - copysignf(p, x);
}

/* On [0, 1] a polynomial; atan x = pi / 2 - atan(1 / x). */
DN_INLINE float dn__atan_of(float x) {
    float a = fabsf(x);
    int large = a > 1.f;
    float r = large ? 1.f / a : a, z = r * r;
    float p = 2.974586553e-3f;
    p = p * z - 1.658116882e-2f;
    p = p * z + 4.355351507e-2f;
    p = p * z - 7.580576116e-2f;
    p = p * z + 1.067893936e-1f;
    p = p * z - 1.421420891e-1f;
    p = p * z + 1.999413718e-1f;
    p = p * z - 3.333316696e-1f;
    p = p * z * r + r;
    return copysignf(large ? 1.57079633f - p : p, x);
}

/* exp(a) / 2 for a >= 0: finite wherever sinh and cosh are */
DN_INLINE float dn__half_exp_of(float a) {
    a = a > 90.f ? 90.f : a;
    int32_t n;
    float p = dn__exp_parts(a, &n);
    n = n - 1;
    return p * dn__power_of_2(n >> 1) * dn__power_of_2(n - (n >> 1));
}
DN_INLINE float dn__cosh_of(float x) {
    float e = dn__half_exp_of(fabsf(x));
    return e + 0.25f / e;
}
DN_INLINE float dn__sinh_of(float x) {
    float a = fabsf(x), z = a * a;
    float p = 2.037740442e-4f;
    p = p * z + 8.330211424e-3f;
    p = p * z + 1.666671825e-1f;
    p = p * z * a + a;
    float e = dn__half_exp_of(a);
    return copysignf(a < 1.f ? p : e - 0.25f / e, x);
}

/* asinh a = log(a + sqrt(a^2 + 1)) = log1p(a + a^2 / (1 + sqrt(a^2 + 1))); for large a, log 2a */
DN_INLINE float dn__asinh_of(float x) {
    float a = fabsf(x);
    int large = a > 1e8f;
    float z = large ? 1.f : a * a;
    float near = dn__log1p_of(a + z / (1.f + sqrtf(z + 1.f))), far = dn__log_of(a) + 0.693147181f;
    return copysignf(large ? far : near, x);
}
/* acosh x = log(x + sqrt(x^2 - 1)) = log1p(t + sqrt(t (t + 2))) with t = x - 1 */
DN_INLINE float dn__acosh_of(float x) {
    float t = x - 1.f;
    int large = x > 1e8f;
    float near = dn__log1p_of(t + sqrtf(large ? 1.f : t * (t + 2.f))),
          far = dn__log_of(x) + 0.693147181f;
    float y = large ? far : near;
    return t >= 0 ? y : NAN;
}
/* atanh a = log((1 + a) / (1 - a)) / 2 */
DN_INLINE float dn__atanh_of(float x) {
    float a = fabsf(x);
    return copysignf(0.5f * dn__log1p_of(2.f * a / (1.f - a)), x);
}

/* 1 - erf a for a >= 0, exact in the tail, too: exp(-a^2) t P(t), t = 1 / (1 + a / 2) */
DN_INLINE float dn__erfc_of(float a) {
    float t = 1.f / (1.f + 0.5f * a);
    float p = -5.936383123e-2f;
    p = p * t + 2.860139388e-1f;
    p = p * t - 4.901795368e-1f;
    p = p * t + 2.814751861e-1f;
    p = p * t - 2.897195659e-2f;
    p = p * t + 2.036784711e-1f;
    p = p * t + 2.428536213e-1f;
    p = p * t + 2.824095916e-1f;
    p = p * t + 2.820844716e-1f;
    return dn__exp_of(-a * a) * (t * p);
}
DN_INLINE float dn__erf_of(float x) {
    float a = fabsf(x), z = a * a;
    float p = -5.660156023e-4f;
    p = p * z + 4.924789707e-3f;
    p = p * z - 2.671770757e-2f;
    p = p * z + 1.128041161e-1f;
    p = p * z - 3.761235568e-1f;
    p = p * z + 1.128379129f;
    return copysignf(a < 1.f ? p * a : 1.f - dn__erfc_of(a), x);
}

/* |x|^e = 2^(e log2 |x|), in double: in float large powers would lose digits. log2 is taken apart
 * as log in math.h, log2 m = 2 / ln 2 atanh s with s = (m - 1) / (m + 1), and 2^r is Taylor's, both
 * to 2^-32. For |x| with 24 digits and finite e. */
DN_INLINE float dn__pow_normal_of(float x, double e) {
    uint32_t shifted = dn__bits(fabsf(x)) - 0x3f3504f3u;
    double n = (double)((int32_t)shifted >> 23);
    double m = (double)dn__from_bits((shifted & 0x007fffffu) + 0x3f3504f3u);
    double s = (m - 1) / (m + 1), z = s * s;
    double p = 1. / 13;
    p = p * z + 1. / 11;
    p = p * z + 1. / 9;
    p = p * z + 1. / 7;
    p = p * z + 1. / 5;
    p = p * z + 1. / 3;
    p = p * z + 1;
    double t = e * (n + 2.8853900817779268 * s * p);
    t = t > 300 ? 300 : t < -300 ? -300 : t; /* beyond every float */
    double shift = t + 0x1.8p52, r = (t - (shift - 0x1.8p52)) * 0.69314718055994531;
    uint64_t bits; /* as in dn__expm1_parts */
    memcpy(&bits, &shift, sizeof bits);
    bits = (bits + 1023) << 52;
    double scale, q = 1. / 40320;
    memcpy(&scale, &bits, sizeof scale);
    q = q * r + 1. / 5040;
    q = q * r + 1. / 720;
    q = q * r + 1. / 120;
    q = q * r + 1. / 24;
    q = q * r + 1. / 6;
    q = q * r + 1. / 2;
    q = q * r + 1;
    return (float)((q * r + 1) * scale);
}
/* 0 if dn__pow_normal_of serves */
DN_INLINE int dn__pow_special(float x) { return dn__log_special(fabsf(x)); }

#endif

/* The normal distribution function: how likely a draw of N(0, 1) is below x. */
DN_INLINE dn_real dn__normal_cdf_of(dn_real x) {
    dn_real tail = (dn_real)0.5 * dn__erfc_of(DN_MATH(fabs)(x) * (dn_real)0.70710678118654752440);
    return x < 0 ? tail : 1 - tail;
}
