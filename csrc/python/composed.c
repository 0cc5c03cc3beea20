/* A step of a layer in DyNet's operations, in its order: what _cell() of a builder makes in Python
 * (nn/rnn.py, nn/simple.py), where the same formulas are. */
#include "expression.h"

/* An input may be an error, which then is what comes of it. */
static int64_t of_one(int op, int64_t x) {
    return x < 0 ? x : dn__node(op, 1, &x, 0, NULL, 0, NULL, 0);
}
static int64_t of_two(int op, int64_t x, int64_t y) {
    return x < 0 ? x : y < 0 ? y : dn__node2(op, x, y);
}
static int64_t times_plus(int64_t x, double a, double b) {
    return x < 0 ? x : dn__node1_float(DN_OP_scale_shift, x, a, b);
}
/* x[k size ... (k + 1) size - 1] */
static int64_t part(int64_t x, int k, int size) {
    return x < 0 ? x
                 : dn__node(DN_OP_pick_range, 1, &x, 4, (int[]){0, k * size, (k + 1) * size, 1}, 0,
                            NULL, 0);
}
/* Wx x + Wh h + b, of weights Wx, Wh, b; without h, Wx x + b */
static int64_t sums(const int64_t *w, int64_t x, int has_h, int64_t h) {
    int64_t inputs[] = {w[2], w[0], x, w[1], h};
    return has_h && h < 0
               ? h
               : dn__node(DN_OP_affine_transform, has_h ? 5 : 3, inputs, 0, NULL, 0, NULL, 0);
}

static void lstm(const dn_step_inputs *in, double forget_bias, int size, int64_t *h, int64_t *c) {
    const int64_t all = sums(in->weights, in->x, in->has_state, in->h);
    int64_t gates[4];
    for (int k = 0; k < 4; k++) gates[k] = part(all, k, size);
    const int64_t i = of_one(DN_OP_logistic, gates[0]),
                  shifted = times_plus(gates[1], 1, forget_bias),
                  f = of_one(DN_OP_logistic, shifted), o = of_one(DN_OP_logistic, gates[2]),
                  g = of_one(DN_OP_tanh, gates[3]),
                  kept = in->has_state ? of_two(DN_OP_cmult, f, in->c) : 0,
                  new = of_two(DN_OP_cmult, i, g);
    *c = in->has_state ? of_two(DN_OP_add, kept, new) : new;
    const int64_t shown = of_one(DN_OP_tanh, *c);
    *h = of_two(DN_OP_cmult, o, shown);
}

static void gru(const dn_step_inputs *in, int64_t *h) {
    const int64_t *w = in->weights, x = in->x;
    const int has_h = in->has_state;
    const int64_t z = of_one(DN_OP_logistic, sums(w, x, has_h, in->h)), keep = times_plus(z, -1, 1),
                  r = of_one(DN_OP_logistic, sums(w + 3, x, has_h, in->h)),
                  reset = has_h ? of_two(DN_OP_cmult, r, in->h) : 0,
                  candidate = of_one(DN_OP_tanh, sums(w + 6, x, has_h, reset)),
                  new = of_two(DN_OP_cmult, z, candidate),
                  kept = has_h ? of_two(DN_OP_cmult, keep, in->h) : 0;
    *h = has_h ? of_two(DN_OP_add, kept, new) : new;
}

void dn__composed_step(const dn_layers *p, const dn_step_inputs *in, int64_t *h, int64_t *c) {
    dn_step_inputs dropped = *in;
    if (in->has_state && in->h_mask >= 0) dropped.h = of_two(DN_OP_cmult, in->h, in->h_mask);
    *h = NOT_HANDLED;
    if (p->op == DN_OP_lstm && p->n_weights == 3) lstm(&dropped, p->floats[0], p->hidden_dim, h, c);
    else if (p->op == DN_OP_gru && p->n_weights == 9) gru(&dropped, h);
    else if (p->op == DN_OP_simple_rnn && p->n_weights == 3)
        *h = of_one(DN_OP_tanh, sums(dropped.weights, dropped.x, dropped.has_state, dropped.h));
}
