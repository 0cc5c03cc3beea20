/* Matrix products. BLAS is good at large shapes and at some small ones; with 2 to 64 columns, most
 * of what a network does, it packs W each time, which takes longer than the product. Those go to
 * our own kernels (small_n.h). All thresholds are measured (OpenBLAS 0.3.34 on Zen 4, AVX-512 and
 * AVX2 kernels). Without BLAS all works, slower. */
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

enum {
    ROW_BLOCK = 512,
    MOST_IN_L2 = 1 << 17 /* numbers of a matrix that stays in L2, and leaves room there */
};

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
enum { BASELINE_BYTES = VECTOR_BYTES };
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
    product_fn *mm, *dx, *dw;
};
#define LANES(bytes) ((bytes) / (int)sizeof(dn_real))
static struct small_n small_n = {
    LANES(BASELINE_BYTES), 16, 16, 8, small_n_mm_baseline, small_n_dx_baseline,
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

void dn__set_blas(void *gemm_address, void *gemv_address, void *ger_address) {
    gemm = (gemm_fn *)gemm_address;
    gemv = (gemv_fn *)gemv_address;
    (void)ger_address; /* plain loops write dy x' at twice the speed of ger */
#ifdef CHOOSE_ISA
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        small_n =
            (struct small_n){LANES(64),        128, 64, 128, small_n_mm_avx512, small_n_dx_avx512,
                             small_n_dw_avx512};
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        small_n = (struct small_n){LANES(32),      16, 16, 8, small_n_mm_avx2, small_n_dx_avx2,
                                   small_n_dw_avx2};
#endif
}

/* ---- plain loops: tiny products, rows fewer than a vector, and dW of one column ------- */
static void clear(int rows, int cols, dn_real *y, int ld) {
    for (int c = 0; c < cols; c++) memset(y + (size_t)c * ld, 0, sizeof *y * (size_t)rows);
}

DN_MULTIVERSION static void plain_mm(int m, int k, int n, const dn_real *w, int ldw,
                                     const dn_real *x, int ldx, dn_real beta, dn_real *y, int ldy) {
    if (beta == 0) clear(m, n, y, ldy);
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

/* AVX-512's 32 registers hold tiles so large that W comes from L2 as fast as it is needed: without
 * packing there is nothing to win by BLAS for any number of columns. */
static int stays_in_l2(int m, int k) {
    return small_n.lanes == LANES(64) && (int64_t)m * k <= MOST_IN_L2;
}

static int is_small_n_mm(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    if (!gemm) return 1;
    if (n == 1 || (n > small_n.mm_columns && !stays_in_l2(m, k))) return 0;
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
static int is_small_n_dw(int m, int k, int n) {
    if (m < small_n.lanes) return 0;
    /* out of L2, six columns at a time are faster than one */
    if (n == 1) return products(m, k, 1) > 1e6;
    if (!gemm) return 1;
    return (n <= small_n.dw_columns || stays_in_l2(m, k)) &&
           (blas_packs(m, k, n) || !has_dear_tail(m));
}

/* As many columns of dy and x at a time as stay near the registers; the sums go on where the last
 * ones ended. */
static void small_n_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
                       dn_real beta, dn_real *dw, int lddw) {
    const int most = gemm ? small_n.dw_columns : n;
    for (int from = 0, columns; from < n; from += columns, beta = 1) {
        columns = n - from < most ? n - from : most;
        small_n.dw(m, k, columns, dy + (size_t)from * (size_t)lddy, lddy,
                   x + (size_t)from * (size_t)ldx, ldx, beta, dw, lddw);
    }
}

void dn__mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx, dn_real beta,
            dn_real *y, int ldy) {
    if (m == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && n == 1) *y = dn__dot((size_t)k, w, x) + (beta == 0 ? 0 : *y);
    else if (m == 1 && ldw == 1 && ldy == 1) /* y' = x' w' */
        dn__mm_dx(k, n, 1, x, ldx, w, k, beta, y, n);
    else if (k == 0 || is_tiny(m, k, n)) plain_mm(m, k, n, w, ldw, x, ldx, beta, y, ldy);
    else if (is_small_n_mm(m, k, n)) small_n.mm(m, k, n, w, ldw, x, ldx, beta, y, ldy);
    else if (!gemm) plain_mm(m, k, n, w, ldw, x, ldx, beta, y, ldy);
    else if (n == 1) gemv(COL_MAJOR, NO_TRANS, m, k, 1, w, ldw, x, 1, beta, y, 1);
    else gemm(COL_MAJOR, NO_TRANS, NO_TRANS, m, n, k, 1, w, ldw, x, ldx, beta, y, ldy);
}

void dn__mm_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy,
               dn_real beta, dn_real *dx, int lddx) {
    if (k == 0 || n == 0) return;
    if (m == 1 && ldw == 1 && (lddy == 1 || n == 1)) /* dx = w' dy is an outer product */
        dn__mm_dw(k, n, 1, w, k, dy, n, beta, dx, lddx);
    else if (m == 0 || is_tiny(m, k, n)) plain_dx(m, k, n, w, ldw, dy, lddy, beta, dx, lddx);
    else if (is_small_n_dx(m, k, n)) small_n.dx(m, k, n, w, ldw, dy, lddy, beta, dx, lddx);
    else if (!gemm) plain_dx(m, k, n, w, ldw, dy, lddy, beta, dx, lddx);
    else if (n == 1) gemv(COL_MAJOR, TRANS, m, k, 1, w, ldw, dy, 1, beta, dx, 1);
    else gemm(COL_MAJOR, TRANS, NO_TRANS, k, n, m, 1, w, ldw, dy, lddy, beta, dx, lddx);
}

int dn__is_better_transposed(int m, int k, int n) {
    return k >= small_n.lanes && n > 1 && stays_in_l2(m, k);
}

void dn__mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
               dn_real beta, dn_real *dw, int lddw) {
    if (m == 0 || k == 0) return;
    if (n == 0 && beta == 0) clear(m, k, dw, lddw);
    else if (m == 1 && n > 1 && lddy == 1 && (lddw == 1 || k == 1)) /* dW' = x dy' */
        dn__mm(k, n, 1, x, ldx, dy, n, beta, dw, k);
    else if (is_small_n_dw(m, k, n)) small_n_dw(m, k, n, dy, lddy, x, ldx, beta, dw, lddw);
    else if (n <= 1 || !gemm || (m < small_n.lanes && products(m, k, n) <= 512))
        plain_dw(m, k, n, dy, lddy, x, ldx, beta, dw, lddw);
    else gemm(COL_MAJOR, NO_TRANS, TRANS, m, k, n, 1, dy, lddy, x, ldx, beta, dw, lddw);
}
