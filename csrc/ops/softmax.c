/* The softmax family. */
#include "kernels/kernels.h"
#include "along_axis.h"

DN_OP(softmax, 1, DN_BATCHES, "y = exp(x) / sum exp(x) along dim d")
static int softmax_dims(dn_shape *s) { return dn__along_dims(s); }
static void softmax_line(const dn_real *x, int n, dn_real *y) { dn__softmax((size_t)n, x, y); }
/* dx = y (dy - <y, dy>) */
static void softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta,
                              dn_real *dx) {
    dn__softmax_grad((size_t)n, y, dy, beta, dx);
}
static const dn_along softmax = {softmax_line, softmax_line_grad, dn__softmax_strided,
                                 dn__softmax_grad_strided};
static void softmax_forward(dn_call *c) { dn__along_forward(c, &softmax); }
static void softmax_backward(dn_call *c) { dn__along_backward(c, &softmax); }

DN_OP(log_softmax, 1, DN_BATCHES, "y = x - log sum exp(x) along dim d")
static int log_softmax_dims(dn_shape *s) { return dn__along_dims(s); }
static void log_softmax_line(const dn_real *x, int n, dn_real *y) {
    dn__log_softmax((size_t)n, 1, x, dn__logsumexp((size_t)n, x), 0, y);
}
/* dx = dy - exp(y) sum dy */
static void log_softmax_line_grad(const dn_real *y, const dn_real *dy, int n, dn_real beta,
                                  dn_real *dx) {
    dn_real sum = dn__sum((size_t)n, dy);
    dn__axpy((size_t)n, 1, dy, beta, dx);
    dn__softmax_from_lse((size_t)n, y, (dn_lse){0, 0}, -sum, 1, dx);
}
static const dn_along log_softmax = {log_softmax_line, log_softmax_line_grad,
                                     dn__log_softmax_strided, dn__log_softmax_grad_strided};
static void log_softmax_forward(dn_call *c) { dn__along_forward(c, &log_softmax); }
static void log_softmax_backward(dn_call *c) { dn__along_backward(c, &log_softmax); }

/* ---- losses on one chosen entry ------------------------------------------------------- */

/* One id per batch element. x is a vector; unbatched, it serves all ids. */
static int picked_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int n = dn__rows_of(x);
    if (x->size != n)
        return dn__fail(s, DN_ERROR_VALUE, "x must be a vector; got x = %s.", DIMS(x));
    if (s->n_ints != x->batch && x->batch != 1)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one index per batch element; got %d indices, x = %s.", s->n_ints,
                        DIMS(x));
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= n)
            return dn__fail(s, dn__bad_index(s->ints[i]),
                            "index %d is outside x = %s. Indices run from 0 to %d.", s->ints[i],
                            DIMS(x), n - 1);
    return dn__set_dims(s, 1, (int[]){1}, s->n_ints);
}

DN_OP(pickneglogsoftmax, 1, DN_BATCHES | DN_INTS_EACH | DN_BY_COLUMNS, "y = log sum exp(x) - x_v")
static int pickneglogsoftmax_dims(dn_shape *s) {
    s->saved = 2 * (size_t)s->x[0]->batch; /* log sum exp of each batch element, a dn_lse */
    return picked_dims(s);
}
static void log_sum_exps(const void *call, size_t from, size_t count) {
    const dn_call *c = call;
    size_t n = (size_t)c->x[0].dim->size;
    for (size_t b = from; b < from + count; b++)
        ((dn_lse *)c->saved)[b] = dn__logsumexp(n, c->x[0].v + b * n);
}
static void pickneglogsoftmax_forward(dn_call *c) {
    const dn_in *x = &c->x[0];
    const dn_lse *lse = (const dn_lse *)c->saved;
    dn__parallel_ranges((size_t)x->dim->batch, WORK_IN_VECTOR * x->dim->size, 1, log_sum_exps, c);
    for (int b = 0; b < c->n_ints; b++) {
        const dn_lse *l = &lse[x->stride ? b : 0];
        c->y[b] = l->max - x->v[(size_t)b * x->stride + (size_t)c->ints[b]] + l->log_sum;
    }
}
typedef struct softmax_columns {
    const dn_call *c;
    size_t from; /* column of dx */
    dn_real beta, *dx;
} softmax_columns;
static void some_columns(const void *context, size_t from, size_t count) {
    const softmax_columns *s = context;
    const dn_call *c = s->c;
    const size_t size = (size_t)c->x[0].dim->size;
    for (size_t i = from; i < from + count; i++) {
        const size_t b = s->from + i;
        dn_real *dx = s->dx + i * size;
        dn__softmax_from_lse(size, c->x[0].v + b * size, ((const dn_lse *)c->saved)[b], c->dy[b],
                             s->beta, dx);
        dx[c->ints[b]] -= c->dy[b];
    }
}
/* dx = dy (softmax(x) - onehot(v)), a column x for each id */
static void pickneglogsoftmax_columns(dn_call *c, int from, int n, dn_real beta, dn_real *dx) {
    const softmax_columns s = {c, (size_t)from, beta, dx};
    dn__parallel_ranges((size_t)n, WORK_IN_VECTOR * (double)c->x[0].dim->size, 1, some_columns, &s);
}
static void pickneglogsoftmax_backward(dn_call *c) {
    const dn_in *x = &c->x[0];
    const int columns = x->stride || c->n_ints == 1;
    if (columns && dn__put_off(c, 0, pickneglogsoftmax_columns)) return;
    if (columns) {
        const dn_grad g = dn__dx(c, 0);
        if (g.dx) pickneglogsoftmax_columns(c, 0, c->n_ints, g.beta, g.dx);
        return;
    }
    dn_batch_grad to = dn__dx_by_element(c, 0, c->n_ints + 1); /* and last what all share */
    while (dn__next_zeroed(&to)) {
        if (to.b < (size_t)c->n_ints) to.dx[c->ints[to.b]] -= c->dy[to.b];
        else
            dn__softmax_from_lse((size_t)x->dim->size, x->v, *(const dn_lse *)c->saved,
                                 dn__sum((size_t)c->n_ints, c->dy), 1, to.dx);
    }
}

DN_OP(hinge, 1, DN_BATCHES | DN_INTS_EACH, "y = sum over j != v of max(0, m - x_v + x_j)")
static int hinge_dims(dn_shape *s) {
    if (!(s->floats[0] >= 0))
        return dn__fail(s, DN_ERROR_VALUE, "the margin must not be negative; got m = %.*g.",
                        DIGITS(s->floats[0]));
    return picked_dims(s);
}
/* y of one vector of n numbers */
static dn_real hinge_of(size_t n, size_t v, dn_real m, const dn_real *x) {
    return dn__hinge(v, m - x[v], x) + dn__hinge(n - v - 1, m - x[v], x + v + 1);
}
static void hinge_forward(dn_call *c) {
    const dn_in *x = &c->x[0];
    for (int b = 0; b < c->n_ints; b++)
        c->y[b] = hinge_of((size_t)x->dim->size, (size_t)c->ints[b], (dn_real)c->floats[0],
                           x->v + (size_t)b * x->stride);
}
/* each j beyond the margin: dx_j += dy, dx_v -= dy */
static void hinge_backward(dn_call *c) {
    dn_batch_grad to = dn__dx_by_element(c, 0, c->n_ints);
    while (dn__next_element(&to)) {
        const dn_real *x = c->x[0].v + to.b * c->x[0].stride;
        const size_t v = (size_t)c->ints[to.b];
        dn__hinge_grad((size_t)c->x[0].dim->size, v, (dn_real)c->floats[0] - x[v], x, c->dy[to.b],
                       to.beta, to.dx);
    }
}

/* ints: the dim d, then the entry v of each line, once for all batch elements or for each. A line
 * runs along d. */
DN_OP(hinge_dim, 1, 0,
      "y = sum over j != v of max(0, m - x_v + x_j) for each line of x along dim d")
static int hinge_dim_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int error = dn__check_dim(s, s->ints[0]);
    if (error) return error;
    if (!(s->floats[0] >= 0))
        return dn__fail(s, DN_ERROR_VALUE, "the margin must not be negative; got m = %.*g.",
                        DIGITS(s->floats[0]));
    error = dn__dims_without(s, s->ints[0], x->batch);
    if (error) return error;
    if (s->n_ints - 1 != s->y.size && s->n_ints - 1 != (int64_t)s->y.size * s->y.batch)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes %d indices, one per line along dim %d of x = %s, once or for each "
                        "batch element; got %d.",
                        s->y.size, s->ints[0], DIMS(x), s->n_ints - 1);
    int n = dn__size_at(x, s->ints[0]);
    for (int i = 1; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= n)
            return dn__fail(s, dn__bad_index(s->ints[i]),
                            "index %d is outside dim %d of x = %s. Indices run from 0 to %d.",
                            s->ints[i], s->ints[0], DIMS(x), n - 1);
    return 0;
}
/* forward: y of each vector. backward (dx != NULL): each j beyond the margin: dx_j += dy,
 * dx_v -= dy */
static void hinge_dim_vectors(dn_call *c, dn_real *dx) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    dn_real m = (dn_real)c->floats[0];
    for (size_t line = 0; line < c->total; line++) {
        size_t at = line / l.inner * l.inner * (size_t)l.length + line % l.inner;
        const dn_real *x = c->x[0].v + at;
        size_t picked = (size_t)c->ints[1 + line % (size_t)(c->n_ints - 1)] * l.inner,
               end = (size_t)l.length * l.inner;
        if (l.inner == 1) {
            if (dx) dn__hinge_grad(end, picked, m - x[picked], x, c->dy[line], 1, dx + at);
            else c->y[line] = hinge_of(end, picked, m, x);
            continue;
        }
        const dn_real limit = m - x[picked];
        double sum = 0;
        for (size_t j = 0; j < end; j += l.inner) {
            if (j == picked || limit + x[j] <= 0) continue; /* NaN passes */
            sum += (double)(limit + x[j]);
            if (!dx) continue;
            dx[at + j] += c->dy[line];
            dx[at + picked] -= c->dy[line];
        }
        if (!dx) c->y[line] = (dn_real)sum;
    }
}
static void hinge_dim_forward(dn_call *c) { hinge_dim_vectors(c, NULL); }
static void hinge_dim_backward(dn_call *c) {
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (dx) hinge_dim_vectors(c, dx);
}
