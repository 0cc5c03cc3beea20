/* Greatest and least numbers, where they are, and the soft maximum log sum exp over several
 * arrays. */
#include "kernels.h"
#include "math.h"

/* nan loses every comparison, so that it is asked for by itself; | instead of || keeps the loops
 * free of branches. */
#define IS_NAN(x) ((x) != (x))

DN_MULTIVERSION void dn__bmax(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, ((x[i] > y[i]) | IS_NAN(x[i])) ? x[i] : y[i]);
}
DN_MULTIVERSION void dn__bmin(size_t n, const dn_real *x, const dn_real *y, dn_real *z) {
    EACH(z, ((x[i] < y[i]) | IS_NAN(x[i])) ? x[i] : y[i]);
}

DN_MULTIVERSION void dn__pass_greater(size_t n, const dn_real *x, const dn_real *y,
                                      const dn_real *dz, dn_real beta, dn_real *dx) {
    EACH_BETA(dx, x[i] > y[i] ? dz[i] : 0);
}
DN_MULTIVERSION void dn__pass_not_greater(size_t n, const dn_real *x, const dn_real *y,
                                          const dn_real *dz, dn_real beta, dn_real *dx) {
    EACH_BETA(dx, x[i] > y[i] ? 0 : dz[i]);
}

/* A nan replaces what is no nan, and stays. */
#define FOLD(better) \
    DN_SIMD for (size_t i = 0; i < n; i++) { \
        int new = (x[i] better best[i]) | (IS_NAN(x[i]) & !IS_NAN(best[i])); \
        best[i] = new ? x[i] : best[i]; \
        which[i] = new ? k : which[i]; \
    }
DN_MULTIVERSION void dn__fold_max(size_t n, const dn_real *x, int32_t k, dn_real *best,
                                  int32_t *which){FOLD(>)}
DN_MULTIVERSION static void fold_min(size_t n, const dn_real *x, int32_t k, dn_real *best,
                                     int32_t *which) {
    FOLD(<)
}

static void max_of_window(int rows, int cols, size_t ld, const dn_real *x, int32_t at,
                          dn_real *best, int32_t *which) {
    dn_real greatest = *x;
    size_t place = 0;
    for (size_t c = 0; c < (size_t)cols; c++)
        for (size_t i = c * ld; i < c * ld + (size_t)rows; i++)
            if (x[i] > greatest || (IS_NAN(x[i]) && !IS_NAN(greatest))) greatest = x[place = i];
    *best = greatest;
    *which = at + (int32_t)place;
}
/* The numbers of one place in each of m windows; all of them are taken where they are the first. */
DN_INLINE void take_greater(size_t m, size_t step, int are_first, const dn_real *number, int32_t at,
                            dn_real *best, int32_t *which) {
    DN_SIMD for (size_t i = 0; i < m; i++) {
        const int new = are_first | (number[i] > best[i]) | (IS_NAN(number[i]) & !IS_NAN(best[i]));
        best[i] = new ? number[i] : best[i];
        which[i] = new ? at + (int32_t)(i * step) : which[i];
    }
}
/* Numbers that are apart are put side by side first: vectors compare them, and read none behind the
 * last one. */
enum { MANY_WINDOWS = 8, WINDOWS_AT_ONCE = 64 };
DN_MULTIVERSION static void max_of_many_windows(size_t n, size_t step, int rows, int cols,
                                                size_t ld, const dn_real *x, int32_t at,
                                                dn_real *best, int32_t *which) {
    dn_real beside[WINDOWS_AT_ONCE];
    for (int c = 0; c < cols; c++)
        for (int r = 0; r < rows; r++) {
            const size_t from = (size_t)c * ld + (size_t)r;
            for (size_t i = 0; i < n && step != 1; i++) beside[i] = x[from + i * step];
            take_greater(n, step, !c && !r, step == 1 ? x + from : beside, at + (int32_t)from, best,
                         which);
        }
}
void dn__max_of_windows(size_t n, size_t step, int rows, int cols, size_t ld, const dn_real *x,
                        int32_t at, dn_real *best, int32_t *which) {
    for (size_t i = 0, m; i < n; i += m) {
        const dn_real *from = x + i * step;
        const int32_t place = at + (int32_t)(i * step);
        m = n - i < MANY_WINDOWS ? 1 : n - i < WINDOWS_AT_ONCE ? n - i : WINDOWS_AT_ONCE;
        if (m == 1) max_of_window(rows, cols, ld, from, place, best + i, which + i);
        else max_of_many_windows(m, step, rows, cols, ld, from, place, best + i, which + i);
    }
}

DN_MULTIVERSION void dn__pass_which(size_t n, const int32_t *which, int32_t k, const dn_real *dz,
                                    dn_real beta, dn_real *dx) {
    EACH_BETA(dx, which[i] == k ? dz[i] : 0);
}

DN_MULTIVERSION static dn_real least(size_t n, const dn_real *x) {
    dn_real min = INFINITY;
    int any_nan = 0;
#pragma omp simd reduction(min : min) reduction(| : any_nan)
    for (size_t i = 0; i < n; i++) {
        min = x[i] < min ? x[i] : min;
        any_nan |= IS_NAN(x[i]);
    }
    if (min == DN_MOST) { /* as in dn__max() */
        min = INFINITY;
        for (size_t i = 0; i < n; i++) min = x[i] < min ? x[i] : min;
    }
    return any_nan ? (dn_real)NAN : min;
}

static int32_t first(size_t n, const dn_real *x, dn_real value) {
    size_t i = 0;
    if (IS_NAN(value))
        while (i < n && !IS_NAN(x[i])) i++;
    else
        while (i < n && x[i] != value) i++;
    return (int32_t)i;
}

enum { SHORT = 16 }; /* lines for which the vector loop does not pay */
#define LINES(better, extreme, fold) \
    if (inner == 1 && length >= SHORT) { \
        best[0] = extreme(length, x); \
        which[0] = first(length, x, best[0]); \
    } else if (inner == 1) { \
        best[0] = x[0]; \
        which[0] = 0; \
        for (size_t k = 1; k < length; k++) \
            if (x[k] better best[0] || (IS_NAN(x[k]) && !IS_NAN(best[0]))) \
                best[0] = x[k], which[0] = (int32_t)k; \
    } else { \
        memcpy(best, x, inner * sizeof *x); \
        memset(which, 0, inner * sizeof *which); \
        for (size_t k = 1; k < length; k++) fold(inner, x + k * inner, (int32_t)k, best, which); \
    }
void dn__max_along_axis(size_t length, size_t inner, const dn_real *x, dn_real *best,
                        int32_t *which) {
    LINES(>, dn__max, dn__fold_max)
}
void dn__min_along_axis(size_t length, size_t inner, const dn_real *x, dn_real *best,
                        int32_t *which){LINES(<, least, fold_min)}

/* Equal numbers count as a difference of 0, infinities included. */
DN_MULTIVERSION void dn__add_exp(size_t n, const dn_real *x, const dn_real *max, dn_real *sum) {
    EACH(sum, sum[i] + dn__exp_of(x[i] == max[i] ? 0 : x[i] - max[i]));
}
DN_MULTIVERSION void dn__wide_add_exp(size_t n, const dn_real *x, const dn_real *max, double *sum) {
    EACH(sum, sum[i] + (double)dn__exp_of(x[i] == max[i] ? 0 : x[i] - max[i]));
}
DN_MULTIVERSION void dn__add_exp_grad(size_t n, const dn_real *x, const dn_real *max,
                                      const dn_real *log_sum, const dn_real *dy, dn_real beta,
                                      dn_real *dx) {
    EACH_BETA(dx, x[i] == -INFINITY ? 0 : dy[i] * dn__exp_of(x[i] - max[i] - log_sum[i]));
}
