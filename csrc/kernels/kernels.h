/* Kernels: plain loops and BLAS calls on raw pointers. They know arrays, sizes and strides; no
 * graph, no node, no Python.
 *
 * Conventions. Matrices are column-major; `ld*` is the distance between columns. `beta` is 0
 * (store) or 1 (add), nothing else; with beta = 0 the destination is never read, so it may hold
 * anything. Arrays named in one call do not overlap unless a function says that they may. Every
 * loop over many elements is compiled for several instruction sets and chosen at load time
 * (DN_MULTIVERSION). The same sources serve float and double (dn_real). */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include "../dn_real.h"

/* ---- BLAS (kernels/matrix.c): set once when the extension is loaded, before any other call  */
/* addresses of cblas_sgemm, cblas_sgemv (cblas_d... in the double build), 32-bit integers; all
 * NULL: plain C loops */
void dn__set_blas(void *gemm, void *gemv);
/* Finds out how its products can be cut into pieces with the same bits (10 ms, once); until then
 * they are not cut. */
void dn__check_blas(void);

/* ---- matrix products (kernels/matrix.c): W is m x k, x is k x n, y is m x n ----------- */
/* y = W x + beta y */
void dn__mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx, dn_real beta,
            dn_real *y, int ldy);
/* dx = W' dy + beta dx */
void dn__mm_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy,
               dn_real beta, dn_real *dx, int lddx);
/* Whether dn__mm by W', which somebody keeps, is quicker than dn__mm_dx by W. */
int dn__is_better_transposed(int m, int k, int n);
/* dW = dy x' + beta dW */
void dn__mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx,
               dn_real beta, dn_real *dw, int lddw);
/* `part` columns of such a dW of k columns, with the same bits as in the whole, where they begin at
 * a multiple of DN_DW_UNIT and are no fewer, and dn__cuts_dw(m): before dn__check_blas it may be 0.
 * x, dw: from the first of them on. */
enum { DN_DW_UNIT = 24 };
int dn__cuts_dw(int m);
void dn__mm_dw_part(int m, int k, int part, int n, const dn_real *dy, int lddy, const dn_real *x,
                    int ldx, dn_real beta, dn_real *dw, int lddw);

/* A dense matrix, and its packed form rounded to bfloat16 (bf16.h) or NULL: then products with it
 * (rounded.h) are not rounded. For y = W x that is the packed W, for dx = W' dy the packed W'. */
typedef struct dn_matrix {
    const dn_real *v;
    const uint16_t *bf16;
} dn_matrix;

/* ---- numbers that change their places (kernels/strided.c) ----------------------------- */
/* `count` blocks of `run` numbers each, the starts of neighbouring blocks x_step and y_step apart:
 * y = x; y = x + beta y */
void dn__copy_blocks(size_t run, size_t count, const dn_real *x, size_t x_step, dn_real *y,
                     size_t y_step);
void dn__add_blocks(size_t run, size_t count, const dn_real *x, size_t x_step, dn_real beta,
                    dn_real *y, size_t y_step);
/* each column of y (rows x cols, dense) = x */
void dn__repeat(int rows, size_t cols, const dn_real *x, dn_real *y);
/* y = x' + beta y, x is rows x cols and y is cols x rows; both dense in the first */
void dn__transpose(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y);
void dn__transpose_plane(size_t rows, size_t cols, const dn_real *x, size_t ldx, dn_real beta,
                         dn_real *y, size_t ldy);
/* y, dense with sizes n[0], n[1], ... (at most 16), takes the numbers of x whose place moves by
 * step[i] as y's index i rises; and the other way round, x = y + beta x at those places, which must
 * differ from one another. */
void dn__gather(int nd, const size_t *n, const size_t *step, const dn_real *x, dn_real *y);
void dn__scatter(int nd, const size_t *n, const size_t *step, const dn_real *y, dn_real beta,
                 dn_real *x);

/* ---- LU with partial pivoting (kernels/lu.c): n x n, dense; `work` has dn__lu_work(n) numbers */
size_t dn__lu_work(int n);
/* address of LAPACK's sgetrf (dgetrf), 32-bit integers, or NULL; set like BLAS, takes large
 * matrices */
void dn__set_lapack(void *getrf);
/* P a = L U in place, L's diagonal is 1; row k was exchanged with row pivot[k]. 0: a is singular,
 * and a and pivot are of no use. */
int dn__lu(int n, dn_real *a, int *pivot, dn_real *work);
/* x = A^-1 x from A's factors; x is n x columns */
void dn__lu_solve(int n, int columns, const dn_real *lu, const int *pivot, dn_real *x,
                  dn_real *work);

/* ---- elementwise, one input (kernels/elementwise.c); y may be x ----------------------- */
void dn__exp(size_t n, const dn_real *x, dn_real *y);
/* log 0 = -inf, log of a negative = nan, log inf = inf */
void dn__log(size_t n, const dn_real *x, dn_real *y);
void dn__tanh(size_t n, const dn_real *x, dn_real *y);
void dn__logistic(size_t n, const dn_real *x, dn_real *y); /* 1 / (1 + exp(-x)) */
void dn__rectify(size_t n, const dn_real *x, dn_real *y);  /* max(0, x); nan stays nan */
void dn__square(size_t n, const dn_real *x, dn_real *y);
void dn__abs(size_t n, const dn_real *x, dn_real *y);
void dn__affine(size_t n, dn_real a, dn_real b, const dn_real *x, dn_real *y); /* y = a x + b */
/* their gradients: dx = dy * f'(.) + beta dx */
void dn__exp_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__log_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__tanh_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__logistic_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
/* 0 at 0 */
void dn__rectify_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__square_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);
/* 0 at 0 */
void dn__abs_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);

/* ---- rarer functions of one input (kernels/functions.c); y may be x. The gradient: dx = dy f'(.)
 * + beta dx, from the input x or the result y, as named */
#define DN_FUNCTION(name, known) \
    void dn__##name(size_t n, const dn_real *x, dn_real *y); \
    void dn__##name##_grad(size_t n, const dn_real *known, const dn_real *dy, dn_real beta, \
                           dn_real *dx);
DN_FUNCTION(sin, x)
DN_FUNCTION(cos, x)
DN_FUNCTION(tan, y)
DN_FUNCTION(asin, x)
DN_FUNCTION(acos, x)
DN_FUNCTION(atan, x)
DN_FUNCTION(sinh, x)
DN_FUNCTION(cosh, x)
DN_FUNCTION(asinh, x)
DN_FUNCTION(acosh, x)
DN_FUNCTION(atanh, x)
DN_FUNCTION(sqrt, y)
DN_FUNCTION(cube, x)
DN_FUNCTION(erf, x)
DN_FUNCTION(lgamma, x)
DN_FUNCTION(log_sigmoid, x) /* -log(1 + exp(-x)) */
DN_FUNCTION(softsign, x)    /* x / (1 + |x|) */
DN_FUNCTION(gelu, x)        /* x Phi(x), Phi the distribution function of N(0, 1) */
/* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: Hendrycks and Gimpel 2016 */
DN_FUNCTION(gelu_tanh, x)
#undef DN_FUNCTION
/* y = scale * (x where x > 0, else alpha (exp(x) - 1)) */
void dn__elu(size_t n, dn_real scale, dn_real alpha, const dn_real *x, dn_real *y);
void dn__elu_grad(size_t n, dn_real scale, dn_real alpha, const dn_real *x, const dn_real *dy,
                  dn_real beta, dn_real *dx);
/* y = x logistic(slope x) */
void dn__silu(size_t n, dn_real slope, const dn_real *x, dn_real *y);
void dn__silu_grad(size_t n, dn_real slope, const dn_real *x, const dn_real *dy, dn_real beta,
                   dn_real *dx);
/* y = x^e; the gradients dx = dy e x^(e - 1) + beta dx, 0 where e is 0, and de = sum dy y log x,
 * where a base of 0 contributes nothing */
void dn__pow(size_t n, const dn_real *x, dn_real e, dn_real *y);
void dn__pow_grad(size_t n, const dn_real *x, dn_real e, const dn_real *dy, dn_real beta,
                  dn_real *dx);
dn_real dn__pow_exponent_grad(size_t n, const dn_real *x, const dn_real *y, const dn_real *dy);
/* to the nearest integer, halves to the even one; up; down */
void dn__round(size_t n, const dn_real *x, dn_real *y);
void dn__ceil(size_t n, const dn_real *x, dn_real *y);
void dn__floor(size_t n, const dn_real *x, dn_real *y);
/* the derivative of log gamma; -inf at 0, nan at the negative integers */
double dn__digamma(double x);

/* ---- elementwise, several arrays (kernels/elementwise.c); z may be x or y ------------- */
void dn__fill(size_t n, dn_real a, dn_real *y);
/* y = min(max(y, low), high); NaN stays */
void dn__clip(size_t n, dn_real low, dn_real high, dn_real *y);
/* Whether all x_i are 0; and whether all are finite. */
int dn__is_zero(size_t n, const dn_real *x);
int dn__is_finite(size_t n, const dn_real *x);
/* y = a x + beta y */
void dn__axpy(size_t n, dn_real a, const dn_real *x, dn_real beta, dn_real *y);
/* z = x + y */
void dn__add(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
/* z = x - y */
void dn__sub(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
/* z = x y */
void dn__mul(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
/* z = x / y */
void dn__div(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
/* z = x y + beta z */
void dn__mul_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta, dn_real *z);
/* z = x / y + beta z */
void dn__div_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta, dn_real *z);
/* z = a x + b y + c + beta z */
void dn__plane(size_t n, dn_real a, const dn_real *x, dn_real b, const dn_real *y, dn_real c,
               dn_real beta, dn_real *z);
/* -log(-log(1 - u)) in place, of draws u in [0, 1) with 24 bits: finite, from -2.9 to 17.4 */
void dn__gumbel(size_t n, float *u);
/* y_k = sum_i u_i v[k + sign i] + beta y_k, i and k from 0 to n - 1; v points into an array that
 * has all these places */
void dn__sliding_sum(int n, const dn_real *u, const dn_real *v, int sign, dn_real beta, dn_real *y);
/* fourier.c: y_k = sum_i u_i v[(k + sign i) mod n] + beta y_k; 0: no memory, and y is as it was.
 * How many numbers of scratch it needs; 0: dn__sliding_sum is faster. */
size_t dn__circular_scratch(int n);
int dn__circular_sum(int n, int sign, const dn_real *u, const dn_real *v, dn_real beta, dn_real *y,
                     dn_real *scratch);
/* gradient of z = x / y to y: dy = -dz z / y + beta dy */
void dn__div_grad(size_t n, const dn_real *z, const dn_real *y, const dn_real *dz, dn_real beta,
                  dn_real *dy);

/* ---- reductions (kernels/reduce.c): several accumulators, the order fixed by n alone; sums of
 * many numbers as DN_MANY says */
dn_real dn__sum(size_t n, const dn_real *x);
/* accumulated in blocks, summed in double */
enum { DN_SQUARES_BLOCK = 4096 }; /* from here on it is a sum of sums of so many, in double */
double dn__sum_squares(size_t n, const dn_real *x);
dn_real dn__dot(size_t n, const dn_real *x, const dn_real *y);
dn_real dn__sum_quotients(size_t n, const dn_real *x, const dn_real *y); /* sum of x_i / y_i */
dn_real dn__dot_over(size_t n, const dn_real *x, const dn_real *y, dn_real a); /* of x_i y_i / a */
/* Sums of more than DN_MANY arrays: sum += a x; y = sum + beta y. */
void dn__wide_add(size_t n, double a, const dn_real *x, double *sum);
void dn__wide_sum(size_t n, const double *sum, dn_real beta, dn_real *y);
/* nan if any is nan; n >= 1 */
dn_real dn__max(size_t n, const dn_real *x);
/* y (rows) = sum over the columns of x (rows x cols, dense) + beta y */
void dn__sum_columns(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y);
/* y (cols) = sum over the rows of x (rows x cols, dense) + beta y; the order depends on rows alone.
 * And its gradient: each column of x = its y + beta x. */
void dn__sum_each_column(size_t rows, size_t cols, const dn_real *x, dn_real beta, dn_real *y);
void dn__spread_over_columns(size_t rows, size_t cols, const dn_real *y, dn_real beta, dn_real *x);

/* ---- exact sums of squares (kernels/exact.c): the same in any order ------------------- */
enum { DN_EXACT_DIGITS = 68 };
/* zeros: nothing yet */
typedef struct dn_exact_sum {
    int64_t digits[DN_EXACT_DIGITS];
    double other; /* of what is infinite or nan */
} dn_exact_sum;
/* adds dn__sum_squares of each row */
void dn__exact_add_rows(dn_exact_sum *, size_t rows, size_t row_size, const dn_real *block);
void dn__exact_add(dn_exact_sum *, const dn_exact_sum *other);
double dn__exact_value(const dn_exact_sum *);

/* y = a x^r, r >= 0; y may be x */
void dn__power(size_t n, dn_real a, unsigned r, const dn_real *x, dn_real *y);
/* dx_i = a_i ((x_i - m_i) - d_i) + beta dx_i, where a, m and d advance by `step`, 0 or 1 */
void dn__centered(size_t n, int step, const dn_real *a, const dn_real *m, const dn_real *d,
                  const dn_real *x, dn_real beta, dn_real *dx);
/* Of n columns side by side, number k of column i being x[k n + i]: y_k = x_0 + ... + x_k, summed
 * in double; its gradient dx_k = dy_k + ... + dy_(length-1) + beta dx_k. */
void dn__cumsum(size_t length, size_t n, const dn_real *x, dn_real *y);
void dn__cumsum_grad(size_t length, size_t n, const dn_real *dy, dn_real beta, dn_real *dx);

/* ---- greatest and least (kernels/extremes.c); a nan counts as both -------------------- */
/* z = the greater, the less of x and y; z may be x or y */
void dn__bmax(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
void dn__bmin(size_t n, const dn_real *x, const dn_real *y, dn_real *z);
/* dx = dz + beta dx where x > y, or where not x > y; else 0 + beta dx */
void dn__pass_greater(size_t n, const dn_real *x, const dn_real *y, const dn_real *dz, dn_real beta,
                      dn_real *dx);
void dn__pass_not_greater(size_t n, const dn_real *x, const dn_real *y, const dn_real *dz,
                          dn_real beta, dn_real *dx);
/* best_i = x_i and which_i = k where x_i is greater than best_i, else they stay */
void dn__fold_max(size_t n, const dn_real *x, int32_t k, dn_real *best, int32_t *which);
/* dx = dz + beta dx where which is k, else 0 + beta dx */
void dn__pass_which(size_t n, const int32_t *which, int32_t k, const dn_real *dz, dn_real beta,
                    dn_real *dx);
/* Of each of the `inner` lines x[i], x[inner + i], x[2 inner + i], ...: the extreme number and the
 * first index it is at; length >= 1 */
void dn__max_along_axis(size_t length, size_t inner, const dn_real *x, dn_real *best,
                        int32_t *which);
void dn__min_along_axis(size_t length, size_t inner, const dn_real *x, dn_real *best,
                        int32_t *which);
/* Of n windows of rows x cols in a plane with columns of ld numbers, each `step` rows below the one
 * before, the first at x: the greatest number, and the first place it is at in the order of memory,
 * x being at place `at`. */
void dn__max_of_windows(size_t n, size_t step, int rows, int cols, size_t ld, const dn_real *x,
                        int32_t at, dn_real *best, int32_t *which);
/* log sum exp over several arrays, max being their maximum: sum += exp(x - max), and with log_sum =
 * log(sum) dx = dy exp(x - max - log_sum) + beta dx (where x is -inf: 0) */
void dn__add_exp(size_t n, const dn_real *x, const dn_real *max, dn_real *sum);
void dn__wide_add_exp(size_t n, const dn_real *x, const dn_real *max, double *sum);
void dn__add_exp_grad(size_t n, const dn_real *x, const dn_real *max, const dn_real *log_sum,
                      const dn_real *dy, dn_real beta, dn_real *dx);

/* ---- distances (kernels/distances.c); the gradients are those to x, dy is one number -- */
/* sum (x - y)^2; the gradient is exact also where it is small */
dn_real dn__squared_distance(size_t n, const dn_real *x, const dn_real *y);
void dn__squared_distance_grad(size_t n, const dn_real *x, const dn_real *y, dn_real dy,
                               dn_real beta, dn_real *dx);
/* sum |x - y| */
dn_real dn__l1_distance(size_t n, const dn_real *x, const dn_real *y);
/* 0 where x = y */
void dn__l1_distance_grad(size_t n, const dn_real *x, const dn_real *y, dn_real dy, dn_real beta,
                          dn_real *dx);
/* sum of d^2 / 2 where a = |d| = |x - y| < c, else c a - c^2 / 2 */
dn_real dn__huber_distance(size_t n, dn_real c, const dn_real *x, const dn_real *y);
void dn__huber_distance_grad(size_t n, dn_real c, const dn_real *x, const dn_real *y, dn_real dy,
                             dn_real beta, dn_real *dx);
/* z = max(0, m - x + y) */
void dn__rank_loss(size_t n, dn_real m, const dn_real *x, const dn_real *y, dn_real *z);
/* dx = a dz where z > 0: the gradient to x with a = -1, to y with a = 1 */
void dn__rank_loss_grad(size_t n, dn_real a, const dn_real *z, const dn_real *dz, dn_real beta,
                        dn_real *dx);

/* sum of max(0, limit + x) */
dn_real dn__hinge(size_t n, dn_real limit, const dn_real *x);
/* each i but v with limit + x_i > 0: dx_i = dy, dx_v -= dy; other dx_i = 0; + beta dx */
void dn__hinge_grad(size_t n, size_t v, dn_real limit, const dn_real *x, dn_real dy, dn_real beta,
                    dn_real *dx);
/* sum of -(t log x + (1 - t) log(1 - x)), a term whose factor is 0 being 0, and that of a wrong x
 * of exactly 0 or 1 being 87.3; the gradients to x and to t */
dn_real dn__log_loss(size_t n, const dn_real *x, const dn_real *t);
void dn__log_loss_grad(size_t n, const dn_real *x, const dn_real *t, dn_real dy, dn_real beta,
                       dn_real *dx);
void dn__log_loss_target_grad(size_t n, const dn_real *t, const dn_real *x, dn_real dy,
                              dn_real beta, dn_real *dx);

/* ---- softmax of a column (kernels/softmax.c) ------------------------------------------ */
/* log sum exp x = max + log_sum, kept apart: beside a large max their sum would lose the digits of
 * log_sum */
typedef struct dn_lse { dn_real max, log_sum; } dn_lse;
dn_lse dn__logsumexp(size_t n, const dn_real *x);
void dn__softmax(size_t n, const dn_real *x, dn_real *y);
/* the same, but 0 where every x is -inf: there is nothing to give weight to */
void dn__softmax_or_zeros(size_t n, const dn_real *x, dn_real *y);
/* dx = y * (dy - <y, dy>) + beta dx; with beta = 0, dx may be dy */
void dn__softmax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
/* dx = scale * exp(x - lse) + beta dx: the softmax from the logits and their log-sum-exp */
void dn__softmax_from_lse(size_t n, const dn_real *x, dn_lse lse, dn_real scale, dn_real beta,
                          dn_real *dx);
/* y = a (x - lse) + beta y; with beta = 0, y may be x */
void dn__log_softmax(size_t n, dn_real a, const dn_real *x, dn_lse lse, dn_real beta, dn_real *y);
/* sum lse - x */
dn_real dn__sum_neg_log_softmax(size_t n, const dn_real *x, dn_lse lse);
/* sum t (lse - x) over t != 0 */
dn_real dn__cross_entropy(size_t n, const dn_real *t, const dn_real *x, dn_lse lse);
/* y = x where mask is not 0, else -inf */
void dn__keep(size_t n, const dn_real *x, const dn_real *mask, dn_real *y);
/* The same for n <= DN_STRIDED columns side by side, number k of column i being x[k * step + i]. y
 * may be x. */
enum { DN_STRIDED = 256 };
typedef void dn_strided(size_t n, size_t length, size_t step, const dn_real *x, dn_real *y);
typedef void dn_strided_grad(size_t n, size_t length, size_t step, const dn_real *y,
                             const dn_real *dy, dn_real beta, dn_real *dx);
dn_strided dn__softmax_strided, dn__softmax_or_zeros_strided, dn__log_softmax_strided;
dn_strided_grad dn__softmax_grad_strided, dn__log_softmax_grad_strided;
/* y = max(0, x - t) with t such that sum y = 1 (Martins and Astudillo 2016); n >= 1 */
void dn__sparsemax(size_t n, const dn_real *x, dn_real *y);
/* dx = dy - (mean of dy over y > 0) where y > 0, else 0; + beta dx */
void dn__sparsemax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);

/* ---- LSTM cell, gates in the order i, f, o, g (kernels/lstm.c); all arrays dense, h values a
 * column */
/* gates (4h x batch): in, pre-activations; out, i = logistic, f = logistic(. + forget_bias), o =
 * logistic, g = tanh. c = f c_prev + i g; tanh_c = tanh(c); h_out = o tanh_c.  c_prev == NULL means
 * zero; c_prev_stride is 0 or h. */
void dn__lstm_cell(int h, int batch, dn_real forget_bias, dn_real *gates, const dn_real *c_prev,
                   int c_prev_stride, dn_real *c, dn_real *tanh_c, dn_real *h_out);
/* From dh and dc: dgates (4h x batch), to the pre-activations, is stored; what comes to c by way of
 * h is added to dc; dc_prev (h x batch) is added to if it is not NULL. dgates may be gates. */
void dn__lstm_cell_grad(int h, int batch, const dn_real *gates, const dn_real *c_prev,
                        int c_prev_stride, const dn_real *tanh_c, const dn_real *dh, dn_real *dc,
                        dn_real *dgates, dn_real *dc_prev);

/* ---- recurrent networks over sequences of different lengths (kernels/recurrent.c) ---------
 * The sequences are sorted by falling length: step s has the first active[s] of them, active[0] >=
 * active[1] >= ... An array of n x columns holds the columns of step 0, then those of step 1, ...;
 * columns is the sum of active (the gradient may be of the first steps alone: then of more than
 * those). So what step s reads of step s - 1 is the beginning of its columns, and no column is
 * computed that no sequence has. h_0 and c_0 (h x sequences) are always there;
 * where they are `given` they may differ from zero. */
typedef struct dn_sequence {
    int h, steps;
    const int *active;
    size_t columns;
    int given;
    const dn_real *h0, *c0;
    /* h x sequences: what multiplies h_(s-1) and c in products; NULL: nothing does */
    const dn_real *h_mask, *c_mask;
    /* h x columns: h_(s-1) and c_(s-1) as products saw them; NULL: not kept */
    dn_real *h_seen, *c_seen;
    dn_real *c_now; /* h x columns: c_s under c_mask; c itself without */
    dn_real *gates; /* blocks of (rows x columns). In: Wx x + b; out: activated */
    /* h x columns; extra: what the network keeps for its gradient */
    dn_real *h_out, *c, *extra;
    /* gradients; dh and dc hold what came from above to each column, and all that comes when it is
     * over; dh0 and dc0 are added to; dgates is stored */
    dn_real *dh, *dc, *dgates, *dh0, *dc0;
    dn_real *dh_mask, *dc_mask; /* added to; NULL: not wanted */
    dn_real *work;              /* h x sequences */
} dn_sequence;
/* i, f, o, g in one block of 4h rows. extra: tanh c. w: Wh (4h, h). gates = Wx x + b + Wh h_(s-1),
 * then as dn__lstm_cell. */
void dn__lstm_sequence(const dn_sequence *, dn_real forget_bias, const dn_matrix *w);
void dn__lstm_sequence_grad(const dn_sequence *, const dn_matrix *w);
/* One block. w: Wh. h_s = tanh(Wx x + b + Wh h_(s-1)). */
void dn__simple_sequence(const dn_sequence *, const dn_matrix *w);
void dn__simple_sequence_grad(const dn_sequence *, const dn_matrix *w);
/* Blocks z, r, n. extra: r h_(s-1). w: Wzh, Wrh, Wnh (h, h). z, r = logistic(. + W h_(s-1)), n =
 * tanh(. + Wnh (r h_(s-1))), h_s = (1 - z) h_(s-1) + z n. */
void dn__gru_sequence(const dn_sequence *, const dn_matrix *w);
void dn__gru_sequence_grad(const dn_sequence *, const dn_matrix *w);
/* Blocks i, o, g. extra: tanh c. w: Wih, Woh, Wgh, and the peepholes Wic, Woc, which may be NULL. i
 * = logistic(. + Wih h_(s-1) + Wic c_(s-1)), g = tanh(. + Wgh h_(s-1)), c_s = (1 - i) c_(s-1) + i
 * g, o = logistic(. + Woh h_(s-1) + Woc c_s), h_s = o tanh c_s. */
void dn__coupled_sequence(const dn_sequence *, const dn_matrix *w);
void dn__coupled_sequence_grad(const dn_sequence *, const dn_matrix *w);

/* ---- TreeLSTM cell, gates in the order i, o, u, with n children (kernels/lstm.c); arrays are
 * dense but where they are dn_columns, `batch` columns; f and df have the n blocks of h numbers of
 * a batch element side by side */
/* Columns that are `stride` numbers apart; 0: one for all. */
typedef struct dn_columns {
    const dn_real *x;
    size_t stride;
} dn_columns;
/* A place for their gradients: dx = (gradient) + beta dx, a sum over the batch where stride is 0.
 * dx = NULL: none is wanted. */
typedef struct dn_column_grads {
    dn_real *dx, beta;
    size_t stride;
} dn_column_grads;
/* gates (3h x batch), f (n h x batch): in, pre-activations without the biases b (3h) and bf (h);
 * out, i, o, f = logistic, u = tanh. c = i u + sum_k f_k c_k, with c_k the columns of child k;
 * tanh_c = tanh(c); h_out = o tanh_c. */
void dn__tree_lstm_cell(int h, int n, int batch, const dn_real *b, dn_columns bf,
                        const dn_columns *children, dn_real *gates, dn_real *f, dn_real *c,
                        dn_real *tanh_c, dn_real *h_out);
/* From dh and dc: dgates and df, to the pre-activations, which are stored, and the dc_k. */
void dn__tree_lstm_cell_grad(int h, int n, int batch, const dn_real *gates, const dn_real *f,
                             const dn_columns *children, const dn_real *tanh_c, const dn_real *dh,
                             const dn_real *dc, dn_real *dgates, dn_real *df,
                             const dn_column_grads *dc_children);

/* ---- parameter updates (kernels/update.c): one pass over values p, gradients g and moments ----
 * Below, g stands for scale * g (clipping). Each ends in p = decay (p + push * step); with keep:
 * decay (keep p + push * step). */
typedef struct dn_step {
    dn_real rate;  /* the learning rate, corrected for bias where the rule says so */
    dn_real scale; /* of the gradient */
    /* of the step: 1 / factor for a table that stores its values divided by a factor */
    dn_real push;
    dn_real keep;  /* of the values, before the step; 1 but for AdamW */
    dn_real decay; /* of the result */
} dn_step;
/* step = -rate g */
void dn__update_sgd(size_t n, const dn_step *s, dn_real *p, const dn_real *g);
/* v = mom v - rate g; step = v */
void dn__update_momentum(size_t n, const dn_step *s, dn_real mom, dn_real *p, const dn_real *g,
                         dn_real *v);
/* h = h + g^2; step = -rate g / sqrt(h + eps) */
void dn__update_adagrad(size_t n, const dn_step *s, dn_real eps, dn_real *p, const dn_real *g,
                        dn_real *h);
/* G = rho G + (1 - rho) g^2; step = -g sqrt(D + eps) / sqrt(G + eps); D = rho D + (1 - rho)
 * step^2 */
void dn__update_adadelta(size_t n, const dn_step *s, dn_real eps, dn_real rho, dn_real *p,
                         const dn_real *g, dn_real *G, dn_real *D);
/* h = rho h + (1 - rho) g^2; step = -rate g / sqrt(h + eps) */
void dn__update_rmsprop(size_t n, const dn_step *s, dn_real eps, dn_real rho, dn_real *p,
                        const dn_real *g, dn_real *h);
/* m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; step = -rate m / (sqrt(v) + eps). With keep. */
void dn__update_adam(size_t n, const dn_step *s, dn_real b1, dn_real b2, dn_real eps, dn_real *p,
                     const dn_real *g, dn_real *m, dn_real *v);
/* the same with the greatest v so far in place of v: top = max(top, v) */
void dn__update_amsgrad(size_t n, const dn_step *s, dn_real b1, dn_real b2, dn_real eps, dn_real *p,
                        const dn_real *g, dn_real *m, dn_real *v, dn_real *top);
/* v = mom v - rate g; p = softmax(log p + push v), p being one distribution */
void dn__update_eg(size_t n, const dn_step *s, dn_real mom, dn_real *p, const dn_real *g,
                   dn_real *v);
/* x = min(max(x, -limit), limit); nan stays nan */
void dn__clamp(size_t n, dn_real limit, dn_real *x);
/* y = y + a (x - y) */
void dn__blend(size_t n, dn_real a, const dn_real *x, dn_real *y);

/* ---- gradients of several ranks (kernels/exchange.c) ---------------------------------- */
/* s[i] = factors[0] segments[0][i] + factors[1] segments[1][i] + ..., added up in rank order over
 * the ranks with filled[r], others count as zero and are not read; then segments[r][i] = s[i] for
 * every rank, or for the rank `only` if that is not negative; from <= i < to */
void dn__sum_ranks(int ranks, int only, dn_real *const *segments, const dn_real *factors,
                   const uint8_t *filled, size_t from, size_t to);
/* as dn_sum_arrays, dn_bf16_encode and so on */
void dn__sum_arrays(int count, dn_real *const *x, size_t n, dn_real *sum);
void dn__bf16_encode(size_t n, const dn_real *x, dn_real *residual, uint16_t *code);
void dn__bf16_decode(size_t n, const uint16_t *code, dn_real *x);
