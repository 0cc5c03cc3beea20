/* Functions of one input, element by element. */
#include "kernels/each.h"
#include "op.h"

/* The rows that differ in nothing but a kernel: y = f(x); dx = dy f'(x), with f' told from x or
 * from y. */
#define ELEMENTWISE(NAME, KNOWN, FORMULA) \
    DN_OP(NAME, 1, DN_BATCHES, FORMULA) \
    static int NAME##_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; } \
    static void NAME##_forward(dn_call *c) { dn__each(dn__##NAME, c->total, c->x[0].v, c->y); } \
    static void NAME##_backward(dn_call *c) { \
        dn_grad g = dn__dx(c, 0); \
        if (g.dx) dn__each_grad(dn__##NAME##_grad, c->total, KNOWN, c->dy, g.beta, g.dx); \
    }

ELEMENTWISE(tanh, c->y, "y_i = tanh x_i")
ELEMENTWISE(logistic, c->y, "y_i = 1 / (1 + exp(-x_i))")
ELEMENTWISE(rectify, c->y, "y_i = max(0, x_i)")
ELEMENTWISE(exp, c->y, "y_i = exp x_i")
ELEMENTWISE(log, c->x[0].v, "y_i = log x_i")
ELEMENTWISE(square, c->x[0].v, "y_i = x_i^2")
ELEMENTWISE(abs, c->x[0].v, "y_i = |x_i|")
ELEMENTWISE(sin, c->x[0].v, "y_i = sin x_i")
ELEMENTWISE(cos, c->x[0].v, "y_i = cos x_i")
ELEMENTWISE(tan, c->y, "y_i = tan x_i")
ELEMENTWISE(asin, c->x[0].v, "y_i = arcsin x_i")
ELEMENTWISE(acos, c->x[0].v, "y_i = arccos x_i")
ELEMENTWISE(atan, c->x[0].v, "y_i = arctan x_i")
ELEMENTWISE(sinh, c->x[0].v, "y_i = sinh x_i")
ELEMENTWISE(cosh, c->x[0].v, "y_i = cosh x_i")
ELEMENTWISE(asinh, c->x[0].v, "y_i = arsinh x_i")
ELEMENTWISE(acosh, c->x[0].v, "y_i = arcosh x_i")
ELEMENTWISE(atanh, c->x[0].v, "y_i = artanh x_i")
ELEMENTWISE(sqrt, c->y, "y_i = sqrt x_i")
ELEMENTWISE(cube, c->x[0].v, "y_i = x_i^3")
ELEMENTWISE(erf, c->x[0].v, "y_i = 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x_i")
ELEMENTWISE(lgamma, c->x[0].v, "y_i = log |gamma(x_i)|")
ELEMENTWISE(log_sigmoid, c->x[0].v, "y_i = -log(1 + exp(-x_i))")
ELEMENTWISE(softsign, c->x[0].v, "y_i = x_i / (1 + |x_i|)")
ELEMENTWISE(gelu, c->x[0].v, "y_i = x_i Phi(x_i), Phi the distribution function of N(0, 1)")
ELEMENTWISE(gelu_tanh, c->x[0].v, "y_i = x_i (1 + tanh(sqrt(2 / pi) (x_i + 0.044715 x_i^3))) / 2")

/* ---- with a number beside the input: floats[0] ---------------------------------------- */

DN_OP(elu, 1, DN_BATCHES, "y_i = x_i where x_i > 0, else alpha (exp(x_i) - 1)")
static int elu_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void elu_forward(dn_call *c) {
    dn__elu(c->total, 1, (dn_real)c->floats[0], c->x[0].v, c->y);
}
static void elu_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__elu_grad(c->total, 1, (dn_real)c->floats[0], c->x[0].v, c->dy, g.beta, g.dx);
}

/* Klambauer and others 2017: the numbers for which mean 0 and variance 1 are kept. */
static const dn_real SELU_SCALE = (dn_real)1.0507009873554804934,
                     SELU_ALPHA = (dn_real)1.6732632423543772848;

DN_OP(selu, 1, DN_BATCHES, "y_i = 1.0507 (x_i where x_i > 0, else 1.67326 (exp(x_i) - 1))")
static int selu_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void selu_forward(dn_call *c) { dn__elu(c->total, SELU_SCALE, SELU_ALPHA, c->x[0].v, c->y); }
static void selu_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__elu_grad(c->total, SELU_SCALE, SELU_ALPHA, c->x[0].v, c->dy, g.beta, g.dx);
}

DN_OP(silu, 1, DN_BATCHES, "y_i = x_i / (1 + exp(-beta x_i))")
static int silu_dims(dn_shape *s) { return (s->y = *s->x[0]), 0; }
static void silu_forward(dn_call *c) { dn__silu(c->total, (dn_real)c->floats[0], c->x[0].v, c->y); }
static void silu_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__silu_grad(c->total, (dn_real)c->floats[0], c->x[0].v, c->dy, g.beta, g.dx);
}
