/* Kernels: plain loops and BLAS calls on raw pointers. They know arrays, sizes and strides; no graph, no node, no Python.
 *
 * Conventions. Matrices are column-major; `ld*` is the distance between columns. `beta` is 0 (store) or 1 (add), nothing
 * else; with beta = 0 the destination is never read, so it may hold anything. Arrays named in one call do not overlap
 * unless a function says that they may. Every loop over many elements is compiled for several instruction sets and
 * chosen at load time (DN_MULTIVERSION). The same sources serve float and double (dn_real). */
#ifndef DN_KERNELS_H
#define DN_KERNELS_H

#include <stddef.h>
#include <stdint.h>
#include "../dn_real.h"

/* ---- BLAS (kernels/matrix.c): set once when the extension is loaded, before any other call ----------------------- */
/* addresses of cblas_sgemm, cblas_sgemv, cblas_sger (cblas_d... in the double build), 32-bit integers; all NULL: plain C loops */
void dn__set_blas(void *gemm, void *gemv, void *ger);

/* ---- matrix products (kernels/matrix.c): W is m x k, x is k x n, y is m x n ------------------------------------ */
/* y = W x + beta y */
void dn__mm(int m, int k, int n, const dn_real *w, int ldw, const dn_real *x, int ldx, dn_real beta, dn_real *y, int ldy);
/* dx = W' dy + beta dx */
void dn__mm_dx(int m, int k, int n, const dn_real *w, int ldw, const dn_real *dy, int lddy, dn_real beta, dn_real *dx, int lddx);
/* dW = dy x' + beta dW */
void dn__mm_dw(int m, int k, int n, const dn_real *dy, int lddy, const dn_real *x, int ldx, dn_real beta, dn_real *dw, int lddw);
/* y = x', x is rows x cols and dense; y is cols x rows and dense. y += x' with beta = 1. */
void dn__transpose(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y);

/* ---- elementwise, one input (kernels/elementwise.c); y may be x ------------------------------------------------- */
void dn__exp(size_t n, const dn_real *x, dn_real *y);
void dn__log(size_t n, const dn_real *x, dn_real *y);       /* log 0 = -inf, log of a negative = nan, log inf = inf */
void dn__tanh(size_t n, const dn_real *x, dn_real *y);
void dn__logistic(size_t n, const dn_real *x, dn_real *y);  /* 1 / (1 + exp(-x)) */
void dn__rectify(size_t n, const dn_real *x, dn_real *y);   /* max(0, x); nan stays nan */
void dn__square(size_t n, const dn_real *x, dn_real *y);
void dn__abs(size_t n, const dn_real *x, dn_real *y);
void dn__affine(size_t n, dn_real a, dn_real b, const dn_real *x, dn_real *y);  /* y = a x + b */
/* their gradients: dx = dy * f'(.) + beta dx */
void dn__exp_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__log_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__tanh_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__logistic_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__rectify_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);  /* 0 at 0 */
void dn__square_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);
void dn__abs_grad(size_t n, const dn_real *x, const dn_real *dy, dn_real beta, dn_real *dx);      /* 0 at 0 */

/* ---- elementwise, several arrays (kernels/elementwise.c); z may be x or y --------------------------------------- */
void dn__fill(size_t n, dn_real a, dn_real *y);
void dn__axpy(size_t n, dn_real a, const dn_real *x, dn_real beta, dn_real *y);             /* y = a x + beta y */
void dn__add(size_t n, const dn_real *x, const dn_real *y, dn_real *z);                      /* z = x + y */
void dn__sub(size_t n, const dn_real *x, const dn_real *y, dn_real *z);                      /* z = x - y */
void dn__mul(size_t n, const dn_real *x, const dn_real *y, dn_real *z);                      /* z = x y */
void dn__div(size_t n, const dn_real *x, const dn_real *y, dn_real *z);                      /* z = x / y */
void dn__mul_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta, dn_real *z);    /* z = x y + beta z */
void dn__div_add(size_t n, const dn_real *x, const dn_real *y, dn_real beta, dn_real *z);    /* z = x / y + beta z */
/* gradient of z = x / y to y: dy = -dz z / y + beta dy */
void dn__div_grad(size_t n, const dn_real *z, const dn_real *y, const dn_real *dz, dn_real beta, dn_real *dy);

/* ---- reductions (kernels/reduce.c): several accumulators, the order fixed by n alone ---------------------------- */
dn_real dn__sum(size_t n, const dn_real *x);
double dn__sum_squares(size_t n, const dn_real *x);                                          /* accumulated in blocks, summed in double */
dn_real dn__dot(size_t n, const dn_real *x, const dn_real *y);
dn_real dn__max(size_t n, const dn_real *x);                                                 /* nan if any is nan; n >= 1 */
dn_real dn__squared_distance(size_t n, const dn_real *x, const dn_real *y);
/* y (rows) = sum over the columns of x (rows x cols, dense) + beta y */
void dn__sum_columns(int rows, int cols, const dn_real *x, dn_real beta, dn_real *y);

/* ---- softmax of one column (kernels/softmax.c) ------------------------------------------------------------------- */
/* log sum exp x, maximum subtracted first; -inf only if all are -inf */
dn_real dn__logsumexp(size_t n, const dn_real *x);
void dn__softmax(size_t n, const dn_real *x, dn_real *y);
/* dx = y * (dy - <y, dy>) + beta dx */
void dn__softmax_grad(size_t n, const dn_real *y, const dn_real *dy, dn_real beta, dn_real *dx);
/* dx = scale * exp(x - lse) + beta dx: the softmax from the logits and their log-sum-exp */
void dn__softmax_from_lse(size_t n, const dn_real *x, dn_real lse, dn_real scale, dn_real beta, dn_real *dx);

/* ---- LSTM cell, gates in the order i, f, o, g (kernels/lstm.c); all arrays dense, h values a column, `batch` columns -- */
/* gates (4h x batch): in, pre-activations; out, i = logistic, f = logistic(. + forget_bias), o = logistic, g = tanh.
 * c = f c_prev + i g; tanh_c = tanh(c); h_out = o tanh_c.  c_prev == NULL means zero; c_prev_stride is 0 or h. */
void dn__lstm_cell(int h, int batch, dn_real forget_bias, dn_real *gates, const dn_real *c_prev, int c_prev_stride,
                   dn_real *c, dn_real *tanh_c, dn_real *h_out);
/* From dh and dc (either may be NULL: zero): dgates (4h x batch), to the pre-activations, is stored; dc_prev (h x batch, stored)
 * is written if it is not NULL. dgates may be gates. */
void dn__lstm_cell_grad(int h, int batch, const dn_real *gates, const dn_real *c_prev, int c_prev_stride, const dn_real *tanh_c,
                        const dn_real *dh, const dn_real *dc, dn_real *dgates, dn_real *dc_prev);

/* ---- parameter updates (kernels/update.c): one pass over values p, gradients g and moments ----------------------------
 * Below, g stands for scale * g (clipping). Each ends in p = decay (p + push * step); with keep: decay (keep p + push * step). */
typedef struct dn_step {
    dn_real rate;    /* the learning rate, corrected for bias where the rule says so */
    dn_real scale;   /* of the gradient */
    dn_real push;    /* of the step: 1 / factor for a table that stores its values divided by a factor */
    dn_real keep;    /* of the values, before the step; 1 but for AdamW */
    dn_real decay;   /* of the result */
} dn_step;
/* step = -rate g */
void dn__update_sgd(size_t n, const dn_step *s, dn_real *p, const dn_real *g);
/* v = mom v - rate g; step = v */
void dn__update_momentum(size_t n, const dn_step *s, dn_real mom, dn_real *p, const dn_real *g, dn_real *v);
/* h = h + g^2; step = -rate g / sqrt(h + eps) */
void dn__update_adagrad(size_t n, const dn_step *s, dn_real eps, dn_real *p, const dn_real *g, dn_real *h);
/* G = rho G + (1 - rho) g^2; step = -g sqrt(D + eps) / sqrt(G + eps); D = rho D + (1 - rho) step^2 */
void dn__update_adadelta(size_t n, const dn_step *s, dn_real eps, dn_real rho, dn_real *p, const dn_real *g, dn_real *G, dn_real *D);
/* h = rho h + (1 - rho) g^2; step = -rate g / sqrt(h + eps) */
void dn__update_rmsprop(size_t n, const dn_step *s, dn_real eps, dn_real rho, dn_real *p, const dn_real *g, dn_real *h);
/* m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; step = -rate m / (sqrt(v) + eps). With keep. */
void dn__update_adam(size_t n, const dn_step *s, dn_real b1, dn_real b2, dn_real eps, dn_real *p, const dn_real *g, dn_real *m, dn_real *v);
/* the same with the greatest v so far in place of v: top = max(top, v) */
void dn__update_amsgrad(size_t n, const dn_step *s, dn_real b1, dn_real b2, dn_real eps, dn_real *p, const dn_real *g, dn_real *m,
                        dn_real *v, dn_real *top);
/* v = mom v - rate g; p = softmax(log p + push v), p being one distribution */
void dn__update_eg(size_t n, const dn_step *s, dn_real mom, dn_real *p, const dn_real *g, dn_real *v);
/* x = min(max(x, -limit), limit); nan stays nan */
void dn__clamp(size_t n, dn_real limit, dn_real *x);
/* y = y + a (x - y) */
void dn__blend(size_t n, dn_real a, const dn_real *x, dn_real *y);

#endif
