/* Joining and reshaping: the numbers stay, their places change. */
#include <string.h>

#include "kernels/kernels.h"
#include "op.h"

/* ---- reshape: ints = batch, sizes... -------------------------------------------------- */

DN_OP(reshape, 1, DN_VIEW, "y = x in other dims, column-major")
static int reshape_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int error = dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]);
    if (error) return error;
    if (s->y.batch == 1 && s->y.size != x->size * (int64_t)x->batch && s->y.size == x->size)
        s->y.batch = x->batch;
    if (s->y.size * (int64_t)s->y.batch != x->size * (int64_t)x->batch)
        return dn__fail(s, DN_ERROR_VALUE,
                        "the number of elements must stay the same; got x = %s, new dims %s.",
                        DIMS(x), DIMS(&s->y));
    return 0;
}
static void reshape_forward(dn_call *c) { c->y = (dn_real *)c->x[0].v; }
static void reshape_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, 1, c->dy, g.beta, g.dx);
}

/* ---- transpose: ints = the input's dim that becomes dim 0, 1, ... --------------------- */

DN_OP(transpose, 1, DN_BATCHES, "y = x with its dims in another order")
static int transpose_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d[DN_MAX_DIMS], seen = 0;
    int fits = s->n_ints <= DN_MAX_DIMS;
    for (int i = s->n_ints; i < x->nd; i++) fits &= x->d[i] == 1; /* trailing 1s may be left out */
    if (!fits)
        return dn__fail(s, DN_ERROR_VALUE, "takes one entry per dim of x; got %d entries, x = %s.",
                        s->n_ints, DIMS(x));
    for (int i = 0; i < s->n_ints; i++) {
        int from = s->ints[i];
        if (from < 0 || from >= s->n_ints || seen & 1 << from)
            return dn__fail(s, DN_ERROR_VALUE,
                            "the dims must be a permutation of 0 ... %d; got %d as entry %d.",
                            s->n_ints - 1, from, i);
        seen |= 1 << from;
        d[i] = dn__size_at(x, from);
    }
    return dn__set_dims(s, s->n_ints, d, x->batch);
}
/* Walks y in order: x moves by step[i] as y's index i rises. The batch is one more dim. */
static int transpose_walk(const dn_call *c, size_t *n, size_t *step) {
    const dn_dim *x = c->x[0].dim, *y = c->dim;
    size_t strides[DN_MAX_DIMS], s = 1;
    for (int i = 0; i < DN_MAX_DIMS; i++) {
        strides[i] = s;
        s *= (size_t)dn__size_at(x, i);
    }
    for (int i = 0; i < y->nd; i++) {
        n[i] = (size_t)y->d[i];
        step[i] = strides[c->ints[i]];
    }
    n[y->nd] = (size_t)y->batch;
    step[y->nd] = s;
    return y->nd + 1;
}
static void transpose_forward(dn_call *c) {
    size_t n[DN_MAX_DIMS + 1], step[DN_MAX_DIMS + 1];
    int nd = transpose_walk(c, n, step);
    dn__gather(nd, n, step, c->x[0].v, c->y);
}
static void transpose_backward(dn_call *c) {
    size_t n[DN_MAX_DIMS + 1], step[DN_MAX_DIMS + 1];
    int nd = transpose_walk(c, n, step);
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__scatter(nd, n, step, c->dy, g.beta, g.dx);
}

/* ---- concatenate: ints = dim ---------------------------------------------------------- */

DN_OP(concatenate, -1, DN_BATCHES, "y = x_0, x_1, ... joined along dim d; the batch is repeated")
static int concatenate_dims(dn_shape *s) {
    int d = s->ints[0], batch = dn__common_batch(s), sizes[DN_MAX_DIMS];
    if (batch < 0) return batch;
    if (d < 0 || d >= DN_MAX_DIMS)
        return dn__fail(s, DN_ERROR_VALUE, "dim must be from 0 to %d; got %d.", DN_MAX_DIMS - 1, d);
    int nd = d + 1;
    for (int i = 0; i < s->n; i++)
        if (s->x[i]->nd > nd) nd = s->x[i]->nd;
    for (int i = 0; i < nd; i++) sizes[i] = dn__size_at(s->x[0], i);
    int64_t joined = sizes[d];
    for (int i = 1; i < s->n; i++)
        for (int j = 0; j < nd; j++) {
            int size = dn__size_at(s->x[i], j);
            if (j == d) joined += size;
            else if (size != sizes[j])
                return dn__fail(s, DN_ERROR_VALUE,
                                "all dims but dim %d must be equal; got x_0 = %s, x_%d = %s.", d,
                                DIMS(s->x[0]), i, DIMS(s->x[i]));
        }
    if (joined > INT32_MAX)
        return dn__fail(s, DN_ERROR_VALUE, "the result would have more than %d elements.",
                        INT32_MAX);
    sizes[d] = (int)joined;
    return dn__set_dims(s, nd, sizes, batch);
}
/* Each x_k as `outer` blocks of `run` numbers, all that lies below dim d + 1; y has them side by
 * side. */
static size_t run_of(const dn_dim *x, int d) {
    size_t n = 1;
    for (int i = 0; i <= d; i++) n *= (size_t)dn__size_at(x, i);
    return n;
}
static size_t outer_of(const dn_dim *x, int d) {
    size_t n = 1;
    for (int i = d + 1; i < x->nd; i++) n *= (size_t)x->d[i];
    return n;
}
static void concatenate_forward(dn_call *c) {
    int d = c->ints[0];
    size_t run = run_of(c->dim, d), outer = outer_of(c->dim, d), batch = (size_t)c->dim->batch,
           at = 0;
    for (int k = 0; k < c->n; k++) {
        size_t n = run_of(c->x[k].dim, d);
        if (c->x[k].stride || batch == 1)
            dn__copy_blocks(n, outer * batch, c->x[k].v, n, c->y + at, run);
        else
            for (size_t b = 0; b < batch; b++)
                dn__copy_blocks(n, outer, c->x[k].v, n, c->y + b * outer * run + at, run);
        at += n;
    }
}
static void concatenate_backward(dn_call *c) {
    int d = c->ints[0];
    size_t run = run_of(c->dim, d), outer = outer_of(c->dim, d), batch = (size_t)c->dim->batch,
           at = 0;
    for (int k = 0; k < c->n; k++) {
        size_t n = run_of(c->x[k].dim, d);
        if (c->x[k].stride || batch == 1) {
            const dn_grad g = dn__dx(c, k);
            if (g.dx) dn__add_blocks(n, outer * batch, c->dy + at, run, g.beta, g.dx, n);
        } else {
            dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
            while (dn__next_element(&to))
                dn__add_blocks(n, outer, c->dy + to.b * outer * run + at, run, to.beta, to.dx, n);
        }
        at += n;
    }
}

/* ---- concatenate_to_batch ------------------------------------------------------------- */

DN_OP(concatenate_to_batch, -1, 0, "y = the batch elements of x_0, of x_1, ... as one batch")
static int concatenate_to_batch_dims(dn_shape *s) {
    int64_t batch = 0;
    for (int i = 0; i < s->n; i++) {
        if (!dn__same_sizes(s->x[0], s->x[i]))
            return dn__fail(s, DN_ERROR_VALUE,
                            "all inputs must have the same dims; got x_0 = %s, x_%d = %s.",
                            DIMS(s->x[0]), i, DIMS(s->x[i]));
        batch += s->x[i]->batch;
    }
    if (batch > INT32_MAX)
        return dn__fail(s, DN_ERROR_VALUE, "the result would have more than %d batch elements.",
                        INT32_MAX);
    return dn__set_dims(s, s->x[0]->nd, s->x[0]->d, (int)batch);
}
static void concatenate_to_batch_forward(dn_call *c) {
    dn_real *y = c->y;
    for (int k = 0; k < c->n; k++) {
        size_t n = dn__elements(c->x[k].dim);
        memcpy(y, c->x[k].v, n * sizeof *y);
        y += n;
    }
}
static void concatenate_to_batch_backward(dn_call *c) {
    const dn_real *dy = c->dy;
    for (int k = 0; k < c->n; k++) {
        size_t n = dn__elements(c->x[k].dim);
        dn_grad g = dn__dx(c, k);
        if (g.dx) dn__axpy(n, 1, dy, g.beta, g.dx);
        dy += n;
    }
}
