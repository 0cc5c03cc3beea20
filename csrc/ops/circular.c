/* Circular convolution and correlation. Each is the other's gradient. */
#include <string.h>

#include "kernels/kernels.h"
#include "op.h"

static int circular_dims(dn_shape *s) {
    const dn_dim *u = s->x[0], *v = s->x[1];
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (u->nd < 1 || u->size != u->d[0] || !dn__same_sizes(u, v))
        return dn__fail(s, DN_ERROR_VALUE,
                        "u and v must be vectors of the same size; got u = %s, v = %s.", DIMS(u),
                        DIMS(v));
    return dn__set_dims(s, 1, u->d, batch);
}

enum { CONVOLUTION = -1, CORRELATION = 1 };
/* Memory for circular(). */
static dn_real *scratch_of(dn_call *c) {
    const size_t twice = 2 * (size_t)c->dim->size, scratch = dn__circular_scratch(c->dim->size);
    return dn__scratch(c, scratch > twice ? scratch : twice);
}
/* y_k = sum_i u_i v_(k-i) or sum_i u_i v_(k+i), + beta y; `scratch` may take v twice, so that no
 * index need be reduced */
static void circular(dn_call *c, int kind, const dn_real *u, const dn_real *v, dn_real beta,
                     dn_real *y, dn_real *scratch) {
    const int n = c->dim->size;
    if (dn__circular_scratch(n)) {
        c->workspace->out_of_memory |= !dn__circular_sum(n, kind, u, v, beta, y, scratch);
        return;
    }
    memcpy(scratch, v, (size_t)n * sizeof *v);
    memcpy(scratch + n, v, (size_t)n * sizeof *v);
    if (kind == CORRELATION) dn__sliding_sum(n, u, scratch, 1, beta, y);
    else dn__sliding_sum(n, u, scratch + n, -1, beta, y);
}
static void circular_forward(dn_call *c, int kind) {
    int n = c->dim->size;
    const dn_in *u = &c->x[0], *v = &c->x[1];
    dn_real *scratch = scratch_of(c);
    for (int b = 0; scratch && b < c->dim->batch; b++)
        circular(c, kind, u->v + (size_t)b * u->stride, v->v + (size_t)b * v->stride, 0,
                 c->y + (size_t)b * (size_t)n, scratch);
}
/* dx_k = kind(a, dy) or, with dy first, kind(dy, a), a being the other input */
static void circular_grad(dn_call *c, int k, int kind, int dy_first) {
    dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
    const dn_in *other = &c->x[1 - k];
    dn_real *scratch = to.count ? scratch_of(c) : NULL;
    while (scratch && dn__next_element(&to)) {
        const dn_real *a = other->v + to.b * other->stride,
                      *dy = c->dy + to.b * (size_t)c->dim->size;
        circular(c, kind, dy_first ? dy : a, dy_first ? a : dy, to.beta, to.dx, scratch);
    }
}

DN_OP(circ_conv, 2, DN_BATCHES, "y_k = sum_i u_i v_(k - i), indices modulo n")
static int circ_conv_dims(dn_shape *s) { return circular_dims(s); }
static void circ_conv_forward(dn_call *c) { circular_forward(c, CONVOLUTION); }
/* du_i = sum_k dy_k v_(k-i) = corr(v, dy)_i;  dv = corr(u, dy) */
static void circ_conv_backward(dn_call *c) {
    circular_grad(c, 0, CORRELATION, 0);
    circular_grad(c, 1, CORRELATION, 0);
}

DN_OP(circ_corr, 2, DN_BATCHES, "y_k = sum_i u_i v_(i + k), indices modulo n")
static int circ_corr_dims(dn_shape *s) { return circular_dims(s); }
static void circ_corr_forward(dn_call *c) { circular_forward(c, CORRELATION); }
/* du_i = sum_k dy_k v_(i+k) = corr(dy, v)_i;  dv_j = sum_k dy_k u_(j-k) = conv(u, dy)_j */
static void circ_corr_backward(dn_call *c) {
    circular_grad(c, 0, CORRELATION, 1);
    circular_grad(c, 1, CONVOLUTION, 0);
}
