/* The softmax family. */
#include <string.h>

#include "../kernels/kernels.h"
#include "../op.h"

/* x seen along dim d: `outer` blocks of `inner` lines, each of `length` numbers that lie `inner` apart. */
typedef struct lines { int length; size_t inner, outer; } lines;
static lines lines_of(const dn_dim *x, int d) {
    lines l = {d < x->nd ? x->d[d] : 1, 1, (size_t)x->batch};
    for (int i = 0; i < x->nd; i++) {
        if (i < d) l.inner *= (size_t)x->d[i];
        if (i > d) l.outer *= (size_t)x->d[i];
    }
    return l;
}
static void read_line(const lines *l, const dn_real *x, dn_real *line) {
    for (int i = 0; i < l->length; i++) line[i] = x[(size_t)i * l->inner];
}
static void write_line(const lines *l, const dn_real *line, dn_real *y) {
    for (int i = 0; i < l->length; i++) y[(size_t)i * l->inner] = line[i];
}
/* ints[0] is the dim; counted from the end when negative was resolved by the caller */
static int along_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (s->ints[0] < 0 || (s->ints[0] >= x->nd && s->ints[0] > 0))
        return dn__fail(s, DN_ERROR_VALUE, "dim %d is not a dim of x = %s.", s->ints[0], DIMS(x));
    s->y = *x;
    return 0;
}
/* y = f(x), line by line */
static void along_forward(dn_call *c, void (*f)(const dn_real *, int, dn_real *)) {
    lines l = lines_of(c->x[0].dim, c->ints[0]);
    dn_real *line = l.inner > 1 ? dn__scratch(c, (size_t)l.length) : NULL;
    if (l.inner > 1 && !line) return;
    for (size_t o = 0; o < l.outer; o++)
        for (size_t i = 0; i < l.inner; i++) {
            size_t at = o * l.inner * (size_t)l.length + i;
            if (!line) {
                f(c->x[0].v + at, l.length, c->y + at);
                continue;
            }
            read_line(&l, c->x[0].v + at, line);
            f(line, l.length, line);
            write_line(&l, line, c->y + at);
        }
}
/* dx = f(y, dy) + beta dx, line by line */
static void along_backward(dn_call *c, void (*f)(const dn_real *, const dn_real *, int, dn_real, dn_real *)) {
    dn_grad g = dn__dx(c, 0);
    if (!g.dx) return;
    lines l = lines_of(c->x[0].dim, c->ints[0]);
    size_t n = (size_t)l.length;
    dn_real *buffer = l.inner > 1 ? dn__scratch(c, 3 * n) : NULL;
    if (l.inner > 1 && !buffer) return;
    for (size_t o = 0; o < l.outer; o++)
        for (size_t i = 0; i < l.inner; i++) {
            size_t at = o * l.inner * n + i;
            if (!buffer) {
                f(c->y + at, c->dy + at, l.length, g.beta, g.dx + at);
                continue;
            }
            read_line(&l, c->y + at, buffer);
            read_line(&l, c->dy + at, buffer + n);
            if (g.beta != 0) read_line(&l, g.dx + at, buffer + 2 * n);
            f(buffer, buffer + n, l.length, g.beta, buffer + 2 * n);
            write_line(&l, buffer + 2 * n, g.dx + at);
        }
}

DN_OP(softmax, 1, DN_BATCHES, "y = exp(x) / sum exp(x) along dim d")
static int softmax_dims(dn_shape *s) { return along_dims(s); }
static void softmax_line(const dn_real *x, int n, dn_real *y) { dn__softmax((size_t)n, x, y); }
static void softmax_forward(dn_call *c) { along_forward(c, softmax_line); }
/* dx = y (dy - <y, dy>) */
static void softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta, dn_real *dx) {
    dn__softmax_grad((size_t)n, y, dy, beta, dx);
}
static void softmax_backward(dn_call *c) { along_backward(c, softmax_line_grad); }

DN_OP(log_softmax, 1, DN_BATCHES, "y = x - log sum exp(x) along dim d")
static int log_softmax_dims(dn_shape *s) { return along_dims(s); }
static void log_softmax_line(const dn_real *x, int n, dn_real *y) {
    dn_lse lse = dn__logsumexp((size_t)n, x);
    dn__affine((size_t)n, 1, -lse.max, x, y);
    dn__affine((size_t)n, 1, -lse.log_sum, y, y);
}
static void log_softmax_forward(dn_call *c) { along_forward(c, log_softmax_line); }
/* dx = dy - exp(y) sum dy */
static void log_softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta, dn_real *dx) {
    dn_real sum = dn__sum((size_t)n, dy);
    dn__axpy((size_t)n, 1, dy, beta, dx);
    dn__softmax_from_lse((size_t)n, y, (dn_lse){0, 0}, -sum, 1, dx);
}
static void log_softmax_backward(dn_call *c) { along_backward(c, log_softmax_line_grad); }

/* ---- losses on one chosen entry -------------------------------------------------------------------------------------- */

/* One id per batch element. x is a vector; unbatched, it serves all ids. */
static int picked_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int n = x->nd ? x->d[0] : 1;
    if (x->size != n) return dn__fail(s, DN_ERROR_VALUE, "x must be a vector; got x = %s.", DIMS(x));
    if (s->n_ints != x->batch && x->batch != 1)
        return dn__fail(s, DN_ERROR_VALUE, "takes one index per batch element; got %d indices, x = %s.", s->n_ints, DIMS(x));
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= n)
            return dn__fail(s, DN_ERROR_VALUE, "index %d is outside x = %s. Indices run from 0 to %d.", s->ints[i], DIMS(x), n - 1);
    return dn__set_dims(s, 1, (int[]){1}, s->n_ints);
}

DN_OP(pickneglogsoftmax, 1, DN_BATCHES, "y = log sum exp(x) - x_v")
static int pickneglogsoftmax_dims(dn_shape *s) {
    s->saved = 2 * (size_t)s->x[0]->batch; /* log sum exp of each batch element, a dn_lse */
    return picked_dims(s);
}
static void pickneglogsoftmax_forward(dn_call *c) {
    const dn_in *x = &c->x[0];
    size_t n = (size_t)x->dim->size;
    dn_lse *lse = (dn_lse *)c->saved;
    for (int b = 0; b < x->dim->batch; b++) lse[b] = dn__logsumexp(n, x->v + (size_t)b * n);
    for (int b = 0; b < c->n_ints; b++) {
        const dn_lse *l = &lse[x->stride ? b : 0];
        c->y[b] = l->max - x->v[(size_t)b * x->stride + (size_t)c->ints[b]] + l->log_sum;
    }
}
/* dx = dy (softmax(x) - onehot(v)) */
static void pickneglogsoftmax_backward(dn_call *c) {
    const dn_in *x = &c->x[0];
    const dn_lse *lse = (const dn_lse *)c->saved;
    size_t n = (size_t)x->dim->size;
    dn_grad g = dn__dx(c, 0);
    if (!g.dx) return;
    if (x->stride) {
        for (int b = 0; b < c->n_ints; b++)
            dn__softmax_from_lse(n, x->v + (size_t)b * n, lse[b], c->dy[b], g.beta, g.dx + (size_t)b * n);
    } else {
        dn__softmax_from_lse(n, x->v, lse[0], dn__sum((size_t)c->n_ints, c->dy), g.beta, g.dx);
    }
    for (int b = 0; b < c->n_ints; b++) g.dx[(size_t)b * x->stride + (size_t)c->ints[b]] -= c->dy[b];
}

DN_OP(hinge, 1, DN_BATCHES, "y = sum over j != v of max(0, m - x_v + x_j)")
static int hinge_dims(dn_shape *s) {
    if (!(s->reals[0] >= 0)) return dn__fail(s, DN_ERROR_VALUE, "the margin must not be negative; got m = %g.", s->reals[0]);
    return picked_dims(s);
}
static void hinge_forward(dn_call *c) {
    const dn_in *x = &c->x[0];
    dn_real m = (dn_real)c->reals[0];
    for (int b = 0; b < c->n_ints; b++) {
        const dn_real *v = x->v + (size_t)b * x->stride;
        dn_real limit = m - v[c->ints[b]], sum = 0;
        for (int j = 0; j < x->dim->size; j++) sum += j != c->ints[b] && limit + v[j] > 0 ? limit + v[j] : 0;
        c->y[b] = sum;
    }
}
/* each j beyond the margin: dx_j += dy, dx_v -= dy */
static void hinge_backward(dn_call *c) {
    const dn_in *x = &c->x[0];
    dn_real m = (dn_real)c->reals[0], *dx = dn__dx_zeroed(c, 0);
    for (int b = 0; dx && b < c->n_ints; b++) {
        const dn_real *v = x->v + (size_t)b * x->stride;
        dn_real *d = dx + (size_t)b * x->stride, limit = m - v[c->ints[b]];
        for (int j = 0; j < x->dim->size; j++)
            if (j != c->ints[b] && limit + v[j] > 0) {
                d[j] += c->dy[b];
                d[c->ints[b]] -= c->dy[b];
            }
    }
}
