/* Selection, joining and reshaping: the numbers stay, their places change. */
#include <string.h>

#include "../kernels/kernels.h"
#include "../op.h"

/* ---- reshape: ints = batch, sizes... ---------------------------------------------------------------------------------- */

DN_OP(reshape, 1, DN_VIEW, "y = x in other dims, column-major")
static int reshape_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int error = dn__set_dims(s, s->n_ints - 1, s->ints + 1, s->ints[0]);
    if (error) return error;
    if (s->y.size * (int64_t)s->y.batch != x->size * (int64_t)x->batch && s->y.size == x->size) s->y.batch = x->batch;
    if (s->y.size * (int64_t)s->y.batch != x->size * (int64_t)x->batch)
        return dn__fail(s, DN_ERROR_VALUE, "the number of elements must stay the same; got x = %s, new dims %s.", DIMS(x), DIMS(&s->y));
    return 0;
}
static void reshape_forward(dn_call *c) { c->y = (dn_real *)c->x[0].v; }
static void reshape_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, 1, c->dy, g.beta, g.dx);
}

/* ---- transpose: ints = the input's dim that becomes dim 0, 1, ... ------------------------------------------------------- */

DN_OP(transpose, 1, DN_BATCHES, "y = x with its dims in another order")
static int transpose_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d[DN_MAX_DIMS], seen = 0;
    if (s->n_ints > DN_MAX_DIMS || s->n_ints < x->nd)
        return dn__fail(s, DN_ERROR_VALUE, "takes one entry per dim of x; got %d entries, x = %s.", s->n_ints, DIMS(x));
    for (int i = 0; i < s->n_ints; i++) {
        int from = s->ints[i];
        if (from < 0 || from >= s->n_ints || seen & 1 << from)
            return dn__fail(s, DN_ERROR_VALUE, "the dims must be a permutation of 0 ... %d; got %d as entry %d.", s->n_ints - 1, from, i);
        seen |= 1 << from;
        d[i] = from < x->nd ? x->d[from] : 1;
    }
    return dn__set_dims(s, s->n_ints, d, x->batch);
}
/* Walks y in order: `step[i]` is how far x moves when y's index i rises. */
static void transpose_steps(const dn_call *c, size_t *step) {
    const dn_dim *x = c->x[0].dim;
    size_t strides[DN_MAX_DIMS], s = 1;
    for (int i = 0; i < DN_MAX_DIMS; i++) {
        strides[i] = s;
        s *= i < x->nd ? (size_t)x->d[i] : 1;
    }
    for (int i = 0; i < c->dim->nd; i++) step[i] = strides[c->ints[i]];
}
static int plain_matrix(const dn_call *c) { return c->n_ints == 2 && c->ints[0] == 1; }

/* Calls f for runs of `n` elements of y; x advances by `step` along the run. */
static void permute(const dn_dim *y, const size_t *step, const dn_real *x, dn_real *dx, const dn_real *dy, dn_real *out) {
    for (int b = 0; b < y->batch; b++) {
        int at[DN_MAX_DIMS] = {0};
        size_t from = (size_t)b * (size_t)y->size, to = from, end = to + (size_t)y->size;
        for (; to < end; to++) {
            if (out) out[to] = x[from];
            else dx[from] += dy[to];
            for (int i = 0; i < y->nd; i++) {
                from += step[i];
                if (++at[i] < y->d[i]) break;
                from -= step[i] * (size_t)y->d[i];
                at[i] = 0;
            }
        }
    }
}
static void transpose_forward(dn_call *c) {
    const dn_dim *x = c->x[0].dim;
    if (plain_matrix(c)) {
        for (int b = 0; b < x->batch; b++)
            dn__transpose(x->nd ? x->d[0] : 1, x->nd > 1 ? x->d[1] : 1, c->x[0].v + (size_t)b * (size_t)x->size, 0, c->y + (size_t)b * (size_t)x->size);
        return;
    }
    size_t step[DN_MAX_DIMS];
    transpose_steps(c, step);
    permute(c->dim, step, c->x[0].v, NULL, NULL, c->y);
}
static void transpose_backward(dn_call *c) {
    const dn_dim *y = c->dim;
    if (plain_matrix(c)) {
        dn_grad g = dn__dx(c, 0);
        for (int b = 0; g.dx && b < y->batch; b++)
            dn__transpose(y->d[0], y->d[1], c->dy + (size_t)b * (size_t)y->size, g.beta, g.dx + (size_t)b * (size_t)y->size);
        return;
    }
    size_t step[DN_MAX_DIMS];
    transpose_steps(c, step);
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (dx) permute(y, step, NULL, dx, c->dy, NULL);
}

/* ---- concatenate: ints = dim -------------------------------------------------------------------------------------------- */

/* x as `outer` runs of `run` numbers: all that lies below dim d + 1 */
static size_t run_of(const dn_dim *x, int d) {
    size_t n = 1;
    for (int i = 0; i <= d; i++) n *= i < x->nd ? (size_t)x->d[i] : 1;
    return n;
}

DN_OP(concatenate, -1, DN_BATCHES, "y = x_0, x_1, ... joined along dim d; the batch is repeated")
static int concatenate_dims(dn_shape *s) {
    int d = s->ints[0], batch = dn__common_batch(s), sizes[DN_MAX_DIMS];
    if (batch < 0) return batch;
    if (d < 0 || d >= DN_MAX_DIMS) return dn__fail(s, DN_ERROR_VALUE, "dim must be from 0 to %d; got %d.", DN_MAX_DIMS - 1, d);
    int nd = d + 1;
    for (int i = 0; i < s->n; i++)
        if (s->x[i]->nd > nd) nd = s->x[i]->nd;
    for (int i = 0; i < nd; i++) sizes[i] = i < s->x[0]->nd ? s->x[0]->d[i] : 1;
    int64_t joined = sizes[d];
    for (int i = 1; i < s->n; i++)
        for (int j = 0; j < nd; j++) {
            int size = j < s->x[i]->nd ? s->x[i]->d[j] : 1;
            if (j == d) joined += size;
            else if (size != sizes[j])
                return dn__fail(s, DN_ERROR_VALUE, "all dims but dim %d must be equal; got x_0 = %s, x_%d = %s.", d, DIMS(s->x[0]), i, DIMS(s->x[i]));
        }
    if (joined > INT32_MAX) return dn__fail(s, DN_ERROR_VALUE, "the result would have more than %d elements.", INT32_MAX);
    sizes[d] = (int)joined;
    return dn__set_dims(s, nd, sizes, batch);
}
static void concatenate_forward(dn_call *c) {
    size_t run = run_of(c->dim, c->ints[0]), outer = run ? (size_t)c->dim->size / run : 0, at = 0;
    for (int k = 0; k < c->n; k++) {
        size_t n = run_of(c->x[k].dim, c->ints[0]);
        for (int b = 0; b < c->dim->batch; b++)
            for (size_t o = 0; o < outer; o++)
                memcpy(c->y + (size_t)b * (size_t)c->dim->size + o * run + at, c->x[k].v + (size_t)b * c->x[k].stride + o * n, n * sizeof *c->y);
        at += n;
    }
}
static void concatenate_backward(dn_call *c) {
    size_t run = run_of(c->dim, c->ints[0]), outer = run ? (size_t)c->dim->size / run : 0, at = 0;
    for (int k = 0; k < c->n; k++) {
        size_t n = run_of(c->x[k].dim, c->ints[0]);
        dn_grad g = dn__dx(c, k);
        for (int b = 0; g.dx && b < c->dim->batch; b++)
            for (size_t o = 0; o < outer; o++)
                dn__axpy(n, 1, c->dy + (size_t)b * (size_t)c->dim->size + o * run + at, c->x[k].stride || !b ? g.beta : 1,
                         g.dx + (size_t)b * c->x[k].stride + o * n);
        at += n;
    }
}

/* ---- pick: ints = dim, then one index, or one per batch element --------------------------------------------------------- */

DN_OP(pick, 1, DN_BATCHES | DN_INTS_AFTER_FIRST, "y = x at index v of dim d; the dim goes. One index, or one per batch element")
static int pick_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int d = s->ints[0], n = s->n_ints - 1, nd = 0, sizes[DN_MAX_DIMS];
    if (d < 0 || (d >= x->nd && d > 0)) return dn__fail(s, DN_ERROR_VALUE, "dim %d is not a dim of x = %s.", d, DIMS(x));
    int length = d < x->nd ? x->d[d] : 1;
    if (n != 1 && x->batch != 1 && n != x->batch)
        return dn__fail(s, DN_ERROR_VALUE, "takes one index, or one per batch element; got %d indices, x = %s.", n, DIMS(x));
    for (int i = 0; i < n; i++)
        if (s->ints[i + 1] < 0 || s->ints[i + 1] >= length)
            return dn__fail(s, DN_ERROR_VALUE, "index %d is outside dim %d of x = %s. Indices run from 0 to %d.", s->ints[i + 1], d, DIMS(x), length - 1);
    for (int i = 0; i < x->nd; i++)
        if (i != d) sizes[nd++] = x->d[i];
    if (!nd) sizes[nd++] = 1;
    return dn__set_dims(s, nd, sizes, n == 1 ? x->batch : n);
}
/* x as outer x length x inner: y = x[:, v, :] */
static void pick_sizes(const dn_call *c, size_t *length, size_t *inner) {
    const dn_dim *x = c->x[0].dim;
    int d = c->ints[0];
    *length = d < x->nd ? (size_t)x->d[d] : 1;
    *inner = d ? run_of(x, d - 1) : 1;
}
static void pick_forward(dn_call *c) {
    size_t length, inner, size = (size_t)c->dim->size;
    pick_sizes(c, &length, &inner);
    if (!c->total) return; /* inner may be 0 */
    for (int b = 0; b < c->dim->batch; b++) {
        const dn_real *x = c->x[0].v + (size_t)b * c->x[0].stride + (size_t)c->ints[c->n_ints == 2 ? 1 : b + 1] * inner;
        for (size_t o = 0; o < size / inner; o++) memcpy(c->y + (size_t)b * size + o * inner, x + o * inner * length, inner * sizeof *x);
    }
}
static void pick_backward(dn_call *c) {
    size_t length, inner, size = (size_t)c->dim->size;
    pick_sizes(c, &length, &inner);
    dn_real *all = dn__dx_zeroed(c, 0);
    for (int b = 0; all && c->total && b < c->dim->batch; b++) {
        dn_real *dx = all + (size_t)b * c->x[0].stride + (size_t)c->ints[c->n_ints == 2 ? 1 : b + 1] * inner;
        for (size_t o = 0; o < size / inner; o++) dn__axpy(inner, 1, c->dy + (size_t)b * size + o * inner, 1, dx + o * inner * length);
    }
}

/* ---- slice: ints = per dim of x: from, to, step; last the batch's from, to, step ------------------------------------------ */

DN_OP(slice, 1, 0, "y = x[from:to:step] in each dim and in the batch")
static int slice_dims(dn_shape *s) {
    const dn_dim *x = s->x[0];
    int sizes[DN_MAX_DIMS + 1];
    if (s->n_ints != 3 * (x->nd + 1)) return dn__fail(s, DN_ERROR_VALUE, "takes one range per dim and one for the batch; x = %s.", DIMS(x));
    for (int i = 0; i <= x->nd; i++) {
        int from = s->ints[3 * i], to = s->ints[3 * i + 1], step = s->ints[3 * i + 2], n = i < x->nd ? x->d[i] : x->batch;
        if (step < 1) return dn__fail(s, DN_ERROR_VALUE, "the step must be positive; got %d in dim %d.", step, i);
        if (from < 0 || to > n || from > to)
            return dn__fail(s, DN_ERROR_VALUE, "range %d:%d is outside dim %d of x = %s.", from, to, i, DIMS(x));
        sizes[i] = (to - from) / step + ((to - from) % step != 0);
    }
    return dn__set_dims(s, x->nd, sizes, sizes[x->nd]);
}
/* y walks in order; x moves with it */
static void slice_walk(dn_call *c, dn_real *dx) {
    const dn_dim *x = c->x[0].dim;
    int nd = x->nd + 1, at[DN_MAX_DIMS + 1] = {0}, n[DN_MAX_DIMS + 1];
    size_t step[DN_MAX_DIMS + 1], from = 0, s = 1;
    for (int i = 0; i < nd; i++) {
        n[i] = i < x->nd ? c->dim->d[i] : c->dim->batch;
        step[i] = s * (size_t)c->ints[3 * i + 2];
        from += s * (size_t)c->ints[3 * i];
        s *= i < x->nd ? (size_t)x->d[i] : 1;
    }
    for (size_t to = 0; to < c->total; to++) {
        if (dx) dx[from] += c->dy[to];
        else c->y[to] = c->x[0].v[from];
        for (int i = 0; i < nd; i++) {
            from += step[i];
            if (++at[i] < n[i]) break;
            from -= step[i] * (size_t)n[i];
            at[i] = 0;
        }
    }
}
static void slice_forward(dn_call *c) { slice_walk(c, NULL); }
static void slice_backward(dn_call *c) {
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (dx) slice_walk(c, dx);
}
