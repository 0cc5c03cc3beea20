/* Products y = W x of inputs that may be batched; W is m x k, x is k x n, y is m x n. An unbatched
 * W sees the whole batch as more columns. */
#pragma once

#include "kernels/rounded.h"
#include "op.h"

/* Input k as the matrix of products y = W x or, transposed, of dx = W' dy: rounded, where its
 * products are. Packing it may take all memory: then the call fails, and what it computes does not
 * matter. */
static inline dn_matrix weight(dn_call *c, int k, int transposed) {
    return (dn_matrix){c->x[k].v, dn__packed(c, k, transposed)};
}

/* One product does for the whole batch: W is one matrix, and the columns of x lie side by side. */
static inline int product_is_one(const dn_in *w, const dn_in *x, int batch) {
    return !w->stride && (x->stride || batch == 1);
}

/* The matrix of a batch element. */
static inline dn_matrix matrix_of(dn_matrix all, const dn_in *w, int b) {
    return (dn_matrix){w->v + (size_t)b * w->stride, all.bf16};
}

/* y = W x + beta y; inputs i (W) and i + 1 (x) */
static inline void product_forward(dn_call *c, int i, int m, int k, int n, dn_real beta) {
    const dn_in *w = &c->x[i], *x = &c->x[i + 1];
    const dn_matrix one = weight(c, i, 0);
    int batch = c->dim->batch;
    size_t size = (size_t)m * (size_t)n;
    if (product_is_one(w, x, batch)) {
        dn__product(m, k, n * batch, one, x->v, k, beta, c->y, m);
        return;
    }
    for (int b = 0; b < batch; b++)
        dn__product(m, k, n, matrix_of(one, w, b), x->v + (size_t)b * x->stride, k, beta,
                    c->y + (size_t)b * size, m);
}

/* y = W x:  dW = dy x',  dx = W' dy. All uses of one node as W must agree on m and k. */
static inline void product_backward_by_element(dn_call *c, int i, int m, int k, int n) {
    const dn_in *w = &c->x[i], *x = &c->x[i + 1];
    const int batch = c->dim->batch;
    const size_t size = (size_t)m * (size_t)n;
    if (dn__wants(c, i)) {
        const int rounds = dn__rounds(c, i);
        dn_batch_grad to = dn__dx_by_element(c, i, batch);
        while (dn__next_element(&to))
            dn__product_dw(m, k, n, rounds, c->dy + to.b * size, m, x->v + to.b * x->stride, k,
                           to.beta, to.dx, m);
    }
    dn_batch_grad to = dn__dx_by_element(c, i + 1, batch);
    if (!to.count) return;
    const dn_matrix transposed = weight(c, i, 1);
    while (dn__next_element(&to))
        dn__product_dx(m, k, n, matrix_of(transposed, w, to.b), c->dy + to.b * size, m, to.beta,
                       to.dx, k);
}
static inline void product_backward(dn_call *c, int i, int m, int k, int n) {
    const int batch = c->dim->batch;
    if (!product_is_one(&c->x[i], &c->x[i + 1], batch)) {
        product_backward_by_element(c, i, m, k, n);
        return;
    }
    if (dn__wants(c, i)) {
        dn__weight_gradient(c, i, m, k, n * batch, c->dy, c->x[i + 1].v);
        dn__input_done(c, i);
    }
    const dn_grad g = dn__dx(c, i + 1);
    if (g.dx) dn__operand_gradient(c, i, m, k, n * batch, c->dy, g);
}
