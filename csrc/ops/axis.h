/* A tensor seen along one of its dims: `outer` blocks of `inner` vectors, each of `length` numbers
 * that lie `inner` apart. */
#pragma once

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
