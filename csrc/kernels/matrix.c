/* Matrix products. BLAS is good at large shapes and at some small ones; with 2 to 64 columns, most
 * of what a network does, it packs W each time, which takes longer than the product. Those go to
 * our own kernels (small_n.h). All thresholds are measured (OpenBLAS 0.3.34 on Zen 4, AVX-512 and
 * AVX2 kernels). Without BLAS all works, slower. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels.h"
#include "math.h"
#include "parallel.h"
#include "quad.h"

/* Keeps a vector in a register. Without it GCC 12 loads an operand again for every use (31 loads
 * for 16 products). */
#if defined(__x86_64__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#else
#define KEEP(v) (void)(v)
#endif

/* What follows from n is computed here, not before a loop. */
#define HERE(n) __asm__ volatile("" : "+r"(n))

enum {
    ROW_BLOCK = 512,
    MOST_IN_L2 = 1 << 17, /* numbers of a matrix that stays in L2, and leaves room there */
    /* rows of W that dx transposes; four doubles at a time, as AVX2 does, is too slow */
    ROWS_BY_AVX512 = 256,
    ROWS_BY_AVX2 = sizeof(dn_real) == sizeof(float) ? 128 : 0
};

/* The columns of a matrix lie in the same places of L1, where those that are packed stay. */
#define ALIASES(ld) ((size_t)(ld) * sizeof(dn_real) % 4096 == 0)

/* ---- the kernels of small_n.h, for each instruction set ------------------------------- */
/* target_clones would compile them for the vector length of the default; so each length is compiled
 * for its instruction set, and dn__set_blas chooses. They take and return vectors inline only: no
 * ABI for GCC to warn about. */
#pragma GCC diagnostic ignored "-Wpsabi"
#if defined(DN_TARGET_CLONES) && !defined(__clang__)
#define CHOOSE_ISA
#endif

#ifdef __AVX512F__
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
enum { BASELINE_BYTES = VECTOR_BYTES, IS_AVX512 = VECTOR_BYTES == 64 };
#define ISA baseline
#include "small_n.h"

#ifdef CHOOSE_ISA
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define ISA avx2
#define VECTOR_BYTES 32
#include "small_n.h"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,fma")
#define ISA avx512
#define VECTOR_BYTES 64
#include "small_n.h"
#pragma GCC pop_options
#endif

typedef void product_fn(int m, int k, int n, const dn_real *a, int lda, const dn_real *b, int ldb,
                        dn_real beta, dn_real *c, int ldc);
struct small_n {
    int lanes;                              /* numbers in a vector: the least m */
    int mm_columns, dx_columns, dw_columns; /* the greatest n at which they beat BLAS */
    int at_any_n;                           /* they do at any n, of a W that stays in L2 */
    int transposed_rows;                    /* the greatest m at which dx transposes W */
    product_fn *mm, *dx, *dw;
};
#define LANES(bytes) ((bytes) / (int)sizeof(dn_real))
static struct small_n small_n = {LANES(BASELINE_BYTES),
                                 16,
                                 16,
                                 8,
                                 IS_AVX512,
                                 IS_AVX512 * ROWS_BY_AVX512,
                                 small_n_mm_baseline,
                                 small_n_dx_baseline,
                                 small_n_dw_baseline};

/* ---- BLAS ----------------------------------------------------------------------------- */
enum { COL_MAJOR = 102, NO_TRANS = 111, TRANS = 112 };
typedef void gemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, dn_real alpha,
                     const dn_real *a, int lda, const dn_real *b, int ldb, dn_real beta, dn_real *c,
                     int ldc);
typedef void gemv_fn(int order, int trans, int m, int n, dn_real alpha, const dn_real *a, int lda,
                     const dn_real *x, int incx, dn_real beta, dn_real *y, int incy);
static gemm_fn *gemm;
static gemv_fn *gemv;

void dn__set_blas(void *gemm_address, void *gemv_address) {
    gemm = (gemm_fn *)gemm_address;
    gemv = (gemv_fn *)gemv_address;
#ifdef CHOOSE_ISA
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        small_n = (struct small_n){
            LANES(64),        128, 64, 128, 1, ROWS_BY_AVX512, small_n_mm_avx512, small_n_dx_avx512,
            small_n_dw_avx512};
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        small_n = (struct small_n){
            LANES(32),      64, 128, 8, 1, ROWS_BY_AVX2, small_n_mm_avx2, small_n_dx_avx2,
            small_n_dw_avx2};
#endif
}

/* ---- plain loops: tiny products, rows fewer than a vector, and dW of one column ------- */
DN_MULTIVERSION static void plain_mm(int m, int k, int n, const dn_real *w, int ldw,
                                     const dn_real *x, int ldx, dn_real beta, dn_real *y, int ldy) {
    if (beta == 0) dn__zero_matrix(m, n, y, ldy);
    for (int c = 0; c < n; c++, x += ldx, y += ldy) {
        for (int j = 0; j < k; j++) {
            const dn_real *wj = w + (size_t)j * ldw;
            DN_SIMD for (int i = 0; i < m; i++)
                y[i] += wj[i] * x[j];
        }
    }
}

DN_MULTIVERSION static void plain_dx(int m, int k, int n, const dn_real *w, int ldw,
                                     const dn_real *dy, int lddy, dn_real beta, dn_real *dx,
                                     int lddx) {
    for (int c = 0; c < n; c++, dy += lddy, dx += lddx) {
        for (int j = 0; j < k; j++) {
            const dn_real *wj = w + (size_t)j * ldw;
            dn_real sum = beta == 0 ? 0 : dx[j];
#pragma omp simd reduction(+ : sum)
            for (int i = 0; i < m; i++) sum += wj[i] * dy[i];
            dx[j] = sum;
        }
    }
}

DN_MULTIVERSION static void plain_dw(int m, int k, int n, const dn_real *dy, int lddy,
                                     const dn_real *x, int ldx, dn_real beta, dn_real *dw,
                                     int lddw) {
    for (int b = 0; b < n; b++, dy += lddy, x += ldx) {
        for (int j = 0; j < k; j++) {
            dn_real *to = dw + (size_t)j * lddw;
            if (b == 0 && beta == 0) {
                DN_SIMD for (int i = 0; i < m; i++)
                    to[i] = dy[i] * x[j];
            } else {
                DN_SIMD for (int i = 0; i < m; i++)
                    to[i] += dy[i] * x[j];
            }
        }
    }
}

/* dx = W' dy by columns of W', which is made block by block: sums of outer products need no sums
 * across the lanes of vectors, for which short columns of W do not make up. */
static void transposed_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy,
                          int lddy, dn_real beta, dn_real *dx, int lddx) {
    enum { COLUMNS = LANES(256), MOST_COLUMNS = LANES(448), ROWS = 128 }; /* of a block of W */
    dn_real block[MOST_COLUMNS * ROWS] __attribute__((aligned(64)));
    for (int j = 0, columns; j < k; j += columns) {
        columns = k - j <= MOST_COLUMNS ? k - j : COLUMNS;
        for (int i = 0, rows; i < m; i += rows) {
            rows = m - i < ROWS ? m - i : ROWS;
            dn__transpose_plane((size_t)rows, (size_t)columns, w + i + (size_t)j * (size_t)ldw,
                                (size_t)ldw, 0, block, (size_t)columns);
            small_n.mm(columns, rows, n, block, columns, dy + i, lddy, i ? 1 : beta, dx + j, lddx);
        }
    }
}

/* ---- the choice ----------------------------------------------------------------------- */
static double products(int m, int k, int n) { return (double)m * k * n; }

/* So few products that a call of BLAS, 10 to 30 ns, costs more than plain loops. */
static int is_tiny(int m, int k, int n) { return products(m, k, n) <= 64; }

/* For up to 10^6 products OpenBLAS has kernels that do not pack (its PR 3335), but only for
 * AVX-512. */
static int blas_packs(int m, int k, int n) {
    return LANES(64) != small_n.lanes || products(m, k, n) > 1e6;
}

/* A tail costs as much as a whole vector: too much if there are fewer than four. */
static int has_dear_tail(int m) { return m < 4 * small_n.lanes && m % small_n.lanes != 0; }

/* Tiles are so large that W comes from L2 as fast as it is needed: without packing there is nothing
 * to win by BLAS for any number of columns. */
static int stays_in_l2(int m, int k) { return small_n.at_any_n && (int64_t)m * k <= MOST_IN_L2; }

/* A tile of AVX-512 has four lines of each column, and need not find them again. */
static int aliases(int ld) { return small_n.lanes < LANES(64) && ALIASES(ld); }

static int is_small_n_mm(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    if (!gemm) return 1;
    if (n == 1) return 0;
    if (n > small_n.mm_columns && !stays_in_l2(m, k)) return 0;
    return blas_packs(m, k, n) || !(has_dear_tail(m) || (n <= 3 && m <= 512));
}
static int is_small_n_dx(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    if (!gemm || n == 1) return 1;
    if (n > small_n.dx_columns) return 0;
    /* without packing BLAS takes k n <= 1,200 only; sums across lanes make short columns slow
     * here */
    return blas_packs(m, k, n) || !(m < 6 * small_n.lanes || (double)k * n <= 1200);
}
/* Transposing takes as long as some columns. For up to 1,200 products with a row of W BLAS has
 * kernels that do not pack; from two vectors on they are as fast. */
static int is_transposed_dx(int m, int k, int n) {
    const int most = small_n.transposed_rows;
    if (m > most || k < small_n.lanes) return 0;
    if (m < 2 * small_n.lanes) return n >= 4;
    return (double)k * n > 1200 && n >= (8 * m <= 3 * most ? 16 : 32 * m <= 25 * most ? 32 : 64);
}
static int is_small_n_dw(int m, int k, int n, int lddw) {
    if (m < small_n.lanes) return 0;
    /* out of L2, six columns at a time are faster than one */
    if (n == 1) return products(m, k, 1) > 1e6;
    if (!gemm) return 1;
    return (n <= small_n.dw_columns || (stays_in_l2(m, k) && !aliases(lddw))) &&
           (blas_packs(m, k, n) || !has_dear_tail(m));
}

/* As many columns of dy and x at a time as stay near the registers; the sums go on where the last
 * ones ended. */
static void small_n_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                       dn_real beta, dn_real *dw, int lddw) {
    enum { MOST = 128 };
    for (int from = 0, columns; from < n; from += columns, beta = 1) {
        columns = n - from < MOST ? n - from : MOST;
        small_n.dw(m, k, columns, dy + (size_t)from * (size_t)lddy, lddy,
                   x + (size_t)from * (size_t)ldx, ldx, beta, dw, lddw);
    }
}

/* BLAS in the form of our own kernels */
static void blas_mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx,
                    dn_real beta, dn_real *y, int ldy) {
    if (n == 1) gemv(COL_MAJOR, NO_TRANS, m, k, 1, w, ldw, x, 1, beta, y, 1);
    else gemm(COL_MAJOR, NO_TRANS, NO_TRANS, m, n, k, 1, w, ldw, x, ldx, beta, y, ldy);
}
static void blas_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy,
                    dn_real beta, dn_real *dx, int lddx) {
    if (n == 1) gemv(COL_MAJOR, TRANS, m, k, 1, w, ldw, dy, 1, beta, dx, 1);
    else gemm(COL_MAJOR, TRANS, NO_TRANS, k, n, m, 1, w, ldw, dy, lddy, beta, dx, lddx);
}
static void blas_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                    dn_real beta, dn_real *dw, int lddw) {
    gemm(COL_MAJOR, NO_TRANS, TRANS, m, k, n, 1, dy, lddy, x, ldx, beta, dw, lddw);
}

static product_fn *mm_kernel(int m, int k, int n) {
    if (k == 0 || is_tiny(m, k, n)) return plain_mm;
    if (is_small_n_mm(m, k, n)) return small_n.mm;
    return gemm ? blas_mm : plain_mm;
}
static product_fn *dx_kernel(int m, int k, int n) {
    if (m == 0 || is_tiny(m, k, n)) return plain_dx;
    if (is_transposed_dx(m, k, n)) return transposed_dx;
    if (is_small_n_dx(m, k, n)) return small_n.dx;
    return gemm ? blas_dx : plain_dx;
}
static product_fn *dw_kernel(int m, int k, int n, int lddw) {
    if (is_small_n_dw(m, k, n, lddw)) return small_n_dw;
    if (n <= 1 || !gemm || (m < small_n.lanes && products(m, k, n) <= 512)) return plain_dw;
    return blas_dw;
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

/* ---- products ------------------------------------------------------------------------- */

void dn__mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx, dn_real beta,
            dn_real *y, int ldy) {
    if (m == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && n == 1) *y = dn__dot((size_t)k, w, x) + (beta == 0 ? 0 : *y);
    else if (m == 1 && ldw == 1 && ldy == 1) /* y' = x' w' */
        dn__mm_dx(k, n, 1, x, ldx, w, k, beta, y, n);
    else multiply(mm_kernel(m, k, n), MM, m, k, n, w, ldw, x, ldx, beta, y, ldy);
}

void dn__mm_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy,
               dn_real beta, dn_real *dx, int lddx) {
    if (k == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && (lddy == 1 || n == 1)) /* dx = w' dy is an outer product */
        dn__mm_dw(k, n, 1, w, k, dy, n, beta, dx, lddx);
    else multiply(dx_kernel(m, k, n), DX, m, k, n, w, ldw, dy, lddy, beta, dx, lddx);
}

int dn__is_better_transposed(int m, int k, int n) {
    return k >= small_n.lanes && n > 1 && stays_in_l2(m, k);
}

int dn__cuts_dw(int m) { return m > 1 && (!gemm || blas_cuts.columns[DW]); }

void dn__mm_dw_part(int m, int k, int part, int n, const dn_real *dy, int lddy, const dn_real *x,
                    int ldx, dn_real beta, dn_real *dw, int lddw) {
    if (part == k || n == 0) dn__mm_dw(m, part, n, dy, lddy, x, ldx, beta, dw, lddw);
    else multiply(dw_kernel(m, k, n, lddw), DW, m, part, n, dy, lddy, x, ldx, beta, dw, lddw);
}

void dn__mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
               dn_real beta, dn_real *dw, int lddw) {
    if (m == 0 || k == 0) return;
    if (n == 0 && beta == 0) dn__zero_matrix(m, k, dw, lddw);
    else if (m == 1 && n > 1 && lddy == 1 && (lddw == 1 || k == 1)) /* dW' = x dy' */
        dn__mm(k, n, 1, x, ldx, dy, n, beta, dw, k);
    else multiply(dw_kernel(m, k, n, lddw), DW, m, k, n, dy, lddy, x, ldx, beta, dw, lddw);
}
