/* Softmax of one column. The maximum is subtracted before exp, so that nothing overflows and one
 * term is exp 0 = 1. */
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
    /* all -inf, some inf, or nan: x - max would be nan */
    if (!isfinite(max)) return (dn_lse){max, 0};
    return (dn_lse){max, DN_MATH(log)(sum_exp(n, x, max))};
}

static void softmax_of(size_t n, const dn_real *x, dn_real max, dn_real *y) {
    dn_real sum = store_exp(n, x, max, y);
    dn__affine(n, 1 / sum, 0, y, y);
}

void dn__softmax(size_t n, const dn_real *x, dn_real *y) { softmax_of(n, x, dn__max(n, x), y); }

void dn__softmax_or_zeros(size_t n, const dn_real *x, dn_real *y) {
    dn_real max = dn__max(n, x);
    if (max == -(dn_real)INFINITY) dn__fill(n, 0, y);
    else softmax_of(n, x, max, y);
}

DN_MULTIVERSION void dn__softmax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                      dn_real *dx) {
    /* y_i = exp x_i / sum_j exp x_j, hence dy_i/dx_j = y_i ((i == j) - y_j) */
    dn_real mean = dn__dot(n, y, dy);
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] = y[i] * (dy[i] - mean);
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] += y[i] * (dy[i] - mean);
    }
}

DN_MULTIVERSION void dn__softmax_from_lse(size_t n, const dn_real *x, dn_lse lse, dn_real scale,
                                          dn_real beta, dn_real *dx) {
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] = scale * dn__exp_of(x[i] - lse.max - lse.log_sum);
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] += scale * dn__exp_of(x[i] - lse.max - lse.log_sum);
    }
}

DN_MULTIVERSION void dn__keep(size_t n, const dn_real *x, const dn_real *mask, dn_real *y) {
    DN_SIMD for (size_t i = 0; i < n; i++)
        y[i] = mask[i] != 0 ? x[i] : -INFINITY;
}

DN_MULTIVERSION void dn__log_softmax(size_t n, dn_real a, const dn_real *x, dn_lse lse,
                                     dn_real beta, dn_real *y) {
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++)
            y[i] = a * (x[i] - lse.max - lse.log_sum);
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++)
            y[i] += a * (x[i] - lse.max - lse.log_sum);
    }
}

DN_MULTIVERSION dn_real dn__sum_neg_log_softmax(size_t n, const dn_real *x, dn_lse lse) {
    return DN_SUM(lse.max - x[i] + lse.log_sum);
}

DN_MULTIVERSION dn_real dn__cross_entropy(size_t n, const dn_real *t, const dn_real *x,
                                          dn_lse lse) {
    return DN_SUM(t[i] == 0 ? 0 : t[i] * (lse.max - x[i] + lse.log_sum));
}

/* ---- columns side by side: number k of column i is x[k * step + i] --------------------- */

/* sum_i += part_i after so many numbers: a sum of many loses no digits to their order. */
enum { IN_PART = 64 };
DN_INLINE void add_part(size_t k, size_t length, size_t n, dn_real *part, double *sum) {
    if ((k + 1) % IN_PART && k + 1 < length) return;
    DN_SIMD for (size_t i = 0; i < n; i++) {
        sum[i] += (double)part[i];
        part[i] = 0;
    }
}

/* NaN of a column that has one. */
DN_INLINE void maxima(size_t n, size_t length, size_t step, const dn_real *x, dn_real *max) {
    EACH(max, -INFINITY);
    for (size_t k = 0; k < length; k++, x += step)
        EACH(max, x[i] > max[i] || x[i] != x[i] ? x[i] : max[i]);
}

DN_MULTIVERSION static void softmax_strided(size_t n, size_t length, size_t step, const dn_real *x,
                                            dn_real of_none, dn_real *y) {
    dn_real max[DN_STRIDED], part[DN_STRIDED] = {0};
    double sum[DN_STRIDED] = {0};
    maxima(n, length, step, x, max);
    EACH(max, max[i] == -INFINITY ? 0 : max[i]);
    for (size_t k = 0; k < length; k++) {
        const dn_real *in = x + k * step;
        dn_real *out = y + k * step;
        DN_SIMD for (size_t i = 0; i < n; i++)
            part[i] += out[i] = dn__exp_of(in[i] - max[i]);
        add_part(k, length, n, part, sum);
    }
    EACH(part, sum[i] == 0 ? of_none : 1 / (dn_real)sum[i]);
    for (size_t k = 0; k < length; k++, y += step) EACH(y, y[i] * part[i]);
}
void dn__softmax_strided(size_t n, size_t length, size_t step, const dn_real *x, dn_real *y) {
    softmax_strided(n, length, step, x, NAN, y);
}
void dn__softmax_or_zeros_strided(size_t n, size_t length, size_t step, const dn_real *x,
                                  dn_real *y) {
    softmax_strided(n, length, step, x, 0, y);
}

DN_MULTIVERSION void dn__softmax_grad_strided(size_t n, size_t length, size_t step,
                                              const dn_real *y, const dn_real *dy, dn_real beta,
                                              dn_real *dx) {
    dn_real part[DN_STRIDED] = {0};
    double mean[DN_STRIDED] = {0};
    for (size_t k = 0; k < length; k++) {
        const dn_real *a = y + k * step, *b = dy + k * step;
        EACH(part, part[i] + a[i] * b[i]);
        add_part(k, length, n, part, mean);
    }
    EACH(part, (dn_real)mean[i]);
    for (size_t k = 0; k < length; k++, y += step, dy += step, dx += step)
        EACH_BETA(dx, y[i] * (dy[i] - part[i]));
}

DN_MULTIVERSION void dn__log_softmax_strided(size_t n, size_t length, size_t step, const dn_real *x,
                                             dn_real *y) {
    dn_real max[DN_STRIDED], part[DN_STRIDED] = {0};
    double sum[DN_STRIDED] = {0};
    maxima(n, length, step, x, max);
    for (size_t k = 0; k < length; k++) {
        const dn_real *in = x + k * step;
        EACH(part, part[i] + dn__exp_of(in[i] - max[i]));
        add_part(k, length, n, part, sum);
    }
    EACH(part, max[i] - max[i] == 0 ? dn__log_of((dn_real)sum[i]) : 0);
    for (size_t k = 0; k < length; k++, x += step, y += step) EACH(y, x[i] - max[i] - part[i]);
}

DN_MULTIVERSION void dn__log_softmax_grad_strided(size_t n, size_t length, size_t step,
                                                  const dn_real *y, const dn_real *dy, dn_real beta,
                                                  dn_real *dx) {
    dn_real part[DN_STRIDED] = {0};
    double sum[DN_STRIDED] = {0};
    for (size_t k = 0; k < length; k++) {
        const dn_real *in = dy + k * step;
        EACH(part, part[i] + in[i]);
        add_part(k, length, n, part, sum);
    }
    EACH(part, (dn_real)sum[i]);
    for (size_t k = 0; k < length; k++, y += step, dy += step, dx += step)
        EACH_BETA(dx, dy[i] - dn__exp_of(y[i]) * part[i]);
}

/* ---- sparsemax ------------------------------------------------------------------------ */
/* sum over x_i - max > t of x_i - max, and in *count how many there are */
DN_MULTIVERSION static dn_real sum_above(size_t n, const dn_real *x, dn_real max, dn_real t,
                                         size_t *count) {
    size_t above = 0;
#pragma omp simd reduction(+ : above)
    for (size_t i = 0; i < n; i++) above += x[i] - max > t;
    *count = above;
    return DN_SUM(x[i] - max > t ? x[i] - max : 0);
}
DN_MULTIVERSION static void store_above(size_t n, const dn_real *x, dn_real max, dn_real t,
                                        dn_real *y) {
    DN_SIMD for (size_t i = 0; i < n; i++) {
        dn_real d = x[i] - max - t;
        y[i] = d <= 0 ? 0 : d; /* nan stays */
    }
}

/* The threshold by repeated means (Michelot 1986): t rises from below, and what falls under it
 * never counts again. It cannot be less than max - 1, so that most numbers fall at once. */
void dn__sparsemax(size_t n, const dn_real *x, dn_real *y) {
    dn_real max = dn__max(n, x), t = -1;
    size_t count, before = n + 1;
    dn_real sum = sum_above(n, x, max, t, &count);
    while (count < before && count > 0) {
        before = count;
        t = (sum - 1) / (dn_real)count;
        sum = sum_above(n, x, max, t, &count);
    }
    store_above(n, x, max, t, y);
}

DN_MULTIVERSION void dn__sparsemax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta,
                                        dn_real *dx) {
    dn_real sum = DN_SUM(y[i] > 0 ? dy[i] : 0);
    size_t count = 0;
#pragma omp simd reduction(+ : count)
    for (size_t i = 0; i < n; i++) count += y[i] > 0;
    dn_real mean = sum / (dn_real)(count ? count : 1);
    if (beta == 0) {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] = y[i] > 0 ? dy[i] - mean : 0;
    } else {
        DN_SIMD for (size_t i = 0; i < n; i++)
            dx[i] += y[i] > 0 ? dy[i] - mean : 0;
    }
}
