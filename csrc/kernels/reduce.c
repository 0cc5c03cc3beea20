/* Sums, dot products, maxima. The order of a sum depends on n alone (DN_SUM in math.h). */
#include "kernels.h"
#include "math.h"
#include "parallel.h"

enum { BLOCK = DN_SQUARES_BLOCK, BLOCKS = 1024 };

DN_MULTIVERSION dn_real dn__sum(size_t n, const dn_real *x) { return DN_SUM(x[i]); }

DN_MULTIVERSION dn_real dn__dot(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM(x[i] * y[i]);
}

DN_MULTIVERSION dn_real dn__sum_quotients(size_t n, const dn_real *x, const dn_real *y) {
    return DN_SUM(x[i] / y[i]);
}

DN_MULTIVERSION dn_real dn__dot_over(size_t n, const dn_real *x, const dn_real *y, dn_real a) {
    return DN_SUM(x[i] * y[i] / a);
}

typedef struct squares {
    size_t n;
    const dn_real *x;
    dn_real *sums; /* of blocks */
} squares;
static void sum_blocks(const void *context, size_t from, size_t count) {
    const squares *s = context;
    for (size_t i = from; i < from + count; i++) {
        const dn_real *x = s->x + i * BLOCK;
        size_t n = s->n - i * BLOCK;
        s->sums[i] = dn__dot(n < BLOCK ? n : BLOCK, x, x);
    }
}

/* The norm of all gradients adds up tens of millions of squares: blocks in dn_real, for speed, the
 * blocks in double. */
static __attribute__((noinline)) double sum_many_squares(size_t n, const dn_real *x) {
    double sum = 0;
    dn_real sums[BLOCKS];
    while (n) {
        const size_t part = n < (size_t)BLOCKS * BLOCK ? n : (size_t)BLOCKS * BLOCK,
                     blocks = (part + BLOCK - 1) / BLOCK;
        const squares s = {part, x, sums};
        dn__parallel_ranges(blocks, 0.06 * BLOCK, 1, sum_blocks, &s);
        for (size_t i = 0; i < blocks; i++) sum += sums[i];
        n -= part;
        x += part;
    }
    return sum;
}
double dn__sum_squares(size_t n, const dn_real *x) {
    return n <= BLOCK ? dn__dot(n, x, x) : sum_many_squares(n, x);
}

DN_MULTIVERSION dn_real dn__max(size_t n, const dn_real *x) {
    dn_real max = -INFINITY;
    int any_nan = 0; /* nan loses every comparison, so it is looked for by itself */
#pragma omp simd reduction(max : max) reduction(| : any_nan)
    for (size_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
        any_nan |= x[i] != x[i];
    }
    if (max == -DN_MOST) { /* what clang begins a reduction with: there may be only infinities */
        max = -INFINITY;
        for (size_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    }
    return any_nan ? (dn_real)NAN : max;
}

DN_MULTIVERSION void dn__wide_add(size_t n, double a, const dn_real *x, double *sum) {
    EACH(sum, sum[i] + a * (double)x[i]);
}
void dn__wide_sum(size_t n, const double *sum, dn_real beta, dn_real *y) {
    EACH_BETA(y, (dn_real)sum[i]);
}

DN_MULTIVERSION static void sum_of_columns(size_t rows, size_t ld, int cols, const dn_real *x,
                                           dn_real beta, dn_real *y) {
    if (beta == 0) memset(y, 0, sizeof *y * rows);
    int c = 0;
    /* four columns: y is read and written less */
    for (; c + 4 <= cols; c += 4, x += 4 * ld) {
        const dn_real *x1 = x + ld, *x2 = x1 + ld, *x3 = x2 + ld;
        DN_SIMD for (size_t r = 0; r < rows; r++)
            y[r] += (x[r] + x1[r]) + (x2[r] + x3[r]);
    }
    for (; c < cols; c++, x += ld) {
        DN_SIMD for (size_t r = 0; r < rows; r++)
            y[r] += x[r];
    }
}
/* Of many columns: DN_MANY. */
static void sum_of_many_columns(size_t rows, size_t ld, int cols, const dn_real *x, dn_real beta,
                                dn_real *y) {
    enum { ROWS = 256 };
    for (size_t r = 0; r < rows; r += ROWS) {
        const size_t n = rows - r < ROWS ? rows - r : ROWS;
        dn_real block[ROWS];
        double sum[ROWS] = {0};
        for (int c = 0, now; c < cols; c += now) {
            now = cols - c < DN_MANY ? cols - c : DN_MANY;
            sum_of_columns(n, ld, now, x + r + (size_t)c * ld, 0, block);
            dn__wide_add(n, 1, block, sum);
        }
        dn__wide_sum(n, sum, beta, y + r);
    }
}
typedef struct column_sums {
    size_t ld;
    int cols;
    const dn_real *x;
    dn_real beta, *y;
} column_sums;
static void sum_rows_of_columns(const void *context, size_t from, size_t rows) {
    const column_sums *s = context;
    (s->cols > DN_MANY ? sum_of_many_columns : sum_of_columns)(rows, s->ld, s->cols, s->x + from,
                                                               s->beta, s->y + from);
}
void dn__sum_columns(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y) {
    if (rows == 1) {
        y[0] = dn__sum((size_t)cols, x) + (beta == 0 ? 0 : y[0]);
        return;
    }
    const column_sums s = {(size_t)rows, cols, x, beta, y};
    dn__parallel_ranges((size_t)rows, 0.1 * cols, 64, sum_rows_of_columns, &s);
}

/* ---- columns by themselves ------------------------------------------------------------ */

/* One to four rows: vectors are made of numbers of neighbouring columns. */
DN_INLINE void sum_few(size_t rows, size_t cols, const dn_real *x, dn_real beta, dn_real *y) {
    DN_SIMD for (size_t c = 0; c < cols; c++) {
        dn_real sum = x[c * rows];
        for (size_t r = 1; r < rows; r++) sum += x[c * rows + r];
        y[c] = beta == 0 ? sum : sum + beta * y[c];
    }
}
DN_INLINE void spread_few(size_t rows, size_t cols, const dn_real *y, dn_real beta, dn_real *x) {
    DN_SIMD for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < rows; r++)
            x[c * rows + r] = beta == 0 ? y[c] : y[c] + beta * x[c * rows + r];
}
#define FEW_ROWS(f, from, to) \
    switch (rows) { \
    case 1: f(1, cols, from, beta, to); return; \
    case 2: f(2, cols, from, beta, to); return; \
    case 3: f(3, cols, from, beta, to); return; \
    case 4: f(4, cols, from, beta, to); return; \
    default: break; \
    }

/* Columns too short for a vector's sum to pay: SIDE of them at a time become rows. */
enum { SIDE = 16, SHORT_COLUMN = 64 };
static void sum_short(size_t rows, size_t cols, const dn_real *x, dn_real beta, dn_real *y) {
    dn_real turned[SHORT_COLUMN * SIDE];
    for (size_t c = 0; c < cols; c += SIDE) {
        const size_t n = cols - c < SIDE ? cols - c : SIDE;
        dn__transpose_plane(rows, n, x + c * rows, rows, 0, turned, n);
        sum_of_columns(n, n, (int)rows, turned, beta, y + c);
    }
}
DN_MULTIVERSION static void sum_each(size_t rows, size_t cols, const dn_real *x, dn_real beta,
                                     dn_real *y) {
    FEW_ROWS(sum_few, x, y)
    if (rows < SHORT_COLUMN) sum_short(rows, cols, x, beta, y);
    else
        for (size_t c = 0; c < cols; c++)
            y[c] = dn__sum(rows, x + c * rows) + (beta == 0 ? 0 : beta * y[c]);
}
DN_MULTIVERSION static void spread_each(size_t rows, size_t cols, const dn_real *y, dn_real beta,
                                        dn_real *x) {
    FEW_ROWS(spread_few, y, x)
    for (size_t c = 0; c < cols; c++, x += rows) {
        const dn_real number = y[c];
        if (beta == 0) DN_SIMD
            for (size_t r = 0; r < rows; r++) x[r] = number;
        else DN_SIMD
            for (size_t r = 0; r < rows; r++) x[r] = number + beta * x[r];
    }
}

typedef struct columns_alone {
    size_t rows;
    const dn_real *from;
    dn_real beta, *to;
} columns_alone;
static void sum_columns_alone(const void *context, size_t from, size_t cols) {
    const columns_alone *s = context;
    sum_each(s->rows, cols, s->from + from * s->rows, s->beta, s->to + from);
}
static void spread_columns_alone(const void *context, size_t from, size_t cols) {
    const columns_alone *s = context;
    spread_each(s->rows, cols, s->from + from, s->beta, s->to + from * s->rows);
}
void dn__sum_each_column(size_t rows, size_t cols, const dn_real *x, dn_real beta, dn_real *y) {
    const columns_alone s = {rows, x, beta, y};
    dn__parallel_ranges(cols, 0.2 * (double)rows, 1, sum_columns_alone, &s);
}
void dn__spread_over_columns(size_t rows, size_t cols, const dn_real *y, dn_real beta, dn_real *x) {
    const columns_alone s = {rows, y, beta, x};
    dn__parallel_ranges(cols, 0.1 * (double)rows, 1, spread_columns_alone, &s);
}

DN_MULTIVERSION void dn__power(size_t n, dn_real a, unsigned r, const dn_real *x, dn_real *y) {
    enum { PART = 256 };
    dn_real square[PART], product[PART];
    /* x^r from x^1, x^2, x^4, ... as the bits of r say */
    for (size_t start = 0; start < n; start += PART) {
        int m = (int)(n - start < PART ? n - start : PART);
        DN_SIMD for (int i = 0; i < m; i++)
            square[i] = x[start + i], product[i] = a;
        for (unsigned bits = r; bits; bits >>= 1) {
            if (bits & 1) DN_SIMD
                for (int i = 0; i < m; i++) product[i] *= square[i];
            if (bits > 1) DN_SIMD
                for (int i = 0; i < m; i++) square[i] *= square[i];
        }
        DN_SIMD for (int i = 0; i < m; i++)
            y[start + i] = product[i];
    }
}

DN_MULTIVERSION void dn__centered(size_t n, int step, const dn_real *a, const dn_real *m,
                                  const dn_real *d, const dn_real *x, dn_real beta, dn_real *dx) {
    if (!step) {
        dn_real a0 = a[0], m0 = m[0], d0 = d[0];
        if (beta == 0) DN_SIMD
            for (size_t i = 0; i < n; i++) dx[i] = a0 * ((x[i] - m0) - d0);
        else DN_SIMD
            for (size_t i = 0; i < n; i++) dx[i] += a0 * ((x[i] - m0) - d0);
    } else {
        if (beta == 0) DN_SIMD
            for (size_t i = 0; i < n; i++) dx[i] = a[i] * ((x[i] - m[i]) - d[i]);
        else DN_SIMD
            for (size_t i = 0; i < n; i++) dx[i] += a[i] * ((x[i] - m[i]) - d[i]);
    }
}

void dn__cumsum(size_t length, size_t n, const dn_real *x, dn_real *y) {
    enum { COLUMNS = 256 };
    for (size_t from = 0; from < n; from += COLUMNS) {
        const size_t now = n - from < COLUMNS ? n - from : COLUMNS;
        double sum[COLUMNS] = {0};
        for (size_t k = 0, at = from; k < length; k++, at += n)
            for (size_t i = 0; i < now; i++) y[at + i] = (dn_real)(sum[i] += x[at + i]);
    }
}

void dn__cumsum_grad(size_t length, size_t n, const dn_real *dy, dn_real beta, dn_real *dx) {
    enum { COLUMNS = 256 };
    for (size_t from = 0; from < n; from += COLUMNS) {
        const size_t now = n - from < COLUMNS ? n - from : COLUMNS;
        double sum[COLUMNS] = {0};
        for (size_t k = length; k-- > 0;)
            for (size_t i = 0, at = k * n + from; i < now; i++, at++)
                dx[at] = (dn_real)(sum[i] += dy[at]) + (beta == 0 ? 0 : dx[at]);
    }
}
