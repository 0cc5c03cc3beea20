/* Operations whose gradient is not the derivative of their value: another factor, none, or that of
 * the identity ("straight through"). */
#include "kernels/kernels.h"
#include "axis.h"

/* ---- the value as it is: views -------------------------------------------------------- */

DN_OP(nobackprop, 1, DN_VIEW | DN_NO_GRAD, "y = x; no gradient goes back")
static int nobackprop_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void nobackprop_forward(dn_call *c) { c->y = (dn_real *)c->x[0].v; }
static void nobackprop_backward(dn_call *c) { (void)c; }

DN_OP(scale_gradient, 1, DN_VIEW, "y = x; dx = lambda dy")
static int scale_gradient_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void scale_gradient_forward(dn_call *c) { c->y = (dn_real *)c->x[0].v; }
static void scale_gradient_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, (dn_real)c->floats[0], c->dy, g.beta, g.dx);
}

/* ---- steps, whose derivative is 0: ints[0] = 1 sends the gradient of the identity instead  */

static void straight_through(dn_call *c) {
    if (!c->ints[0]) return;
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, 1, c->dy, g.beta, g.dx);
}

DN_OP(round, 1, DN_BATCHES, "y_i = the integer nearest to x_i, halves to the even one")
static int round_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void round_forward(dn_call *c) { dn__round(c->total, c->x[0].v, c->y); }
static void round_backward(dn_call *c) { straight_through(c); }

DN_OP(ceil, 1, DN_BATCHES, "y_i = the least integer >= x_i")
static int ceil_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void ceil_forward(dn_call *c) { dn__ceil(c->total, c->x[0].v, c->y); }
static void ceil_backward(dn_call *c) { straight_through(c); }

DN_OP(floor, 1, DN_BATCHES, "y_i = the greatest integer <= x_i")
static int floor_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void floor_forward(dn_call *c) { dn__floor(c->total, c->x[0].v, c->y); }
static void floor_backward(dn_call *c) { straight_through(c); }

/* ints: straight through, dim */
DN_OP(argmax, 1, DN_BATCHES, "y = 1 at the first maximum along dim d, else 0")
static int argmax_dims(dn_shape *s) {
    s->y = *s->x[0];
    return dn__check_dim(s, s->ints[1]);
}
static void argmax_forward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[1]);
    size_t block = l.inner * (size_t)l.length;
    if (!c->total) return;
    dn_real *max = dn__scratch(c, l.inner);
    int32_t *which = dn__scratch_of(c, l.inner, sizeof *which);
    if (!max || !which) return;
    dn__fill(c->total, 0, c->y);
    for (size_t o = 0; o < l.outer; o++) {
        dn__max_along_axis((size_t)l.length, l.inner, c->x[0].v + o * block, max, which);
        for (size_t i = 0; i < l.inner; i++) c->y[o * block + (size_t)which[i] * l.inner + i] = 1;
    }
}
static void argmax_backward(dn_call *c) { straight_through(c); }
