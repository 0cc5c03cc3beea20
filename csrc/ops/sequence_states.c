#include <string.h>

#include "sequence_plan.h"

void dn__by_place(const dn_in *x, const dn_sizes *z, const dn_plan *p, dn_real *to) {
    size_t n = (size_t)z->h;
    if (z->plain && x->stride) memcpy(to, x->v, n * (size_t)z->batch * sizeof *to);
    else
        for (int i = 0; i < z->batch; i++)
            memcpy(to + (size_t)i * n, x->v + (size_t)(z->plain ? i : p->order[i]) * x->stride,
                   n * sizeof *to);
}

static void show(const dn_call *c, const dn_sizes *z, const dn_plan *p, const dn_real *h,
                 const dn_real *initial, dn_real *to) {
    size_t n = (size_t)z->h;
    for (int b = 0; b < z->batch; b++)
        for (int t = 0; t < z->steps; t++) {
            if (!dn__has_place(c, z, t, b)) break;
            int column = p->shown[(size_t)t * (size_t)z->batch + (size_t)b];
            memcpy(to + n * dn__place_of(z, p, t, b),
                   column < 0 ? initial + n * (size_t)(-1 - column) : h + n * (size_t)column,
                   n * sizeof *to);
        }
}
static void show_last(const dn_sizes *z, const dn_plan *p, const dn_real *h, const dn_real *initial,
                      dn_real *to) {
    size_t n = (size_t)z->h;
    for (int b = 0; b < z->batch; b++) {
        int column = p->last[b];
        memcpy(to + n * (size_t)b,
               column < 0 ? initial + n * (size_t)(-1 - column) : h + n * (size_t)column,
               n * sizeof *to);
    }
}

/* the last h, and c, of the one plain sequence whose h have been written to y */
static void show_end(const dn_network *net, const dn_sizes *z, const dn_real *cells, dn_real *y) {
    size_t n = (size_t)z->h, before = n * (z->columns - 1);
    memcpy(y + n * z->columns, y + before, n * sizeof *y);
    if (net->has_c) memcpy(y + n * (z->columns + 1), cells + before, n * sizeof *y);
}

void dn__show_states(const dn_call *c, const dn_network *net, const dn_sizes *z, const dn_plan *p,
                     const dn_sequence *q) {
    const size_t n = (size_t)z->h, main = n * z->positions, state = n * (size_t)z->batch;
    if (z->plain) {
        if (z->ends_only) show_end(net, z, q->c, c->y);
        return;
    }
    show(c, z, p, q->h_out, q->h0, c->y);
    if (z->ends_only) {
        show_last(z, p, q->h_out, q->h0, c->y + main);
        if (net->has_c) show_last(z, p, q->c, q->c0, c->y + main + state);
    } else if (net->has_c) {
        show(c, z, p, q->c, q->c0, c->y + main);
    }
}

/* ---- backward */
static void gather_steps(const dn_call *c, const dn_sizes *z, const dn_plan *p, const dn_real *dy,
                         dn_real *dh, dn_real *initial) {
    size_t n = (size_t)z->h;
    int t, b;
    if (z->columns == z->positions) { /* each is shown once */
        for (size_t j = 0; j < z->columns; j++) {
            dn__step_and_element(z, p, j, &t, &b);
            memcpy(dh + n * j, dy + n * dn__place_of(z, p, t, b), n * sizeof *dh);
        }
        return;
    }
    dn__fill(n * z->columns, 0, dh);
    for (b = 0; b < z->batch; b++)
        for (t = 0; t < z->steps; t++) {
            if (!dn__has_place(c, z, t, b)) break;
            int column = p->shown[(size_t)t * (size_t)z->batch + (size_t)b];
            dn_real *to =
                column < 0 ? initial + n * (size_t)(-1 - column) : dh + n * (size_t)column;
            dn__add(n, to, dy + n * dn__place_of(z, p, t, b), to);
        }
}
static void gather_last(const dn_sizes *z, const dn_plan *p, const dn_real *dy, dn_real *dh,
                        dn_real *initial) {
    size_t n = (size_t)z->h;
    for (int b = 0; b < z->batch; b++) {
        dn_real *to =
            p->last[b] < 0 ? initial + n * (size_t)(-1 - p->last[b]) : dh + n * (size_t)p->last[b];
        dn__add(n, to, dy + n * (size_t)b, to);
    }
}

void dn__gather_gradients(const dn_call *c, const dn_network *net, const dn_sizes *z,
                          const dn_plan *p, dn_sequence *q) {
    size_t all = z->columns * (size_t)z->h, state = (size_t)z->h * (size_t)z->batch,
           main = (size_t)z->h * z->positions;
    dn__fill(state, 0, q->dh0);
    if (net->has_c) dn__fill(state, 0, q->dc0);
    if (z->plain) {
        size_t before = all - state; /* of the last step */
        memcpy(q->dh, c->dy, all * sizeof *q->dh);
        if (!z->ends_only) {
            if (net->has_c) memcpy(q->dc, c->dy + all, all * sizeof *q->dc);
            return;
        }
        dn__add(state, q->dh + before, c->dy + all, q->dh + before);
        if (net->has_c) dn__fill(before, 0, q->dc);
        if (net->has_c) memcpy(q->dc + before, c->dy + all + state, state * sizeof *q->dc);
        return;
    }
    gather_steps(c, z, p, c->dy, q->dh, q->dh0);
    if (net->has_c && !z->ends_only) gather_steps(c, z, p, c->dy + main, q->dc, q->dc0);
    if (!z->ends_only) return;
    gather_last(z, p, c->dy + main, q->dh, q->dh0);
    if (!net->has_c) return;
    dn__fill(all, 0, q->dc);
    gather_last(z, p, c->dy + main + state, q->dc, q->dc0);
}

void dn__show_gradients(dn_call *c, const dn_network *net, const dn_sizes *z, const dn_plan *p,
                        const dn_sequence *q) {
    size_t n = (size_t)z->h, all = z->columns * n, state = n * (size_t)z->batch,
           main = n * z->positions;
    const int every_c = net->has_c && !z->ends_only;
    if (z->plain) {
        memcpy(c->dy, q->dh, all * sizeof *q->dh);
        if (every_c) memcpy(c->dy + all, q->dc, all * sizeof *q->dc);
        if (z->ends_only) show_end(net, z, q->dc, c->dy);
        return;
    }
    for (size_t j = 0; j < z->columns; j++) { /* not positions that pass the state on */
        int t, b;
        dn__step_and_element(z, p, j, &t, &b);
        const size_t place = n * dn__place_of(z, p, t, b);
        memcpy(c->dy + place, q->dh + n * j, n * sizeof *q->dh);
        if (every_c) memcpy(c->dy + main + place, q->dc + n * j, n * sizeof *q->dc);
    }
    if (!z->ends_only) return;
    show_last(z, p, q->dh, q->dh0, c->dy + main);
    if (net->has_c) show_last(z, p, q->dc, q->dc0, c->dy + main + state);
}

void dn__give_back(dn_call *c, const dn_sizes *z, const dn_plan *p, int i, const dn_real *from) {
    dn_grad g = dn__dx(c, i);
    if (!g.dx) return;
    size_t n = (size_t)z->h;
    if (!c->x[i].stride && z->batch != 1) dn__sum_columns(z->h, z->batch, from, g.beta, g.dx);
    else
        for (int place = 0; place < z->batch; place++)
            dn__axpy(n, 1, from + n * (size_t)place, g.beta,
                     g.dx + n * (size_t)(z->plain ? place : p->order[place]));
}
