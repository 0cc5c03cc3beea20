/* Circular convolution and correlation of many numbers, by Fourier transforms: n log n steps in
 * place of n^2. The transform is Stockham's, in real and imaginary parts apart: each pass reads and
 * writes runs of neighbours, and none reorders. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "math.h"

/* From how many numbers on it is quicker than sums: a power of two, or others, for which zeros are
 * added up to twice the length. Beyond the last one no memory is kept for the roots of unity. */
enum { LEAST_POWER = 256, LEAST_OTHER = 768, MOST_LOG = 24 };

static int is_power_of_two(int n) { return (n & (n - 1)) == 0; }

/* The length of the transforms is two to this; 0: sums are quicker. */
static int log_of_length(int n) {
    const int power = is_power_of_two(n);
    if (n < (power ? LEAST_POWER : LEAST_OTHER) || n > 1 << (MOST_LOG - 1)) return 0;
    int log = 0;
    while ((size_t)1 << log < (power ? (size_t)n : 2 * (size_t)n - 1)) log++;
    return log;
}

size_t dn__circular_scratch(int n) {
    const int log = log_of_length(n);
    return log ? (size_t)4 << log : 0;
}

/* cos(2 pi k / n) for k < n / 2, then sin, made once for each n; NULL: no memory. */
static const dn_real *roots_of_unity(int log) {
    static dn_real *made[MOST_LOG + 1];
    dn_real *roots = __atomic_load_n(&made[log], __ATOMIC_ACQUIRE), *before = NULL;
    if (roots) return roots;
    const size_t half = (size_t)1 << log >> 1;
    if (!(roots = malloc(2 * half * sizeof *roots))) return NULL;
    for (size_t k = 0; k < half; k++) {
        const double angle = 3.14159265358979323846 * (double)k / (double)half;
        roots[k] = (dn_real)cos(angle);
        roots[half + k] = (dn_real)sin(angle);
    }
    if (__atomic_compare_exchange_n(&made[log], &before, roots, 0, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE))
        return roots;
    free(roots); /* another thread was quicker */
    return before;
}

typedef struct spectrum { dn_real *re, *im; } spectrum;

/* Runs of `stride` neighbours: y[2p] = x[p] + x[p + half], y[2p + 1] = (x[p] - x[p + half]) times
 * the root of number p stride. */
DN_MULTIVERSION static void fourier_pass(size_t half, size_t stride, const dn_real *cosines,
                                         const dn_real *sines, spectrum x, spectrum y) {
    for (size_t p = 0; p < half; p++) {
        const dn_real c = cosines[p * stride], s = sines[p * stride];
        const dn_real *ar = x.re + stride * p, *ai = x.im + stride * p, *br = ar + stride * half,
                      *bi = ai + stride * half;
        dn_real *er = y.re + 2 * stride * p, *ei = y.im + 2 * stride * p, *odd_re = er + stride,
                *odd_im = ei + stride;
        DN_SIMD for (size_t q = 0; q < stride; q++) {
            const dn_real dr = ar[q] - br[q], di = ai[q] - bi[q];
            er[q] = ar[q] + br[q];
            ei[q] = ai[q] + bi[q];
            odd_re[q] = dr * c + di * s;
            odd_im[q] = di * c - dr * s;
        }
    }
}

/* The first one, of single numbers. */
DN_MULTIVERSION static void first_fourier_pass(size_t half, const dn_real *cosines,
                                               const dn_real *sines, spectrum x, spectrum y) {
    DN_SIMD for (size_t p = 0; p < half; p++) {
        const dn_real dr = x.re[p] - x.re[p + half], di = x.im[p] - x.im[p + half];
        y.re[2 * p] = x.re[p] + x.re[p + half];
        y.im[2 * p] = x.im[p] + x.im[p + half];
        y.re[2 * p + 1] = dr * cosines[p] + di * sines[p];
        y.im[2 * p + 1] = di * cosines[p] - dr * sines[p];
    }
}

/* X_k = sum_j x_j exp(-2 pi i j k / n), in x or in `other`. */
static spectrum transformed(int log, const dn_real *roots, spectrum x, spectrum other) {
    const size_t n = (size_t)1 << log;
    for (size_t half = n / 2, stride = 1; half; half /= 2, stride *= 2) {
        if (stride == 1) first_fourier_pass(half, roots, roots + n / 2, x, other);
        else fourier_pass(half, stride, roots, roots + n / 2, x, other);
        const spectrum done = other;
        other = x;
        x = done;
    }
    return x;
}

/* z is the transform of u + i v. It becomes, conjugated, the product of those of u and v, or of the
 * conjugate of that of u and that of v: `sign`, as of dn__circular_sum. */
static void multiply_spectra(size_t n, dn_real sign, spectrum z) {
    for (size_t k = 0; k <= n / 2; k++) {
        const size_t j = (n - k) & (n - 1);
        const dn_real ur = (z.re[k] + z.re[j]) / 2, ui = -sign * (z.im[k] - z.im[j]) / 2,
                      vr = (z.im[k] + z.im[j]) / 2, vi = (z.re[j] - z.re[k]) / 2;
        z.re[k] = z.re[j] = ur * vr - ui * vi;
        z.im[j] = ur * vi + ui * vr;
        z.im[k] = -z.im[j];
    }
}

int dn__circular_sum(int n, int sign, const dn_real *u, const dn_real *v, dn_real beta, dn_real *y,
                     dn_real *scratch) {
    const int log = log_of_length(n);
    const size_t length = (size_t)1 << log, size = (size_t)n;
    const dn_real *roots = roots_of_unity(log);
    if (!roots) return 0;
    spectrum z = {scratch, scratch + length}, other = {scratch + 2 * length, scratch + 3 * length};
    memcpy(z.re, u, size * sizeof *u);
    memcpy(z.im, v, size * sizeof *v);
    memset(z.re + size, 0, (length - size) * sizeof *z.re);
    memset(z.im + size, 0, (length - size) * sizeof *z.im);
    const spectrum whole = transformed(log, roots, z, other);
    multiply_spectra(length, (dn_real)sign, whole);
    z = transformed(log, roots, whole, whole.re == z.re ? other : z);
    /* of a longer transform: what lies behind the end, or before the beginning, begins anew */
    const size_t fold = length == size ? 0 : sign < 0 ? size : length - size;
    const dn_real scale = 1 / (dn_real)length;
    for (size_t k = 0; k < size; k++) {
        const dn_real sum = fold && (sign < 0 || k) ? z.re[k] + z.re[k + fold] : z.re[k];
        y[k] = sum * scale + (beta == 0 ? 0 : beta * y[k]);
    }
    return 1;
}
