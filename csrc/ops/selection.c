/* Selection: some of the numbers, at places that are given. */
#include <stdio.h>

#include "kernels/kernels.h"
#include "axis.h"

/* Are the n indices in the range of dim d? */
static int check_indices(dn_shape *s, int d, int n, const int *indices) {
    int size = dn__size_at(s->x[0], d);
    for (int i = 0; i < n; i++)
        if (indices[i] < 0 || indices[i] >= size)
            return dn__fail(s, dn__bad_index(indices[i]),
                            "index %d is outside dim %d of x = %s. Indices run from 0 to %d.",
                            indices[i], d, DIMS(s->x[0]), size - 1);
    return 0;
}

/* One batch element of x seen along dim ints[0] */
static dn_axis axis_of_element(const dn_call *c) {
    dn_dim element = *c->x[0].dim;
    element.batch = 1;
    return dn__axis_of(&element, c->ints[0]);
}

/* ---- pick: ints = dim, then one index, or one per batch element ----------------------- */

DN_OP(pick, 1, DN_BATCHES | DN_INTS_AFTER_FIRST,
      "y = x at index v of dim d; the dim goes. One index, or one per batch element")
static int pick_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d = s->ints[0], n = s->n_ints - 1, error = dn__check_dim(s, d);
    if (error) return error;
    if (n != 1 && x->batch != 1 && n != x->batch)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes one index, or one per batch element; got %d indices, x = %s.", n,
                        DIMS(x));
    if ((error = check_indices(s, d, n, s->ints + 1))) return error;
    return dn__dims_without(s, d, n == 1 ? x->batch : n);
}
/* One index for all is one call of blocks over the whole batch. */
static size_t picked_indices(const dn_call *c) {
    return c->n_ints == 2 ? 1 : (size_t)c->dim->batch;
}
static void pick_forward(dn_call *c) {
    dn_axis l = axis_of_element(c);
    size_t step = l.inner * (size_t)l.length, size = l.inner * l.outer, n = picked_indices(c);
    size_t blocks = n == 1 ? l.outer * (size_t)c->dim->batch : l.outer;
    for (size_t b = 0; b < n; b++) {
        const dn_real *x = c->x[0].v + b * c->x[0].stride + (size_t)c->ints[b + 1] * l.inner;
        dn__copy_blocks(l.inner, blocks, x, step, c->y + b * size, l.inner);
    }
}
static void pick_backward(dn_call *c) {
    dn_axis l = axis_of_element(c);
    size_t step = l.inner * (size_t)l.length, size = l.inner * l.outer, n = picked_indices(c);
    size_t blocks = n == 1 ? l.outer * (size_t)c->dim->batch : l.outer;
    if (n == 1) {
        dn_real *dx = dn__dx_zeroed(c, 0);
        if (dx)
            dn__add_blocks(l.inner, blocks, c->dy, l.inner, 1, dx + (size_t)c->ints[1] * l.inner,
                           step);
        return;
    }
    dn_batch_grad to = dn__dx_by_element(c, 0, (int)n);
    while (dn__next_zeroed(&to))
        dn__add_blocks(l.inner, blocks, c->dy + to.b * size, l.inner, 1,
                       to.dx + (size_t)c->ints[to.b + 1] * l.inner, step);
}

/* ---- slice: ints = dim, from, to, step for each dim that is cut; slice_batch: the same, where
 * dim -1 is the batch */

/* ints: dim, from, to, step of a dim of size n */
static int bad_range(dn_shape *s, const int *ints, int n) {
    char where[32] = "the batch";
    if (ints[0] >= 0) snprintf(where, sizeof where, "dim %d", ints[0]);
    if (ints[3] < 1)
        return dn__fail(s, DN_ERROR_VALUE, "the step must be positive; got %d in %s.", ints[3],
                        where);
    return dn__fail(s, DN_ERROR_VALUE, "range %d:%d is outside %s of x = %s, which has size %d.",
                    ints[1], ints[2], where, DIMS(s->x[0]), n);
}

static int slice_any_dims(dn_shape *s, int batch_too) {
    const dn_dim *x = s->x[0];
    int sizes[DN_MAX_DIMS], batch = x->batch, seen = 0;
    for (int i = 0; i < x->nd; i++) sizes[i] = x->d[i];
    if (s->n_ints % 4)
        return dn__fail(s, DN_ERROR_VALUE,
                        "takes dim, from, to, step for each dim that is cut; x = %s.", DIMS(x));
    for (int i = 0; i < s->n_ints; i += 4) {
        int d = s->ints[i], from = s->ints[i + 1], to = s->ints[i + 2], step = s->ints[i + 3];
        if (d < (batch_too ? -1 : 0) || d >= x->nd)
            return dn__fail(s, DN_ERROR_VALUE,
                            "dim %d is not a dim of x = %s. Dims are counted from 0.", d, DIMS(x));
        if (seen & 1 << (d + 1))
            return dn__fail(s, DN_ERROR_VALUE, "dim %d is cut twice; x = %s.", d, DIMS(x));
        seen |= 1 << (d + 1);
        int n = d < 0 ? x->batch : x->d[d], *size = d < 0 ? &batch : &sizes[d];
        if (step < 1 || from < 0 || to > n || from > to) return bad_range(s, s->ints + i, n);
        *size = (int)(((int64_t)to - from + step - 1) / step);
    }
    return dn__set_dims(s, x->nd, sizes, batch);
}
/* y walks in order; x begins at *from and moves with it */
static int slice_walk(const dn_call *c, size_t *n, size_t *step, size_t *from) {
    const dn_dim *x = c->x[0].dim;
    size_t s = 1;
    for (int i = 0; i < x->nd; i++) {
        n[i] = (size_t)c->dim->d[i];
        step[i] = s;
        s *= (size_t)x->d[i];
    }
    n[x->nd] = (size_t)c->dim->batch;
    step[x->nd] = s;
    *from = 0;
    for (int i = 0; i < c->n_ints; i += 4) {
        int d = c->ints[i] < 0 ? x->nd : c->ints[i];
        *from += (size_t)c->ints[i + 1] * step[d];
        step[d] *= (size_t)c->ints[i + 3];
    }
    return x->nd + 1;
}
static void slice_any_forward(dn_call *c) {
    size_t n[DN_MAX_DIMS + 1], step[DN_MAX_DIMS + 1], from;
    int nd = slice_walk(c, n, step, &from);
    dn__gather(nd, n, step, c->x[0].v + from, c->y);
}
static void slice_any_backward(dn_call *c) {
    size_t n[DN_MAX_DIMS + 1], step[DN_MAX_DIMS + 1], from;
    int nd = slice_walk(c, n, step, &from);
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (dx) dn__scatter(nd, n, step, c->dy, 1, dx + from);
}

DN_OP(slice, 1, DN_BATCHES, "y = x[from:to:step] in some dims")
static int slice_dims(dn_shape *s) { return slice_any_dims(s, 0); }
static void slice_forward(dn_call *c) { slice_any_forward(c); }
static void slice_backward(dn_call *c) { slice_any_backward(c); }

/* one dim, in steps of 1. By itself, since DyNet's order of draws tells it from x[from:to]. */
DN_OP(pick_range, 1, DN_BATCHES, "y = x[from:to] in one dim")
static int pick_range_dims(dn_shape *s) {
    if (s->ints[1] >= s->ints[2])
        return dn__fail(s, DN_ERROR_VALUE, "s must be less than e; got s = %d, e = %d.", s->ints[1],
                        s->ints[2]);
    return slice_any_dims(s, 0);
}
static void pick_range_forward(dn_call *c) { slice_any_forward(c); }
static void pick_range_backward(dn_call *c) { slice_any_backward(c); }

DN_OP(slice_batch, 1, 0, "y = x[from:to:step] in the batch and in some dims")
static int slice_batch_dims(dn_shape *s) { return slice_any_dims(s, 1); }
static void slice_batch_forward(dn_call *c) { slice_any_forward(c); }
static void slice_batch_backward(dn_call *c) { slice_any_backward(c); }

/* ---- several indices of a dim, or of the batch ---------------------------------------- */

DN_OP(select, 1, DN_BATCHES,
      "y = x at indices v_0, v_1, ... of dim d, each as often as it is named")
static int select_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d = s->ints[0], sizes[DN_MAX_DIMS], nd = x->nd ? x->nd : 1, error = dn__check_dim(s, d);
    if (error || (error = check_indices(s, d, s->n_ints - 1, s->ints + 1))) return error;
    for (int i = 0; i < nd; i++) sizes[i] = i == d ? s->n_ints - 1 : x->d[i];
    return dn__set_dims(s, nd, sizes, x->batch);
}
static void select_forward(dn_call *c) {
    dn_axis l = axis_of_element(c);
    size_t length = (size_t)l.length, n = (size_t)c->n_ints - 1,
           blocks = l.outer * (size_t)c->dim->batch;
    if (l.inner > 1) {
        for (size_t j = 0; j < n; j++)
            dn__copy_blocks(l.inner, blocks, c->x[0].v + (size_t)c->ints[j + 1] * l.inner,
                            l.inner * length, c->y + j * l.inner, l.inner * n);
        return;
    }
    for (size_t o = 0; o < blocks; o++)
        for (size_t j = 0; j < n; j++)
            c->y[o * n + j] = c->x[0].v[o * length + (size_t)c->ints[j + 1]];
}
static void select_backward(dn_call *c) {
    dn_axis l = axis_of_element(c);
    size_t length = (size_t)l.length, n = (size_t)c->n_ints - 1,
           blocks = l.outer * (size_t)c->dim->batch;
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (!dx) return;
    if (l.inner > 1) {
        for (size_t j = 0; j < n; j++)
            dn__add_blocks(l.inner, blocks, c->dy + j * l.inner, l.inner * n, 1,
                           dx + (size_t)c->ints[j + 1] * l.inner, l.inner * length);
        return;
    }
    for (size_t o = 0; o < blocks; o++)
        for (size_t j = 0; j < n; j++) dx[o * length + (size_t)c->ints[j + 1]] += c->dy[o * n + j];
}

DN_OP(pick_batch_elems, 1, 0,
      "y = the batch elements v_0, v_1, ... of x, each as often as it is named")
static int pick_batch_elems_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    for (int i = 0; i < s->n_ints; i++)
        if (s->ints[i] < 0 || s->ints[i] >= x->batch)
            return dn__fail(
                s, dn__bad_index(s->ints[i]),
                "index %d is outside the batch of x = %s. Batch elements are counted from 0 to %d.",
                s->ints[i], DIMS(x), x->batch - 1);
    return dn__set_dims(s, x->nd, x->d, s->n_ints);
}
static void pick_batch_elems_forward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    for (int j = 0; j < c->n_ints; j++)
        dn__copy_blocks(n, 1, c->x[0].v + (size_t)c->ints[j] * n, n, c->y + (size_t)j * n, n);
}
static void pick_batch_elems_backward(dn_call *c) {
    size_t n = (size_t)c->dim->size;
    dn_real *dx = dn__dx_zeroed(c, 0);
    for (int j = 0; dx && j < c->n_ints; j++)
        dn__add_blocks(n, 1, c->dy + (size_t)j * n, n, 1, dx + (size_t)c->ints[j] * n, n);
}
