/* Sums and means over elements, and over the batch. */
#include "../kernels/kernels.h"
#include "../op.h"

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
static void mean_elems_forward(dn_call *c) { elements_forward(c, (dn_real)1 / (dn_real)c->x[0].dim->size); }
static void mean_elems_backward(dn_call *c) { elements_backward(c, (dn_real)1 / (dn_real)c->x[0].dim->size); }

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
    for (int b = 0; g.dx && b < c->x[0].dim->batch; b++) dn__axpy(c->total, a, c->dy, g.beta, g.dx + (size_t)b * c->total);
}

DN_OP(sum_batches, 1, 0, "y = sum over the batch of x_b")
static int sum_batches_dims(dn_shape *s) { return over_batch_dims(s); }
static void sum_batches_forward(dn_call *c) { over_batch_forward(c, 1); }
static void sum_batches_backward(dn_call *c) { over_batch_backward(c, 1); }

DN_OP(mean_batches, 1, 0, "y = sum over the batch of x_b / batch size")
static int mean_batches_dims(dn_shape *s) { return over_batch_dims(s); }
static void mean_batches_forward(dn_call *c) { over_batch_forward(c, (dn_real)1 / (dn_real)c->x[0].dim->batch); }
static void mean_batches_backward(dn_call *c) { over_batch_backward(c, (dn_real)1 / (dn_real)c->x[0].dim->batch); }
