/* Distances of two arrays and their gradients; formulas in kernels.h. */
#include "kernels.h"
#include "math.h"

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

/* A term whose factor is 0 counts as 0, so that a prediction of exactly 0 or 1 that is right costs
 * nothing instead of NaN. */
DN_INLINE dn_real cross_term(dn_real p, dn_real q) { return p == 0 ? 0 : p * dn__log_of(q); }
DN_MULTIVERSION dn_real dn__log_loss(size_t n, const dn_real *x, const dn_real *t) {
    return -DN_SUM(cross_term(t[i], x[i]) + cross_term(1 - t[i], 1 - x[i]));
}
DN_MULTIVERSION void dn__log_loss_grad(size_t n, const dn_real *x, const dn_real *t, dn_real dy,
                                       dn_real beta, dn_real *dx) {
    EACH_BETA(dx, dy * ((t[i] == 1 ? 0 : (1 - t[i]) / (1 - x[i])) - (t[i] == 0 ? 0 : t[i] / x[i])));
}
DN_MULTIVERSION void dn__log_loss_target_grad(size_t n, const dn_real *t, const dn_real *x,
                                              dn_real dy, dn_real beta, dn_real *dx) {
    (void)t;
    EACH_BETA(dx, dy * (dn__log1p_of(-x[i]) - dn__log_of(x[i])));
}
