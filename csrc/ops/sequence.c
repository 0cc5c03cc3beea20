#include "sequence.h"

#include <string.h>

static dn_sizes sequence_call_sizes(const dn_call *c, const dn_network *net) {
    return dn__sizes_of(net, c->x[net->blocks[0].wx].dim, c->ints, c->n_ints, c->dim->batch);
}

/* Kept for backward, in the order of the plan. x: what was multiplied; distinct rows if `slots`. */
typedef struct kept {
    dn_real *x, *gates, *extra, *h0, *c0, *h, *c, *h_mask, *c_mask, *h_seen, *c_seen, *c_now;
    int *distinct, *slots;
} kept;

static size_t carve(const dn_network *net, const dn_sizes *z, dn_real *memory, kept *s) {
    size_t used = 0, column = (size_t)z->h * z->columns, state = (size_t)z->h * (size_t)z->batch;
    int h_mask = z->options & DN_SEQUENCE_H_MASK, c_mask = z->options & DN_SEQUENCE_C_MASK,
        apart = !z->plain;
    *s = (kept){0};
#define TAKE(wanted, field, n) \
    if (wanted) { \
        s->field = memory ? (void *)(memory + used) : NULL; \
        used += (n); \
    }
    TAKE(1, x, (size_t)z->k * z->columns)
    TAKE(1, gates, (size_t)net->gates * column)
    TAKE(net->has_extra, extra, column)
    TAKE(1, h0, state)
    TAKE(1, c0, net->has_c ? state : 0)
    TAKE(apart, h, column)
    TAKE((apart || z->ends_only) && net->has_c, c, column)
    TAKE(h_mask, h_mask, state)
    TAKE(c_mask, c_mask, state)
    TAKE(h_mask || apart, h_seen, column)
    TAKE(net->has_peepholes && (c_mask || apart), c_seen, column)
    TAKE(net->has_peepholes && c_mask, c_now, column)
    TAKE(1, slots, z->columns + 1) /* an int is no longer than a number */
    s->distinct = memory ? s->slots + z->columns : NULL;
#undef TAKE
    return used;
}

int dn__network_dims(dn_shape *s, const dn_network *net) {
    dn_sizes z;
    kept s_kept;
    int error = dn__check_sequence(s, net, &z), options = s->ints[1];
    if (error < 0) return error;
    s->saved = carve(net, &z, NULL, &s_kept);
    s->not_batchable =
        s->n_ints > 2 || options & ~(DN_SEQUENCE_STATE | DN_SEQUENCE_H_MASK | DN_SEQUENCE_C_MASK);
    int by_element = options & DN_SEQUENCE_BY_ELEMENT, ends = (1 + net->has_c) * z.batch;
    s->parts = by_element ? 1 : (1 + net->has_c) * z.steps;
    int only_ends = by_element && !(options & DN_SEQUENCE_EVERY_C);
    int64_t numbers = only_ends ? ((int64_t)z.positions + ends) * z.h
                                : (int64_t)(1 + net->has_c) * (int64_t)z.positions * z.h;
    if (numbers > INT32_MAX)
        return dn__fail(s, DN_ERROR_VALUE, "the sequence is too long: %d steps.", z.steps);
    if (z.form == DN_SEQUENCE_PACKED && by_element)
        return dn__set_dims(s, 1, (int[]){(int)numbers}, 1);
    int blocks = only_ends ? z.steps + 1 + net->has_c : (1 + net->has_c) * z.steps;
    return dn__set_dims(s, 1, (int[]){blocks * z.h}, z.batch);
}

/* where dn__table_rows, which gave `count`, has the row of a position */
static size_t row_at(const dn_sizes *z, const dn_plan *p, int count, int t, int b) {
    if (z->form == DN_SEQUENCE_PACKED) return (size_t)(dn__start_of(p, b) + t);
    if (z->form == DN_SEQUENCE_STEPS) return (size_t)t * (size_t)z->batch + (size_t)b;
    return (size_t)t * (size_t)count + (size_t)(count > 1 ? b : 0);
}

/* Equal rows of a table: slots[column], and how many are distinct; 0: nothing is gained. */
static int find_distinct(dn_call *c, const dn_sizes *z, const dn_plan *p, int *slots) {
    size_t columns = z->columns, size = 16, places = (size_t)z->steps * (size_t)z->batch;
    if (z->form == DN_SEQUENCE_MATRIX || columns < 16) return 0;
    while (size < 2 * columns) size *= 2;
    int *rows = dn__scratch_ints(c, places), *table = dn__scratch_ints(c, size),
        *row_of = dn__scratch_ints(c, columns);
    if (!rows || !table || !row_of) return 0;
    int n_x = z->form == DN_SEQUENCE_LIST ? z->steps : 1,
        count = dn__table_rows(c, z->first, n_x, (int)places, rows), distinct = 0;
    if (!count) return 0;
    memset(table, 0, size * sizeof *table); /* slot + 1 */
    for (size_t j = 0; j < columns; j++) {
        int t, b;
        dn__step_and_element(z, p, j, &t, &b);
        int row = rows[row_at(z, p, count, t, b)];
        size_t i = (uint32_t)row * 0x9E3779B1u & (size - 1);
        while (table[i] && row_of[table[i] - 1] != row) i = (i + 1) & (size - 1);
        if (!table[i]) {
            row_of[distinct] = row;
            table[i] = ++distinct;
        }
        slots[j] = table[i] - 1;
    }
    return (size_t)distinct * 5 <= columns * 4 ? distinct : 0;
}

/* Wx x + b of `columns` columns, block after block */
static void project(dn_call *c, const dn_network *net, const dn_sizes *z, size_t columns,
                    const dn_real *x, dn_real *to) {
    for (int i = 0; i < net->n_blocks; i++) {
        int rows = net->blocks[i].rows * z->h;
        dn__repeat(rows, columns, c->x[net->blocks[i].b].v, to);
        dn__product(rows, z->k, (int)columns, weight(c, net->blocks[i].wx, 0), x, z->k, 1, to,
                    rows);
        to += columns * (size_t)rows;
    }
}

/* The input projections of all columns, from those of distinct rows where it pays. */
static void project_inputs(dn_call *c, const dn_network *net, const dn_sizes *z, const dn_plan *p,
                           kept *s) {
    size_t k = (size_t)z->k;
    *s->distinct = find_distinct(c, z, p, s->slots);
    if (z->direct && !*s->distinct) {
        project(c, net, z, z->columns, c->x[z->first].v, s->gates);
        return;
    }
    int distinct = *s->distinct, next = 0;
    for (size_t j = 0; j < z->columns; j++) {
        int t, b;
        if (distinct && s->slots[j] != next) continue; /* not the first of its row */
        dn__step_and_element(z, p, j, &t, &b);
        memcpy(s->x + k * (distinct ? (size_t)next++ : j), dn__x_at(c, z, p, t, b),
               k * sizeof *s->x);
    }
    if (!distinct) {
        project(c, net, z, z->columns, s->x, s->gates);
        return;
    }
    dn_real *all = dn__scratch(c, (size_t)net->gates * (size_t)z->h * (size_t)distinct),
            *gates = s->gates;
    if (!all) return;
    project(c, net, z, (size_t)distinct, s->x, all);
    for (int i = 0; i < net->n_blocks; i++) {
        size_t rows = (size_t)(net->blocks[i].rows * z->h);
        for (size_t j = 0; j < z->columns; j++)
            memcpy(gates + j * rows, all + (size_t)s->slots[j] * rows, rows * sizeof *gates);
        gates += z->columns * rows;
        all += (size_t)distinct * rows;
    }
}

static dn_sequence sequence_of(const dn_call *c, const dn_network *net, const dn_sizes *z,
                               const dn_plan *p, const kept *s) {
    size_t all = z->columns * (size_t)z->h;
    dn_sequence q = {.h = z->h,
                     .steps = p->steps,
                     .active = p->active,
                     .columns = z->columns,
                     .given = z->options & DN_SEQUENCE_STATE,
                     .h0 = s->h0,
                     .c0 = s->c0,
                     .h_mask = s->h_mask,
                     .c_mask = s->c_mask,
                     .h_seen = s->h_seen,
                     .c_seen = s->c_seen,
                     .gates = s->gates,
                     .extra = s->extra,
                     .h_out = z->plain ? c->y : s->h};
    if (net->has_c) q.c = s->c ? s->c : c->y + all;
    q.c_now = s->c_now ? s->c_now : q.c;
    return q;
}

static void weights_of(dn_call *c, const dn_network *net, int transposed, dn_matrix *w) {
    for (int i = 0; i < net->n_products; i++) w[i] = weight(c, net->products[i].w, transposed);
}

void dn__network_forward(dn_call *c, const dn_network *net) {
    dn_sizes z = sequence_call_sizes(c, net);
    kept s;
    dn_plan p;
    dn_matrix w[DN_MOST_PRODUCTS] = {0};
    size_t state = (size_t)z.h * (size_t)z.batch;
    carve(net, &z, c->saved, &s);
    if (!dn__make_plan(c, &z, &p)) return;
    int given = z.options & DN_SEQUENCE_STATE, mask = z.mask;
    if (given) dn__by_place(&c->x[z.state], &z, &p, s.h0);
    else dn__fill(state, 0, s.h0);
    if (given && net->has_c) dn__by_place(&c->x[z.state + 1], &z, &p, s.c0);
    else if (net->has_c) dn__fill(state, 0, s.c0);
    if (s.h_mask) dn__by_place(&c->x[mask++], &z, &p, s.h_mask);
    if (s.c_mask) dn__by_place(&c->x[mask], &z, &p, s.c_mask);
    const dn_sequence q = sequence_of(c, net, &z, &p, &s);
    if (z.columns) {
        project_inputs(c, net, &z, &p, &s);
        weights_of(c, net, 0, w);
        net->forward(&q, w, c->floats);
    } else {
        *s.distinct = 0;
    }
    dn__show_states(c, net, &z, &p, &q);
}

/* ---- backward */
/* Zeros for the gradient of a mask, the input i; NULL: none is wanted. */
static dn_real *mask_gradient(dn_call *c, int i, size_t n) {
    if (i < 0 || !dn__wants(c, i)) return NULL;
    dn_real *d = dn__scratch(c, n);
    if (d) dn__fill(n, 0, d);
    return d;
}

/* Whether the loss does not depend on position t, of which it has got nothing. */
static int is_step_unread(const dn_call *c, const dn_network *net, const dn_sizes *z, int t) {
    return dn__beside_loss(c, t) && (!net->has_c || dn__beside_loss(c, z->steps + t));
}

/* Leaves out the steps behind the last one that the loss depends on: they have zeros, which might
 * be multiplied by infinity. The last step has got something nearly always. */
static void leave_out_steps(const dn_call *c, const dn_network *net, dn_sizes *z, const dn_plan *p,
                            dn_sequence *q) {
    const size_t h = (size_t)z->h;
    z->live = z->columns;
    if (z->by_element || !z->columns) return;
    const size_t last = (size_t)q->active[q->steps - 1] * h, at = z->columns * h - last;
    if (!dn__is_zero(last, q->dh + at) || (net->has_c && !dn__is_zero(last, q->dc + at))) return;
    const int reversed = z->options & DN_SEQUENCE_REVERSED;
    int n = z->steps; /* of the positions as they are read */
    while (n && is_step_unread(c, net, z, reversed ? z->steps - n : n - 1)) n--;
    if (!n || n == z->steps) return;
    for (; q->steps > 1; q->steps--) {
        const size_t step = (size_t)q->active[q->steps - 1];
        for (size_t j = z->live - step; j < z->live; j++) {
            int t, b;
            dn__step_and_element(z, p, j, &t, &b);
            if ((reversed ? z->steps - 1 - t : t) < n) return;
        }
        z->live -= step;
    }
}

/* Gradients of matrices that multiply the state. */
static void recurrent_gradients(dn_call *c, const dn_network *net, const dn_sizes *z,
                                const dn_sequence *q) {
    size_t h = (size_t)z->h, begun = (size_t)q->active[0];
    for (int i = 0; i < net->n_products; i++) {
        int w = net->products[i].w, block = net->products[i].block,
            rows = net->blocks[block].rows * z->h;
        if (!dn__wants(c, w)) continue;
        const dn_real *dy = q->dgates, *x = NULL, *initial = NULL;
        for (int j = 0; j < block; j++) dy += (size_t)(net->blocks[j].rows * z->h) * z->columns;
        switch (net->products[i].factor) {
        case DN_OF_EXTRA: x = q->extra; break;
        case DN_OF_C_NOW: x = q->c_now; break;
        case DN_OF_H_BEFORE: x = q->h_seen, initial = q->h0; break;
        case DN_OF_C_BEFORE: x = q->c_seen, initial = q->c0; break;
        }
        if (!initial) {
            dn__weight_gradient(c, w, rows, z->h, (int)z->live, dy, x);
        } else if (x) { /* without a given state the first step multiplied nothing */
            size_t from = q->given ? 0 : begun;
            dn__weight_gradient(c, w, rows, z->h, (int)(z->live - from), dy + from * (size_t)rows,
                                x + from * h);
        } else { /* plain: step s has multiplied what step s - 1 gave */
            dn__weight_gradient(c, w, rows, z->h, (int)(z->live - begun), dy + begun * (size_t)rows,
                                initial == q->h0 ? q->h_out : q->c);
            if (q->given) dn__weight_gradient(c, w, rows, z->h, (int)begun, dy, initial);
        }
    }
}

/* Gradients of gates, of columns or of distinct rows: blocks of `apart` columns, of which the first
 * `n` are used. */
typedef struct gate_gradients {
    const dn_real *dy;
    size_t n, apart;
} gate_gradients;

/* dx of all columns = sum over blocks of Wx' dgates */
static void input_products(dn_call *c, const dn_network *net, const dn_sizes *z, gate_gradients g,
                           dn_real beta, dn_real *dx) {
    for (int i = 0; i < net->n_blocks; i++) {
        int rows = net->blocks[i].rows * z->h;
        dn__product_dx(rows, z->k, (int)g.n, weight(c, net->blocks[i].wx, 1), g.dy, rows,
                       i ? 1 : beta, dx, z->k);
        g.dy += g.apart * (size_t)rows;
    }
}

/* Gradients of Wx and b: gates = Wx x + b. */
static void projection_gradients(dn_call *c, const dn_network *net, const dn_sizes *z,
                                 gate_gradients g, const dn_real *x) {
    for (int i = 0; i < net->n_blocks; i++) {
        int rows = net->blocks[i].rows * z->h;
        if (dn__wants(c, net->blocks[i].wx))
            dn__weight_gradient(c, net->blocks[i].wx, rows, z->k, (int)g.n, g.dy, x);
        const dn_grad b = dn__dx(c, net->blocks[i].b);
        if (b.dx) dn__sum_columns(rows, (int)g.n, g.dy, b.beta, b.dx);
        g.dy += g.apart * (size_t)rows;
    }
}

static void give_back_inputs(dn_call *c, const dn_sizes *z, const dn_plan *p, const dn_real *dx) {
    size_t k = (size_t)z->k;
    if (z->plain && z->form == DN_SEQUENCE_LIST) { /* the columns of a step are one input */
        const int steps = z->batch ? (int)(z->live / (size_t)z->batch) : z->steps;
        for (int t = 0; t < steps; t++) {
            dn_grad g = dn__dx(c, z->first + t);
            if (!g.dx) continue;
            const dn_real *from = dx + (size_t)t * k * (size_t)z->batch;
            if (c->x[z->first + t].stride || z->batch == 1)
                dn__axpy(k * (size_t)z->batch, 1, from, g.beta, g.dx);
            else dn__sum_columns(z->k, z->batch, from, g.beta, g.dx);
        }
        return;
    }
    int list = z->form == DN_SEQUENCE_LIST, n = list ? z->steps : 1;
    dn_real **to = dn__scratch_of(c, (size_t)n, sizeof *to);
    if (!to) return;
    const int each = z->live == z->columns || !list; /* else those of the live columns alone */
    for (int i = 0; i < n; i++) to[i] = each ? dn__dx_zeroed(c, z->first + i) : NULL;
    for (size_t j = 0; j < z->live; j++) {
        int t, b;
        dn__step_and_element(z, p, j, &t, &b);
        if (!each && !to[t]) to[t] = dn__dx_zeroed(c, z->first + t);
        dn_real *base = to[list ? t : 0];
        if (!base) continue;
        base += dn__x_at(c, z, p, t, b) - c->x[z->first + (list ? t : 0)].v; /* as x lies */
        dn__add(k, base, dx + j * k, base);
    }
}

static int wants_inputs(const dn_call *c, const dn_sizes *z) {
    for (int i = z->first; i < c->n; i++)
        if (dn__wants(c, i)) return 1;
    return 0;
}

/* How many distinct rows the live columns have: those come first. */
static size_t live_rows(const dn_sizes *z, const kept *s) {
    int last = *s->distinct - 1;
    if (z->live == z->columns) return (size_t)(last + 1);
    last = -1;
    for (size_t j = 0; j < z->live; j++)
        if (s->slots[j] > last) last = s->slots[j];
    return (size_t)(last + 1);
}

/* Gradients of gates added up for each distinct row: (rows x distinct) blocks. */
static gate_gradients sum_by_row(dn_call *c, const dn_network *net, const dn_sizes *z,
                                 const kept *s, const dn_real *dgates) {
    size_t distinct = live_rows(z, s), total = (size_t)net->gates * (size_t)z->h * distinct;
    dn_real *sums = dn__backward_memory(c, total), *to = sums;
    if (!sums) return (gate_gradients){0};
    dn__fill(total, 0, sums);
    for (int i = 0; i < net->n_blocks; i++) {
        size_t rows = (size_t)(net->blocks[i].rows * z->h);
        for (size_t j = 0; j < z->live; j++) {
            dn_real *sum = to + (size_t)s->slots[j] * rows;
            dn__add(rows, sum, dgates + j * rows, sum);
        }
        dgates += z->columns * rows;
        to += distinct * rows;
    }
    return (gate_gradients){sums, distinct, distinct};
}

/* Brings dx (k x distinct) to the rows of the table. */
static void give_back_rows(dn_call *c, const dn_network *net, const dn_sizes *z, const dn_plan *p,
                           const kept *s, size_t distinct, const dn_real *dgates,
                           const dn_real *dx) {
    int n = z->form == DN_SEQUENCE_LIST ? z->steps : 1;
    size_t places = (size_t)z->steps * (size_t)z->batch;
    int *rows = dn__scratch_ints(c, places), *distinct_rows = dn__scratch_ints(c, distinct);
    int *column = (int *)dn__backward_memory(c, places + 1);
    if (!rows || !distinct_rows || !column) return;
    int count = dn__table_rows(c, z->first, n, (int)places, rows);
    for (size_t i = 0; i < places; i++) column[i] = -1;
    for (size_t j = 0; j < z->live; j++) {
        int t, b;
        dn__step_and_element(z, p, j, &t, &b);
        size_t at = row_at(z, p, count, t, b);
        distinct_rows[s->slots[j]] = rows[at];
        column[at] = (int)j;
    }
    dn_row_products m = {.m = net->n_blocks, .k = z->k, .column = column};
    for (int i = 0; i < net->n_blocks; i++) {
        m.rows[i] = net->blocks[i].rows * z->h;
        m.w[i] = c->x[net->blocks[i].wx].v;
        m.packed[i] = dn__packed(c, net->blocks[i].wx, 1);
        m.dy[i] = dgates;
        dgates += (size_t)m.rows[i] * z->columns;
    }
    dn__rows_gradient(c, z->first, n, count, (int)distinct, distinct_rows, dx, &m);
}

void dn__network_backward(dn_call *c, const dn_network *net) {
    dn_sizes z = sequence_call_sizes(c, net);
    kept s;
    dn_plan p;
    dn_matrix w[DN_MOST_PRODUCTS] = {0};
    size_t all = z.columns * (size_t)z.h, state = (size_t)z.h * (size_t)z.batch, k = (size_t)z.k;
    carve(net, &z, c->saved, &s);
    if (!dn__make_plan(c, &z, &p)) return;
    dn_sequence q = sequence_of(c, net, &z, &p, &s);
    q.dgates = dn__backward_memory(c, (size_t)net->gates * all);
    q.dh = dn__scratch(c, all);
    q.dc = dn__scratch(c, net->has_c ? all : 0);
    q.dh0 = dn__scratch(c, state);
    q.dc0 = dn__scratch(c, state);
    q.work = dn__scratch(c, state);
    q.dh_mask = mask_gradient(c, s.h_mask ? z.mask : -1, state);
    q.dc_mask = mask_gradient(c, s.c_mask ? z.first - 1 : -1, state);
    if (!q.dgates || !q.dh || !q.dc || !q.dh0 || !q.dc0 || !q.work) return;
    dn__gather_gradients(c, net, &z, &p, &q);
    leave_out_steps(c, net, &z, &p, &q);
    weights_of(c, net, 1, w);
    if (z.columns) net->backward(&q, w);
    dn__show_gradients(c, net, &z, &p, &q);
    recurrent_gradients(c, net, &z, &q);
    const int given = z.options & DN_SEQUENCE_STATE;
    if (given) dn__give_back(c, &z, &p, z.state, q.dh0);
    if (given && net->has_c) dn__give_back(c, &z, &p, z.state + 1, q.dc0);
    if (q.dh_mask) dn__give_back(c, &z, &p, z.mask, q.dh_mask);
    if (q.dc_mask) dn__give_back(c, &z, &p, z.first - 1, q.dc_mask);
    const dn_real *x = z.direct && !*s.distinct ? c->x[z.first].v : s.x;
    const gate_gradients by_column = {q.dgates, z.live, z.columns};
    gate_gradients dgates = by_column;
    if (*s.distinct && !(dgates = sum_by_row(c, net, &z, &s, q.dgates)).dy) return;
    projection_gradients(c, net, &z, dgates, x);
    if (!wants_inputs(c, &z)) return;
    if (z.direct && !*s.distinct) {
        dn_grad g = dn__dx(c, z.first);
        input_products(c, net, &z, dgates, g.beta, g.dx);
        if (g.beta == 0) dn__fill((z.columns - z.live) * k, 0, g.dx + z.live * k);
        return;
    }
    int by_row = *s.distinct && !dn__wants_each(c);
    if (!by_row) dgates = by_column;
    dn_real *dx = dn__scratch(c, dgates.n * k);
    if (!dx) return;
    input_products(c, net, &z, dgates, 0, dx);
    if (by_row) give_back_rows(c, net, &z, &p, &s, dgates.n, q.dgates, dx);
    else give_back_inputs(c, &z, &p, dx);
}
