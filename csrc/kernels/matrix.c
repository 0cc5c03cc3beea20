/* Matrix products: each by the kernel that is the fastest for its shape (product_kernels.h), in
 * pieces by several threads. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "math.h"
#include "parallel.h"
#include "product_kernels.h"

void dn__set_blas(void *gemm_address, void *gemv_address) {
    gemm = (gemm_fn *)gemm_address;
    gemv = (gemv_fn *)gemv_address;
    choose_kernels();
}

/* ---- in pieces, by several threads ---------------------------------------------------- */
/* Rows or columns of the result are cut, never the sums. The kernel is that of the whole product,
 * and pieces begin where its tiles do, so that each element is computed as in the whole. */
enum { MM, DX, DW };
typedef struct product {
    product_fn *kernel;
    int size[3], cut; /* m, k, n; which of them is cut */
    const dn_real *a, *b;
    int lda, ldb, ldc;
    dn_real beta, *c;
    size_t a_step, b_step, c_step; /* from one row or column to the next, along the cut */
    dn__pieces pieces;
} product;

static void product_piece(const void *context, int i) {
    const product *p = context;
    size_t at = dn__piece_from(&p->pieces, i);
    int size[3] = {p->size[0], p->size[1], p->size[2]};
    size[p->cut] = (int)dn__piece_size(&p->pieces, i);
    p->kernel(size[0], size[1], size[2], p->a + at * p->a_step, p->lda, p->b + at * p->b_step,
              p->ldb, p->beta, p->c + at * p->c_step, p->ldc);
}

/* With one column W comes from memory, and each of its numbers is used once. */
static double work_of(const int *size) {
    return products(size[0], size[1], size[2]) * (double)sizeof(dn_real) /
           (size[2] == 1 ? 64 : 192);
}

/* Which size the rows of the result are, and which its columns; how far a moves with a row, and b
 * with a column. */
static int rows_at(int form) { return form == DX ? 1 : 0; }
static int columns_at(int form) { return form == DW ? 1 : 2; }
static void cut_rows(product *p, int form) {
    p->cut = rows_at(form);
    p->a_step = form == DX ? (size_t)p->lda : 1;
    p->b_step = 0;
    p->c_step = 1;
}
static void cut_columns(product *p, int form) {
    p->cut = columns_at(form);
    p->a_step = 0;
    p->b_step = form == DW ? 1 : (size_t)p->ldb;
    p->c_step = (size_t)p->ldc;
}

/* What pieces of BLAS's products are multiples of, and the least that they have of rows or columns.
 * It has small tiles at the edges, which round in another way; for up to 10^6 products another
 * kernel; and it packs what is not cut anew for each piece: pieces are large. */
enum {
    BLAS_ROWS = 32,
    BLAS_COLUMNS = DN_DW_UNIT,
    BLAS_LEAST = 72,
    BLAS_GEMV_ROWS = 4096,
    BLAS_WORK = 50000,
    BLAS_PIECES = 16
};
static struct blas_cuts {
    int rows[3], columns[3], gemv; /* which cuts change no bit, by form */
} blas_cuts;

static int is_blas(product_fn *kernel) {
    return kernel == blas_mm || kernel == blas_dx || kernel == blas_dw;
}

static void in_pieces_of_blas(product *p, int form) {
    int rows = p->size[rows_at(form)], columns = p->size[columns_at(form)], one = p->size[2] == 1;
    int by_rows = one ? blas_cuts.gemv : blas_cuts.rows[form],
        by_columns = !one && blas_cuts.columns[form];
    size_t unit = one ? BLAS_GEMV_ROWS : BLAS_ROWS, least = one ? BLAS_GEMV_ROWS : BLAS_LEAST;
    if (by_rows && (rows >= columns || !by_columns)) {
        cut_rows(p, form);
    } else if (by_columns) {
        cut_columns(p, form);
        unit = BLAS_COLUMNS;
    }
    size_t n = (size_t)p->size[p->cut];
    double each = work_of(p->size) / (double)n, size = BLAS_WORK / each;
    if (size < (double)n / BLAS_PIECES) size = (double)n / BLAS_PIECES;
    if (size < (double)least) size = (double)least;
    int threads = atomic_load_explicit(&dn__threads, memory_order_relaxed),
        most = by_rows || by_columns ? (int)(n / unit / (((size_t)size + unit - 1) / unit)) : 1;
    if (most > threads) most -= most % threads; /* as many for each */
    p->pieces = (dn__pieces){n, unit, most > 1 ? most : 1};
    dn__parallel(p->pieces.count, work_of(p->size), product_piece, p);
}

static void in_pieces(product *p, int form) {
    int rows = p->size[rows_at(form)], columns = p->size[columns_at(form)];
    size_t row_unit = form == DX && p->kernel != transposed_dx ? 8 : 64, column_unit = 24;
    /* of dW columns where it can be: an update then finds in each cache what was written there */
    int by_rows = (size_t)columns < 2 * column_unit ||
                  (rows / 64 >= columns / 24 && (form != DW || (size_t)columns < 8 * column_unit));
    if (by_rows) cut_rows(p, form);
    else cut_columns(p, form);
    size_t n = (size_t)p->size[p->cut];
    p->pieces = dn__in_pieces(n, work_of(p->size) / (double)n, by_rows ? row_unit : column_unit);
    dn__parallel(p->pieces.count, work_of(p->size), product_piece, p);
}

DN_INLINE void multiply(product_fn *kernel, int form, int m, int k, int n, const dn_real *a,
                        int lda, const dn_real *b, int ldb, dn_real beta, dn_real *c, int ldc) {
    if (!dn__shared(work_of((int[]){m, k, n}))) {
        kernel(m, k, n, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    product p = {.kernel = kernel,
                 .size = {m, k, n},
                 .a = a,
                 .b = b,
                 .lda = lda,
                 .ldb = ldb,
                 .ldc = ldc,
                 .beta = beta,
                 .c = c};
    if (is_blas(kernel)) in_pieces_of_blas(&p, form);
    else in_pieces(&p, form);
}

/* ---- which cuts of BLAS's products change no bit -------------------------------------- */

/* Multiplies at once and in pieces, and compares. */
static int agrees(int form, int columns, const int *size, size_t unit, const dn_real *a,
                  const dn_real *b, dn_real *whole, dn_real *cut) {
    static product_fn *const kernels[] = {blas_mm, blas_dx, blas_dw};
    int m = size[0], k = size[1], n = size[2], rows = size[rows_at(form)];
    product p = {.kernel = kernels[form],
                 .size = {m, k, n},
                 .a = a,
                 .b = b,
                 .lda = m,
                 .ldb = form == MM   ? k
                        : form == DX ? m
                                     : k,
                 .ldc = rows,
                 .c = cut};
    p.kernel(m, k, n, a, p.lda, b, p.ldb, 0, whole, p.ldc);
    if (columns) cut_columns(&p, form);
    else cut_rows(&p, form);
    p.pieces = dn__pieces_of((size_t)p.size[p.cut], 0, unit);
    for (int i = 0; i < p.pieces.count; i++) product_piece(&p, i);
    return !memcmp(whole, cut, sizeof *whole * (size_t)rows * (size_t)size[columns_at(form)]);
}

static void check_blas(void) {
    enum { M = 341, K = 430, N = 205, LONG = 2 * BLAS_GEMV_ROWS + 37 }; /* none fits the tiles */
    enum { MOST = LONG * 60 };
    dn_real *memory = gemm ? malloc(sizeof *memory * MOST * 4) : NULL;
    if (!memory) return; /* nothing is cut */
    for (uint32_t i = 0, draw = 1; i < MOST * 2; i++) {
        draw = draw * 1664525u + 1013904223u;
        memory[i] = (dn_real)draw / (dn_real)0x80000000u - 1;
    }
    dn_real *b = memory + MOST, *whole = b + MOST, *cut = whole + MOST;
    /* mm: W and x; dx: W and dy; dw: dy and x. Sums over k, m and n. */
    static const int sizes[3][3] = {{M, K, N}, {K, M, N}, {M, N, K}};
    for (int form = MM; form <= DW; form++) {
        blas_cuts.rows[form] = agrees(form, 0, sizes[form], BLAS_ROWS, memory, b, whole, cut);
        blas_cuts.columns[form] = agrees(form, 1, sizes[form], BLAS_COLUMNS, memory, b, whole, cut);
    }
    blas_cuts.gemv = agrees(MM, 0, (int[]){LONG, 60, 1}, BLAS_GEMV_ROWS, memory, b, whole, cut);
    free(memory);
}
void dn__check_blas(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, check_blas);
}

/* ---- sums of many products ------------------------------------------------------------ */

/* From how many terms on they are added up in blocks, and how long blocks are. BLAS's products of
 * matrices are sums of such of some hundred terms already where it packs them. */
enum { LONG = 1 << 15, LONG_OF_BLAS = 1 << 18, BLOCK_OF_BLAS = 1 << 17 };
static int has_blocks(product_fn *kernel, int m, int k, int n) {
    return is_blas(kernel) && n > 1 && blas_packs(m, k, n);
}

/* Blocks, which are added in double, tile by tile of the result. Tiles begin where parts of dW do:
 * dn__mm_dw_part. */
enum { TILE = 168 * DN_DW_UNIT };
__attribute__((noinline)) static void multiply_long(product_fn *kernel, int form, int m, int k,
                                                    int n, const dn_real *a, int lda,
                                                    const dn_real *b, int ldb, dn_real beta,
                                                    dn_real *c, int ldc) {
    const int rows = form == DX ? k : m, columns = form == DW ? k : n,
              terms = form == MM   ? k
                      : form == DX ? m
                                   : n,
              most_columns = columns < DN_DW_UNIT ? columns : DN_DW_UNIT,
              most_rows = TILE / most_columns,
              most = has_blocks(kernel, m, k, n) ? BLOCK_OF_BLAS : DN_MANY;
    const size_t a_row = form == DX ? (size_t)lda : 1, a_term = form == DX ? 1 : (size_t)lda,
                 b_column = form == DW ? 1 : (size_t)ldb, b_term = form == DW ? (size_t)ldb : 1;
    for (int i = 0, r; i < rows; i += r) {
        r = rows - i < most_rows ? rows - i : most_rows;
        for (int j = 0, w; j < columns; j += w) {
            w = columns - j < most_columns ? columns - j : most_columns;
            dn_real block[TILE];
            double sum[TILE] = {0};
            for (int t = 0, now; t < terms; t += now) {
                now = terms - t < most ? terms - t : most;
                const dn_real *ab = a + (size_t)i * a_row + (size_t)t * a_term,
                              *bb = b + (size_t)j * b_column + (size_t)t * b_term;
                if (form == MM) dn__mm(r, now, w, ab, lda, bb, ldb, 0, block, r);
                else if (form == DX) dn__mm_dx(now, r, w, ab, lda, bb, ldb, 0, block, r);
                else dn__mm_dw(r, w, now, ab, lda, bb, ldb, 0, block, r);
                dn__wide_add((size_t)r * (size_t)w, 1, block, sum);
            }
            for (int q = 0; q < w; q++)
                dn__wide_sum((size_t)r, sum + (size_t)q * (size_t)r, beta,
                             c + (size_t)i + (size_t)(j + q) * (size_t)ldc);
        }
    }
}

DN_INLINE void multiply_terms(product_fn *kernel, int form, int m, int k, int n, const dn_real *a,
                              int lda, const dn_real *b, int ldb, dn_real beta, dn_real *c,
                              int ldc) {
    const int terms = form == MM ? k : form == DX ? m : n;
    if (terms > LONG && (terms > LONG_OF_BLAS || !has_blocks(kernel, m, k, n)))
        multiply_long(kernel, form, m, k, n, a, lda, b, ldb, beta, c, ldc);
    else multiply(kernel, form, m, k, n, a, lda, b, ldb, beta, c, ldc);
}

/* ---- products ------------------------------------------------------------------------- */

void dn__mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx, dn_real beta,
            dn_real *y, int ldy) {
    if (m == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && n == 1) *y = dn__dot((size_t)k, w, x) + (beta == 0 ? 0 : *y);
    else if (m == 1 && ldw == 1 && ldy == 1) /* y' = x' w' */
        dn__mm_dx(k, n, 1, x, ldx, w, k, beta, y, n);
    else multiply_terms(mm_kernel(m, k, n), MM, m, k, n, w, ldw, x, ldx, beta, y, ldy);
}

void dn__mm_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy,
               dn_real beta, dn_real *dx, int lddx) {
    if (k == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && (lddy == 1 || n == 1)) /* dx = w' dy is an outer product */
        dn__mm_dw(k, n, 1, w, k, dy, n, beta, dx, lddx);
    else multiply_terms(dx_kernel(m, k, n), DX, m, k, n, w, ldw, dy, lddy, beta, dx, lddx);
}

int dn__is_better_transposed(int m, int k, int n) {
    return k >= small_n.lanes && n > 1 && stays_in_l2(m, k);
}

int dn__cuts_dw(int m) { return m > 1 && (!gemm || blas_cuts.columns[DW]); }

void dn__mm_dw_part(int m, int k, int part, int n, const dn_real *dy, int lddy, const dn_real *x,
                    int ldx, dn_real beta, dn_real *dw, int lddw) {
    if (part == k || n == 0) dn__mm_dw(m, part, n, dy, lddy, x, ldx, beta, dw, lddw);
    else multiply_terms(dw_kernel(m, k, n, lddw), DW, m, part, n, dy, lddy, x, ldx, beta, dw, lddw);
}

void dn__mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
               dn_real beta, dn_real *dw, int lddw) {
    if (m == 0 || k == 0) return;
    if (n == 0 && beta == 0) dn__zero_matrix(m, k, dw, lddw);
    else if (m == 1 && n > 1 && lddy == 1 && (lddw == 1 || k == 1)) /* dW' = x dy' */
        dn__mm(k, n, 1, x, ldx, dy, n, beta, dw, k);
    else multiply_terms(dw_kernel(m, k, n, lddw), DW, m, k, n, dy, lddy, x, ldx, beta, dw, lddw);
}
