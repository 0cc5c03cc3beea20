/* Distances of two arrays and their gradients; formulas in kernels.h. */
#include "kernels.h"
#include "math.h"

/* Two loops, because with beta = 0 the target may hold anything and must not be read. */
#define EACH_BETA(value) \
    if (beta == 0) { \
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] = (value); \
    } else { \
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] += (value); \
    }

DN_MULTIVERSION dn_real dn__l1_distance(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM(DN_MATH(fabs)(x[i] - y[i]));
}
DN_MULTIVERSION void dn__l1_distance_grad(size_t n, const dn_real *x, const dn_real *y, dn_real dy, dn_real beta, dn_real *dx) {
    EACH_BETA(x[i] > y[i] ? dy : x[i] < y[i] ? -dy : 0);
}

/* a = |d|, m = min(a, c): m a - m^2 / 2 is a^2 / 2 below c and c a - c^2 / 2 above */
DN_INLINE dn_real huber(dn_real d, dn_real c) {
    dn_real a = DN_MATH(fabs)(d), m = a > c ? c : a;
    return m * (a - m / 2);
}
DN_MULTIVERSION dn_real dn__huber_distance(size_t n, dn_real c, const dn_real *x, const dn_real *y) { return DN_SUM(huber(x[i] - y[i], c)); }

DN_INLINE dn_real between(dn_real d, dn_real c) { return d > c ? c : d < -c ? -c : d; }
DN_MULTIVERSION void dn__huber_distance_grad(size_t n, dn_real c, const dn_real *x, const dn_real *y, dn_real dy, dn_real beta, dn_real *dx) {
    EACH_BETA(dy * between(x[i] - y[i], c));
}

DN_MULTIVERSION void dn__rank_loss(size_t n, dn_real m, const dn_real *x, const dn_real *y, dn_real *z) {
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real d = m - x[i] + y[i];
        z[i] = d < 0 ? 0 : d;
    }
}
DN_MULTIVERSION void dn__rank_loss_grad(size_t n, dn_real a, const dn_real *z, const dn_real *dz, dn_real beta, dn_real *dx) {
    EACH_BETA(z[i] > 0 ? a * dz[i] : 0);
}
