/* Random draws: each a function of (seed, stream, counter, node, element), whatever the order of
 * evaluation; or, where the graph has a generator, DyNet's draws, in the order of evaluation. */
#include "kernels/kernels.h"
#include "rng.h"
#include "axis.h"

/* Draws are float32 in both builds: fill y with f(key, first, n, ...) through a buffer where
 * dn_real is double. */
enum { BLOCK = 1024 };
static void widen(size_t n, const float *x, dn_real *y) {
    for (size_t i = 0; i < n; i++) y[i] = x[i];
}

/* ---- dropout: floats[0] is the rate; saved: one number of the mask for each element, line or
 * batch element */

static int dropout_rate(dn_shape *s) {
    if (!(s->floats[0] >= 0 && s->floats[0] <= 1))
        return dn__fail(s, DN_ERROR_VALUE, "the dropout rate must lie in [0, 1]; got p = %.*g.",
                        DIGITS(s->floats[0]));
    s->y = *s->x[0];
    return 0;
}
/* y_j = scale with probability p, else 0, for j < count */
static void draw_bernoulli(const dn_call *c, size_t count, float p, float scale, dn_real *y) {
    dn_rng *generator = dn__generator(c);
    dn_rng_key key;
    float buffer[BLOCK];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < count; i += BLOCK) {
        size_t n = count - i < BLOCK ? count - i : BLOCK;
        if (generator) dn_rng_bernoulli(generator, n, p, scale, buffer);
        else dn_draw_bernoulli_mask(&key, i, n, p, scale, buffer);
        widen(n, buffer, y + i);
    }
}
/* saved_j = 1 / (1 - p) with probability 1 - p, else 0, for j < count */
static void draw_dropout_mask(dn_call *c, size_t count) {
    float keep = 1 - (float)c->floats[0];
    draw_bernoulli(c, count, keep, keep > 0 ? 1 / keep : 0, c->saved);
}

DN_OP(dropout, 1, DN_BATCHES | DN_RANDOM,
      "y_i = x_i m_i; m_i = 1 / (1 - p) with probability 1 - p, else 0")
static int dropout_dims(dn_shape *s) {
    int error = dropout_rate(s);
    if (!error) s->saved = dn__elements(&s->y);
    return error;
}
static void dropout_forward(dn_call *c) {
    draw_dropout_mask(c, c->total);
    dn__mul(c->total, c->x[0].v, c->saved, c->y);
}
static void dropout_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__mul_add(c->total, c->dy, c->saved, g.beta, g.dx);
}

/* to = x m + beta to, where m is the same along each vector of dim ints[0] */
static void multiply_vectors(const dn_call *c, const dn_real *x, dn_real beta, dn_real *to) {
    dn_axis l = dn__axis_of(c->dim, c->ints[0]);
    size_t length = (size_t)l.length, block = l.inner * length;
    for (size_t o = 0; o < l.outer; o++) {
        const dn_real *mask = c->saved + o * l.inner;
        if (l.inner == 1) dn__axpy(length, mask[0], x + o * block, beta, to + o * block);
        else
            for (size_t at = o * block; at < (o + 1) * block; at += l.inner)
                dn__mul_add(l.inner, x + at, mask, beta, to + at);
    }
}

DN_OP(dropout_dim, 1, DN_BATCHES | DN_RANDOM,
      "y = x m, m the same along dim d; 1 / (1 - p) with probability 1 - p, else 0")
static int dropout_dim_dims(dn_shape *s) {
    int error = dn__check_dim(s, s->ints[0]);
    if (!error) error = dropout_rate(s);
    if (!error) {
        dn_axis l = dn__axis_of(&s->y, s->ints[0]);
        s->saved = s->y.size ? l.inner * l.outer : 0;
    }
    return error;
}
static void dropout_dim_forward(dn_call *c) {
    dn_axis l = dn__axis_of(c->dim, c->ints[0]);
    if (!c->total) return;
    draw_dropout_mask(c, l.inner * l.outer);
    multiply_vectors(c, c->x[0].v, 0, c->y);
}
static void dropout_dim_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx && c->total) multiply_vectors(c, c->dy, g.beta, g.dx);
}

DN_OP(dropout_batch, 1, DN_BATCHES | DN_RANDOM,
      "y_b = x_b m_b; m_b = 1 / (1 - p) with probability 1 - p, else 0, for each batch element b")
static int dropout_batch_dims(dn_shape *s) {
    int error = dropout_rate(s);
    if (!error) s->saved = (size_t)s->y.batch;
    return error;
}
static void dropout_batch_forward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    draw_dropout_mask(c, (size_t)c->dim->batch);
    for (int b = 0; b < c->dim->batch; b++)
        dn__axpy(n, c->saved[b], c->x[0].v + (size_t)b * n, 0, c->y + (size_t)b * n);
}
static void dropout_batch_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    size_t n = (size_t)c->dim->size;
    for (int b = 0; g.dx && b < c->dim->batch; b++)
        dn__axpy(n, c->saved[b], c->dy + (size_t)b * n, g.beta, g.dx + (size_t)b * n);
}

/* ---- noise: floats[0] is the standard deviation --------------------------------------- */

DN_OP(noise, 1, DN_BATCHES | DN_RANDOM, "y_i = x_i + a draw from N(0, std^2)")
static int noise_dims(dn_shape *s) {
    if (!(s->floats[0] >= 0))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the standard deviation must not be negative; got stddev = %.*g.",
                        DIGITS(s->floats[0]));
    s->y = *s->x[0];
    return 0;
}
static void noise_forward(dn_call *c) {
    dn_rng *generator = dn__generator(c);
    dn_rng_key key;
    float buffer[BLOCK];
    dn_real stddev = (dn_real)c->floats[0];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < c->total; i += BLOCK) {
        size_t n = c->total - i < BLOCK ? c->total - i : BLOCK;
        if (generator) dn_rng_normal(generator, n, 0, 1, buffer);
        else dn_draw_normal(&key, i, n, buffer);
        for (size_t j = 0; j < n; j++) c->y[i + j] = c->x[0].v[i + j] + stddev * buffer[j];
    }
}
static void noise_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, 1, c->dy, g.beta, g.dx);
}

/* ---- random inputs: ints = batch, sizes... -------------------------------------------- */

static int random_dims(dn_shape *s) {
    return dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]);
}
typedef void keyed_draw(const dn_rng_key *, size_t first, size_t n, float *out);
typedef void next_draw(dn_rng *, size_t n, float a, float b, float *out);
/* y = keyed a + b, or what `next` gives with its own a and b */
static void random_forward(dn_call *c, keyed_draw *keyed, double a, double b, next_draw *next,
                           double next_a, double next_b) {
    dn_rng *generator = dn__generator(c);
    dn_rng_key key;
    float buffer[BLOCK];
    dn__draw_key(c, &key);
    for (size_t i = 0; i < c->total; i += BLOCK) {
        size_t n = c->total - i < BLOCK ? c->total - i : BLOCK;
        if (generator) next(generator, n, (float)next_a, (float)next_b, buffer);
        else keyed(&key, i, n, buffer);
        widen(n, buffer, c->y + i);
    }
    if (!generator) dn__affine(c->total, (dn_real)a, (dn_real)b, c->y, c->y);
}

DN_OP(random_normal, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i drawn from N(mean, std^2)")
static int random_normal_dims(dn_shape *s) { return random_dims(s); }
static void random_normal_forward(dn_call *c) {
    random_forward(c, dn_draw_normal, c->floats[1], c->floats[0], dn_rng_normal, c->floats[0],
                   c->floats[1]);
}
static void random_normal_backward(dn_call *c) { (void)c; }

DN_OP(random_uniform, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM, "y_i drawn evenly from [left, right)")
static int random_uniform_dims(dn_shape *s) { return random_dims(s); }
static void random_uniform_forward(dn_call *c) {
    random_forward(c, dn_draw_uniform, c->floats[1] - c->floats[0], c->floats[0], dn_rng_uniform,
                   c->floats[0], c->floats[1]);
}
static void random_uniform_backward(dn_call *c) { (void)c; }

DN_OP(random_bernoulli, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM,
      "y_i = scale with probability p, else 0")
static int random_bernoulli_dims(dn_shape *s) {
    if (!(s->floats[0] >= 0 && s->floats[0] <= 1))
        return dn__fail(s, DN_ERROR_VALUE, "the probability must lie in [0, 1]; got p = %.*g.",
                        DIGITS(s->floats[0]));
    return random_dims(s);
}
static void random_bernoulli_forward(dn_call *c) {
    draw_bernoulli(c, c->total, (float)c->floats[0], (float)c->floats[1], c->y);
}
static void random_bernoulli_backward(dn_call *c) { (void)c; }

/* -log(-log u) with u in (0, 1) */
DN_OP(random_gumbel, 0, DN_LEAF | DN_NO_GRAD | DN_RANDOM,
      "y_i = mu - beta log(-log u_i), u_i drawn evenly from (0, 1)")
static int random_gumbel_dims(dn_shape *s) { return random_dims(s); }
static void draw_gumbel(const dn_rng_key *key, size_t first, size_t n, float *out) {
    dn_draw_uniform(key, first, n, out);
    dn__gumbel(n, out);
}
static void next_gumbel(dn_rng *generator, size_t n, float mu, float beta, float *out) {
    dn_rng_gumbel(generator, n, out);
    for (size_t i = 0; i < n; i++) out[i] = out[i] * beta + mu;
}
static void random_gumbel_forward(dn_call *c) {
    random_forward(c, draw_gumbel, c->floats[1], c->floats[0], next_gumbel, c->floats[0],
                   c->floats[1]);
}
static void random_gumbel_backward(dn_call *c) { (void)c; }
