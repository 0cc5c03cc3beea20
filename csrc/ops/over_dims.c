/* Sum, mean, moment and standard deviation over any set of dims, with or without the batch.
 *
 * Each has two rows, because members of a merged batch must not be summed over; errors name the
 * function, which is the same for both. ints: 1 for "all dims", else 0; n, the number to divide by
 * (0: the count); r, the order of the moment; then the dims. */
#include <float.h>
#include <math.h>

#include "kernels/kernels.h"
#include "op.h"
#include "axis.h"

#ifdef DN_DOUBLE
static const double EPSILON = DBL_EPSILON;
#else
static const double EPSILON = FLT_EPSILON;
#endif

enum { ALL, COUNT, ORDER, FIRST_DIM };

/* ---- dims ----------------------------------------------------------------------------- */

/* the dims that go, as bits; DN_MAX_DIMS stands for the batch */
static unsigned reduced_of(const int *ints, int n_ints, int with_batch) {
    unsigned reduced = ints[ALL] ? (1u << DN_MAX_DIMS) - 1 : 0;
    for (int i = FIRST_DIM; i < n_ints; i++) reduced |= 1u << ints[i];
    return with_batch ? reduced | 1u << DN_MAX_DIMS : reduced;
}

static int over_dims(dn_shape *s, int with_batch) {
    const dn_dim *x = s->x[0];
    unsigned seen = 0;
    for (int i = FIRST_DIM; i < s->n_ints; i++) {
        const int d = s->ints[i], error = dn__check_dim(s, d);
        if (error) return error;
        if (seen & 1u << d)
            return dn__fail(s, DN_ERROR_VALUE, "each dim may be named once; dim %d is named twice.",
                            d);
        seen |= 1u << d;
    }
    if (!s->ints[ALL] && !seen && !with_batch)
        return dn__fail(s, DN_ERROR_VALUE, "takes at least one dim, or b = True for the batch.");
    if (s->ints[COUNT] < 0)
        return dn__fail(s, DN_ERROR_VALUE, "n must not be negative; got n = %d.", s->ints[COUNT]);
    if (s->ints[ORDER] < 1)
        return dn__fail(s, DN_ERROR_VALUE, "the order must be 1 or more; got r = %d.",
                        s->ints[ORDER]);
    unsigned reduced = reduced_of(s->ints, s->n_ints, with_batch);
    int nd = 0, sizes[DN_MAX_DIMS];
    for (int i = 0; i < x->nd; i++)
        if (!(reduced & 1u << i)) sizes[nd++] = x->d[i];
    if (!nd) sizes[nd++] = 1;
    return dn__set_dims(s, nd, sizes, with_batch ? 1 : x->batch);
}

/* ---- walking x ------------------------------------------------------------------------ */

/* x in memory order, in tiles of rows x cols. reduced: each column becomes one number; else each
 * row does. */
typedef struct tile {
    size_t rows, cols;
    int reduced;
    size_t x, y;
} tile;
/* What is done with the tiles: arrays beside x and beside y, as each function says. */
typedef struct work {
    const dn_real *x;
    dn_real *to_x;
    const dn_real *y, *y2, *y3;
    dn_real *to_y;
    dn_real beta;
} work;

/* Neighbouring dims of one kind are one; the first two are the tile; `step` moves y along the
 * others. */
static void for_tiles(const dn_call *c, int with_batch, const work *w,
                      void (*f)(const work *, const tile *)) {
    const dn_dim *x = c->x[0].dim;
    unsigned reduced = reduced_of(c->ints, c->n_ints, with_batch);
    size_t n[DN_MAX_DIMS + 1], step[DN_MAX_DIMS + 1], y_step = 1;
    int nd = 0, kind[DN_MAX_DIMS + 1];
    for (int i = 0; i <= DN_MAX_DIMS; i++) {
        size_t size = (size_t)(i == DN_MAX_DIMS ? x->batch : dn__size_at(x, i));
        int goes = reduced >> i & 1;
        if (size == 0) return;
        if (size == 1) continue;
        if (nd && kind[nd - 1] == goes) {
            n[nd - 1] *= size;
        } else {
            n[nd] = size;
            step[nd] = goes ? 0 : y_step;
            kind[nd++] = goes;
        }
        if (!goes) y_step *= size;
    }
    tile t = {nd ? n[0] : 1, nd > 1 ? n[1] : 1, nd && kind[0], 0, 0};
    size_t at[DN_MAX_DIMS + 1] = {0};
    for (;;) {
        f(w, &t);
        t.x += t.rows * t.cols;
        int i = 2;
        for (; i < nd; i++) {
            t.y += step[i];
            if (++at[i] < n[i]) break;
            t.y -= step[i] * n[i];
            at[i] = 0;
        }
        if (i >= nd) return;
    }
}

/* y += sum x */
static void add_tile(const work *w, const tile *t) {
    if (t->reduced) dn__sum_each_column(t->rows, t->cols, w->x + t->x, 1, w->to_y + t->y);
    else dn__sum_columns((int)t->rows, (int)t->cols, w->x + t->x, 1, w->to_y + t->y);
}
/* The columns of a tile: where in x one begins, and in y its number (reduced) or numbers. */
#define FOR_COLUMNS(t, x, y) \
    for (size_t x = (t)->x, y = (t)->y; x < (t)->x + (t)->rows * (t)->cols; \
         x += (t)->rows, y += (size_t)(t)->reduced)
/* x' = x - y */
static void subtract_tile(const work *w, const tile *t) {
    FOR_COLUMNS(t, x, y) {
        if (t->reduced) dn__affine(t->rows, 1, -w->y[y], w->x + x, w->to_x + x);
        else dn__sub(t->rows, w->x + x, w->y + y, w->to_x + x);
    }
}
/* x' = y + beta x' */
static void spread_tile(const work *w, const tile *t) {
    if (t->reduced) dn__spread_over_columns(t->rows, t->cols, w->y + t->y, w->beta, w->to_x + t->x);
    else FOR_COLUMNS(t, x, y) dn__axpy(t->rows, 1, w->y + y, w->beta, w->to_x + x);
}
/* x' = x y + beta x' */
static void multiply_tile(const work *w, const tile *t) {
    FOR_COLUMNS(t, x, y) {
        if (t->reduced) dn__axpy(t->rows, w->y[y], w->x + x, w->beta, w->to_x + x);
        else dn__mul_add(t->rows, w->x + x, w->y + y, w->beta, w->to_x + x);
    }
}
/* x' = y ((x - y2) - y3) + beta x' */
static void centered_tile(const work *w, const tile *t) {
    FOR_COLUMNS(t, x, y)
    dn__centered(t->rows, !t->reduced, w->y + y, w->y2 + y, w->y3 + y, w->x + x, w->beta,
                 w->to_x + x);
}

/* ---- the four ------------------------------------------------------------------------- */

/* how many numbers of x go into one of y */
static double count_of(const dn_call *c, int with_batch) {
    unsigned reduced = reduced_of(c->ints, c->n_ints, with_batch);
    const dn_dim *x = c->x[0].dim;
    double n = with_batch ? x->batch : 1;
    for (int i = 0; i < x->nd; i++) n *= reduced >> i & 1 ? x->d[i] : 1;
    return n;
}
/* what it is divided by */
static double divisor_of(const dn_call *c, int with_batch) {
    return c->ints[COUNT] ? c->ints[COUNT] : count_of(c, with_batch);
}

static void divide_by_count(size_t total, double n, dn_real *y) {
    if (n != 1)
        for (size_t i = 0; i < total; i++) y[i] /= (dn_real)n;
}
/* to_y = sum of x / n */
static void reduce(const dn_call *c, int with_batch, double n, const dn_real *x, dn_real *to_y) {
    dn__fill(c->total, 0, to_y);
    for_tiles(c, with_batch, &(work){.x = x, .to_y = to_y}, add_tile);
    divide_by_count(c->total, n, to_y);
}
static void sums_forward(dn_call *c, int with_batch, double n) {
    reduce(c, with_batch, n, c->x[0].v, c->y);
}

/* dx = dy / n */
static void sums_backward(dn_call *c, int with_batch, double n) {
    dn_grad g = dn__dx(c, 0);
    dn_real *dy = g.dx ? dn__scratch(c, c->total) : NULL;
    if (!dy) return;
    dn__axpy(c->total, 1, c->dy, 0, dy);
    divide_by_count(c->total, n, dy);
    for_tiles(c, with_batch, &(work){.y = dy, .to_x = g.dx, .beta = g.beta}, spread_tile);
}

/* y = sum x^r / n */
static void moment_forward(dn_call *c, int with_batch) {
    size_t size = dn__elements(c->x[0].dim);
    double n = divisor_of(c, with_batch);
    if (c->ints[ORDER] == 1) {
        sums_forward(c, with_batch, n);
        return;
    }
    dn_real *power = dn__scratch(c, size);
    if (!power) return;
    dn__power(size, 1, (unsigned)c->ints[ORDER], c->x[0].v, power);
    reduce(c, with_batch, n, power, c->y);
}
/* dx = dy r x^(r-1) / n */
static void moment_backward(dn_call *c, int with_batch) {
    size_t size = dn__elements(c->x[0].dim);
    double n = divisor_of(c, with_batch);
    if (c->ints[ORDER] == 1) {
        sums_backward(c, with_batch, n);
        return;
    }
    dn_grad g = dn__dx(c, 0);
    dn_real *slope = g.dx ? dn__scratch(c, size) : NULL;
    if (!slope) return;
    dn__power(size, (dn_real)(c->ints[ORDER] / n), (unsigned)c->ints[ORDER] - 1, c->x[0].v, slope);
    for_tiles(c, with_batch, &(work){.x = slope, .y = c->dy, .to_x = g.dx, .beta = g.beta},
              multiply_tile);
}

/* With N numbers of x for each of y, y = sqrt(sum x^2 / n - m^2), m = sum x / n: n = N, the
 * default, gives the deviation of x; another n that of x with zeros taken away or added, which is
 * what n is for.
 *
 * saved: m in two parts. The sum of x - (sum x / N) is 0 but for rounding; taken off again it makes
 * the differences right to the last bit, so that numbers which are all equal have a deviation of 0
 * and not of some rounding error. */
static void std_forward(dn_call *c, int with_batch) {
    const dn_real *x = c->x[0].v;
    dn_real *mean = c->saved, *correction = c->saved + c->total,
            *centered = dn__scratch(c, dn__elements(c->x[0].dim));
    double count = count_of(c, with_batch), n = divisor_of(c, with_batch);
    if (!centered) return;
    reduce(c, with_batch, count, x, mean);
    for_tiles(c, with_batch, &(work){.x = x, .y = mean, .to_x = centered}, subtract_tile);
    reduce(c, with_batch, count, centered, correction);
    for_tiles(c, with_batch, &(work){.x = centered, .y = correction, .to_x = centered},
              subtract_tile);
    dn__square(dn__elements(c->x[0].dim), centered, centered);
    reduce(c, with_batch, n, centered, c->y);
    for (size_t i = 0; i < c->total; i++) {
        double variance = c->y[i];
        if (n != count) {
            double m = (double)mean[i] + (double)correction[i], square = count * m * m / n;
            double wanted = variance + square * (1 - count / n);
            variance = fabs(wanted) < 8 * EPSILON * (variance + square) ? 0 : wanted;
            mean[i] = (dn_real)(count * m / n);
            correction[i] = (dn_real)(count * m / n - mean[i]);
        }
        c->y[i] = (dn_real)sqrt(variance);
    }
}
/* dx = dy (x - m) / (n y); 0 where y is 0 and has no derivative */
static void std_backward(dn_call *c, int with_batch) {
    dn_grad g = dn__dx(c, 0);
    dn_real *a = g.dx ? dn__scratch(c, c->total) : NULL;
    if (!a) return;
    double n = divisor_of(c, with_batch);
    for (size_t i = 0; i < c->total; i++)
        a[i] = c->y[i] == 0 ? 0 : (dn_real)(c->dy[i] / (n * c->y[i]));
    for_tiles(c, with_batch,
              &(work){.x = c->x[0].v,
                      .y = a,
                      .y2 = c->saved,
                      .y3 = c->saved + c->total,
                      .to_x = g.dx,
                      .beta = g.beta},
              centered_tile);
}
static int std_dims(dn_shape *s, int with_batch) {
    int error = over_dims(s, with_batch);
    if (!error) s->saved = 2 * dn__elements(&s->y);
    return error;
}

DN_OP(sum_dim, 1, DN_BATCHES, "y = sum of x over the dims d")
static int sum_dim_dims(dn_shape *s) { return over_dims(s, 0); }
static void sum_dim_forward(dn_call *c) { sums_forward(c, 0, 1); }
static void sum_dim_backward(dn_call *c) { sums_backward(c, 0, 1); }

DN_OP(sum_dim_and_batch, 1, 0, "y = sum of x over the dims d and the batch")
static int sum_dim_and_batch_dims(dn_shape *s) { return s->op = "sum_dim", over_dims(s, 1); }
static void sum_dim_and_batch_forward(dn_call *c) { sums_forward(c, 1, 1); }
static void sum_dim_and_batch_backward(dn_call *c) { sums_backward(c, 1, 1); }

DN_OP(mean_dim, 1, DN_BATCHES, "y = sum of x over the dims d / n, n their size or as given")
static int mean_dim_dims(dn_shape *s) { return over_dims(s, 0); }
static void mean_dim_forward(dn_call *c) { sums_forward(c, 0, divisor_of(c, 0)); }
static void mean_dim_backward(dn_call *c) { sums_backward(c, 0, divisor_of(c, 0)); }

DN_OP(mean_dim_and_batch, 1, 0, "y = sum of x over the dims d and the batch / n")
static int mean_dim_and_batch_dims(dn_shape *s) { return s->op = "mean_dim", over_dims(s, 1); }
static void mean_dim_and_batch_forward(dn_call *c) { sums_forward(c, 1, divisor_of(c, 1)); }
static void mean_dim_and_batch_backward(dn_call *c) { sums_backward(c, 1, divisor_of(c, 1)); }

DN_OP(moment_dim, 1, DN_BATCHES, "y = sum of x^r over the dims d / n")
static int moment_dim_dims(dn_shape *s) { return over_dims(s, 0); }
static void moment_dim_forward(dn_call *c) { moment_forward(c, 0); }
static void moment_dim_backward(dn_call *c) { moment_backward(c, 0); }

DN_OP(moment_dim_and_batch, 1, 0, "y = sum of x^r over the dims d and the batch / n")
static int moment_dim_and_batch_dims(dn_shape *s) { return s->op = "moment_dim", over_dims(s, 1); }
static void moment_dim_and_batch_forward(dn_call *c) { moment_forward(c, 1); }
static void moment_dim_and_batch_backward(dn_call *c) { moment_backward(c, 1); }

DN_OP(std_dim, 1, DN_BATCHES, "y = sqrt(sum of x^2 over the dims d / n - (sum of x / n)^2)")
static int std_dim_dims(dn_shape *s) { return std_dims(s, 0); }
static void std_dim_forward(dn_call *c) { std_forward(c, 0); }
static void std_dim_backward(dn_call *c) { std_backward(c, 0); }

DN_OP(std_dim_and_batch, 1, 0,
      "y = sqrt(sum of x^2 over the dims d and the batch / n - (sum of x / n)^2)")
static int std_dim_and_batch_dims(dn_shape *s) { return s->op = "std_dim", std_dims(s, 1); }
static void std_dim_and_batch_forward(dn_call *c) { std_forward(c, 1); }
static void std_dim_and_batch_backward(dn_call *c) { std_backward(c, 1); }
