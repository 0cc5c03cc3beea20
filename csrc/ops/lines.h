/* A tensor seen along one of its dims: `outer` blocks of `inner` lines, each of `length` numbers that lie `inner` apart. */
#ifndef DN_LINES_H
#define DN_LINES_H

#include "../op.h"

typedef struct dn_lines { int length; size_t inner, outer; } dn_lines;

static inline dn_lines dn__lines_of(const dn_dim *x, int d) {
    dn_lines l = {d < x->nd ? x->d[d] : 1, 1, (size_t)x->batch};
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

#endif
