/* A tensor seen along one of its dims: `outer` blocks of `inner` lines, each of `length` numbers
 * that lie `inner` apart. */
#pragma once

#include "kernels/kernels.h"
#include "kernels/parallel.h"
#include "op.h"

typedef struct dn_axis {
    int length;
    size_t inner, outer;
} dn_axis;

static inline dn_axis dn__axis_of(const dn_dim *x, int d) {
    dn_axis l = {d < x->nd ? x->d[d] : 1, 1, (size_t)x->batch};
    for (int i = 0; i < x->nd; i++) {
        if (i < d) l.inner *= (size_t)x->d[i];
        if (i > d) l.outer *= (size_t)x->d[i];
    }
    return l;
}

/* Is d, an attribute of the op, a dim of its input? Dim 0 always is. */
static inline int dn__check_dim(dn_shape *s, int d) {
    if (d < 0 || (d >= s->x[0]->nd && d > 0))
        return dn__fail(s, DN_ERROR_VALUE, "dim %d is not a dim of x = %s.", d, DIMS(s->x[0]));
    return 0;
}

/* dims: those of the input without dim d; (1,) if none is left */
static inline int dn__dims_without(dn_shape *s, int d) {
    const dn_dim *x = s->x[0];
    int nd = 0, sizes[DN_MAX_DIMS];
    for (int i = 0; i < x->nd; i++)
        if (i != d) sizes[nd++] = x->d[i];
    if (!nd) sizes[nd++] = 1;
    return dn__set_dims(s, nd, sizes, x->batch);
}

/* ---- functions of the lines along dim ints[0]: the softmax family and what resembles it  */

/* Lines whose numbers lie apart are copied side by side, as many at once as numbers are in a line
 * of the cache. */
enum { VECTORS_AT_A_TIME = 16 };
static inline size_t vectors_at(const dn_axis *l, size_t i) {
    return l->inner - i < VECTORS_AT_A_TIME ? l->inner - i : VECTORS_AT_A_TIME;
}
static inline void read_vectors(const dn_axis *l, size_t count, const dn_real *x, dn_real *lines) {
    dn__transpose_plane(count, (size_t)l->length, x, l->inner, 0, lines, (size_t)l->length);
}
static inline void write_vectors(const dn_axis *l, size_t count, const dn_real *lines, dn_real *y) {
    dn__transpose_plane((size_t)l->length, count, lines, (size_t)l->length, 0, y, l->inner);
}

/* Lines that lie side by side, which several threads may share: a number of a line costs this many
 * nanoseconds. */
static const double WORK_IN_VECTOR = 0.5;
typedef struct dn_vectors {
    size_t n;
    void (*f)(const dn_real *, int, dn_real *);
    void (*grad)(const dn_real *, const dn_real *, int, dn_real, dn_real *);
    const dn_real *x, *y, *dy;
    dn_real beta, *to;
} dn_vectors;
static inline void map_vectors(const void *context, size_t from, size_t count) {
    const dn_vectors *l = context;
    for (size_t at = from * l->n; count--; at += l->n) {
        if (l->f) l->f(l->x + at, (int)l->n, l->to + at);
        else l->grad(l->y + at, l->dy + at, (int)l->n, l->beta, l->to + at);
    }
}

/* y = f(x), line by line; y may be x */
static inline void map_axis(dn_call *c, const dn_axis *l, const dn_real *x, dn_real *y,
                            void (*f)(const dn_real *, int, dn_real *)) {
    const size_t n = (size_t)l->length;
    if (l->inner == 1) {
        const dn_vectors all = {.n = n, .f = f, .x = x, .to = y};
        dn__parallel_ranges(l->outer, WORK_IN_VECTOR * (double)n, 1, map_vectors, &all);
        return;
    }
    dn_real *lines = dn__scratch(c, n * vectors_at(l, 0));
    if (!lines) return;
    for (size_t o = 0; o < l->outer; o++)
        for (size_t i = 0, count; i < l->inner; i += count) {
            size_t at = o * l->inner * n + i;
            count = vectors_at(l, i);
            read_vectors(l, count, x + at, lines);
            for (size_t k = 0; k < count; k++) f(lines + k * n, l->length, lines + k * n);
            write_vectors(l, count, lines, y + at);
        }
}
/* dx = f(y, dy) + beta dx, line by line */
static inline void
map_axis_grad(dn_call *c, const dn_axis *l, const dn_real *y, const dn_real *dy, dn_real beta,
              dn_real *dx, void (*f)(const dn_real *, const dn_real *, int, dn_real, dn_real *)) {
    const size_t n = (size_t)l->length, all = n * vectors_at(l, 0);
    if (l->inner == 1) {
        const dn_vectors whole = {.n = n, .grad = f, .y = y, .dy = dy, .beta = beta, .to = dx};
        dn__parallel_ranges(l->outer, WORK_IN_VECTOR * (double)n, 1, map_vectors, &whole);
        return;
    }
    dn_real *lines = dn__scratch(c, 3 * all);
    if (!lines) return;
    for (size_t o = 0; o < l->outer; o++)
        for (size_t i = 0, count; i < l->inner; i += count) {
            size_t at = o * l->inner * n + i;
            count = vectors_at(l, i);
            read_vectors(l, count, y + at, lines);
            read_vectors(l, count, dy + at, lines + all);
            if (beta != 0) read_vectors(l, count, dx + at, lines + 2 * all);
            for (size_t k = 0; k < count; k++)
                f(lines + k * n, lines + all + k * n, l->length, beta, lines + 2 * all + k * n);
            write_vectors(l, count, lines + 2 * all, dx + at);
        }
}

/* ops of one input whose result has its dims */

static inline int along_dims(dn_shape *s) {
    s->y = *s->x[0];
    return dn__check_dim(s, s->ints[0]);
}
static inline void along_forward(dn_call *c, void (*f)(const dn_real *, int, dn_real *)) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    map_axis(c, &l, c->x[0].v, c->y, f);
}
static inline void along_backward(dn_call *c, void (*f)(const dn_real *, const dn_real *, int,
                                                        dn_real, dn_real *)) {
    dn_grad g = dn__dx(c, 0);
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    if (g.dx) map_axis_grad(c, &l, c->y, c->dy, g.beta, g.dx, f);
}
