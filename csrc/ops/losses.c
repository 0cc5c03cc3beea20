/* Losses and distances: one number for each batch element. */
#include <math.h>

#include "kernels/kernels.h"
#include "op.h"

/* Two inputs of equal dims (trailing 1s aside); the batch is repeated. */
static int pair_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (!dn__same_sizes(s->x[0], s->x[1]))
        return dn__fail(s, DN_ERROR_VALUE, "x and y must have the same dims; got x = %s, y = %s.",
                        DIMS(s->x[0]), DIMS(s->x[1]));
    return dn__set_dims(s, 1, (int[]){1}, batch);
}

/* y_b = f(n, x_b, y_b) of the two inputs */
static void pair_forward(dn_call *c, dn_real (*f)(size_t, const dn_real *, const dn_real *)) {
    const dn_in *x = &c->x[0], *y = &c->x[1];
    for (int b = 0; b < c->dim->batch; b++)
        c->y[b] =
            f((size_t)x->dim->size, x->v + (size_t)b * x->stride, y->v + (size_t)b * y->stride);
}
/* dx_k for each batch element by f(n, x, y, dy, beta, dx), summed over the batch where the input is
 * not batched */
static void pair_backward(dn_call *c, int k,
                          void (*f)(size_t, const dn_real *, const dn_real *, dn_real, dn_real,
                                    dn_real *)) {
    const dn_in *x = &c->x[k], *y = &c->x[1 - k];
    size_t n = (size_t)x->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
    while (dn__next_element(&to))
        f(n, x->v + to.b * x->stride, y->v + to.b * y->stride, c->dy[to.b], to.beta, to.dx);
}

DN_OP(squared_distance, 2, DN_BATCHES, "y = sum (x_0i - x_1i)^2")
static int squared_distance_dims(dn_shape *s) { return pair_dims(s); }
static void squared_distance_forward(dn_call *c) { pair_forward(c, dn__squared_distance); }
/* dx_0 = 2 dy (x_0 - x_1), and the same with the inputs exchanged */
static void squared_distance_backward(dn_call *c) {
    pair_backward(c, 0, dn__squared_distance_grad);
    pair_backward(c, 1, dn__squared_distance_grad);
}

DN_OP(l1_distance, 2, DN_BATCHES, "y = sum |x_0i - x_1i|")
static int l1_distance_dims(dn_shape *s) { return pair_dims(s); }
static void l1_distance_forward(dn_call *c) { pair_forward(c, dn__l1_distance); }
/* dx_0 = dy sign(x_0 - x_1), and the same with the inputs exchanged */
static void l1_distance_backward(dn_call *c) {
    pair_backward(c, 0, dn__l1_distance_grad);
    pair_backward(c, 1, dn__l1_distance_grad);
}

/* Huber 1964; DyNet's default c = 1.345 is the one with 95 % efficiency for normal errors */
DN_OP(huber_distance, 2, DN_BATCHES,
      "y = sum of d_i^2 / 2 where |d_i| < c, else c |d_i| - c^2 / 2; d = x_0 - x_1")
static int huber_distance_dims(dn_shape *s) {
    if (!(s->floats[0] >= 0))
        return dn__fail(s, DN_ERROR_VALUE, "c must not be negative; got c = %.*g.",
                        DIGITS(s->floats[0]));
    return pair_dims(s);
}
static void huber_distance_forward(dn_call *c) {
    for (int b = 0; b < c->dim->batch; b++)
        c->y[b] = dn__huber_distance((size_t)c->x[0].dim->size, (dn_real)c->floats[0],
                                     c->x[0].v + (size_t)b * c->x[0].stride,
                                     c->x[1].v + (size_t)b * c->x[1].stride);
}
/* dx_0 = dy max(-c, min(c, x_0 - x_1)), and the same with the inputs exchanged */
static void huber_distance_backward(dn_call *c) {
    for (int k = 0; k < 2; k++) {
        const dn_in *x = &c->x[k], *y = &c->x[1 - k];
        dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
        while (dn__next_element(&to))
            dn__huber_distance_grad((size_t)x->dim->size, (dn_real)c->floats[0],
                                    x->v + to.b * x->stride, y->v + to.b * y->stride, c->dy[to.b],
                                    to.beta, to.dx);
    }
}

DN_OP(dot_product, 2, DN_BATCHES, "y = sum x_0i x_1i")
static int dot_product_dims(dn_shape *s) { return pair_dims(s); }
static void dot_product_forward(dn_call *c) { pair_forward(c, dn__dot); }
/* dx_0 = dy x_1 */
static void dot_product_grad(size_t n, const dn_real *x, const dn_real *y, dn_real dy, dn_real beta,
                             dn_real *dx) {
    (void)x;
    dn__axpy(n, dy, y, beta, dx);
}
static void dot_product_backward(dn_call *c) {
    pair_backward(c, 0, dot_product_grad);
    pair_backward(c, 1, dot_product_grad);
}

DN_OP(binary_log_loss, 2, DN_BATCHES, "y = -sum x_1i log x_0i + (1 - x_1i) log(1 - x_0i)")
static int binary_log_loss_dims(dn_shape *s) { return pair_dims(s); }
static void binary_log_loss_forward(dn_call *c) { pair_forward(c, dn__log_loss); }
/* dx = dy ((1 - t) / (1 - x) - t / x);  dt = dy (log(1 - x) - log x) */
static void binary_log_loss_backward(dn_call *c) {
    pair_backward(c, 0, dn__log_loss_grad);
    pair_backward(c, 1, dn__log_loss_target_grad);
}

/* ---- losses that are not sums over pairs ---------------------------------------------- */

DN_OP(pairwise_rank_loss, 2, DN_BATCHES, "y_i = max(0, m - x_0i + x_1i)")
static int pairwise_rank_loss_dims(dn_shape *s) {
    int error = pair_dims(s);
    return error ? error : dn__set_dims(s, s->x[0]->nd, s->x[0]->d, s->y.batch);
}
static void pairwise_rank_loss_forward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int b = 0; b < c->dim->batch; b++)
        dn__rank_loss(n, (dn_real)c->floats[0], c->x[0].v + (size_t)b * c->x[0].stride,
                      c->x[1].v + (size_t)b * c->x[1].stride, c->y + (size_t)b * n);
}
/* where y > 0: dx_0 = -dy, dx_1 = dy */
static void pairwise_rank_loss_backward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int k = 0; k < 2; k++) {
        dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
        while (dn__next_element(&to))
            dn__rank_loss_grad(n, k ? 1 : -1, c->y + to.b * n, c->dy + to.b * n, to.beta, to.dx);
    }
}

/* lgamma() writes to a global */
static double lgamma_of(double x) {
    int sign;
    return lgamma_r(x, &sign);
}

/* ints: the counts k, one per batch element; an unbatched x serves all */
DN_OP(poisson_loss, 1, DN_BATCHES | DN_INTS_EACH, "y = exp x + log k! - k x")
static int poisson_loss_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (x->size != 1)
        return dn__fail(s, DN_ERROR_VALUE, "the logarithm of the rate must be one number; got %s.",
                        DIMS(x));
    if (s->n_ints != x->batch && x->batch != 1)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one count per batch element; got %d counts for %s.", s->n_ints,
                        DIMS(x));
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0)
            return dn__fail(s, DN_ERROR_VALUE, "counts must not be negative; got %d.", s->ints[i]);
    return dn__set_dims(s, 1, (int[]){1}, s->n_ints);
}
static void poisson_loss_forward(dn_call *c) {
    for (int b = 0; b < c->n_ints; b++) {
        double x = c->x[0].v[(size_t)b * c->x[0].stride], k = c->ints[b];
        c->y[b] = (dn_real)(exp(x) + lgamma_of(k + 1) - (k == 0 ? 0 : k * x));
    }
}
/* dx = dy (exp x - k) */
static void poisson_loss_backward(dn_call *c) {
    dn_batch_grad to = dn__dx_by_element(c, 0, c->n_ints);
    while (dn__next_zeroed(&to)) {
        const double x = c->x[0].v[to.b * c->x[0].stride];
        to.dx[0] += c->dy[to.b] * (dn_real)(exp(x) - c->ints[to.b]);
    }
}
