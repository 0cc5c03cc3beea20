/* Functions of one input, element by element. */
#include <math.h>

#include "../kernels/kernels.h"
#include "../op.h"

/* The rows that differ in nothing but a kernel: y = f(x); dx = dy f'(x), with f' told from x or from y. */
#define ELEMENTWISE(NAME, KNOWN, FORMULA)                                                                \
    DN_OP(NAME, 1, DN_BATCHES, FORMULA)                                                                  \
    static int NAME##_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }                                 \
    static void NAME##_forward(dn_call *c) { dn__##NAME(c->total, c->x[0].v, c->y); }                    \
    static void NAME##_backward(dn_call *c) {                                                            \
        dn_grad g = dn__dx(c, 0);                                                                        \
        if (g.dx) dn__##NAME##_grad(c->total, KNOWN, c->dy, g.beta, g.dx);                               \
    }

ELEMENTWISE(tanh, c->y, "y_i = tanh x_i")
ELEMENTWISE(logistic, c->y, "y_i = 1 / (1 + exp(-x_i))")
ELEMENTWISE(rectify, c->y, "y_i = max(0, x_i)")
ELEMENTWISE(exp, c->y, "y_i = exp x_i")
ELEMENTWISE(log, c->x[0].v, "y_i = log x_i")
ELEMENTWISE(square, c->x[0].v, "y_i = x_i^2")
ELEMENTWISE(abs, c->x[0].v, "y_i = |x_i|")
