/* Elementwise functions and their gradients. Every loop is one expression in i; the formulas are in
 * kernels.h. */
#include "each.h"
#include "math.h"

/* ---- one input ------------------------------------------------------------------------ */
DN_MULTIVERSION void dn__exp(size_t n, const dn_real *x, dn_real *y) { EACH(y, dn__exp_of(x[i])); }

DN_MULTIVERSION void dn__exp_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                  dn_real *dx) {
    EACH_BETA(dx, dy[i] * y[i]); /* y = exp x */
}

/* Two thirds of the time of the loop over dn__log_of; returns whether some x needs that one. */
DN_MULTIVERSION static int log_normal(size_t n, const dn_real *x, dn_real *y) {
    int special = 0;
#pragma omp simd reduction(| : special)
    for (size_t i = 0; i < n; i++) {
        special |= dn__log_special(x[i]);
        y[i] = dn__log_normal_of(x[i]);
    }
    return special;
}
DN_MULTIVERSION static void log_any(size_t n, const dn_real *x, dn_real *y) {
    EACH(y, dn__log_of(x[i]));
}
void dn__log(size_t n, const dn_real *x, dn_real *y) {
    for (; n; n -= n < DN_EACH_UNIT ? n : DN_EACH_UNIT, x += DN_EACH_UNIT, y += DN_EACH_UNIT) {
        size_t m = n < DN_EACH_UNIT ? n : DN_EACH_UNIT;
        if (x == y || log_normal(m, x, y)) log_any(m, x, y);
    }
}

DN_MULTIVERSION void dn__log_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta,
                                  dn_real *dx) {
    EACH_BETA(dx, dy[i] / x[i]); /* y = log x */
}

DN_MULTIVERSION void dn__tanh(size_t n, const dn_real *x, dn_real *y) {
    EACH(y, dn__tanh_of(x[i]));
}

DN_MULTIVERSION void dn__tanh_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                   dn_real *dx) {
    EACH_BETA(dx, dy[i] * (1 - y[i] * y[i])); /* y = tanh x */
}

DN_MULTIVERSION void dn__logistic(size_t n, const dn_real *x, dn_real *y) {
    EACH(y, dn__logistic_of(x[i]));
}

DN_MULTIVERSION void dn__logistic_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                       dn_real *dx) {
    EACH_BETA(dx, dy[i] * (y[i] * (1 - y[i]))); /* y = 1 / (1 + exp(-x)) */
}

DN_MULTIVERSION void dn__rectify(size_t n, const dn_real *x, dn_real *y) {
    EACH(y, x[i] < 0 ? 0 : x[i]);
}

DN_MULTIVERSION void dn__rectify_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                      dn_real *dx) {
    EACH_BETA(dx, y[i] <= 0 ? 0 : dy[i]); /* y = max(0, x); nan lets dy through */
}

DN_MULTIVERSION void dn__square(size_t n, const dn_real *x, dn_real *y) { EACH(y, x[i] * x[i]); }

DN_MULTIVERSION void dn__square_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta,
                                     dn_real *dx) {
    EACH_BETA(dx, dy[i] * (2 * x[i])); /* y = x^2 */
}

DN_MULTIVERSION void dn__abs(size_t n, const dn_real *x, dn_real *y) {
    EACH(y, DN_MATH(fabs)(x[i]));
}

DN_MULTIVERSION void dn__abs_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta,
                                  dn_real *dx) {
    EACH_BETA(dx, dy[i] * (dn_real)((x[i] > 0) - (x[i] < 0))); /* y = |x| */
}

DN_MULTIVERSION void dn__affine(size_t n, dn_real a, dn_real b, const dn_real *x, dn_real *y) {
    EACH(y, a * x[i] + b);
}

/* ---- several arrays ------------------------------------------------------------------- */
DN_MULTIVERSION void dn__fill(size_t n, dn_real a, dn_real *y) { EACH(y, a); }
DN_MULTIVERSION void dn__clip(size_t n, dn_real low, dn_real high, dn_real *y) {
    EACH(y, y[i] < low ? low : y[i] > high ? high : y[i]); /* nan stays */
}
int dn__is_zero(size_t n, const dn_real *x) {
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0) return 0;
    return 1;
}
int dn__is_finite(size_t n, const dn_real *x) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return 0;
    return 1;
}

DN_MULTIVERSION void dn__axpy(size_t n, dn_real a, const dn_real *x, dn_real beta, dn_real *y) {
    EACH_BETA(y, a * x[i]);
}

DN_MULTIVERSION void dn__add(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, x[i] + y[i]);
}

DN_MULTIVERSION void dn__sub(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, x[i] - y[i]);
}

DN_MULTIVERSION void dn__mul(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, x[i] * y[i]);
}

DN_MULTIVERSION void dn__div(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, x[i] / y[i]);
}

DN_MULTIVERSION void dn__mul_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta,
                                 dn_real *z) {
    EACH_BETA(z, x[i] * y[i]);
}

DN_MULTIVERSION void dn__div_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta,
                                 dn_real *z) {
    EACH_BETA(z, x[i] / y[i]);
}

DN_MULTIVERSION void dn__div_grad(size_t n, const dn_real *z, const dn_real *y, const dn_real *dz,
                                  dn_real beta, dn_real *dy) {
    EACH_BETA(dy, -dz[i] * z[i] / y[i]); /* z = x / y */
}

DN_MULTIVERSION void dn__plane(size_t n, dn_real a, const dn_real *x, dn_real b, const dn_real *y,
                               dn_real c, dn_real beta, dn_real *z) {
    EACH_BETA(z, a * x[i] + b * y[i] + c);
}

/* 1 - u is exact and never 0; 2^-25, half a cell, keeps the inner logarithm away from 0 */
DN_MULTIVERSION void dn__gumbel(size_t n, float *u) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        u[i] = (float)-dn__log_of((dn_real)0x1p-25 - dn__log_of((dn_real)(1 - u[i])));
}

/* Four terms at a time: y is read and written less. */
DN_MULTIVERSION void dn__sliding_sum(int n, const dn_real *u, const dn_real *v, int sign,
                                     dn_real beta, dn_real *y) {
    if (beta == 0) memset(y, 0, sizeof *y * (size_t)n);
    int i = 0;
    for (; i + 4 <= n; i += 4) {
        dn_real a = u[i], b = u[i + 1], c = u[i + 2], d = u[i + 3];
        const dn_real *v0 = v + sign * i, *v1 = v0 + sign, *v2 = v1 + sign, *v3 = v2 + sign;
        DN_SIMD for (int k = 0; k < n; k++)
            y[k] += (a * v0[k] + b * v1[k]) + (c * v2[k] + d * v3[k]);
    }
    for (; i < n; i++) {
        const dn_real *v0 = v + sign * i;
        DN_SIMD for (int k = 0; k < n; k++)
            y[k] += u[i] * v0[k];
    }
}
