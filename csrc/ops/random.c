/* Random draws: each a function of (seed, stream, counter, node, element), whatever the order of evaluation. */
#include "../kernels/kernels.h"
#include "../op.h"
#include "../rng.h"

/* Draws are float32 in both builds: fill y with f(key, first, n, ...) through a buffer where dn_real is double. */
enum { BLOCK = 1024 };
static void widen(size_t n, const float *x, dn_real *y) {
    for (size_t i = 0; i < n; i++) y[i] = x[i];
}

DN_OP(dropout, 1, DN_BATCHES | DN_RANDOM, "y_i = x_i m_i; m_i = 1 / (1 - p) with probability 1 - p, else 0")
static int dropout_dims(dn_shape *s) {
    if (!(s->reals[0] >= 0 && s->reals[0] <= 1))
        return dn__fail(s, DN_ERROR_VALUE, "the dropout rate must lie in [0, 1]; got p = %g.", s->reals[0]);
    s->y = *s->x[0];
    s->saved = (size_t)s->y.size * (size_t)s->y.batch;
    return 0;
}
static void dropout_mask(const dn_draw *key, size_t first, size_t n, double keep, float *out) {
    dn_draw_bernoulli_mask(key, first, n, (float)keep, keep > 0 ? (float)(1 / keep) : 0, out);
}
static void dropout_forward(dn_call *c) {
    dn_draw key;
    float buffer[BLOCK];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < c->total; i += BLOCK) {
        size_t n = c->total - i < BLOCK ? c->total - i : BLOCK;
        dropout_mask(&key, i, n, 1 - c->reals[0], buffer);
        widen(n, buffer, c->saved + i);
    }
    dn__mul(c->total, c->x[0].v, c->saved, c->y);
}
static void dropout_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__mul_add(c->total, c->dy, c->saved, g.beta, g.dx);
}

/* ---- random inputs: ints = batch, sizes... ---------------------------------------------------------------------------------- */

static int random_dims(dn_shape *s) { return dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]); }
static void random_forward(dn_call *c, void (*f)(const dn_draw *, size_t, size_t, float *), dn_real a, dn_real b) {
    dn_draw key;
    float buffer[BLOCK];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < c->total; i += BLOCK) {
        size_t n = c->total - i < BLOCK ? c->total - i : BLOCK;
        f(&key, i, n, buffer);
        widen(n, buffer, c->y + i);
    }
    dn__affine(c->total, a, b, c->y, c->y);
}

DN_OP(random_normal, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i drawn from N(mean, std^2)")
static int random_normal_dims(dn_shape *s) { return random_dims(s); }
static void random_normal_forward(dn_call *c) { random_forward(c, dn_draw_normal, (dn_real)c->reals[1], (dn_real)c->reals[0]); }
static void random_normal_backward(dn_call *c) { (void)c; }

DN_OP(random_uniform, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i drawn evenly from [left, right)")
static int random_uniform_dims(dn_shape *s) { return random_dims(s); }
static void random_uniform_forward(dn_call *c) {
    random_forward(c, dn_draw_uniform, (dn_real)(c->reals[1] - c->reals[0]), (dn_real)c->reals[0]);
}
static void random_uniform_backward(dn_call *c) { (void)c; }

DN_OP(random_bernoulli, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i = scale with probability p, else 0")
static int random_bernoulli_dims(dn_shape *s) {
    if (!(s->reals[0] >= 0 && s->reals[0] <= 1))
        return dn__fail(s, DN_ERROR_VALUE, "the probability must lie in [0, 1]; got p = %g.", s->reals[0]);
    return random_dims(s);
}
static void random_bernoulli_forward(dn_call *c) {
    dn_draw key;
    float buffer[BLOCK];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < c->total; i += BLOCK) {
        size_t n = c->total - i < BLOCK ? c->total - i : BLOCK;
        dn_draw_bernoulli_mask(&key, i, n, (float)c->reals[0], (float)c->reals[1], buffer);
        widen(n, buffer, c->y + i);
    }
}
static void random_bernoulli_backward(dn_call *c) { (void)c; }

/* -log(-log u) with u in (0, 1) */
DN_OP(random_gumbel, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i = mu - beta log(-log u_i), u_i drawn evenly from (0, 1)")
static int random_gumbel_dims(dn_shape *s) { return random_dims(s); }
static void random_gumbel_forward(dn_call *c) {
    /* the middle of each of the 2^24 cells that u falls into: never 0, never 1 */
    random_forward(c, dn_draw_uniform, 1, (dn_real)0x1p-25);
    dn__log(c->total, c->y, c->y);
    dn__affine(c->total, -1, 0, c->y, c->y);
    dn__log(c->total, c->y, c->y);
    dn__affine(c->total, -(dn_real)c->reals[1], (dn_real)c->reals[0], c->y, c->y);
}
static void random_gumbel_backward(dn_call *c) { (void)c; }
