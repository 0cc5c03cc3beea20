/* Inverse and determinant of square matrices. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "op.h"

static int square_check(dn_shape *s) {
    const dn_dim *x = s->x[0];
    if (x->nd > 2 || dn__rows_of(x) != dn__columns_of(x))
        return dn__fail(s, DN_ERROR_VALUE, "the matrix must be square; got x = %s.", DIMS(x));
    return 0;
}

/* An LU factorization of x; `ok` is 0 where x is singular, `work` NULL where there was no
 * memory. */
typedef struct factors {
    dn_real *lu, *work;
    int *pivot, n, ok;
} factors;
static size_t factors_size(const dn_dim *x) {
    return (size_t)dn__rows_of(x) * (size_t)(dn__rows_of(x) + 1);
}
/* in memory of factors_size() numbers */
static void factors_in(factors *f, dn_real *memory) {
    f->lu = memory;
    f->pivot = (int *)(memory + (size_t)f->n * (size_t)f->n);
}
static factors factors_for(dn_call *c) {
    return (factors){.n = dn__rows_of(c->x[0].dim),
                     .work = dn__scratch(c, dn__lu_work(dn__rows_of(c->x[0].dim)))};
}
static void factorize(factors *f, const dn_real *x) {
    memcpy(f->lu, x, (size_t)f->n * (size_t)f->n * sizeof *x);
    f->ok = dn__lu(f->n, f->lu, f->pivot, f->work);
}
/* y = x^-1, NaN where x is singular */
static void invert(const factors *f, dn_real *y) {
    size_t n = (size_t)f->n;
    dn__fill(n * n, f->ok ? 0 : (dn_real)NAN, y);
    if (!f->ok) return;
    for (size_t i = 0; i < n; i++) y[i * n + i] = 1;
    dn__lu_solve(f->n, f->n, f->lu, f->pivot, y, f->work);
}

DN_OP(inverse, 1, DN_BATCHES, "y = x^-1; NaN where x is singular")
static int inverse_dims(dn_shape *s) {
    s->y = *s->x[0];
    return square_check(s);
}
static void inverse_forward(dn_call *c) {
    factors f = factors_for(c);
    dn_real *memory = dn__scratch(c, factors_size(c->dim));
    if (!f.work || !memory) return;
    factors_in(&f, memory);
    for (size_t at = 0; at < c->total; at += (size_t)c->dim->size) {
        factorize(&f, c->x[0].v + at);
        invert(&f, c->y + at);
    }
}
/* dx = -y' dy y' */
static void inverse_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    int n = dn__rows_of(c->dim);
    size_t size = (size_t)c->dim->size;
    dn_real *t = g.dx ? dn__scratch(c, size) : NULL;
    for (size_t at = 0; t && at < c->total; at += size) {
        dn__mm_dx(n, n, n, c->y + at, n, c->dy + at, n, 0, t, n);
        dn__axpy(size, -1, t, 0, t);
        dn__mm_dw(n, n, n, t, n, c->y + at, n, g.beta, g.dx + at, n);
    }
}

/* saved: the factors of each batch element */
DN_OP(logdet, 1, DN_BATCHES, "y = log det x; NaN where det x < 0, -inf where x is singular")
static int logdet_dims(dn_shape *s) {
    int error = square_check(s);
    s->saved = factors_size(s->x[0]) * (size_t)s->x[0]->batch;
    return error ? error : dn__set_dims(s, 1, (int[]){1}, s->x[0]->batch);
}
static void logdet_forward(dn_call *c) {
    factors f = factors_for(c);
    size_t n = (size_t)f.n;
    for (int b = 0; f.work && b < c->dim->batch; b++) {
        factors_in(&f, c->saved + (size_t)b * factors_size(c->x[0].dim));
        factorize(&f, c->x[0].v + (size_t)b * n * n);
        double sum = f.ok ? 0 : -INFINITY;
        int negative = 0;
        for (size_t k = 0; f.ok && k < n; k++) {
            double u = f.lu[k * n + k];
            sum += log(fabs(u));
            negative ^= (u < 0) ^ (f.pivot[k] != (int)k);
        }
        c->y[b] = (dn_real)(negative ? NAN : sum);
    }
}
/* dx = dy (x^-1)' */
static void logdet_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (!g.dx) return;
    factors f = factors_for(c);
    size_t size = (size_t)f.n * (size_t)f.n;
    dn_real *y = dn__scratch(c, size);
    for (int b = 0; f.work && y && b < c->dim->batch; b++) {
        factors_in(&f, c->saved + (size_t)b * factors_size(c->x[0].dim));
        f.ok = c->y[b] != -INFINITY;
        invert(&f, y);
        dn__axpy(size, c->dy[b], y, 0, y);
        dn__transpose(f.n, f.n, y, g.beta, g.dx + (size_t)b * size);
    }
}
