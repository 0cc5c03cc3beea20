/* Maxima and minima: of two, of many, along a dim; and their soft form, log sum exp. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "axis.h"

/* How the inputs are read beside y: in `count` pieces of `n` numbers, one for each batch element if
 * some input is repeated, else one. */
typedef struct pieces {
    size_t n;
    int count;
} pieces;
static pieces pieces_of(const dn_call *c) {
    for (int k = 0; k < c->n; k++)
        if (c->x[k].dim->batch != c->dim->batch)
            return (pieces){(size_t)c->dim->size, c->dim->batch};
    return (pieces){c->total, 1};
}
static const dn_real *piece(const dn_call *c, int k, int b) {
    return c->x[k].v + (size_t)b * c->x[k].stride;
}

/* ---- of two: a tie goes to the second ------------------------------------------------- */

static void two_forward(dn_call *c,
                        void (*f)(size_t, const dn_real *, const dn_real *, dn_real *)) {
    pieces p = pieces_of(c);
    for (int b = 0; b < p.count; b++)
        f(p.n, piece(c, 0, b), piece(c, 1, b), c->y + (size_t)b * p.n);
}
/* dx_0 = dy where x_greater > x_less, dx_1 = dy elsewhere; `greater` is the input that must be
 * greater for input 0 to be chosen */
static void two_backward(dn_call *c, int greater) {
    pieces p = pieces_of(c);
    for (int k = 0; k < 2; k++) {
        dn_batch_grad to = dn__dx_by_element(c, k, p.count);
        while (dn__next_element(&to))
            (k ? dn__pass_not_greater : dn__pass_greater)(p.n, piece(c, greater, to.b),
                                                          piece(c, 1 - greater, to.b),
                                                          c->dy + to.b * p.n, to.beta, to.dx);
    }
}

DN_OP(bmax, 2, DN_BATCHES, "y_i = max(x_0i, x_1i)")
static int bmax_dims(dn_shape *s) { return dn__alike_dims(s); }
static void bmax_forward(dn_call *c) { two_forward(c, dn__bmax); }
static void bmax_backward(dn_call *c) { two_backward(c, 0); }

DN_OP(bmin, 2, DN_BATCHES, "y_i = min(x_0i, x_1i)")
static int bmin_dims(dn_shape *s) { return dn__alike_dims(s); }
static void bmin_forward(dn_call *c) { two_forward(c, dn__bmin); }
static void bmin_backward(dn_call *c) { two_backward(c, 1); }

/* ---- of many: a tie goes to the first ------------------------------------------------- */

DN_OP(emax, -1, DN_BATCHES, "y_i = max(x_0i, x_1i, ...)")
static int emax_dims(dn_shape *s) {
    int error = dn__alike_dims(s);
    /* which input each maximum came from, as int32_t */
    if (!error) s->saved = dn__elements(&s->y);
    return error;
}
static void emax_forward(dn_call *c) {
    pieces p = pieces_of(c);
    int32_t *which = (int32_t *)c->saved;
    for (size_t i = 0; i < c->total; i++) which[i] = 0;
    for (int b = 0; b < p.count; b++) {
        dn_real *y = c->y + (size_t)b * p.n;
        memcpy(y, piece(c, 0, b), p.n * sizeof *y);
        for (int k = 1; k < c->n; k++)
            dn__fold_max(p.n, piece(c, k, b), k, y, which + (size_t)b * p.n);
    }
}
static void emax_backward(dn_call *c) {
    pieces p = pieces_of(c);
    const int32_t *which = (const int32_t *)c->saved;
    for (int k = 0; k < c->n; k++) {
        dn_batch_grad to = dn__dx_by_element(c, k, p.count);
        while (dn__next_element(&to))
            dn__pass_which(p.n, which + to.b * p.n, k, c->dy + to.b * p.n, to.beta, to.dx);
    }
}

/* saved: the maxima, then the logs of the sums of exp(x - max), which the sum of both has fewer
 * digits of */
DN_OP(logsumexp, -1, DN_BATCHES, "y_i = log(exp x_0i + exp x_1i + ...)")
static int logsumexp_dims(dn_shape *s) {
    int error = dn__alike_dims(s);
    if (!error) s->saved = 2 * dn__elements(&s->y);
    return error;
}
static void add_exp(size_t n, const dn_real *x, const dn_real *max, double *wide, dn_real *sum) {
    if (wide) dn__wide_add_exp(n, x, max, wide);
    else dn__add_exp(n, x, max, sum);
}
static void logsumexp_forward(dn_call *c) {
    pieces p = pieces_of(c);
    dn_real *all = c->saved, *log_sums = c->saved + c->total;
    dn__fill(c->total, 0, log_sums);
    double *sum = c->n > DN_MANY ? dn__scratch_of(c, p.n, sizeof *sum) : NULL;
    for (int b = 0; b < p.count; b++) {
        dn_real *max = all + (size_t)b * p.n;
        memcpy(max, piece(c, 0, b), p.n * sizeof *max);
        for (int k = 1; k < c->n; k++) dn__bmax(p.n, piece(c, k, b), max, max);
        if (sum) memset(sum, 0, p.n * sizeof *sum);
        for (int k = 0; k < c->n; k++)
            add_exp(p.n, piece(c, k, b), max, sum, log_sums + (size_t)b * p.n);
        if (sum) dn__wide_sum(p.n, sum, 0, log_sums + (size_t)b * p.n);
    }
    dn__log(c->total, log_sums, log_sums);
    dn__add(c->total, all, log_sums, c->y);
}
/* dx_k = dy exp(x_k - y) */
static void logsumexp_backward(dn_call *c) {
    pieces p = pieces_of(c);
    for (int k = 0; k < c->n; k++) {
        dn_batch_grad to = dn__dx_by_element(c, k, p.count);
        while (dn__next_element(&to)) {
            size_t at = to.b * p.n;
            dn__add_exp_grad(p.n, piece(c, k, to.b), c->saved + at, c->saved + c->total + at,
                             c->dy + at, to.beta, to.dx);
        }
    }
}

/* ---- along a dim: ints[0] ------------------------------------------------------------- */

static int extreme_dims(dn_shape *s) {
    int d = s->ints[0], error = dn__check_dim(s, d);
    if (!error && d < s->x[0]->nd && s->x[0]->d[d] == 0)
        error =
            dn__fail(s, DN_ERROR_VALUE, "dim %d must not be empty; got x = %s.", d, DIMS(s->x[0]));
    if (!error) error = dn__dims_without(s, d, s->x[0]->batch);
    /* where each extreme is, as int32_t */
    if (!error) s->saved = dn__elements(&s->y);
    return error;
}
static void extreme_forward(dn_call *c,
                            void (*f)(size_t, size_t, const dn_real *, dn_real *, int32_t *)) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    for (size_t o = 0; c->total && o < l.outer; o++)
        f((size_t)l.length, l.inner, c->x[0].v + o * l.inner * (size_t)l.length, c->y + o * l.inner,
          (int32_t *)c->saved + o * l.inner);
}
static void extreme_backward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    const int32_t *which = (const int32_t *)c->saved;
    dn_real *dx = dn__dx_zeroed(c, 0);
    for (size_t o = 0, at = 0; dx && o < l.outer; o++, dx += l.inner * (size_t)l.length)
        for (size_t i = 0; i < l.inner; i++, at++) dx[(size_t)which[at] * l.inner + i] += c->dy[at];
}

DN_OP(max_dim, 1, DN_BATCHES, "y = the maximum of x along dim d; the dim goes")
static int max_dim_dims(dn_shape *s) { return extreme_dims(s); }
static void max_dim_forward(dn_call *c) { extreme_forward(c, dn__max_along_axis); }
static void max_dim_backward(dn_call *c) { extreme_backward(c); }

DN_OP(min_dim, 1, DN_BATCHES, "y = the minimum of x along dim d; the dim goes")
static int min_dim_dims(dn_shape *s) { return extreme_dims(s); }
static void min_dim_forward(dn_call *c) { extreme_forward(c, dn__min_along_axis); }
static void min_dim_backward(dn_call *c) { extreme_backward(c); }

DN_OP(logsumexp_dim, 1, DN_BATCHES, "y = log sum exp(x) along dim d; the dim goes")
static int logsumexp_dim_dims(dn_shape *s) {
    int error = dn__check_dim(s, s->ints[0]);
    if (!error) error = dn__dims_without(s, s->ints[0], s->x[0]->batch);
    if (!error) s->saved = 2 * dn__elements(&s->y); /* as logsumexp */
    return error;
}
static void logsumexp_dim_forward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    size_t length = (size_t)l.length, block = l.inner * length;
    dn_real *all = c->saved, *log_sums = c->saved + c->total;
    if (!length) dn__fill(c->total, -(dn_real)INFINITY, all); /* the sum of nothing is 0 */
    if (l.inner == 1 && length) {
        for (size_t o = 0; o < l.outer; o++) {
            dn_lse lse = dn__logsumexp(length, c->x[0].v + o * block);
            all[o] = lse.max;
            log_sums[o] = lse.log_sum;
        }
    } else {
        dn__fill(c->total, length ? 0 : 1, log_sums);
        double *sum = length > DN_MANY ? dn__scratch_of(c, l.inner, sizeof *sum) : NULL;
        for (size_t o = 0; length && o < l.outer; o++) {
            const dn_real *x = c->x[0].v + o * block;
            dn_real *max = all + o * l.inner;
            memcpy(max, x, l.inner * sizeof *max);
            for (size_t k = 1; k < length; k++) dn__bmax(l.inner, x + k * l.inner, max, max);
            if (sum) memset(sum, 0, l.inner * sizeof *sum);
            for (size_t k = 0; k < length; k++)
                add_exp(l.inner, x + k * l.inner, max, sum, log_sums + o * l.inner);
            if (sum) dn__wide_sum(l.inner, sum, 0, log_sums + o * l.inner);
        }
        dn__log(c->total, log_sums, log_sums);
    }
    dn__add(c->total, all, log_sums, c->y);
}
/* dx = dy exp(x - y) */
static void logsumexp_dim_backward(dn_call *c) {
    dn_axis l = dn__axis_of(c->x[0].dim, c->ints[0]);
    size_t length = (size_t)l.length, block = l.inner * length;
    const dn_real *all = c->saved, *log_sums = c->saved + c->total;
    dn_grad g = dn__dx(c, 0);
    for (size_t o = 0; g.dx && o < l.outer; o++) {
        const dn_real *x = c->x[0].v + o * block, *max = all + o * l.inner,
                      *log_sum = log_sums + o * l.inner;
        dn_real *dx = g.dx + o * block;
        if (l.inner != 1)
            for (size_t k = 0; k < length; k++)
                dn__add_exp_grad(l.inner, x + k * l.inner, max, log_sum, c->dy + o * l.inner,
                                 g.beta, dx + k * l.inner);
        else if (max[0] != -INFINITY)
            dn__softmax_from_lse(length, x, (dn_lse){max[0], log_sum[0]}, c->dy[o], g.beta, dx);
        else if (g.beta == 0) dn__fill(length, 0, dx);
    }
}
