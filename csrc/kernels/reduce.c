/* Sums, dot products, maxima. The order of a sum depends on n alone (DN_SUM in math.h). */
#include "kernels.h"
#include "math.h"

enum { BLOCK = 4096 };

DN_MULTIVERSION dn_real dn__sum(size_t n, const dn_real *x) { return DN_SUM(x[i]); }

DN_MULTIVERSION dn_real dn__dot(size_t n, const dn_real *x, const dn_real *y) { return DN_SUM(x[i] * y[i]); }

DN_MULTIVERSION dn_real dn__squared_distance(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM((x[i] - y[i]) * (x[i] - y[i]));
}

/* The norm of all gradients adds up tens of millions of squares: blocks in dn_real, for speed, the blocks in double. */
double dn__sum_squares(size_t n, const dn_real *x) {
    double sum = 0;
    for (size_t i = 0; i < n; i += BLOCK) sum += dn__dot(n - i < BLOCK ? n - i : BLOCK, x + i, x + i);
    return sum;
}

DN_MULTIVERSION dn_real dn__max(size_t n, const dn_real *x) {
    dn_real max = -INFINITY;
    int any_nan = 0; /* nan loses every comparison, so it is looked for by itself */
#pragma omp simd reduction(max : max) reduction(| : any_nan)
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        any_nan |= x[i] != x[i];
    }
    return any_nan ? (dn_real)NAN : max;
}

DN_MULTIVERSION void dn__sum_columns(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y) {
    if (rows == 1) {
        y[0] = dn__sum((size_t)cols, x) + (beta == 0 ? 0 : y[0]);
        return;
    }
    if (beta == 0) memset(y, 0, sizeof *y * (size_t)rows);
    int c = 0;
    for (; c + 4 <= cols; c += 4, x += (size_t)4 * rows) { /* four columns: y is read and written less */
        const dn_real *x1 = x + rows, *x2 = x1 + rows, *x3 = x2 + rows;
        DN_SIMD for (int r = 0; r < rows; r++) y[r] += (x[r] + x1[r]) + (x2[r] + x3[r]);
    }
    for (; c < cols; c++, x += rows) {
        DN_SIMD for (int r = 0; r < rows; r++) y[r] += x[r];
    }
}
