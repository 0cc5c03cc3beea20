/* The LSTM over T steps as one node (T = 1: a step of a network that decides as it goes). The input projections of all steps are one
 * product, and so is each weight gradient; only the recurrent part goes step by step. Gates in the order i, f, o, g.
 *
 * inputs: Wx (4h, k), Wh (4h, h), b (4h), [h_0, c_0 (h)], x_1 ... x_T (k);  ints: T, whether h_0 and c_0 are given;  reals: forget bias
 * output: h_1 ... h_T, then c_1 ... c_T, each h x batch and dense, so that `part` nodes can name them.
 *   (i, f, o) = logistic(Wx x_t + Wh h_(t-1) + b + (0, forget bias, 0)),  g = tanh(...),  c_t = f c_(t-1) + i g,  h_t = o tanh c_t
 * Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. */
#include <string.h>

#include "../kernels/kernels.h"
#include "../op.h"

enum { WX, WH, BIAS, H0, C0 };

typedef struct sizes { int h, k, steps, batch, state, first; size_t hb, gb, xb; } sizes;   /* first: the input x_1 */
static sizes sizes_of(const dn_dim *const *x, const int *ints, int batch) {
    sizes z = {.h = x[WX]->d[0] / 4, .k = x[WX]->nd > 1 ? x[WX]->d[1] : 1, .steps = ints[0], .batch = batch, .state = ints[1],
               .first = ints[1] ? C0 + 1 : H0};
    z.hb = (size_t)z.h * (size_t)batch;
    z.gb = 4 * z.hb;
    z.xb = (size_t)z.k * (size_t)batch;
    return z;
}
static sizes call_sizes(const dn_call *c) {
    const dn_dim *x[1] = {c->x[WX].dim};
    return sizes_of(x, c->ints, c->dim->batch);
}

/* What is kept for backward: the inputs side by side, activated gates, tanh c, and the initial state with its batch written out. */
typedef struct kept { dn_real *x, *gates, *tanh_c, *h0, *c0; } kept;
static kept kept_of(const dn_call *c, const sizes *z) {
    size_t t = (size_t)z->steps;
    kept s = {.x = c->saved};
    s.gates = s.x + t * z->xb;
    s.tanh_c = s.gates + t * z->gb;
    s.h0 = s.tanh_c + t * z->hb;
    s.c0 = s.h0 + z->hb;
    return s;
}

DN_OP(lstm, -1, DN_BATCHES | DN_PARTS | DN_SHARED(1 << WX | 1 << WH | 1 << BIAS), "(h_t, c_t) = LSTM(x_t, h_(t-1), c_(t-1)) for t = 1 ... T")
static int lstm_dims(dn_shape *s) {
    int batch = dn__common_batch(s), steps = s->ints[0], state = s->ints[1], first = state ? C0 + 1 : H0;
    if (batch < 0) return batch;
    const dn_dim *wx = s->x[WX];
    if (steps < 1 || s->n != first + steps)
        return dn__fail(s, DN_ERROR_VALUE, "takes Wx, Wh, b%s and one x for each step; got %d inputs.", state ? ", h, c" : "", s->n);
    int h = wx->d[0] / 4, k = wx->nd > 1 ? wx->d[1] : 1;
    if (wx->nd > 2 || wx->d[0] != 4 * h || s->x[WH]->size != (int64_t)4 * h * h || s->x[WH]->d[0] != 4 * h || s->x[BIAS]->size != 4 * h)
        return dn__fail(s, DN_ERROR_VALUE, "Wx must be (4h, k), Wh (4h, h) and b (4h); got Wx = %s, Wh = %s, b = %s.", DIMS(wx), DIMS(s->x[WH]),
                        DIMS(s->x[BIAS]));
    for (int i = WX; i <= BIAS; i++)
        if (s->x[i]->batch != 1) return dn__fail(s, DN_ERROR_VALUE, "weights must not be batched; got input %d = %s.", i, DIMS(s->x[i]));
    for (int i = H0; i < first; i++)
        if (s->x[i]->size != h) return dn__fail(s, DN_ERROR_VALUE, "the state must be (%d,); got %s.", h, DIMS(s->x[i]));
    for (int i = first; i < s->n; i++)
        if (s->x[i]->size != k)
            return dn__fail(s, DN_ERROR_VALUE, "this network's inputs have dim (%d,); got x_%d = %s.", k, i - first + 1, DIMS(s->x[i]));
    sizes z = sizes_of(s->x, s->ints, batch);
    s->parts = 2 * steps;
    s->saved = (size_t)steps * (z.xb + z.gb + z.hb) + 2 * z.hb;
    if ((int64_t)2 * steps * h > INT32_MAX) return dn__fail(s, DN_ERROR_VALUE, "the sequence is too long: %d steps.", steps);
    return dn__set_dims(s, 1, (int[]){2 * steps * h}, batch);
}

/* x's batch elements side by side, written out where one serves all */
static void spread(const dn_in *x, int batch, dn_real *to) {
    size_t n = (size_t)x->dim->size;
    if (x->stride || batch == 1) memcpy(to, x->v, n * (size_t)batch * sizeof *to);
    else for (int b = 0; b < batch; b++) memcpy(to + (size_t)b * n, x->v, n * sizeof *to);
}

static void lstm_forward(dn_call *c) {
    sizes z = call_sizes(c);
    kept s = kept_of(c, &z);
    dn_real *h = c->y, *cell = c->y + (size_t)z.steps * z.hb;
    const dn_real *h_before = NULL, *c_before = NULL;
    for (int t = 0; t < z.steps; t++) spread(&c->x[z.first + t], z.batch, s.x + (size_t)t * z.xb);
    if (z.state) {
        spread(&c->x[H0], z.batch, s.h0);
        spread(&c->x[C0], z.batch, s.c0);
        h_before = s.h0;
        c_before = s.c0;
    }
    int columns = z.steps * z.batch, rows = 4 * z.h;
    for (int j = 0; j < columns; j++) memcpy(s.gates + (size_t)j * (size_t)rows, c->x[BIAS].v, (size_t)rows * sizeof *h);
    dn__mm(rows, z.k, columns, c->x[WX].v, rows, s.x, z.k, 1, s.gates, rows);
    for (int t = 0; t < z.steps; t++) {
        dn_real *gates = s.gates + (size_t)t * z.gb;
        if (h_before) dn__mm(rows, z.h, z.batch, c->x[WH].v, rows, h_before, z.h, 1, gates, rows);
        dn__lstm_cell(z.h, z.batch, (dn_real)c->reals[0], gates, c_before, z.h, cell, s.tanh_c + (size_t)t * z.hb, h);
        h_before = h;
        c_before = cell;
        h += z.hb;
        cell += z.hb;
    }
}

/* Adds `from` (n x batch) to input k's gradient, summed over the batch where the input is not batched. */
static void gather(dn_call *c, int k, int batch, const dn_real *from) {
    dn_grad g = dn__dx(c, k);
    if (!g.dx) return;
    size_t n = (size_t)c->x[k].dim->size;
    if (c->x[k].stride || batch == 1) dn__axpy(n * (size_t)batch, 1, from, g.beta, g.dx);
    else dn__sum_columns((int)n, batch, from, g.beta, g.dx);
}

static void lstm_backward(dn_call *c) {
    sizes z = call_sizes(c);
    kept s = kept_of(c, &z);
    size_t steps = (size_t)z.steps;
    int rows = 4 * z.h, columns = z.steps * z.batch;
    const dn_real *h = c->y, *cell = c->y + steps * z.hb, *dh_out = c->dy, *dc_out = c->dy + steps * z.hb;
    dn_real *dgates = dn__backward_memory(c, steps * z.gb);
    dn_real *dh = dn__scratch(c, z.hb), *dc = dn__scratch(c, z.hb), *dh_carried = dn__scratch(c, z.hb), *dc_carried = dn__scratch(c, z.hb);
    if (!dgates || !dh || !dc || !dh_carried || !dc_carried) return;
    for (int t = z.steps - 1; t >= 0; t--) {
        const dn_real *dh_t = dh_out + (size_t)t * z.hb, *dc_t = dc_out + (size_t)t * z.hb;
        if (t < z.steps - 1) { /* h_t and c_t were also used by step t + 1 */
            dn__add(z.hb, dh_t, dh_carried, dh);
            dn__add(z.hb, dc_t, dc_carried, dc);
            dh_t = dh;
            dc_t = dc;
        }
        int before = t > 0 || z.state;
        const dn_real *c_before = t > 0 ? cell + (size_t)(t - 1) * z.hb : z.state ? s.c0 : NULL;
        dn_real *dg = dgates + (size_t)t * z.gb;
        dn__lstm_cell_grad(z.h, z.batch, s.gates + (size_t)t * z.gb, c_before, z.h, s.tanh_c + (size_t)t * z.hb, dh_t, dc_t, dg,
                           before ? dc_carried : NULL);
        /* gates = ... + Wh h_(t-1) */
        if (before) dn__mm_dx(rows, z.h, z.batch, c->x[WH].v, rows, dg, rows, 0, dh_carried, z.h);
    }
    /* gates = Wx x + Wh h + b */
    if (dn__wants(c, WX)) dn__weight_gradient(c, WX, rows, z.k, columns, dgates, s.x);
    if (dn__wants(c, WH)) {
        if (z.steps > 1) dn__weight_gradient(c, WH, rows, z.h, columns - z.batch, dgates + z.gb, h);
        if (z.state) dn__weight_gradient(c, WH, rows, z.h, z.batch, dgates, s.h0);
    }
    dn_grad g = dn__dx(c, BIAS);
    if (g.dx) dn__sum_columns(rows, columns, dgates, g.beta, g.dx);
    if (z.state) {
        gather(c, H0, z.batch, dh_carried);
        gather(c, C0, z.batch, dc_carried);
    }
    int wanted = 0;
    for (int k = z.first; k < c->n && !wanted; k++) wanted = dn__wants(c, k);
    dn_real *dx = wanted ? dn__scratch(c, steps * z.xb) : NULL;
    if (!dx) return;
    dn__mm_dx(rows, z.k, columns, c->x[WX].v, rows, dgates, rows, 0, dx, z.k);
    for (int t = 0; t < z.steps; t++) gather(c, z.first + t, z.batch, dx + (size_t)t * z.xb);
}
