/* Sums, means, moments and deviations: over elements, over the batch, over dims; norms; running
 * sums. */
#include <math.h>

#include "kernels/kernels.h"
#include "axis.h"

static int one_number_dims(dn_shape *s) { return dn__set_dims(s, 1, (int[]){1}, s->x[0]->batch); }

/* y_b = a sum_i x_bi;  dx_bi = a dy_b */
static void elements_forward(dn_call *c, dn_real a) {
    size_t n = (size_t)c->x[0].dim->size;
    for (int b = 0; b < c->dim->batch; b++) c->y[b] = a * dn__sum(n, c->x[0].v + (size_t)b * n);
}
static void elements_backward(dn_call *c, dn_real a) {
    dn_grad g = dn__dx(c, 0);
    size_t n = (size_t)c->x[0].dim->size;
    for (int b = 0; g.dx && b < c->dim->batch; b++) {
        dn_real *dx = g.dx + (size_t)b * n;
        if (g.beta == 0) dn__fill(n, a * c->dy[b], dx);
        else dn__affine(n, 1, a * c->dy[b], dx, dx);
    }
}

DN_OP(sum_elems, 1, DN_BATCHES, "y = sum x_i")
static int sum_elems_dims(dn_shape *s) { return one_number_dims(s); }
static void sum_elems_forward(dn_call *c) { elements_forward(c, 1); }
static void sum_elems_backward(dn_call *c) { elements_backward(c, 1); }

DN_OP(mean_elems, 1, DN_BATCHES, "y = sum x_i / n")
static int mean_elems_dims(dn_shape *s) { return one_number_dims(s); }
static void mean_elems_forward(dn_call *c) {
    elements_forward(c, (dn_real)1 / (dn_real)c->x[0].dim->size);
}
static void mean_elems_backward(dn_call *c) {
    elements_backward(c, (dn_real)1 / (dn_real)c->x[0].dim->size);
}

/* y = a sum_b x_b;  dx_b = a dy */
static int over_batch_dims(dn_shape *s) { return dn__set_dims(s, s->x[0]->nd, s->x[0]->d, 1); }
static void over_batch_forward(dn_call *c, dn_real a) {
    const dn_dim *x = c->x[0].dim;
    if (x->batch == 1) {
        dn__axpy(c->total, a, c->x[0].v, 0, c->y);
        return;
    }
    dn__sum_columns(x->size, x->batch, c->x[0].v, 0, c->y);
    if (a != 1) dn__axpy(c->total, a, c->y, 0, c->y);
}
static void over_batch_backward(dn_call *c, dn_real a) {
    dn_grad g = dn__dx(c, 0);
    for (int b = 0; g.dx && b < c->x[0].dim->batch; b++)
        dn__axpy(c->total, a, c->dy, g.beta, g.dx + (size_t)b * c->total);
}

DN_OP(sum_batches, 1, 0, "y = sum over the batch of x_b")
static int sum_batches_dims(dn_shape *s) { return over_batch_dims(s); }
static void sum_batches_forward(dn_call *c) { over_batch_forward(c, 1); }
static void sum_batches_backward(dn_call *c) { over_batch_backward(c, 1); }

DN_OP(mean_batches, 1, 0, "y = sum over the batch of x_b / batch size")
static int mean_batches_dims(dn_shape *s) { return over_batch_dims(s); }
static void mean_batches_forward(dn_call *c) {
    over_batch_forward(c, (dn_real)1 / (dn_real)c->x[0].dim->batch);
}
static void mean_batches_backward(dn_call *c) {
    over_batch_backward(c, (dn_real)1 / (dn_real)c->x[0].dim->batch);
}

/* ---- norms ---------------------------------------------------------------------------- */

/* dx = a_b x_b with a_b = factor(dy_b, y_b) */
static void norm_backward(dn_call *c, dn_real (*factor)(dn_real dy, dn_real y)) {
    dn_grad g = dn__dx(c, 0);
    size_t n = (size_t)c->x[0].dim->size;
    for (int b = 0; g.dx && b < c->dim->batch; b++)
        dn__axpy(n, factor(c->dy[b], c->y[b]), c->x[0].v + (size_t)b * n, g.beta,
                 g.dx + (size_t)b * n);
}
static void norm_forward(dn_call *c) {
    size_t n = (size_t)c->x[0].dim->size;
    for (int b = 0; b < c->dim->batch; b++)
        c->y[b] = dn__dot(n, c->x[0].v + (size_t)b * n, c->x[0].v + (size_t)b * n);
}

DN_OP(squared_norm, 1, DN_BATCHES, "y = sum x_i^2")
static int squared_norm_dims(dn_shape *s) { return one_number_dims(s); }
static void squared_norm_forward(dn_call *c) { norm_forward(c); }
static dn_real squared_norm_factor(dn_real dy, dn_real y) { return (void)y, 2 * dy; }
static void squared_norm_backward(dn_call *c) { norm_backward(c, squared_norm_factor); }

DN_OP(l2_norm, 1, DN_BATCHES, "y = sqrt sum x_i^2")
static int l2_norm_dims(dn_shape *s) { return one_number_dims(s); }
static void l2_norm_forward(dn_call *c) {
    norm_forward(c);
    for (size_t b = 0; b < c->total; b++) c->y[b] = (dn_real)sqrt(c->y[b]);
}
/* dx = dy x / y; at 0, where there is no derivative, 0 */
static dn_real l2_norm_factor(dn_real dy, dn_real y) { return y == 0 ? 0 : dy / y; }
static void l2_norm_backward(dn_call *c) { norm_backward(c, l2_norm_factor); }

/* ---- running sums: ints[0] is the dim; one above the last has size 1 and leaves x as it is  */

DN_OP(cumsum, 1, DN_BATCHES, "y_i = x_0 + ... + x_i along dim d")
static int cumsum_dims(dn_shape *s) {
    s->y = *s->x[0];
    return s->ints[0] == s->x[0]->nd ? 0 : dn__check_dim(s, s->ints[0]);
}
static void cumsum_forward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    size_t length = (size_t)l.length, block = l.inner * length;
    for (size_t o = 0; c->total && o < l.outer; o++)
        dn__cumsum(length, l.inner, c->x[0].v + o * block, c->y + o * block);
}
/* dx_i = dy_i + dy_(i+1) + ... */
static void cumsum_backward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    size_t length = (size_t)l.length, block = l.inner * length;
    dn_grad g = dn__dx(c, 0);
    if (!g.dx || !c->total) return;
    for (size_t o = 0; o < l.outer; o++)
        dn__cumsum_grad(length, l.inner, c->dy + o * block, g.beta, g.dx + o * block);
}
