/* Scaled dot-product attention (Vaswani et al. 2017) as one node. */
#include "kernels/kernels.h"
#include "op.h"

/* Queries (d, nq), keys (d, nk), values (dv, nk), and perhaps a mask (nk) or (nk, nq). floats: the
 * scale. saved: the weights p, (nk, nq) for each batch element. Where neither keys nor values are
 * batched the batch's queries are nothing but more columns: `batch` is 1 then. */
enum { QUERY, KEY, VALUE, MASK };
typedef struct sizes {
    int d, dv, nk, nq, batch;
    size_t p;
} sizes;

static sizes attention_sizes(const dn_call *c) {
    const dn_in *x = c->x;
    sizes z = {dn__rows_of(x[QUERY].dim),
               dn__rows_of(x[VALUE].dim),
               dn__columns_of(x[KEY].dim),
               dn__columns_of(x[QUERY].dim),
               c->dim->batch,
               0};
    if (!x[KEY].stride && !x[VALUE].stride && x[QUERY].stride) {
        z.nq *= z.batch;
        z.batch = 1;
    }
    z.p = (size_t)z.nk * (size_t)z.nq;
    return z;
}

DN_OP(attention, -1, DN_BATCHES,
      "y = x_2 p, p = softmax(scale x_1' x_0) over the keys where the mask x_3 is not 0")
static int attention_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    if (s->n != 3 && s->n != 4)
        return dn__fail(s, DN_ERROR_VALUE, "takes q, k, v and perhaps a mask; got %d inputs.",
                        s->n);
    const dn_dim *q = s->x[QUERY], *k = s->x[KEY], *v = s->x[VALUE];
    if (q->nd > 2 || k->nd > 2 || v->nd > 2 || dn__rows_of(q) != dn__rows_of(k) ||
        dn__columns_of(k) != dn__columns_of(v))
        return dn__fail(s, DN_ERROR_VALUE,
                        "q must be (d, nq), k (d, nk) and v (dv, nk); got q = %s, k = %s, v = %s.",
                        DIMS(q), DIMS(k), DIMS(v));
    int nk = dn__columns_of(k), nq = dn__columns_of(q);
    if (s->n == 4) {
        const dn_dim *mask = s->x[MASK];
        if (mask->nd > 2 || dn__rows_of(mask) != nk ||
            (dn__columns_of(mask) != nq && dn__columns_of(mask) != 1))
            return dn__fail(s, DN_ERROR_VALUE,
                            "the mask must be (nk,) or (nk, nq); got k = %s, q = %s, mask = %s.",
                            DIMS(k), DIMS(q), DIMS(mask));
    }
    int error = dn__set_dims(s, 2, (int[]){nk, nq}, batch); /* the weights must not be too many */
    if (error) return error;
    s->saved = (size_t)s->y.size * (size_t)batch;
    return dn__set_dims(s, q->nd > 1 ? 2 : 1, (int[]){dn__rows_of(v), nq}, batch);
}

/* The mask of a column of p: of query j of batch element b as the node's dims count them. */
static const dn_real *mask_column(const dn_call *c, int b, int j) {
    const dn_in *mask = &c->x[MASK];
    return mask->v + (size_t)b * mask->stride +
           (dn__columns_of(mask->dim) > 1 ? (size_t)j * (size_t)dn__rows_of(mask->dim) : 0);
}

static void attention_forward(dn_call *c) {
    sizes z = attention_sizes(c);
    const dn_in *q = &c->x[QUERY], *k = &c->x[KEY], *v = &c->x[VALUE];
    size_t y_size = (size_t)z.dv * (size_t)z.nq, nk = (size_t)z.nk;
    int nq = dn__columns_of(q->dim), columns = z.batch * z.nq;
    for (int b = 0; b < z.batch; b++) /* p = k' q */
        dn__mm_dx(z.d, z.nk, z.nq, k->v + (size_t)b * k->stride, z.d, q->v + (size_t)b * q->stride,
                  z.d, 0, c->saved + (size_t)b * z.p, z.nk);
    dn__affine((size_t)z.batch * z.p, (dn_real)c->floats[0], 0, c->saved, c->saved);
    for (int j = 0; nk && j < columns; j++) {
        dn_real *p = c->saved + (size_t)j * nk;
        if (c->n == 4) dn__keep(nk, p, mask_column(c, j / nq, j % nq), p);
        dn__softmax_or_zeros(nk, p, p);
    }
    for (int b = 0; b < z.batch; b++)
        dn__mm(z.dv, z.nk, z.nq, v->v + (size_t)b * v->stride, z.dv, c->saved + (size_t)b * z.p,
               z.nk, 0, c->y + (size_t)b * y_size, z.dv);
}

/* With s = scale k' q, p = softmax(s), y = v p:
 * dv = dy p',  dp = v' dy,  ds = p (dp - <p, dp>),  dq = scale k ds,  dk = scale q ds' */
static void attention_backward(dn_call *c) {
    sizes z = attention_sizes(c);
    const dn_in *q = &c->x[QUERY], *k = &c->x[KEY], *v = &c->x[VALUE];
    size_t y_size = (size_t)z.dv * (size_t)z.nq, nk = (size_t)z.nk;
    if (dn__wants(c, QUERY) || dn__wants(c, KEY)) {
        dn_real *ds = dn__scratch(c, (size_t)z.batch * z.p);
        if (!ds) return;
        for (int b = 0; b < z.batch; b++)
            dn__mm_dx(z.dv, z.nk, z.nq, v->v + (size_t)b * v->stride, z.dv,
                      c->dy + (size_t)b * y_size, z.dv, 0, ds + (size_t)b * z.p, z.nk);
        for (int j = 0; j < z.batch * z.nq; j++) {
            dn_real *column = ds + (size_t)j * nk;
            dn__softmax_grad(nk, c->saved + (size_t)j * nk, column, 0, column);
        }
        dn__affine((size_t)z.batch * z.p, (dn_real)c->floats[0], 0, ds, ds);
        dn_batch_grad to = dn__dx_by_element(c, QUERY, z.batch);
        while (dn__next_element(&to))
            dn__mm(z.d, z.nk, z.nq, k->v + to.b * k->stride, z.d, ds + to.b * z.p, z.nk, to.beta,
                   to.dx, z.d);
        to = dn__dx_by_element(c, KEY, z.batch);
        while (dn__next_element(&to))
            dn__mm_dw(z.d, z.nk, z.nq, q->v + to.b * q->stride, z.d, ds + to.b * z.p, z.nk, to.beta,
                      to.dx, z.d);
    }
    dn_batch_grad to = dn__dx_by_element(c, VALUE, z.batch);
    while (dn__next_element(&to))
        dn__mm_dw(z.dv, z.nk, z.nq, c->dy + to.b * y_size, z.dv, c->saved + to.b * z.p, z.nk,
                  to.beta, to.dx, z.dv);
}
