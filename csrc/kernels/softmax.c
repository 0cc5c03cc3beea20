/* Softmax of one column. The maximum is subtracted before exp, so that nothing overflows and one term is exp 0 = 1. */
#include "kernels.h"
#include "math.h"

DN_MULTIVERSION static dn_real sum_exp(size_t n, const dn_real *x, dn_real max) {
    return DN_SUM(dn__exp_of(x[i] - max));
}

/* y = exp(x - max); returns the sum of y */
DN_MULTIVERSION static dn_real store_exp(size_t n, const dn_real *x, dn_real max, dn_real *y) {
    return DN_SUM(y[i] = dn__exp_of(x[i] - max));
}

dn_lse dn__logsumexp(size_t n, const dn_real *x) {
    dn_real max = dn__max(n, x);
    if (!isfinite(max)) return (dn_lse){max, 0}; /* all -inf, some inf, or nan: x - max would be nan */
    return (dn_lse){max, DN_MATH(log)(sum_exp(n, x, max))};
}

void dn__softmax(size_t n, const dn_real *x, dn_real *y) {
    dn_real sum = store_exp(n, x, dn__max(n, x), y);
    dn__affine(n, 1 / sum, 0, y, y);
}

DN_MULTIVERSION void dn__softmax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx) {
    dn_real mean = dn__dot(n, y, dy); /* y_i = exp x_i / sum_j exp x_j, hence dy_i/dx_j = y_i ((i == j) - y_j) */
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] = y[i] * (dy[i] - mean);
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] += y[i] * (dy[i] - mean);
    }
}

DN_MULTIVERSION void dn__softmax_from_lse(size_t n, const dn_real *x, dn_lse lse, dn_real scale, dn_real beta,
                                          dn_real *dx) {
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] = scale * dn__exp_of(x[i] - lse.max - lse.log_sum);
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++) dx[i] += scale * dn__exp_of(x[i] - lse.max - lse.log_sum);
    }
}
