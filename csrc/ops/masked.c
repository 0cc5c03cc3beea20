/* Softmax over part of the entries, and cross entropies: what padded batches need. A mask is 0
 * where an entry does not count; no gradient goes to it, and what stands at such a place (NaN
 * included) does no harm. */
#include <math.h>

#include "broadcast.h"
#include "along_axis.h"
#include "kernels/kernels.h"

/* x_0 and a mask that is repeated over it; ints[0]: the dim */
static int masked_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *mask = s->x[1];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    for (int i = 0; i < DN_MAX_DIMS; i++)
        if (size_of(mask, i) != size_of(x, i) && size_of(mask, i) != 1)
            return dn__fail(s, DN_ERROR_VALUE,
                            "sizes of the mask must be those of x or 1, counted from the first; "
                            "got x = %s, mask = %s.",
                            DIMS(x), DIMS(mask));
    int error = dn__check_dim(s, s->ints[0]);
    return error ? error : dn__set_dims(s, x->nd, x->d, batch);
}

static void keep_segment(const dn_segment *s) {
    if (s->sx == 1 && s->sy == 1) dn__keep(s->n, s->x, s->y, s->z);
    else
        for (size_t i = 0; i < s->n; i++)
            s->z[i] = s->y[i * s->sy] != 0 ? s->x[i * s->sx] : -(dn_real)INFINITY;
}
/* y = f(x where the mask is not 0, else -inf) */
static void masked_forward(dn_call *c, const dn_along *of) {
    dn_broadcast_plan p = make_broadcast_plan(c->x[0].dim, c->x[1].dim);
    for_segments(&p, c->x[0].v, c->x[1].v, NULL, NULL, c->y, keep_segment);
    dn_axis l = dn__axis_of(c->dim, c->ints[0]);
    dn__map_axis(c, &l, c->y, c->y, of);
}
static void masked_backward(dn_call *c, const dn_along *of) {
    dn_axis l = dn__axis_of(c->dim, c->ints[0]);
    size_t n = (size_t)c->dim->size;
    if (c->x[0].stride || c->dim->batch == 1) {
        const dn_grad g = dn__dx(c, 0);
        if (g.dx) dn__map_axis_grad(c, &l, c->y, c->dy, g.beta, g.dx, of);
        return;
    }
    l.outer /= (size_t)(c->dim->batch ? c->dim->batch : 1);
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_element(&to))
        dn__map_axis_grad(c, &l, c->y + to.b * n, c->dy + to.b * n, to.beta, to.dx, of);
}

DN_OP(masked_softmax, 2, DN_BATCHES,
      "y = exp(x) / sum exp(x) along dim d over the entries where the mask is not 0; 0 elsewhere")
static int masked_softmax_dims(dn_shape *s) { return masked_dims(s); }
static void masked_softmax_line(const dn_real *x, int n, dn_real *y) {
    dn__softmax_or_zeros((size_t)n, x, y);
}
/* dx = y (dy - <y, dy>) */
static void masked_softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta,
                                     dn_real *dx) {
    dn__softmax_grad((size_t)n, y, dy, beta, dx);
}
static const dn_along masked_softmax = {masked_softmax_line, masked_softmax_line_grad,
                                        dn__softmax_or_zeros_strided, dn__softmax_grad_strided};
static void masked_softmax_forward(dn_call *c) { masked_forward(c, &masked_softmax); }
static void masked_softmax_backward(dn_call *c) { masked_backward(c, &masked_softmax); }

DN_OP(masked_log_softmax, 2, DN_BATCHES,
      "y = x - log sum exp(x) along dim d over the entries where the mask is not 0; -inf elsewhere")
static int masked_log_softmax_dims(dn_shape *s) { return masked_dims(s); }
static void masked_log_softmax_line(const dn_real *x, int n, dn_real *y) {
    dn_lse lse = dn__logsumexp((size_t)n, x);
    if (lse.max == -(dn_real)INFINITY) dn__fill((size_t)n, lse.max, y);
    else dn__log_softmax((size_t)n, 1, x, lse, 0, y);
}
/* dx = dy - exp(y) sum dy, all over the entries that count: the others are -inf */
static void masked_log_softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta,
                                         dn_real *dx) {
    const dn_real masked = -(dn_real)INFINITY;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        dn_real d = y[i] == masked ? 0 : dy[i];
        sum += (double)d;
        dx[i] = d + (beta == 0 ? 0 : dx[i]);
    }
    dn__softmax_from_lse((size_t)n, y, (dn_lse){0, 0}, (dn_real)-sum, 1, dx);
}
static const dn_along masked_log_softmax = {.f = masked_log_softmax_line,
                                            .grad = masked_log_softmax_line_grad};
static void masked_log_softmax_forward(dn_call *c) { masked_forward(c, &masked_log_softmax); }
static void masked_log_softmax_backward(dn_call *c) { masked_backward(c, &masked_log_softmax); }

/* The same with a vector's entries named by ints, once or more often, for all batch elements: what
 * a few entries of a large vector cost does not grow with it. saved: how many different ones there
 * are, and their indices, as integers. */
DN_OP(restricted_log_softmax, 1, DN_BATCHES,
      "y = x - log sum exp(x) over the named entries of a vector; -inf elsewhere")
static int restricted_log_softmax_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (x->nd > 1) return dn__fail(s, DN_ERROR_VALUE, "x must be a vector; got x = %s.", DIMS(x));
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= x->size)
            return dn__fail(
                s, dn__bad_index(s->ints[i]),
                "index %d of restrict is outside dim 0 of x = %s. Indices run from 0 to %d.",
                s->ints[i], DIMS(x), x->size - 1);
    s->y = *x;
    s->saved = 1 + (size_t)s->n_ints;
    return 0;
}
static void restricted_log_softmax_forward(dn_call *c) {
    const dn_real none = -(dn_real)INFINITY;
    int *count = (int *)c->saved, *named = count + 1;
    dn_real *line = dn__scratch(c, (size_t)c->n_ints);
    dn__fill(c->total, none, c->y);
    if (!line) return;
    *count = 0;
    for (int k = 0; k < c->n_ints && c->total; k++) { /* marks those named so far in y */
        if (c->y[c->ints[k]] == 0) continue;
        c->y[c->ints[k]] = 0;
        named[(*count)++] = c->ints[k];
    }
    for (size_t at = 0; at < c->total; at += (size_t)c->dim->size) {
        const dn_real *x = c->x[0].v + at;
        dn_real *y = c->y + at;
        for (int k = 0; k < *count; k++) line[k] = x[named[k]];
        masked_log_softmax_line(line, *count, line);
        for (int k = 0; k < *count; k++) y[named[k]] = line[k];
    }
}
static void restricted_log_softmax_backward(dn_call *c) {
    const int count = *(const int *)c->saved, *named = (const int *)c->saved + 1;
    dn_grad g = dn__dx(c, 0);
    dn_real *y = g.dx ? dn__scratch(c, 3 * (size_t)count) : NULL;
    if (!y) return;
    dn_real *dy = y + count, *dx = dy + count;
    if (g.beta == 0) dn__fill(c->total, 0, g.dx);
    for (size_t at = 0; at < c->total; at += (size_t)c->dim->size) {
        for (int k = 0; k < count; k++)
            y[k] = c->y[at + (size_t)named[k]], dy[k] = c->dy[at + (size_t)named[k]];
        masked_log_softmax_line_grad(y, dy, count, 0, dx);
        for (int k = 0; k < count; k++) g.dx[at + (size_t)named[k]] += dx[k];
    }
}

/* ---- cross entropies ------------------------------------------------------------------ */

static int is_vector(const dn_dim *x) { return x->size == dn__rows_of(x); }

/* ints: one class per batch element; an unbatched x serves all. floats: the smoothing e. A second
 * input holds weights w, one number for each batch element or for all; where it is 0, y is 0
 * whatever x is, and nothing is computed. saved: log sum exp of each, a dn_lse. */
DN_OP(cross_entropy, -1, DN_BATCHES | DN_INTS_EACH,
      "y = log sum exp(x_0) - (1 - e) x_0v - e mean x_0, times the weight x_1 if there is one")
static int cross_entropy_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *w = s->x[s->n - 1];
    if (s->n > 2)
        return dn__fail(s, DN_ERROR_VALUE, "takes x and perhaps weights; got %d inputs.", s->n);
    if (!is_vector(x))
        return dn__fail(s, DN_ERROR_VALUE, "x must be a vector; got x = %s.", DIMS(x));
    if (s->n_ints != x->batch && x->batch != 1)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one class per batch element; got %d classes, x = %s.", s->n_ints,
                        DIMS(x));
    if (s->n == 2 && (w->size != 1 || (w->batch != 1 && w->batch != s->n_ints)))
        return dn__fail(s, DN_ERROR_VALUE,
                        "the mask must have one number per class; got %d classes, mask = %s.",
                        s->n_ints, DIMS(w));
    if (!(s->floats[0] >= 0 && s->floats[0] <= 1))
        return dn__fail(s, DN_ERROR_VALUE, "label_smoothing must lie in [0, 1]; got %.*g.",
                        DIGITS(s->floats[0]));
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= x->size)
            return dn__fail(s, dn__bad_index(s->ints[i]),
                            "class %d is outside x = %s. Classes run from 0 to %d.", s->ints[i],
                            DIMS(x), x->size - 1);
    s->saved = 2 * (size_t)s->n_ints;
    return dn__set_dims(s, 1, (int[]){1}, s->n_ints);
}
static dn_real weight_of(const dn_call *c, int b) {
    return c->n == 2 ? c->x[1].v[(size_t)b * c->x[1].stride] : 1;
}
static void cross_entropies(const void *call, size_t from, size_t count) {
    const dn_call *c = call;
    const dn_in *x = &c->x[0];
    size_t n = (size_t)x->dim->size;
    dn_real e = (dn_real)c->floats[0];
    dn_lse *lse = (dn_lse *)c->saved;
    for (int b = (int)from; b < (int)(from + count); b++) {
        const dn_real *v = x->v + (size_t)b * x->stride;
        dn_real w = weight_of(c, b), loss = 0;
        if (b && !x->stride) lse[b] = lse[0];
        else if (w != 0 || !x->stride) lse[b] = dn__logsumexp(n, v);
        /* a term of factor 0 is left out: x may be -inf there */
        if (w != 0 && e != 1) loss += (1 - e) * (lse[b].max - v[c->ints[b]] + lse[b].log_sum);
        if (w != 0 && e != 0) loss += e * dn__sum_neg_log_softmax(n, v, lse[b]) / (dn_real)n;
        c->y[b] = w == 0 ? 0 : w * loss;
    }
}
static void cross_entropy_forward(dn_call *c) {
    size_t n = (size_t)c->n_ints;
    if (!c->x[0].stride) cross_entropies(c, 0, n);
    else dn__parallel_ranges(n, WORK_IN_VECTOR * c->x[0].dim->size, 1, cross_entropies, c);
}
typedef struct cross_entropy_grads {
    const dn_call *c;
    dn_grad to;
} cross_entropy_grads;
/* dx = dy w (softmax(x) - (1 - e) onehot(v) - e / n), of batch element b */
static void add_cross_entropy(const dn_call *c, size_t b, dn_real beta, dn_real *dx) {
    const dn_in *x = &c->x[0];
    size_t n = (size_t)x->dim->size;
    dn_real e = (dn_real)c->floats[0], w = weight_of(c, (int)b), d = c->dy[b] * w;
    if (w == 0) {
        if (beta == 0) dn__fill(n, 0, dx);
        return;
    }
    dn__softmax_from_lse(n, x->v + b * x->stride, ((dn_lse *)c->saved)[b], d, beta, dx);
    if (e != 0) dn__affine(n, 1, -d * e / (dn_real)n, dx, dx);
    dx[c->ints[b]] -= (1 - e) * d;
}
static void add_cross_entropies(const void *context, size_t from, size_t count) {
    const cross_entropy_grads *g = context;
    for (size_t b = from; b < from + count; b++)
        add_cross_entropy(g->c, b, g->to.beta, g->to.dx + b * g->c->x[0].stride);
}
static void cross_entropy_backward(dn_call *c) {
    if (c->x[0].stride) {
        const cross_entropy_grads g = {c, dn__dx(c, 0)};
        if (g.to.dx)
            dn__parallel_ranges((size_t)c->n_ints, WORK_IN_VECTOR * c->x[0].dim->size, 1,
                                add_cross_entropies, &g);
        return;
    }
    dn_batch_grad to = dn__dx_by_element(c, 0, c->n_ints);
    while (dn__next_element(&to)) add_cross_entropy(c, to.b, to.beta, to.dx);
}

DN_OP(cross_entropy_soft, 2, DN_BATCHES, "y = sum x_1i (log sum exp(x_0) - x_0i)")
static int cross_entropy_soft_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (!is_vector(s->x[0]) || !dn__same_sizes(s->x[0], s->x[1]))
        return dn__fail(s, DN_ERROR_VALUE,
                        "x and the target distribution must be vectors of the same size; got x = "
                        "%s, target = %s.",
                        DIMS(s->x[0]), DIMS(s->x[1]));
    s->saved = 2 * (size_t)batch; /* log sum exp of each, a dn_lse */
    return dn__set_dims(s, 1, (int[]){1}, batch);
}
static void cross_entropy_soft_forward(dn_call *c) {
    const dn_in *x = &c->x[0], *t = &c->x[1];
    size_t n = (size_t)x->dim->size;
    dn_lse *lse = (dn_lse *)c->saved;
    for (int b = 0; b < c->dim->batch; b++) {
        lse[b] = dn__logsumexp(n, x->v + (size_t)b * x->stride);
        c->y[b] = dn__cross_entropy(n, t->v + (size_t)b * t->stride, x->v + (size_t)b * x->stride,
                                    lse[b]);
    }
}
/* dx = dy (softmax(x) sum t - t);  dt = dy (log sum exp(x) - x) */
static void cross_entropy_soft_backward(dn_call *c) {
    const dn_in *x = &c->x[0], *t = &c->x[1];
    const dn_lse *lse = (const dn_lse *)c->saved;
    size_t n = (size_t)x->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_element(&to)) {
        const dn_real *target = t->v + to.b * t->stride;
        dn__softmax_from_lse(n, x->v + to.b * x->stride, lse[to.b],
                             c->dy[to.b] * dn__sum(n, target), to.beta, to.dx);
        dn__axpy(n, -c->dy[to.b], target, 1, to.dx);
    }
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to))
        dn__log_softmax(n, -c->dy[to.b], x->v + to.b * x->stride, lse[to.b], to.beta, to.dx);
}
