/* The rarer elementwise functions and their gradients; the formulas are in kernels.h. */
#include "functions.h"
#include "kernels.h"

/* y = f(x), and dx = dy f'(.) + beta dx with f' told from what the second macro names, x or y. */
#define FUNCTION(name, value) \
    DN_MULTIVERSION void dn__##name(size_t n, const dn_real *x, dn_real *y) { EACH(y, value); }
#define GRADIENT(name, known, value) \
    DN_MULTIVERSION void dn__##name##_grad(size_t n, const dn_real *known, const dn_real *dy, \
                                           dn_real beta, dn_real *dx) { \
        EACH_BETA(dx, value); \
    }

/* ---- sin, cos, tan: libm takes over in a block where an argument is too large (or nan) for the
 * vector code */
enum { BLOCK = 1024 };
static size_t block(size_t n) { return n < BLOCK ? n : BLOCK; }
#ifdef DN_DOUBLE
static int any_far(size_t n, const dn_real *x) { return (void)n, (void)x, 0; }
#else
DN_MULTIVERSION static int any_far(size_t n, const dn_real *x) {
    int far = 0;
#pragma omp simd reduction(| : far)
    for (size_t i = 0; i < n; i++) far |= !(fabsf(x[i]) <= DN_TRIGONOMETRIC_LIMIT);
    return far;
}
#endif
#define TRIGONOMETRIC(name) \
    DN_MULTIVERSION static void near_##name(size_t n, const dn_real *x, dn_real *y) { \
        EACH(y, dn__##name##_of(x[i])); \
    } \
    void dn__##name(size_t n, const dn_real *x, dn_real *y) { \
        for (size_t m; n; n -= m, x += m, y += m) { \
            m = block(n); \
            if (!any_far(m, x)) near_##name(m, x, y); \
            else \
                for (size_t i = 0; i < m; i++) y[i] = DN_MATH(name)(x[i]); \
        } \
    }
TRIGONOMETRIC(sin)
TRIGONOMETRIC(cos)
TRIGONOMETRIC(tan)

/* dx = sign * dy * f(x) + beta dx */
#define TRIGONOMETRIC_GRADIENT(name, sign, f) \
    DN_MULTIVERSION static void near_##name##_grad(size_t n, const dn_real *x, const dn_real *dy, \
                                                   dn_real beta, dn_real *dx) { \
        EACH_BETA(dx, sign dy[i] * dn__##f##_of(x[i])); \
    } \
    void dn__##name##_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, \
                           dn_real *dx) { \
        for (size_t m; n; n -= m, x += m, dy += m, dx += m) { \
            m = block(n); \
            if (!any_far(m, x)) near_##name##_grad(m, x, dy, beta, dx); \
            else \
                for (size_t i = 0; i < m; i++) \
                    dx[i] = (beta == 0 ? 0 : dx[i]) + sign dy[i] * DN_MATH(f)(x[i]); \
        } \
    }
TRIGONOMETRIC_GRADIENT(sin, +, cos)
TRIGONOMETRIC_GRADIENT(cos, -, sin)
GRADIENT(tan, y, dy[i] * (1 + y[i] * y[i]))

FUNCTION(asin, dn__asin_of(x[i]))
GRADIENT(asin, x, dy[i] / DN_MATH(sqrt)((1 - x[i]) * (1 + x[i])))
FUNCTION(acos, dn__acos_of(x[i]))
GRADIENT(acos, x, -dy[i] / DN_MATH(sqrt)((1 - x[i]) * (1 + x[i])))
FUNCTION(atan, dn__atan_of(x[i]))
GRADIENT(atan, x, dy[i] / (1 + x[i] * x[i]))

/* ---- hyperbolic ----------------------------------------------------------------------- */
FUNCTION(sinh, dn__sinh_of(x[i]))
GRADIENT(sinh, x, dy[i] * dn__cosh_of(x[i]))
FUNCTION(cosh, dn__cosh_of(x[i]))
GRADIENT(cosh, x, dy[i] * dn__sinh_of(x[i]))
FUNCTION(asinh, dn__asinh_of(x[i]))
GRADIENT(asinh, x, dy[i] / DN_MATH(sqrt)(x[i] * x[i] + 1))
FUNCTION(acosh, dn__acosh_of(x[i]))
GRADIENT(acosh, x,
         dy[i] / (DN_MATH(sqrt)(DN_MATH(fabs)(x[i]) - 1) * DN_MATH(sqrt)(DN_MATH(fabs)(x[i]) + 1)))
FUNCTION(atanh, dn__atanh_of(x[i]))
GRADIENT(atanh, x, dy[i] / ((1 - x[i]) * (1 + x[i])))

/* ---- roots, powers, error function ---------------------------------------------------- */
FUNCTION(sqrt, DN_MATH(sqrt)(x[i]))
GRADIENT(sqrt, y, dy[i] / (2 * y[i]))
FUNCTION(cube, x[i] * x[i] * x[i])
GRADIENT(cube, x, dy[i] * (3 * x[i] * x[i]))
FUNCTION(erf, dn__erf_of(x[i]))
/* 2 / sqrt(pi) */
GRADIENT(erf, x, dy[i] * ((dn_real)1.12837916709551257390 * dn__exp_of(-x[i] * x[i])))

/* ---- activations ---------------------------------------------------------------------- */
FUNCTION(log_sigmoid, (x[i] < 0 ? x[i] : 0) - dn__log1p_of(dn__exp_of(-DN_MATH(fabs)(x[i]))))
GRADIENT(log_sigmoid, x, dy[i] * dn__logistic_of(-x[i]))
#define FAR 1e30f /* from where on y is 1 or -1, infinity included */
FUNCTION(softsign,
         DN_MATH(fabs)(x[i]) > FAR ? (x[i] > 0 ? 1 : -1) : x[i] / (1 + DN_MATH(fabs)(x[i])))
GRADIENT(softsign, x, dy[i] / ((1 + DN_MATH(fabs)(x[i])) * (1 + DN_MATH(fabs)(x[i]))))

#define NEGATIVE_PART(x) ((x) > 0 ? 0 : (x))
DN_MULTIVERSION void dn__elu(size_t n, dn_real scale, dn_real alpha, const dn_real *x, dn_real *y) {
    EACH(y, scale * (x[i] > 0 ? x[i] : alpha * dn__expm1_of(NEGATIVE_PART(x[i]))));
}
DN_MULTIVERSION void dn__elu_grad(size_t n, dn_real scale, dn_real alpha, const dn_real *x,
                                  const dn_real *dy, dn_real beta, dn_real *dx) {
    EACH_BETA(dx, dy[i] * (scale * (x[i] > 0 ? 1 : alpha * dn__exp_of(NEGATIVE_PART(x[i])))));
}

DN_MULTIVERSION void dn__silu(size_t n, dn_real slope, const dn_real *x, dn_real *y) {
    EACH(y, x[i] * dn__logistic_of(slope * x[i]));
}
/* s + slope x s (1 - s) with s = logistic(slope x) */
DN_INLINE dn_real silu_slope(dn_real slope, dn_real x) {
    dn_real s = dn__logistic_of(slope * x);
    return s + slope * x * s * (1 - s);
}
DN_MULTIVERSION void dn__silu_grad(size_t n, dn_real slope, const dn_real *x, const dn_real *dy,
                                   dn_real beta, dn_real *dx) {
    EACH_BETA(dx, dy[i] * silu_slope(slope, x[i]));
}

/* Phi(x) + x phi(x), phi being the density of N(0, 1) */
DN_INLINE dn_real gelu_slope(dn_real x) {
    return dn__normal_cdf_of(x) +
           x * ((dn_real)0.39894228040143267794 * dn__exp_of((dn_real)-0.5 * x * x));
}
FUNCTION(gelu, x[i] * dn__normal_cdf_of(x[i]))
GRADIENT(gelu, x, dy[i] * gelu_slope(x[i]))

/* x (1 + tanh u) / 2 = x logistic(2 u), 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3). Beyond |x| = 1e4
 * the result is x or 0. */
#define TWICE_ROOT ((dn_real)1.59576912160573071176)
#define CUBIC ((dn_real)0.044715)
DN_INLINE dn_real bounded(dn_real x) { return x > 10000 ? 10000 : x < -10000 ? -10000 : x; }
DN_INLINE dn_real gelu_logistic(dn_real x) {
    dn_real v = bounded(x);
    return dn__logistic_of(TWICE_ROOT * (v + CUBIC * v * v * v));
}
DN_INLINE dn_real gelu_tanh_slope(dn_real x) {
    dn_real v = bounded(x), s = gelu_logistic(x);
    return s + v * s * (1 - s) * (TWICE_ROOT * (1 + 3 * CUBIC * v * v));
}
FUNCTION(gelu_tanh, x[i] * gelu_logistic(x[i]))
GRADIENT(gelu_tanh, x, dy[i] * gelu_tanh_slope(x[i]))

/* ---- rounding: halves to even --------------------------------------------------------- */
FUNCTION(round, DN_MATH(rint)(x[i]))
FUNCTION(ceil, DN_MATH(ceil)(x[i]))
FUNCTION(floor, DN_MATH(floor)(x[i]))

/* ---- log gamma, by libm, and its derivative ------------------------------------------- */
void dn__lgamma(size_t n, const dn_real *x, dn_real *y) {
    for (size_t i = 0; i < n; i++) {
        int sign; /* lgamma() would write it to a global variable */
        y[i] = (dn_real)lgamma_r((double)x[i], &sign);
    }
}

/* Abramowitz and Stegun, Handbook of Mathematical Functions: 6.3.7 reflects negative x, 6.3.5
 * raises x to where the asymptotic series 6.3.18 has 16 digits. */
double dn__digamma(double x) {
    static const double PI = 3.14159265358979323846;
    /* -B_2k / 2k */
    static const double SERIES[] = {-1. / 12,  1. / 120,     -1. / 252, 1. / 240,
                                    -1. / 132, 691. / 32760, -1. / 12};
    double y = 0;
    if (x <= 0) {
        if (x == 0) return copysign(INFINITY, -x);
        if (x == floor(x)) return NAN; /* a pole between -inf and inf */
        y = -PI / tan(PI * (x - rint(x)));
        x = 1 - x;
    }
    for (; x < 10; x += 1) y -= 1 / x;
    double z = 1 / (x * x), sum = 0;
    for (int k = 6; k >= 0; k--) sum = z * (SERIES[k] + sum);
    return y + log(x) - 0.5 / x + sum;
}

void dn__lgamma_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx) {
    for (size_t i = 0; i < n; i++)
        dx[i] = (beta == 0 ? 0 : dx[i]) + dy[i] * (dn_real)dn__digamma((double)x[i]);
}

/* ---- powers: libm takes over in a block with a number that is zero, denormal or not finite */
DN_MULTIVERSION static int any_special(size_t n, const dn_real *x) {
    int special = 0;
#pragma omp simd reduction(| : special)
    for (size_t i = 0; i < n; i++) special |= dn__pow_special(x[i]);
    return special;
}
/* What |x|^e is multiplied by for x < 0. */
static dn_real sign_of_power(dn_real e) {
    return DN_MATH(rint)(e) != e ? NAN : DN_MATH(fmod)(e, 2) != 0 ? -1 : 1;
}
#define POWER ((x[i] < 0 ? sign : 1) * dn__pow_normal_of(x[i], (double)e))
DN_MULTIVERSION static void normal_pow(size_t n, const dn_real *x, dn_real e, dn_real sign,
                                       dn_real *y) {
    EACH(y, POWER);
}
void dn__pow(size_t n, const dn_real *x, dn_real e, dn_real *y) {
    for (size_t m; n; n -= m, x += m, y += m) {
        m = block(n);
        if (isfinite(e) && !any_special(m, x)) normal_pow(m, x, e, sign_of_power(e), y);
        else
            for (size_t i = 0; i < m; i++) y[i] = DN_MATH(pow)(x[i], e);
    }
}
/* dx = dy by x^e + beta dx */
DN_MULTIVERSION static void normal_pow_grad(size_t n, const dn_real *x, dn_real e, dn_real sign,
                                            dn_real by, const dn_real *dy, dn_real beta,
                                            dn_real *dx) {
    EACH_BETA(dx, dy[i] * by * POWER);
}
void dn__pow_grad(size_t n, const dn_real *x, dn_real e, const dn_real *dy, dn_real beta,
                  dn_real *dx) {
    const dn_real below = e - 1;
    for (size_t m; n; n -= m, x += m, dy += m, dx += m) {
        m = block(n);
        if (isfinite(e) && e != 0 && !any_special(m, x))
            normal_pow_grad(m, x, below, sign_of_power(below), e, dy, beta, dx);
        else
            for (size_t i = 0; i < m; i++)
                dx[i] =
                    (e == 0 ? 0 : dy[i] * e * DN_MATH(pow)(x[i], below)) + (beta == 0 ? 0 : dx[i]);
    }
}
DN_MULTIVERSION dn_real dn__pow_exponent_grad(size_t n, const dn_real *x, const dn_real *y,
                                              const dn_real *dy) {
    return DN_SUM(x[i] == 0 ? 0 : dy[i] * y[i] * dn__log_of(x[i]));
}
