/* Arithmetic of two expressions with broadcasting, of an expression and a number, and sums of
 * many. */
#include "kernels/kernels.h"
#include "broadcast.h"

/* dims of x and y broadcast against each other */
static int broadcast_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *y = s->x[1];
    int nd = x->nd > y->nd ? x->nd : y->nd, d[DN_MAX_DIMS], batch = dn__common_batch(s);
    if (batch < 0) return batch;
    for (int i = 0; i < nd; i++) {
        int a = size_of(x, i), b = size_of(y, i);
        if (a != b && a != 1 && b != 1)
            return dn__fail(
                s, DN_ERROR_VALUE,
                "sizes must be equal or 1 in each dim, counted from the first; got x = %s, y = %s.",
                DIMS(x), DIMS(y));
        d[i] = a == 1 ? b : a;
    }
    return dn__set_dims(s, nd, d, batch);
}

static int equal_dims(const dn_call *c) {
    const dn_dim *x = c->x[0].dim, *y = c->x[1].dim;
    return x->size == y->size && x->batch == y->batch && dn__same_sizes(x, y);
}

static void forward_segments(dn_call *c, void (*f)(const dn_segment *)) {
    dn_broadcast_plan p = make_broadcast_plan(c->x[0].dim, c->x[1].dim);
    for_segments(&p, c->x[0].v, c->x[1].v, NULL, NULL, c->y, f);
}

/* For input k: segments with x = input k and y = the other one. */
static void backward_segments(dn_call *c, int k, dn_real *dx, void (*f)(const dn_segment *)) {
    dn_broadcast_plan p = make_broadcast_plan(c->x[k].dim, c->x[1 - k].dim);
    const size_t size = dn__elements(c->x[k].dim);
    size_t repeats = 1;
    for (int i = 1; i < p.nd; i++)
        if (!p.sx[i]) repeats *= p.n[i];
    if (repeats > DN_MANY) {
        p.part = dn__scratch(c, p.sx[0] ? p.n[0] : 1);
        p.sum = dn__wide_zeros(c, size);
        if (!p.part || !p.sum) return;
    }
    for_segments(&p, c->x[k].v, c->x[1 - k].v, dx, c->dy, c->y, f);
    if (p.part) dn__wide_sum(size, p.sum, 1, dx);
}

/* dx += a dz, summed where x stands still */
static void accumulate(const dn_segment *s, dn_real a) {
    if (s->sx == 0) s->dx[0] += a * dn__sum(s->n, s->dz);
    else dn__axpy(s->n, a, s->dz, 1, s->dx);
}
static void accumulate_plus(const dn_segment *s) { accumulate(s, 1); }
static void accumulate_minus(const dn_segment *s) { accumulate(s, -1); }

/* dx = a dz for x of equal dims, else the sum over what was repeated */
static void linear_backward(dn_call *c, int k, dn_real a, void (*f)(const dn_segment *)) {
    if (equal_dims(c)) {
        dn_grad g = dn__dx(c, k);
        if (g.dx) dn__axpy(c->total, a, c->dy, g.beta, g.dx);
    } else {
        dn_real *dx = dn__dx_zeroed(c, k);
        if (dx) backward_segments(c, k, dx, f);
    }
}

/* ---- x + y, x - y --------------------------------------------------------------------- */

DN_OP(add, 2, DN_BATCHES, "y = x_0 + x_1, broadcast")
static int add_dims(dn_shape *s) { return broadcast_dims(s); }
static void add_segment(const dn_segment *s) {
    if (s->sx && s->sy) dn__add(s->n, s->x, s->y, s->z);
    else if (s->sx) dn__affine(s->n, 1, s->y[0], s->x, s->z);
    else dn__affine(s->n, 1, s->x[0], s->y, s->z);
}
static void add_forward(dn_call *c) {
    if (equal_dims(c)) dn__add(c->total, c->x[0].v, c->x[1].v, c->y);
    else forward_segments(c, add_segment);
}
static void add_backward(dn_call *c) {
    linear_backward(c, 0, 1, accumulate_plus);
    linear_backward(c, 1, 1, accumulate_plus);
}

DN_OP(subtract, 2, DN_BATCHES, "y = x_0 - x_1, broadcast")
static int subtract_dims(dn_shape *s) { return broadcast_dims(s); }
static void subtract_segment(const dn_segment *s) {
    if (s->sx && s->sy) dn__sub(s->n, s->x, s->y, s->z);
    else if (s->sx) dn__affine(s->n, 1, -s->y[0], s->x, s->z);
    else dn__affine(s->n, -1, s->x[0], s->y, s->z);
}
static void subtract_forward(dn_call *c) {
    if (equal_dims(c)) dn__sub(c->total, c->x[0].v, c->x[1].v, c->y);
    else forward_segments(c, subtract_segment);
}
static void subtract_backward(dn_call *c) {
    linear_backward(c, 0, 1, accumulate_plus);
    linear_backward(c, 1, -1, accumulate_minus);
}

/* ---- elementwise product and quotient ------------------------------------------------- */

DN_OP(cmult, 2, DN_BATCHES, "y = x_0 x_1 elementwise, broadcast")
static int cmult_dims(dn_shape *s) { return broadcast_dims(s); }
static void cmult_segment(const dn_segment *s) {
    if (s->sx && s->sy) dn__mul(s->n, s->x, s->y, s->z);
    else if (s->sx) dn__axpy(s->n, s->y[0], s->x, 0, s->z);
    else dn__axpy(s->n, s->x[0], s->y, 0, s->z);
}
static void cmult_forward(dn_call *c) {
    if (equal_dims(c)) dn__mul(c->total, c->x[0].v, c->x[1].v, c->y);
    else forward_segments(c, cmult_segment);
}
/* y = x_0 x_1: dx_0 += dy x_1 */
static void cmult_segment_grad(const dn_segment *s) {
    if (s->sx && s->sy) dn__mul_add(s->n, s->dz, s->y, 1, s->dx);
    else if (s->sx) dn__axpy(s->n, s->y[0], s->dz, 1, s->dx);
    else s->dx[0] += dn__dot(s->n, s->dz, s->y);
}
static void cmult_backward(dn_call *c) {
    for (int k = 0; k < 2; k++) {
        if (equal_dims(c)) {
            dn_grad g = dn__dx(c, k);
            if (g.dx) dn__mul_add(c->total, c->dy, c->x[1 - k].v, g.beta, g.dx);
        } else {
            dn_real *dx = dn__dx_zeroed(c, k);
            if (dx) backward_segments(c, k, dx, cmult_segment_grad);
        }
    }
}

DN_OP(cdiv, 2, DN_BATCHES, "y = x_0 / x_1 elementwise, broadcast")
static int cdiv_dims(dn_shape *s) { return broadcast_dims(s); }
static void cdiv_segment(const dn_segment *s) {
    if (s->sx && s->sy) dn__div(s->n, s->x, s->y, s->z);
    else
        for (size_t i = 0; i < s->n; i++) s->z[i] = s->x[i * s->sx] / s->y[i * s->sy];
}
static void cdiv_forward(dn_call *c) {
    if (equal_dims(c)) dn__div(c->total, c->x[0].v, c->x[1].v, c->y);
    else forward_segments(c, cdiv_segment);
}
/* y = x_0 / x_1: dx_0 += dy / x_1;  dx_1 -= dy y / x_1. In both segments x is the input that gets
 * the gradient. */
static void cdiv_numerator_grad(const dn_segment *s) {
    if (!s->sx) s->dx[0] += dn__sum_quotients(s->n, s->dz, s->y);
    else
        for (size_t i = 0; i < s->n; i++) s->dx[i] += s->dz[i] / s->y[i * s->sy];
}
static void cdiv_denominator_grad(const dn_segment *s) {
    if (!s->sx) s->dx[0] -= dn__dot_over(s->n, s->dz, s->z, s->x[0]);
    else
        for (size_t i = 0; i < s->n; i++) s->dx[i] -= s->dz[i] * s->z[i] / s->x[i];
}
static void cdiv_backward(dn_call *c) {
    if (equal_dims(c)) {
        dn_grad g = dn__dx(c, 0);
        if (g.dx) dn__div_add(c->total, c->dy, c->x[1].v, g.beta, g.dx);
        g = dn__dx(c, 1);
        if (g.dx) dn__div_grad(c->total, c->y, c->x[1].v, c->dy, g.beta, g.dx);
        return;
    }
    dn_real *dx = dn__dx_zeroed(c, 0);
    if (dx) backward_segments(c, 0, dx, cdiv_numerator_grad);
    dx = dn__dx_zeroed(c, 1);
    if (dx) backward_segments(c, 1, dx, cdiv_denominator_grad);
}

/* ---- power: the exponent is one number ------------------------------------------------ */

DN_OP(pow, 2, DN_BATCHES | DN_BROADCAST(1 << 1), "y_i = x_0i ^ x_1, x_1 one number")
static int pow_dims(dn_shape *s) {
    const dn_dim *x = s->x[0], *y = s->x[1];
    if (y->size != 1 || y->batch != 1)
        return dn__fail(
            s, DN_ERROR_VALUE,
            "the exponent must be one number without a batch; got x = %s, exponent = %s.", DIMS(x),
            DIMS(y));
    s->y = *x;
    return 0;
}
static void pow_forward(dn_call *c) { dn__pow(c->total, c->x[0].v, c->x[1].v[0], c->y); }
static void pow_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__pow_grad(c->total, c->x[0].v, c->x[1].v[0], c->dy, g.beta, g.dx);
    g = dn__dx(c, 1);
    if (g.dx)
        g.dx[0] =
            dn__pow_exponent_grad(c->total, c->x[0].v, c->y, c->dy) + (g.beta == 0 ? 0 : g.dx[0]);
}

/* ---- an expression and a number: a x + b ---------------------------------------------- */

DN_OP(scale_shift, 1, DN_BATCHES, "y = a x + b, a and b numbers")
static int scale_shift_dims(dn_shape *s) {
    s->y = *s->x[0];
    return 0;
}
static void scale_shift_forward(dn_call *c) {
    dn__affine(c->total, (dn_real)c->floats[0], (dn_real)c->floats[1], c->x[0].v, c->y);
}
static void scale_shift_backward(dn_call *c) {
    dn_grad g = dn__dx(c, 0);
    if (g.dx) dn__axpy(c->total, (dn_real)c->floats[0], c->dy, g.beta, g.dx);
}

/* ---- sums of many --------------------------------------------------------------------- */

/* y = a (x_0 + x_1 + ...) */
static void very_many_forward(dn_call *c, dn_real a) {
    enum { PART = 1024 };
    int all_batched = 1;
    for (int k = 0; k < c->n; k++) all_batched &= c->x[k].stride || c->dim->batch == 1;
    const size_t n = all_batched ? c->total : (size_t)c->dim->size;
    for (size_t at = 0, now; at < c->total; at += now) {
        const size_t b = at / n, rest = (b + 1) * n - at;
        double sum[PART] = {0};
        now = rest < PART ? rest : PART;
        for (int k = 0; k < c->n; k++)
            dn__wide_add(now, (double)a, c->x[k].v + b * c->x[k].stride + at % n, sum);
        dn__wide_sum(now, sum, 0, c->y + at);
    }
}
static void many_forward(dn_call *c, dn_real a) {
    size_t n = (size_t)c->dim->size;
    if (c->n > DN_MANY) {
        very_many_forward(c, a);
        return;
    }
    for (int k = 0; k < c->n; k++) {
        dn_real beta = k ? 1 : 0;
        if (c->x[k].stride || c->dim->batch == 1) dn__axpy(c->total, a, c->x[k].v, beta, c->y);
        else
            for (int b = 0; b < c->dim->batch; b++)
                dn__axpy(n, a, c->x[k].v, beta, c->y + (size_t)b * n);
    }
}
static void many_backward(dn_call *c, dn_real a) {
    size_t n = (size_t)c->dim->size;
    for (int k = 0; k < c->n; k++) {
        if (c->x[k].stride || c->dim->batch == 1) {
            const dn_grad g = dn__dx(c, k);
            if (g.dx) dn__axpy(c->total, a, c->dy, g.beta, g.dx);
            continue;
        }
        dn_batch_grad to = dn__dx_by_element(c, k, c->dim->batch);
        while (dn__next_element(&to)) dn__axpy(n, a, c->dy + to.b * n, to.beta, to.dx);
    }
}

DN_OP(sum, -1, DN_BATCHES, "y = x_0 + x_1 + ...")
static int sum_dims(dn_shape *s) { return dn__alike_dims(s); }
static void sum_forward(dn_call *c) { many_forward(c, 1); }
static void sum_backward(dn_call *c) { many_backward(c, 1); }

DN_OP(average, -1, DN_BATCHES, "y = (x_0 + ... + x_(n-1)) / n")
static int average_dims(dn_shape *s) { return dn__alike_dims(s); }
static void average_forward(dn_call *c) { many_forward(c, (dn_real)1 / (dn_real)c->n); }
static void average_backward(dn_call *c) { many_backward(c, (dn_real)1 / (dn_real)c->n); }
