/* The kernels of matrix products, and which of them is the fastest: part of matrix.c. BLAS is good
 * at large shapes and at some small ones; with 2 to 64 columns, most of what a network does, it
 * packs W each time, which takes longer than the product. Those go to our own kernels (small_n.h).
 * Where W has fewer rows than a vector has lanes, or few more, they go by W'. All thresholds are
 * measured (OpenBLAS 0.3.34 on Zen 4, AVX-512 and AVX2 kernels). Without BLAS all works, slower. */
#pragma once
#include "kernels.h"
#include "math.h"
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
    /* rows of W that dx transposes; of many, four doubles at a time, as AVX2 does, is too slow */
    ROWS_BY_AVX512 = 256,
    ROWS_BY_AVX2 = sizeof(dn_real) == sizeof(float) ? 128 : 10,
    /* A W of so few rows, or columns, is narrow: they would fill parts of vectors. */
    NARROW_BY_AVX2 = sizeof(dn_real) == sizeof(float) ? 20 : 9
};

/* The columns of a matrix lie in the same places of L1, where those that are packed stay. */
#define ALIASES(ld) ((size_t)(ld) * sizeof(dn_real) % 4096 == 0)

/* ---- the kernels of small_n.h, for each instruction set ------------------------------- */
/* target_clones would compile them for the vector length of the default; so each length is compiled
 * for its instruction set, and choose_kernels() takes one. They take and return vectors inline
 * only: no ABI for GCC to warn about. */
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

/* y = W x + beta y, dx = W' dy + beta dx, or dW = dy x' + beta dW; beta is 0 or 1. */
typedef void product_fn(int m, int k, int n, const dn_real *a, int lda, const dn_real *b, int ldb,
                        dn_real beta, dn_real *c, int ldc);
struct small_n {
    int lanes;                              /* numbers in a vector: the least m */
    int mm_columns, dx_columns, dw_columns; /* the greatest n at which they beat BLAS */
    int at_any_n;                           /* they do at any n, of a W that stays in L2 */
    int transposed_rows;                    /* the greatest m at which dx transposes W */
    int narrow;                             /* the most rows or columns of a narrow W */
    product_fn *mm, *dx, *dw;
};
#define LANES(bytes) ((bytes) / (int)sizeof(dn_real))
static struct small_n small_n = {.lanes = LANES(BASELINE_BYTES),
                                 .mm_columns = 16,
                                 .dx_columns = 16,
                                 .dw_columns = 8,
                                 .at_any_n = IS_AVX512,
                                 .transposed_rows = IS_AVX512 * ROWS_BY_AVX512,
                                 .mm = small_n_mm_baseline,
                                 .dx = small_n_dx_baseline,
                                 .dw = small_n_dw_baseline};

/* ---- BLAS ----------------------------------------------------------------------------- */
enum { COL_MAJOR = 102, NO_TRANS = 111, TRANS = 112 };
typedef void gemm_fn(int order, int trans_a, int trans_b, int m, int n, int k, dn_real alpha,
                     const dn_real *a, int lda, const dn_real *b, int ldb, dn_real beta, dn_real *c,
                     int ldc);
typedef void gemv_fn(int order, int trans, int m, int n, dn_real alpha, const dn_real *a, int lda,
                     const dn_real *x, int incx, dn_real beta, dn_real *y, int incy);
static gemm_fn *gemm;
static gemv_fn *gemv;

/* Those of this processor. */
static void choose_kernels(void) {
#ifdef CHOOSE_ISA
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        small_n = (struct small_n){.lanes = LANES(64),
                                   .mm_columns = 128,
                                   .dx_columns = 64,
                                   .dw_columns = 128,
                                   .at_any_n = 1,
                                   .transposed_rows = ROWS_BY_AVX512,
                                   .mm = small_n_mm_avx512,
                                   .dx = small_n_dx_avx512,
                                   .dw = small_n_dw_avx512};
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        small_n = (struct small_n){.lanes = LANES(32),
                                   .mm_columns = 64,
                                   .dx_columns = 128,
                                   .dw_columns = 8,
                                   .at_any_n = 1,
                                   .transposed_rows = ROWS_BY_AVX2,
                                   .narrow = NARROW_BY_AVX2,
                                   .mm = small_n_mm_avx2,
                                   .dx = small_n_dx_avx2,
                                   .dw = small_n_dw_avx2};
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

/* ---- products with a transposed matrix -------------------------------------------------- */

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

/* dx = W' dy by columns of W', which is made block by block: sums of outer products need no sums
 * across the lanes of vectors, for which short columns of W do not make up. */
static void transposed_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy,
                          int lddy, dn_real beta, dn_real *dx, int lddx) {
    enum { COLUMNS = LANES(256), ROWS = 128, HALF_OF_L1 = COLUMNS * 64 }; /* of a block of W */
    dn_real block[COLUMNS * ROWS / 4 * 7] __attribute__((aligned(64)));
    const int fit = HALF_OF_L1 / m / COLUMNS * COLUMNS, wanted = fit > COLUMNS ? fit : COLUMNS,
              most = wanted / 4 * 7;
    for (int j = 0, columns; j < k; j += columns) {
        columns = k - j <= most ? k - j : wanted;
        for (int i = 0, rows; i < m; i += rows) {
            rows = m - i < ROWS ? m - i : ROWS;
            dn__transpose_plane((size_t)rows, (size_t)columns, w + i + (size_t)j * (size_t)ldw,
                                (size_t)ldw, 0, block, (size_t)columns);
            small_n.mm(columns, rows, n, block, columns, dy + i, lddy, i ? 1 : beta, dx + j, lddx);
        }
    }
}

/* Numbers of the next block's columns, of so many that are left: as many as stay near the
 * registers, and not fewer than a vector has. */
enum { BLOCK = 512, MOST_OF_BLOCK = BLOCK + LANES(64) };
static int next_of_block(int left) { return left < BLOCK + small_n.lanes ? left : BLOCK; }

/* y = W x by dot products of the columns of W', which is made block by block. */
static void transposed_mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx,
                          dn_real beta, dn_real *y, int ldy) {
    dn_real block[NARROW_BY_AVX2 * MOST_OF_BLOCK] __attribute__((aligned(64)));
    for (int j = 0, rows; j < k; j += rows) {
        rows = next_of_block(k - j);
        dn__transpose_plane((size_t)m, (size_t)rows, w + (size_t)j * (size_t)ldw, (size_t)ldw, 0,
                            block, (size_t)rows);
        small_n.dx(rows, m, n, block, rows, x + j, ldx, j ? 1 : beta, y, ldy);
    }
}

/* dW' = x dy', which is transposed block by block. */
static void transposed_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x,
                          int ldx, dn_real beta, dn_real *dw, int lddw) {
    dn_real block[NARROW_BY_AVX2 * MOST_OF_BLOCK] __attribute__((aligned(64)));
    for (int j = 0, columns; j < k; j += columns) {
        columns = next_of_block(k - j);
        small_n_dw(columns, m, n, x + j, ldx, dy, lddy, 0, block, columns);
        for (int c = 0; c < columns; c++) {
            dn_real *to = dw + (size_t)(j + c) * (size_t)lddw;
            for (int i = 0; i < m; i++) to[i] = (beta == 0 ? 0 : to[i]) + block[i * columns + c];
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

/* Between one vector and narrow, where full vectors leave over half a one or less. */
static int is_transposed_mm(int m, int k, int n) {
    const int lanes = small_n.lanes;
    if (n == 1 || m > small_n.narrow || k < lanes) return 0;
    if (m < lanes) return 1;
    const int full = m / lanes, rest = m % lanes;
    return rest && rest <= lanes / 2 && n >= (full == 1 ? 16 : 64) && (double)k * n >= 500.0 * m;
}
static int is_transposed_dw(int m, int k, int n) {
    if (n < 16 || m > small_n.narrow || k < small_n.lanes || m % small_n.lanes == 0) return 0;
    return n >= 64 || m < 2 * small_n.lanes;
}

static int is_small_n_mm(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    if (!gemm) return 1;
    if (n == 1) return 0;
    if (n > small_n.mm_columns && !stays_in_l2(m, k)) return 0;
    return blas_packs(m, k, n) || !(has_dear_tail(m) || (n <= 3 && m <= 512));
}
/* Few columns of W, for which transposed_dx fills parts of vectors, and BLAS, too. */
static int is_narrow_dx(int m, int k) {
    const int lanes = small_n.lanes;
    return k <= small_n.narrow && k % lanes && m >= (k < lanes ? lanes : 8 * lanes);
}
static int is_small_n_dx(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    if (!gemm || n == 1 || is_narrow_dx(m, k)) return 1;
    if (n > small_n.dx_columns) return 0;
    /* without packing BLAS takes k n <= 1,200 only; sums across lanes make short columns slow
     * here */
    return blas_packs(m, k, n) || !(m < 6 * small_n.lanes || (double)k * n <= 1200);
}
/* Transposing takes as long as some columns. For up to 1,200 products with a row of W BLAS has
 * kernels that do not pack; from two vectors on they are as fast. */
static int is_transposed_dx(int m, int k, int n) {
    const int most = small_n.transposed_rows;
    if (m > most || k < small_n.lanes || is_narrow_dx(m, k)) return 0;
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
    if (is_transposed_mm(m, k, n)) return transposed_mm;
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
    if (is_transposed_dw(m, k, n)) return transposed_dw;
    if (is_small_n_dw(m, k, n, lddw)) return small_n_dw;
    if (n <= 1 || !gemm || (m < small_n.lanes && products(m, k, n) <= 512)) return plain_dw;
    return blas_dw;
}
