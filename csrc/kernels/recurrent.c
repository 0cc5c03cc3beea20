/* Recurrent networks over sequences sorted by falling length: the part that goes step by step. What
 * comes before (input projections) and after (weight gradients) is a product of all columns at once
 * and not done here. kernels.h has the formulas. */
#include <string.h>

#include "math.h"
#include "rounded.h"

/* A step: n columns that begin at column `at`; the step before began at `last`. */
typedef struct step {
    int s, n;
    size_t at, last;
} step;
static step first_step(const dn_sequence *q) { return (step){0, q->active[0], 0, 0}; }
static step next_step(const dn_sequence *q, step t) {
    return (step){t.s + 1, q->active[t.s + 1], t.at + (size_t)t.n, t.at};
}
static step last_step(const dn_sequence *q) {
    const int s = q->steps - 1;
    size_t at = 0; /* other than the columns less those of s if there are steps behind it */
    for (int before = 0; before < s; before++) at += (size_t)q->active[before];
    return (step){s, q->active[s], at, s ? at - (size_t)q->active[s - 1] : 0};
}
static step step_before(const dn_sequence *q, step t) {
    int s = t.s - 1;
    return (step){s, q->active[s], t.last, s ? t.last - (size_t)q->active[s - 1] : 0};
}

/* Whether the state before this step can be other than zero. */
static int has_past(const dn_sequence *q, step t) { return t.s > 0 || q->given; }
static const dn_real *h_before(const dn_sequence *q, step t) {
    return t.s ? q->h_out + t.last * (size_t)q->h : q->h0;
}
static const dn_real *c_before(const dn_sequence *q, step t) {
    return t.s ? q->c + t.last * (size_t)q->h : q->c0;
}
static dn_real *dh_before(const dn_sequence *q, step t) {
    return t.s ? q->dh + t.last * (size_t)q->h : q->dh0;
}
static dn_real *dc_before(const dn_sequence *q, step t) {
    return t.s ? q->dc + t.last * (size_t)q->h : q->dc0;
}
static size_t numbers(const dn_sequence *q, step t) { return (size_t)q->h * (size_t)t.n; }
/* where the columns of this step begin in a block of h rows */
static size_t offset(const dn_sequence *q, step t) { return (size_t)q->h * t.at; }

/* x as products see it: under its mask, and kept where the gradient will need it in one piece */
static const dn_real *seen(const dn_sequence *q, step t, const dn_real *x, const dn_real *mask,
                           dn_real *kept) {
    if (!kept) return x;
    dn_real *to = kept + offset(q, t);
    if (mask) dn__mul(numbers(q, t), x, mask, to);
    else memcpy(to, x, numbers(q, t) * sizeof *to);
    return to;
}

/* dx += mask (W' dy), W being rows x h and dy rows x n; dmask += x (W' dy) */
static void send(const dn_sequence *q, step t, int rows, dn_matrix w, const dn_real *dy,
                 const dn_real *mask, dn_real *dx, const dn_real *x, dn_real *dmask) {
    if (!mask) {
        dn__product_dx(rows, q->h, t.n, w, dy, rows, 1, dx, q->h);
        return;
    }
    dn__product_dx(rows, q->h, t.n, w, dy, rows, 0, q->work, q->h);
    dn__mul_add(numbers(q, t), q->work, mask, 1, dx);
    if (dmask) dn__mul_add(numbers(q, t), q->work, x, 1, dmask);
}

/* y += W x, W being rows x h */
static void add_product(const dn_sequence *q, step t, int rows, dn_matrix w, const dn_real *x,
                        dn_real *y) {
    dn__product(rows, q->h, t.n, w, x, q->h, 1, y, rows);
}

/* ---- LSTM ----------------------------------------------------------------------------- */

void dn__lstm_sequence(const dn_sequence *q, dn_real forget_bias, const dn_matrix *w) {
    int rows = 4 * q->h;
    for (step t = first_step(q);; t = next_step(q, t)) {
        size_t at = offset(q, t);
        if (has_past(q, t))
            add_product(q, t, rows, w[0], seen(q, t, h_before(q, t), q->h_mask, q->h_seen),
                        q->gates + 4 * at);
        dn__lstm_cell(q->h, t.n, forget_bias, q->gates + 4 * at, c_before(q, t), q->h, q->c + at,
                      q->extra + at, q->h_out + at);
        if (t.s == q->steps - 1) return;
    }
}

void dn__lstm_sequence_grad(const dn_sequence *q, const dn_matrix *w) {
    int rows = 4 * q->h;
    for (step t = last_step(q);; t = step_before(q, t)) {
        size_t at = offset(q, t);
        int past = has_past(q, t);
        dn__lstm_cell_grad(q->h, t.n, q->gates + 4 * at, c_before(q, t), q->h, q->extra + at,
                           q->dh + at, q->dc + at, q->dgates + 4 * at,
                           past ? dc_before(q, t) : NULL);
        /* gates = ... + Wh h_(s-1) */
        if (past)
            send(q, t, rows, w[0], q->dgates + 4 * at, q->h_mask, dh_before(q, t), h_before(q, t),
                 q->dh_mask);
        if (!t.s) return;
    }
}

/* ---- simple network ------------------------------------------------------------------- */

void dn__simple_sequence(const dn_sequence *q, const dn_matrix *w) {
    for (step t = first_step(q);; t = next_step(q, t)) {
        dn_real *sum = q->gates + offset(q, t);
        if (has_past(q, t))
            add_product(q, t, q->h, w[0], seen(q, t, h_before(q, t), q->h_mask, q->h_seen), sum);
        dn__tanh(numbers(q, t), sum, q->h_out + offset(q, t));
        if (t.s == q->steps - 1) return;
    }
}

void dn__simple_sequence_grad(const dn_sequence *q, const dn_matrix *w) {
    for (step t = last_step(q);; t = step_before(q, t)) {
        size_t at = offset(q, t);
        dn__tanh_grad(numbers(q, t), q->h_out + at, q->dh + at, 0, q->dgates + at);
        if (has_past(q, t))
            send(q, t, q->h, w[0], q->dgates + at, q->h_mask, dh_before(q, t), h_before(q, t),
                 q->dh_mask);
        if (!t.s) return;
    }
}

/* ---- what the GRU's h and the coupled LSTM's c are: y = (1 - gate) x + gate g --------- */

/* Not x + gate (g - x): beside a huge x the digits of g are lost, and an infinite x gives inf -
 * inf. */
DN_INLINE dn_real mix(dn_real gate, dn_real x, dn_real g) { return (1 - gate) * x + gate * g; }

DN_MULTIVERSION DN_NOT_INLINE static void mix_grad(size_t n, const dn_real *x, const dn_real *gate,
                                                   const dn_real *g, const dn_real *dy,
                                                   dn_real *dgate, dn_real *dg, dn_real *dx) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real gate_ = gate[j], g_ = g[j];
        dgate[j] = dy[j] * (g_ - x[j]) * (gate_ * (1 - gate_));
        dg[j] = dy[j] * gate_ * (1 - g_ * g_);
        dx[j] += dy[j] * (1 - gate_);
    }
}

/* ---- GRU ------------------------------------------------------------------------------ */

DN_MULTIVERSION DN_NOT_INLINE static void gru_open(size_t n, const dn_real *h, dn_real *z,
                                                   dn_real *r, dn_real *rh) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real r_ = dn__logistic_of(r[j]);
        z[j] = dn__logistic_of(z[j]);
        r[j] = r_;
        rh[j] = r_ * h[j];
    }
}
DN_MULTIVERSION DN_NOT_INLINE static void gru_close(size_t n, const dn_real *h, const dn_real *z,
                                                    dn_real *g, dn_real *y) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real g_ = dn__tanh_of(g[j]);
        g[j] = g_;
        y[j] = mix(z[j], h[j], g_);
    }
}
/* rh = r h */
DN_MULTIVERSION DN_NOT_INLINE static void gru_open_grad(size_t n, const dn_real *h,
                                                        const dn_real *r, const dn_real *drh,
                                                        dn_real *dr, dn_real *dh) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dr[j] = drh[j] * h[j] * (r[j] * (1 - r[j]));
        dh[j] += drh[j] * r[j];
    }
}

void dn__gru_sequence(const dn_sequence *q, const dn_matrix *w) {
    size_t block = (size_t)q->h * q->columns;
    for (step t = first_step(q);; t = next_step(q, t)) {
        size_t at = offset(q, t), n = numbers(q, t);
        dn_real *z = q->gates + at, *r = z + block, *g = r + block, *rh = q->extra + at;
        const dn_real *h = h_before(q, t);
        if (has_past(q, t)) {
            const dn_real *x = seen(q, t, h, NULL, q->h_seen);
            add_product(q, t, q->h, w[0], x, z);
            add_product(q, t, q->h, w[1], x, r);
        }
        gru_open(n, h, z, r, rh);
        if (has_past(q, t)) add_product(q, t, q->h, w[2], rh, g);
        gru_close(n, h, z, g, q->h_out + at);
        if (t.s == q->steps - 1) return;
    }
}

void dn__gru_sequence_grad(const dn_sequence *q, const dn_matrix *w) {
    size_t block = (size_t)q->h * q->columns;
    for (step t = last_step(q);; t = step_before(q, t)) {
        size_t at = offset(q, t), n = numbers(q, t);
        const dn_real *h = h_before(q, t), *z = q->gates + at, *r = z + block, *g = r + block;
        dn_real *dz = q->dgates + at, *dr = dz + block, *dg = dr + block, *dh = dh_before(q, t),
                *drh = q->work;
        mix_grad(n, h, z, g, q->dh + at, dz, dg, dh); /* y = (1 - z) h + z g */
        if (has_past(q, t)) {
            /* g = ... + Wnh (r h) */
            dn__product_dx(q->h, q->h, t.n, w[2], dg, q->h, 0, drh, q->h);
            gru_open_grad(n, h, r, drh, dr, dh);
            send(q, t, q->h, w[0], dz, NULL, dh, NULL, NULL); /* z = ... + Wzh h, r = ... + Wrh h */
            send(q, t, q->h, w[1], dr, NULL, dh, NULL, NULL);
        } else {
            dn__fill(n, 0, dr); /* it multiplies zero */
        }
        if (!t.s) return;
    }
}

/* ---- LSTM with coupled gates ---------------------------------------------------------- */

DN_MULTIVERSION DN_NOT_INLINE static void coupled_open(size_t n, const dn_real *c, dn_real *i,
                                                       dn_real *g, dn_real *y, dn_real *tanh_y) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real i_ = dn__logistic_of(i[j]), g_ = dn__tanh_of(g[j]), y_ = mix(i_, c[j], g_);
        i[j] = i_;
        g[j] = g_;
        y[j] = y_;
        tanh_y[j] = dn__tanh_of(y_);
    }
}
DN_MULTIVERSION DN_NOT_INLINE static void coupled_close(size_t n, const dn_real *tanh_c, dn_real *o,
                                                        dn_real *h) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real o_ = dn__logistic_of(o[j]);
        o[j] = o_;
        h[j] = o_ * tanh_c[j];
    }
}
/* h = o tanh c */
DN_MULTIVERSION DN_NOT_INLINE static void coupled_close_grad(size_t n, const dn_real *tanh_c,
                                                             const dn_real *o, const dn_real *dh,
                                                             dn_real *d_o, dn_real *dc) {
    DN_SIMD for (size_t j = 0; j < n; j++) {
        dn_real o_ = o[j], t_ = tanh_c[j];
        d_o[j] = dh[j] * t_ * (o_ * (1 - o_));
        dc[j] += dh[j] * o_ * (1 - t_ * t_);
    }
}

void dn__coupled_sequence(const dn_sequence *q, const dn_matrix *w) {
    size_t block = (size_t)q->h * q->columns;
    for (step t = first_step(q);; t = next_step(q, t)) {
        size_t at = offset(q, t), n = numbers(q, t);
        dn_real *i = q->gates + at, *o = i + block, *g = o + block;
        const dn_real *c = c_before(q, t);
        if (has_past(q, t)) {
            const dn_real *h = seen(q, t, h_before(q, t), q->h_mask, q->h_seen);
            add_product(q, t, q->h, w[0], h, i);
            add_product(q, t, q->h, w[1], h, o);
            add_product(q, t, q->h, w[2], h, g);
            if (w[3].v) add_product(q, t, q->h, w[3], seen(q, t, c, q->c_mask, q->c_seen), i);
        }
        coupled_open(n, c, i, g, q->c + at, q->extra + at);
        if (q->c_mask && w[4].v) dn__mul(n, q->c + at, q->c_mask, q->c_now + at);
        if (w[4].v) add_product(q, t, q->h, w[4], q->c_now + at, o);
        coupled_close(n, q->extra + at, o, q->h_out + at);
        if (t.s == q->steps - 1) return;
    }
}

void dn__coupled_sequence_grad(const dn_sequence *q, const dn_matrix *w) {
    size_t block = (size_t)q->h * q->columns;
    for (step t = last_step(q);; t = step_before(q, t)) {
        size_t at = offset(q, t), n = numbers(q, t);
        const dn_real *i = q->gates + at, *o = i + block, *g = o + block;
        dn_real *di = q->dgates + at, *d_o = di + block, *dg = d_o + block, *dc = q->dc + at;
        coupled_close_grad(n, q->extra + at, o, q->dh + at, d_o, dc);
        /* o = ... + Woc c */
        if (w[4].v) send(q, t, q->h, w[4], d_o, q->c_mask, dc, q->c + at, q->dc_mask);
        /* c = (1 - i) c_before + i g */
        mix_grad(n, c_before(q, t), i, g, dc, di, dg, dc_before(q, t));
        if (has_past(q, t)) {
            if (w[3].v)
                send(q, t, q->h, w[3], di, q->c_mask, dc_before(q, t), c_before(q, t), q->dc_mask);
            send(q, t, q->h, w[0], di, q->h_mask, dh_before(q, t), h_before(q, t), q->dh_mask);
            send(q, t, q->h, w[1], d_o, q->h_mask, dh_before(q, t), h_before(q, t), q->dh_mask);
            send(q, t, q->h, w[2], dg, q->h_mask, dh_before(q, t), h_before(q, t), q->dh_mask);
        }
        if (!t.s) return;
    }
}
