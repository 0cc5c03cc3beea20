/* Normalisation of weights and of layers. */
#include <math.h>

#include "kernels/kernels.h"
#include "op.h"

DN_OP(weight_norm, 2, DN_BATCHES, "y = x_1 x_0 / |x_0|, x_1 one number; NaN where x_0 = 0")
static int weight_norm_dims(dn_shape *s) {
    const dn_dim *w = s->x[0], *g = s->x[1];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (g->size != 1)
        return dn__fail(s, DN_ERROR_VALUE, "g must be one number; got w = %s, g = %s.", DIMS(w),
                        DIMS(g));
    s->saved = (size_t)batch; /* 1 / |w| */
    return dn__set_dims(s, w->nd, w->d, batch);
}
static void weight_norm_forward(dn_call *c) {
    const dn_in *w = &c->x[0], *g = &c->x[1];
    size_t n = (size_t)c->dim->size;
    for (int b = 0; b < c->dim->batch; b++) {
        c->saved[b] = (dn_real)(1 / sqrt(dn__sum_squares(n, w->v + (size_t)b * w->stride)));
        dn__axpy(n, g->v[(size_t)b * g->stride] * c->saved[b], w->v + (size_t)b * w->stride, 0,
                 c->y + (size_t)b * n);
    }
}
/* y = g w r, r = 1 / |w|:  dg = r <dy, w>,  dw = g r (dy - w r^2 <dy, w>) */
static void weight_norm_backward(dn_call *c) {
    const dn_in *w = &c->x[0], *g = &c->x[1];
    size_t n = (size_t)c->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    while (dn__next_element(&to)) {
        const dn_real *x = w->v + to.b * w->stride, *dy = c->dy + to.b * n;
        dn_real r = c->saved[to.b], a = g->v[to.b * g->stride] * r;
        dn__plane(n, a, dy, -(a * r) * (r * dn__dot(n, dy, x)), x, 0, to.beta, to.dx);
    }
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to))
        to.dx[0] = (to.beta == 0 ? 0 : to.dx[0]) +
                   c->saved[to.b] * dn__dot(n, c->dy + to.b * n, w->v + to.b * w->stride);
}

/* ---- layer_norm: g and b have the dims of x, or its first ones; then they are repeated over the
 * others */

static int leading_dims(const dn_dim *x, const dn_dim *g) {
    int i = 0;
    while (i < g->nd && i < x->nd && g->d[i] == x->d[i]) i++;
    for (; i < g->nd; i++)
        if (g->d[i] != 1) return 0;
    return 1;
}

DN_OP(layer_norm, 3, DN_BATCHES,
      "y = x_1 (x_0 - mean) / (std + 1e-8) + x_2, over all elements of a batch element")
static int layer_norm_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *g = s->x[1], *b = s->x[2];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (!leading_dims(x, g) || !leading_dims(x, b))
        return dn__fail(s, DN_ERROR_VALUE,
                        "g and b must have the dims of x, or the first ones of them; got x = %s, g "
                        "= %s, b = %s.",
                        DIMS(x), DIMS(g), DIMS(b));
    int error = dn__set_dims(s, x->nd, x->d, batch);
    /* z of all elements; std and 1 / (std + 1e-8) */
    s->saved = error ? 0 : (size_t)s->y.size * (size_t)batch + 2 * (size_t)batch;
    return error;
}
/* Neither g nor b is repeated within a segment. */
static size_t segment_of(const dn_call *c) {
    size_t g = (size_t)c->x[1].dim->size, b = (size_t)c->x[2].dim->size;
    return g < b ? g : b;
}
static void layer_norm_forward(dn_call *c) {
    const dn_in *x = &c->x[0], *g = &c->x[1], *shift = &c->x[2];
    size_t n = (size_t)c->dim->size, step = segment_of(c);
    for (int b = 0; b < c->dim->batch; b++) {
        const dn_real *gb = g->v + (size_t)b * g->stride,
                      *sb = shift->v + (size_t)b * shift->stride;
        dn_real *y = c->y + (size_t)b * n, *z = c->saved + (size_t)b * n,
                *std = c->saved + c->total + 2 * b, *r = std + 1;
        const dn_real *from = x->v + (size_t)b * x->stride;
        /* twice, as the first mean is rounded: of equal numbers nothing must remain that 1 / 1e-8
         * would magnify */
        dn__affine(n, 1, -dn__sum(n, from) / (dn_real)n, from, z);
        dn__affine(n, 1, -dn__sum(n, z) / (dn_real)n, z, z);
        *std = (dn_real)sqrt(dn__sum_squares(n, z) / (double)n);
        *r = (dn_real)(1 / ((double)*std + 1e-8));
        dn__affine(n, *r, 0, z, z);
        for (size_t i = 0; i < n; i += step) {
            dn__mul(step, z + i, gb + i % (size_t)g->dim->size, y + i);
            dn__add(step, y + i, sb + i % (size_t)shift->dim->size, y + i);
        }
    }
}
/* With z = (x - mean) r, r = 1 / (std + 1e-8) and dz = g dy:
 * dx_i = r (dz_i - mean dz) - z_i <dz, z> / (n std);  dg = dy z;  db = dy; these summed over what
 * was repeated */
static void layer_norm_backward(dn_call *c) {
    const dn_in *g = &c->x[1], *shift = &c->x[2];
    size_t n = (size_t)c->dim->size, step = segment_of(c), gn = (size_t)g->dim->size,
           sn = (size_t)shift->dim->size;
    dn_batch_grad to = dn__dx_by_element(c, 0, c->dim->batch);
    dn_real *dz = to.count ? dn__scratch(c, n) : NULL;
    while (dz && dn__next_element(&to)) {
        const dn_real *dy = c->dy + to.b * n, *z = c->saved + to.b * n,
                      *gb = g->v + to.b * g->stride;
        dn_real std = c->saved[c->total + 2 * to.b], r = c->saved[c->total + 2 * to.b + 1];
        for (size_t i = 0; i < n; i += step) dn__mul(step, dy + i, gb + i % gn, dz + i);
        dn_real along = std == 0 ? 0 : -dn__dot(n, dz, z) / ((dn_real)n * std);
        dn__plane(n, r, dz, along, z, -r * dn__sum(n, dz) / (dn_real)n, to.beta, to.dx);
    }
    to = dn__dx_by_element(c, 1, c->dim->batch);
    while (dn__next_element(&to)) {
        for (size_t i = 0; i < n; i += step)
            dn__mul_add(step, c->dy + to.b * n + i, c->saved + to.b * n + i, i < gn ? to.beta : 1,
                        to.dx + i % gn);
    }
    to = dn__dx_by_element(c, 2, c->dim->batch);
    while (dn__next_element(&to)) {
        for (size_t i = 0; i < n; i += step)
            dn__axpy(step, 1, c->dy + to.b * n + i, i < sn ? to.beta : 1, to.dx + i % sn);
    }
}
