/* Distances of two arrays and their gradients; formulas in kernels.h. */
#include <float.h>

#include "kernels.h"
#include "math.h"

DN_MULTIVERSION dn_real dn__squared_distance(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM((x[i] - y[i]) * (x[i] - y[i]));
}
DN_MULTIVERSION void dn__squared_distance_grad(size_t n, const dn_real *x, const dn_real *y,
                                               dn_real dy, dn_real beta, dn_real *dx) {
    EACH_BETA(dx, 2 * dy * (x[i] - y[i]));
}

DN_MULTIVERSION dn_real dn__l1_distance(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM(DN_MATH(fabs)(x[i] - y[i]));
}
DN_MULTIVERSION void dn__l1_distance_grad(size_t n, const dn_real *x, const dn_real *y, dn_real dy,
                                          dn_real beta, dn_real *dx) {
    EACH_BETA(dx, x[i] > y[i] ? dy : x[i] < y[i] ? -dy : 0);
}

/* a = |d|, m = min(a, c): m a - m^2 / 2 is a^2 / 2 below c and c a - c^2 / 2 above */
DN_INLINE dn_real huber(dn_real d, dn_real c) {
    dn_real a = DN_MATH(fabs)(d), m = a > c ? c : a;
    return m * (a - m / 2);
}
DN_MULTIVERSION dn_real dn__huber_distance(size_t n, dn_real c, const dn_real *x,
                                           const dn_real *y) {
    return DN_SUM(huber(x[i] - y[i], c));
}

DN_INLINE dn_real between(dn_real d, dn_real c) { return d > c ? c : d < -c ? -c : d; }
DN_MULTIVERSION void dn__huber_distance_grad(size_t n, dn_real c, const dn_real *x,
                                             const dn_real *y, dn_real dy, dn_real beta,
                                             dn_real *dx) {
    EACH_BETA(dx, dy * between(x[i] - y[i], c));
}

DN_MULTIVERSION void dn__rank_loss(size_t n, dn_real m, const dn_real *x, const dn_real *y,
                                   dn_real *z) {
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real d = m - x[i] + y[i];
        z[i] = d < 0 ? 0 : d;
    }
}
DN_MULTIVERSION void dn__rank_loss_grad(size_t n, dn_real a, const dn_real *z, const dn_real *dz,
                                        dn_real beta, dn_real *dx) {
    EACH_BETA(dx, z[i] > 0 ? a * dz[i] : 0);
}

/* NaN passes */
DN_INLINE dn_real above(dn_real x, dn_real limit) { return limit + x <= 0 ? 0 : limit + x; }
DN_MULTIVERSION dn_real dn__hinge(size_t n, dn_real limit, const dn_real *x) {
    return DN_SUM(above(x[i], limit));
}
DN_MULTIVERSION static int hinge_grad(size_t n, dn_real limit, const dn_real *x, dn_real dy,
                                      dn_real beta, dn_real *dx) {
    int count = 0;
#pragma omp simd reduction(+ : count)
    for (size_t i = 0; i < n; i++) count += !(limit + x[i] <= 0);
    EACH_BETA(dx, limit + x[i] <= 0 ? 0 : dy);
    return count;
}
void dn__hinge_grad(size_t n, size_t v, dn_real limit, const dn_real *x, dn_real dy, dn_real beta,
                    dn_real *dx) {
    const int count = hinge_grad(v, limit, x, dy, beta, dx) +
                      hinge_grad(n - v - 1, limit, x + v + 1, dy, beta, dx + v + 1);
    dx[v] = (beta == 0 ? 0 : dx[v]) - dy * (dn_real)count;
}

/* logistic() rounds large scores to exactly 0 or 1. Such a prediction costs nothing where it is
 * right, and where it is wrong as much as the least number that is not denormal: as in DyNet,
 * training goes on. The bounds are float's in double, too. */
#define LEAST ((dn_real)FLT_MIN)
#define MOST ((dn_real)(1 - FLT_EPSILON))
DN_INLINE int is_zero(dn_real x) { return x >= 0 && x < LEAST; }
DN_INLINE dn_real log_of(dn_real x) { return dn__log_of(is_zero(x) ? LEAST : x); }
DN_INLINE dn_real log_of_rest(dn_real x) { return x == 1 ? dn__log_of(LEAST) : dn__log1p_of(-x); }
DN_INLINE dn_real log_loss(dn_real x, dn_real t) {
    const dn_real soft = -(t == 0 ? 0 : t * log_of(x)) - (t == 1 ? 0 : (1 - t) * log_of_rest(x));
    const int wrong = (is_zero(x) && t != 0) || (x == 1 && t != 1);
    return wrong && t == t ? -dn__log_of(LEAST) : soft;
}
DN_MULTIVERSION dn_real dn__log_loss(size_t n, const dn_real *x, const dn_real *t) {
    return DN_SUM(log_loss(x[i], t[i]));
}
DN_INLINE dn_real log_loss_slope(dn_real x, dn_real t) {
    const dn_real p = is_zero(x) ? LEAST : x == 1 ? MOST : x;
    const dn_real slope = (t == 1 ? 0 : (1 - t) / (1 - p)) - (t == 0 ? 0 : t / p);
    return x == t ? 0 : slope;
}
DN_MULTIVERSION void dn__log_loss_grad(size_t n, const dn_real *x, const dn_real *t, dn_real dy,
                                       dn_real beta, dn_real *dx) {
    EACH_BETA(dx, dy * log_loss_slope(x[i], t[i]));
}
DN_MULTIVERSION void dn__log_loss_target_grad(size_t n, const dn_real *t, const dn_real *x,
                                              dn_real dy, dn_real beta, dn_real *dx) {
    (void)t;
    EACH_BETA(dx, dy * (log_of_rest(x[i]) - log_of(x[i])));
}
