/* LU with partial pivoting, in blocks of columns: all but a block's own elimination is a matrix
 * product (Golub and Van Loan, section 3.2). */
#include "kernels.h"
#include "math.h"

enum { BLOCK = 32, LAPACK_FROM = 128 /* below, these loops take less time */ };
size_t dn__lu_work(int n) { return (size_t)n * BLOCK; }

/* c -= a b; a is m x k, b is k x n. `work` takes a negated copy of a. */
static void subtract_product(int m, int k, int n, const dn_real *a, int lda, const dn_real *b,
                             int ldb, dn_real *c, int ldc, dn_real *work) {
    for (int j = 0; j < k; j++)
        dn__axpy((size_t)m, -1, a + (size_t)j * (size_t)lda, 0, work + (size_t)j * (size_t)m);
    dn__mm(m, k, n, work, m, b, ldb, 1, c, ldc);
}

static void swap_rows(int n, dn_real *a, int ld, int i, int j) {
    for (int c = 0; i != j && c < n; c++) {
        dn_real *column = a + (size_t)c * (size_t)ld, t = column[i];
        column[i] = column[j];
        column[j] = t;
    }
}

/* The row of the largest number at or below row k; nan counts as largest, so that it is not
 * lost. */
static int pivot_row(int n, const dn_real *column, int k) {
    int best = k;
    for (int i = k; i < n; i++) {
        dn_real v = DN_MATH(fabs)(column[i]), w = DN_MATH(fabs)(column[best]);
        if (v > w || (v != v && w == w)) best = i;
    }
    return best;
}

/* columns first .. last-1 of x: column c gets minus the multiple x[k][c] of `from`, in rows low ..
 * high-1 */
DN_MULTIVERSION static void eliminate(int k, int low, int high, int first, int last,
                                      const dn_real *from, dn_real *x, int ld) {
    for (int c = first; c < last; c++) {
        dn_real *to = x + (size_t)c * (size_t)ld, a = to[k];
        DN_SIMD for (int i = low; i < high; i++)
            to[i] -= a * from[i];
    }
}

typedef void getrf_fn(const int *m, const int *n, dn_real *a, const int *lda, int *pivot,
                      int *info);
static getrf_fn *getrf;
void dn__set_lapack(void *getrf_address) { getrf = (getrf_fn *)getrf_address; }

static int lu_by_lapack(int n, dn_real *a, int *pivot) {
    int info;
    getrf(&n, &n, a, &n, pivot, &info);
    for (int k = 0; k < n; k++) pivot[k]--;
    int singular = info != 0;
    /* it may pass over nan where it looks for a pivot */
    for (size_t i = 0; singular && i < (size_t)n * (size_t)n; i++) singular = a[i] == a[i];
    return !singular;
}

int dn__lu(int n, dn_real *a, int *pivot, dn_real *work) {
    if (getrf && n >= LAPACK_FROM) return lu_by_lapack(n, a, pivot);
    for (int j = 0; j < n; j += BLOCK) {
        int end = n - j < BLOCK ? n : j + BLOCK;
        for (int k = j; k < end; k++) {
            dn_real *column = a + (size_t)k * (size_t)n;
            pivot[k] = pivot_row(n, column, k);
            swap_rows(n, a, n, k, pivot[k]);
            if (column[k] == 0) return 0;
            for (int i = k + 1; i < n; i++) column[i] /= column[k];
            eliminate(k, k + 1, n, k + 1, end, column, a, n);
        }
        /* the block's rows of U, then what is left of the matrix */
        for (int k = j; k < end; k++)
            eliminate(k, k + 1, end, end, n, a + (size_t)k * (size_t)n, a, n);
        if (end < n)
            subtract_product(n - end, end - j, n - end, a + (size_t)j * (size_t)n + end, n,
                             a + (size_t)end * (size_t)n + j, n, a + (size_t)end * (size_t)n + end,
                             n, work);
    }
    return 1;
}

void dn__lu_solve(int n, int columns, const dn_real *lu, const int *pivot, dn_real *x,
                  dn_real *work) {
    for (int k = 0; k < n; k++) swap_rows(columns, x, n, k, pivot[k]);
    for (int j = 0; j < n; j += BLOCK) { /* L z = P b, from above */
        int end = n - j < BLOCK ? n : j + BLOCK;
        for (int k = j; k < end; k++)
            eliminate(k, k + 1, end, 0, columns, lu + (size_t)k * (size_t)n, x, n);
        if (end < n)
            subtract_product(n - end, end - j, columns, lu + (size_t)j * (size_t)n + end, n, x + j,
                             n, x + end, n, work);
    }
    for (int end = n; end > 0; end = (end - 1) / BLOCK * BLOCK) { /* U x = z, from below */
        int j = (end - 1) / BLOCK * BLOCK;
        for (int k = end - 1; k >= j; k--) {
            const dn_real *column = lu + (size_t)k * (size_t)n;
            for (int c = 0; c < columns; c++) x[(size_t)c * (size_t)n + (size_t)k] /= column[k];
            eliminate(k, j, k, 0, columns, column, x, n);
        }
        if (j > 0)
            subtract_product(j, end - j, columns, lu + (size_t)j * (size_t)n, n, x + j, n, x, n,
                             work);
    }
}
