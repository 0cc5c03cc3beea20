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
    dn_axis l = {dn__size_at(x, d), 1, (size_t)x->batch};
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
static inline int dn__dims_without(dn_shape *s, int d, int batch) {
    const dn_dim *x = s->x[0];
    int nd = 0, sizes[DN_MAX_DIMS];
    for (int i = 0; i < x->nd; i++)
        if (i != d) sizes[nd++] = x->d[i];
    if (!nd) sizes[nd++] = 1;
    return dn__set_dims(s, nd, sizes, batch);
}

/* ---- functions of the lines along dim ints[0]: the softmax family and what resembles it  */

/* Of one line, y = f(x) and dx = grad(y, dy) + beta dx; of several side by side, NULL: they are
 * copied. */
typedef struct dn_along {
    void (*f)(const dn_real *, int, dn_real *);
    void (*grad)(const dn_real *, const dn_real *, int, dn_real, dn_real *);
    dn_strided *f_strided;
    dn_strided_grad *grad_strided;
} dn_along;

/* What is done with all of them: forward into `to`, or backward, dy not being NULL. */
typedef struct dn_vectors {
    const dn_along *of;
    dn_axis l;
    const dn_real *x, *dy;
    dn_real beta, *to;
} dn_vectors;

/* Lines whose numbers lie apart are copied side by side, as many at once as numbers are in a line
 * of the cache. */
enum { VECTORS_AT_A_TIME = 16 };
static inline size_t vectors_at(const dn_axis *l, size_t i, size_t most) {
    return l->inner - i < most ? l->inner - i : most;
}
static inline void read_vectors(const dn_axis *l, size_t count, const dn_real *x, dn_real *lines) {
    dn__transpose_plane(count, (size_t)l->length, x, l->inner, 0, lines, (size_t)l->length);
}
static inline void write_vectors(const dn_axis *l, size_t count, const dn_real *lines, dn_real *y) {
    dn__transpose_plane((size_t)l->length, count, lines, (size_t)l->length, 0, y, l->inner);
}
static inline void map_copied(dn_call *c, const dn_vectors *all) {
    const dn_axis *l = &all->l;
    const size_t n = (size_t)l->length, most = n * vectors_at(l, 0, VECTORS_AT_A_TIME);
    dn_real *lines = dn__scratch(c, (all->dy ? 3 : 1) * most);
    if (!lines) return;
    dn_real *dy = all->dy ? lines + most : NULL, *dx = all->dy ? dy + most : NULL;
    for (size_t o = 0; o < l->outer; o++)
        for (size_t i = 0, count; i < l->inner; i += count) {
            const size_t at = o * l->inner * n + i;
            count = vectors_at(l, i, VECTORS_AT_A_TIME);
            read_vectors(l, count, all->x + at, lines);
            if (all->dy) read_vectors(l, count, all->dy + at, dy);
            if (all->dy && all->beta != 0) read_vectors(l, count, all->to + at, dx);
            for (size_t k = 0; k < count * n; k += n)
                if (all->dy) all->of->grad(lines + k, dy + k, l->length, all->beta, dx + k);
                else all->of->f(lines + k, l->length, lines + k);
            write_vectors(l, count, all->dy ? dx : lines, all->to + at);
        }
}

/* Several threads may share lines that are not copied. A number of a line costs this many
 * nanoseconds. */
static const double WORK_IN_VECTOR = 0.5;
static inline void map_contiguous(const void *context, size_t from, size_t count) {
    const dn_vectors *all = context;
    const size_t n = (size_t)all->l.length;
    for (size_t at = from * n; count--; at += n)
        if (all->dy) all->of->grad(all->x + at, all->dy + at, (int)n, all->beta, all->to + at);
        else all->of->f(all->x + at, (int)n, all->to + at);
}
/* how many blocks of at most DN_STRIDED lines side by side */
static inline size_t blocks_of(const dn_axis *l) {
    return (l->inner + DN_STRIDED - 1) / DN_STRIDED;
}
static inline void map_strided(const void *context, size_t from, size_t count) {
    const dn_vectors *all = context;
    const dn_axis *l = &all->l;
    const size_t n = (size_t)l->length, blocks = blocks_of(l);
    for (size_t b = from; b < from + count; b++) {
        const size_t i = b % blocks * DN_STRIDED, at = b / blocks * l->inner * n + i,
                     width = vectors_at(l, i, DN_STRIDED);
        if (all->dy)
            all->of->grad_strided(width, n, l->inner, all->x + at, all->dy + at, all->beta,
                                  all->to + at);
        else all->of->f_strided(width, n, l->inner, all->x + at, all->to + at);
    }
}

static inline void map_vectors(dn_call *c, const dn_vectors *all) {
    const dn_axis *l = &all->l;
    const double work = WORK_IN_VECTOR * l->length;
    if (l->inner == 1) {
        dn__parallel_ranges(l->outer, work, 1, map_contiguous, all);
    } else if (all->of->f_strided && l->inner >= VECTORS_AT_A_TIME) {
        const size_t width = vectors_at(l, 0, DN_STRIDED);
        dn__parallel_ranges(l->outer * blocks_of(l), work * (double)width, 1, map_strided, all);
    } else {
        map_copied(c, all);
    }
}

/* y = f(x), line by line; y may be x */
static inline void map_axis(dn_call *c, const dn_axis *l, const dn_real *x, dn_real *y,
                            const dn_along *of) {
    map_vectors(c, &(dn_vectors){.of = of, .l = *l, .x = x, .to = y});
}
/* dx = grad(y, dy) + beta dx, line by line */
static inline void map_axis_grad(dn_call *c, const dn_axis *l, const dn_real *y, const dn_real *dy,
                                 dn_real beta, dn_real *dx, const dn_along *of) {
    map_vectors(c, &(dn_vectors){.of = of, .l = *l, .x = y, .dy = dy, .beta = beta, .to = dx});
}

/* ops of one input whose result has its dims */

static inline int along_dims(dn_shape *s) {
    s->y = *s->x[0];
    return dn__check_dim(s, s->ints[0]);
}
static inline void along_forward(dn_call *c, const dn_along *of) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    map_axis(c, &l, c->x[0].v, c->y, of);
}
static inline void along_backward(dn_call *c, const dn_along *of) {
    dn_grad g = dn__dx(c, 0);
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    if (g.dx) map_axis_grad(c, &l, c->y, c->dy, g.beta, g.dx, of);
}
