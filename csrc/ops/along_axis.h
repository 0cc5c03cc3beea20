/* Functions of the vectors along one dim, ints[0]: the softmax family and what resembles it. */
#pragma once

#include "axis.h"
#include "kernels/kernels.h"
#include "kernels/parallel.h"

/* Of one vector, y = f(x) and dx = grad(y, dy) + beta dx; of several side by side, NULL: they are
 * copied. y may be x. */
typedef struct dn_along {
    void (*f)(const dn_real *, int, dn_real *);
    void (*grad)(const dn_real *, const dn_real *, int, dn_real, dn_real *);
    dn_strided *f_strided;
    dn_strided_grad *grad_strided;
} dn_along;

/* y = f(x), vector by vector; y may be x */
void dn__map_axis(dn_call *c, const dn_axis *l, const dn_real *x, dn_real *y, const dn_along *of);
/* dx = grad(y, dy) + beta dx, vector by vector */
void dn__map_axis_grad(dn_call *c, const dn_axis *l, const dn_real *y, const dn_real *dy,
                       dn_real beta, dn_real *dx, const dn_along *of);

/* ops of one input whose result has its dims */
int dn__along_dims(dn_shape *s);
void dn__along_forward(dn_call *c, const dn_along *of);
void dn__along_backward(dn_call *c, const dn_along *of);

/* nanoseconds for a number of a vector, for dn__parallel_ranges */
static const double WORK_IN_VECTOR = 0.5;

/* Vectors whose numbers lie apart are copied side by side, as many at once as numbers are in a
 * line of the cache. */
enum { VECTORS_AT_A_TIME = 16 };
/* how many from vector i of a block on */
static inline size_t vectors_at(const dn_axis *l, size_t i, size_t most) {
    return l->inner - i < most ? l->inner - i : most;
}
static inline void read_vectors(const dn_axis *l, size_t count, const dn_real *x, dn_real *copies) {
    dn__transpose_plane(count, (size_t)l->length, x, l->inner, 0, copies, (size_t)l->length);
}
