/* The LSTM's step in three nodes, as DyNet has them: gates, cell, output. Gates in the order i, f,
 * o, g, each of h numbers. */
#include "kernels/kernels.h"
#include "op.h"

/* ---- the gates from their pre-activations, W_x x + W_h h + b -------------------------- */

DN_OP(lstm_gates, 1, DN_BATCHES, "y = (logistic x_i, logistic(x_f + 1), logistic x_o, tanh x_g)")
static int lstm_gates_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (x->nd < 1 || x->size != x->d[0] || x->size % 4)
        return dn__fail(s, DN_ERROR_VALUE,
                        "the pre-activations must be a vector of 4 h numbers; got %s.", DIMS(x));
    return dn__set_dims(s, 1, x->d, x->batch);
}
static void lstm_gates_forward(dn_call *c) {
    size_t h = (size_t)c->dim->size / 4;
    for (size_t at = 0; at < c->total; at += 4 * h) {
        const dn_real *x = c->x[0].v + at;
        dn_real *y = c->y + at;
        dn__logistic(h, x, y);
        dn__affine(h, 1, 1, x + h, y + h);
        dn__logistic(h, y + h, y + h);
        dn__logistic(h, x + 2 * h, y + 2 * h);
        dn__tanh(h, x + 3 * h, y + 3 * h);
    }
}
static void lstm_gates_backward(dn_call *c) {
    size_t h = (size_t)c->dim->size / 4;
    dn_grad g = dn__dx(c, 0);
    for (size_t at = 0; g.dx && at < c->total; at += 4 * h) {
        dn__logistic_grad(3 * h, c->y + at, c->dy + at, g.beta, g.dx + at);
        dn__tanh_grad(h, c->y + at + 3 * h, c->dy + at + 3 * h, g.beta, g.dx + at + 3 * h);
    }
}

/* ---- cell and output: a state (h) and the gates (4 h) --------------------------------- */

static int state_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *gates = s->x[1];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (x->nd < 1 || x->size != x->d[0] || gates->nd < 1 || gates->size != gates->d[0] ||
        gates->size != 4 * (int64_t)x->size)
        return dn__fail(
            s, DN_ERROR_VALUE,
            "the state must be a vector (h,) and the gates (4 h,); got state = %s, gates = %s.",
            DIMS(x), DIMS(gates));
    return dn__set_dims(s, 1, x->d, batch);
}
enum { I, F, O, G };
static const dn_real *gate(const dn_call *c, int b, int which) {
    return c->x[1].v + (size_t)b * c->x[1].stride + (size_t)which * (size_t)c->dim->size;
}

DN_OP(vanilla_lstm_c, 2, DN_BATCHES, "c_t = f c_(t-1) + i g, from x_0 = c_(t-1) and the gates x_1")
static int vanilla_lstm_c_dims(dn_shape *s) { return state_dims(s); }
static void vanilla_lstm_c_forward(dn_call *c) {
    size_t h = (size_t)c->dim->size;
    for (int b = 0; b < c->dim->batch; b++) {
        dn__mul(h, gate(c, b, I), gate(c, b, G), c->y + (size_t)b * h);
        dn__mul_add(h, gate(c, b, F), c->x[0].v + (size_t)b * c->x[0].stride, 1,
                    c->y + (size_t)b * h);
    }
}
/* dc_(t-1) = dy f;  di = dy g, df = dy c_(t-1), do = 0, dg = dy i */
static void vanilla_lstm_c_backward(dn_call *c) {
    size_t h = (size_t)c->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_element(&to))
        dn__mul_add(h, c->dy + to.b * h, gate(c, to.b, F), to.beta, to.dx);
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to)) {
        const dn_real *dy = c->dy + to.b * h;
        dn_real beta = to.beta, *dx = to.dx;
        dn__mul_add(h, dy, gate(c, to.b, G), beta, dx);
        dn__mul_add(h, dy, c->x[0].v + to.b * c->x[0].stride, beta, dx + F * h);
        if (beta == 0) dn__fill(h, 0, dx + O * h);
        dn__mul_add(h, dy, gate(c, to.b, I), beta, dx + G * h);
    }
}

DN_OP(vanilla_lstm_h, 2, DN_BATCHES, "h_t = o tanh c_t, from x_0 = c_t and the gates x_1")
static int vanilla_lstm_h_dims(dn_shape *s) {
    int error = state_dims(s);
    s->saved = error ? 0 : dn__elements(s->x[0]); /* tanh c_t */
    return error;
}
static void vanilla_lstm_h_forward(dn_call *c) {
    size_t h = (size_t)c->dim->size;
    dn__tanh(h * (size_t)c->x[0].dim->batch, c->x[0].v, c->saved);
    for (int b = 0; b < c->dim->batch; b++)
        dn__mul(h, gate(c, b, O), c->saved + (size_t)b * c->x[0].stride, c->y + (size_t)b * h);
}
/* dc = dy o (1 - tanh(c)^2);  do = dy tanh c, di = df = dg = 0 */
static void vanilla_lstm_h_backward(dn_call *c) {
    size_t h = (size_t)c->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    dn_real *do_ = to.count ? dn__scratch(c, h) : NULL;
    while (do_ && dn__next_element(&to)) {
        dn__mul(h, c->dy + to.b * h, gate(c, to.b, O), do_);
        dn__tanh_grad(h, c->saved + to.b * c->x[0].stride, do_, to.beta, to.dx);
    }
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to)) {
        dn_real beta = to.beta, *dx = to.dx;
        if (beta == 0) dn__fill(4 * h, 0, dx);
        dn__mul_add(h, c->dy + to.b * h, c->saved + to.b * c->x[0].stride, 1, dx + O * h);
    }
}
