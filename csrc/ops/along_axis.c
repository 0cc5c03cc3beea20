#include "along_axis.h"

/* All vectors along the dim: forward computes `to` = y; backward, where dy is not NULL, dx. */
typedef struct vectors {
    const dn_along *of;
    dn_axis l;
    const dn_real *x, *dy;
    dn_real beta, *to;
} vectors;

static void write_vectors(const dn_axis *l, size_t count, const dn_real *copies, dn_real *y) {
    dn__transpose_plane((size_t)l->length, count, copies, (size_t)l->length, 0, y, l->inner);
}
static void map_copied(dn_call *c, const vectors *all) {
    const dn_axis *l = &all->l;
    const size_t n = (size_t)l->length, most = n * vectors_at(l, 0, VECTORS_AT_A_TIME);
    dn_real *copies = dn__scratch(c, (all->dy ? 3 : 1) * most);
    if (!copies) return;
    dn_real *dy = all->dy ? copies + most : NULL, *dx = all->dy ? dy + most : NULL;
    for (size_t o = 0; o < l->outer; o++)
        for (size_t i = 0, count; i < l->inner; i += count) {
            const size_t at = o * l->inner * n + i;
            count = vectors_at(l, i, VECTORS_AT_A_TIME);
            read_vectors(l, count, all->x + at, copies);
            if (all->dy) read_vectors(l, count, all->dy + at, dy);
            if (all->dy && all->beta != 0) read_vectors(l, count, all->to + at, dx);
            for (size_t k = 0; k < count * n; k += n)
                if (all->dy) all->of->grad(copies + k, dy + k, l->length, all->beta, dx + k);
                else all->of->f(copies + k, l->length, copies + k);
            write_vectors(l, count, all->dy ? dx : copies, all->to + at);
        }
}

/* Several threads may share vectors that are not copied. */
static void map_contiguous(const void *context, size_t from, size_t count) {
    const vectors *all = context;
    const size_t n = (size_t)all->l.length;
    for (size_t at = from * n; count--; at += n)
        if (all->dy) all->of->grad(all->x + at, all->dy + at, (int)n, all->beta, all->to + at);
        else all->of->f(all->x + at, (int)n, all->to + at);
}
/* how many blocks of at most DN_STRIDED vectors side by side */
static size_t strided_blocks(const dn_axis *l) { return (l->inner + DN_STRIDED - 1) / DN_STRIDED; }
static void map_strided(const void *context, size_t from, size_t count) {
    const vectors *all = context;
    const dn_axis *l = &all->l;
    const size_t n = (size_t)l->length, blocks = strided_blocks(l);
    for (size_t b = from; b < from + count; b++) {
        const size_t i = b % blocks * DN_STRIDED, at = b / blocks * l->inner * n + i,
                     width = vectors_at(l, i, DN_STRIDED);
        if (all->dy)
            all->of->grad_strided(width, n, l->inner, all->x + at, all->dy + at, all->beta,
                                  all->to + at);
        else all->of->f_strided(width, n, l->inner, all->x + at, all->to + at);
    }
}

static void map_vectors(dn_call *c, const vectors *all) {
    const dn_axis *l = &all->l;
    const double work = WORK_IN_VECTOR * l->length;
    if (l->inner == 1) {
        dn__parallel_ranges(l->outer, work, 1, map_contiguous, all);
    } else if (all->of->f_strided && l->inner >= VECTORS_AT_A_TIME) {
        const size_t width = vectors_at(l, 0, DN_STRIDED);
        dn__parallel_ranges(l->outer * strided_blocks(l), work * (double)width, 1, map_strided,
                            all);
    } else {
        map_copied(c, all);
    }
}

void dn__map_axis(dn_call *c, const dn_axis *l, const dn_real *x, dn_real *y, const dn_along *of) {
    map_vectors(c, &(vectors){.of = of, .l = *l, .x = x, .to = y});
}

void dn__map_axis_grad(dn_call *c, const dn_axis *l, const dn_real *y, const dn_real *dy,
                       dn_real beta, dn_real *dx, const dn_along *of) {
    map_vectors(c, &(vectors){.of = of, .l = *l, .x = y, .dy = dy, .beta = beta, .to = dx});
}

int dn__along_dims(dn_shape *s) {
    s->y = *s->x[0];
    return dn__check_dim(s, s->ints[0]);
}

void dn__along_forward(dn_call *c, const dn_along *of) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    dn__map_axis(c, &l, c->x[0].v, c->y, of);
}

void dn__along_backward(dn_call *c, const dn_along *of) {
    dn_grad g = dn__dx(c, 0);
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    if (g.dx) dn__map_axis_grad(c, &l, c->y, c->dy, g.beta, g.dx, of);
}
