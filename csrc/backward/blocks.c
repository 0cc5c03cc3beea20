/* The backward of a product whose value's gradient is put off (put_off.c), in blocks of columns;
 * and both passes of one whose value is not kept (schedule/unkept.c) with its user, the loss.
 *
 * Forward of a training step computes a block of scores, the loss of its columns and, at once, the
 * gradients of both: then no product is done twice. For that it must know what gradient the loss
 * will get. It takes what each column got the last time, as 1 where losses are added up. If
 * backward brings something else, it does its work as if nothing had been done, with the same
 * results: it computes the scores again. Values that are not foreseen so are kept from then on;
 * where no backward has followed, nothing is done ahead the next time. */
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/rounded.h"
#include "schedule/group.h"
#include "backward_pass.h"

/* The call as a whole, and the block that is at hand. */
typedef struct dn_in_blocks {
    dn_call *all;
    dn_grad *slots; /* of all's inputs, once they were asked for; dx NULL: not, or none */
    uint8_t *asked;
    int from, is_last;
    dn_real *block;  /* columns of the gradient of all's value or, at first, of the value */
    int32_t entries; /* what is put off of it */
    /* of a value that is not kept: the call that needs it, its gradient, NULL: that is not wanted
     * yet; whether its value is; where gradients of all's inputs go, NULL: as in every backward */
    dn_call *user;
    dn_real *user_dy;
    int forward;
    dn_ahead *ahead;
} dn_in_blocks;

static dn_in_blocks *blocks_of(const dn_call *c) { return c->tape->backward->blocks; }

static int block_wants(const dn_call *c, int k) {
    return blocks_of(c)->all->routes->wants(blocks_of(c)->all, k);
}
/* An input of its own for each batch element is written block by block, one for all is added to. */
static dn_grad block_dx(dn_call *c, int k) {
    const dn_in_blocks *b = blocks_of(c);
    if (!b->asked[k]) {
        b->slots[k] = b->all->routes->dx(b->all, k);
        b->asked[k] = 1;
    }
    dn_grad g = b->slots[k];
    if (!g.dx) return g;
    g.dx += (size_t)b->from * b->all->x[k].stride;
    if (!b->all->x[k].stride && b->from) g.beta = 1;
    return g;
}
static void block_weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy,
                                  const dn_real *x) {
    const dn_grad g = block_dx(c, k);
    if (g.dx) dn__product_dw(m, kk, n, dn__rounds(c, k), dy, m, x, kk, g.beta, g.dx, m);
    else c->workspace->out_of_memory = 1;
}
static int block_defers_weight(const dn_call *c, int k) { return (void)c, (void)k, 0; }
static void block_input_done(dn_call *c, int k) {
    if (blocks_of(c)->is_last) blocks_of(c)->all->routes->input_done(blocks_of(c)->all, k);
}

/* The gradient of columns from ... from + n - 1. */
static void compute_block(dn_tape *t, int32_t entries, size_t size, int from, int n, dn_real *dy) {
    for (int32_t at = entries; at && !t->workspace.out_of_memory;) {
        const dn_put_off *p = &t->backward->put_off[at - 1];
        const int begin = p->from > from ? p->from : from,
                  end = p->from + p->n < from + n ? p->from + p->n : from + n;
        if (begin < end)
            dn__put_off_columns(t, p, begin, end - begin, 0, dy + (size_t)(begin - from) * size);
        at = p->next;
    }
}

/* The value's columns anew, the user's value for them, and then their gradient in their place. */
static dn_grad scores_dx(dn_call *c, int k) { return (dn_grad){k ? NULL : blocks_of(c)->block, 0}; }
static int wants_scores(const dn_call *c, int k) { return (void)c, k == 0; }
static void compute_unkept(dn_in_blocks *b, int n, dn_in *x, dn_dim *dims) {
    const size_t size = (size_t)b->all->dim->size;
    dn_call c;
    dn__narrow(b->all, b->from, n, x, dims, &c);
    c.y = b->block;
    c.node->op->forward(&c);
    dn_gradient_routes routes = *b->user->routes;
    routes.wants = wants_scores;
    routes.dx = scores_dx;
    routes.put_off = NULL;
    dn__narrow(b->user, b->from, n, x, dims, &c);
    x[0] = (dn_in){&dims[0], b->block, size};
    c.routes = &routes;
    if (b->forward) c.node->op->forward(&c);
    c.dy = b->user_dy + (b->user_dy ? b->from : 0);
    if (c.dy) c.node->op->backward(&c);
}

static void call_in_blocks(dn_tape *t, dn_in_blocks b) {
    dn_call *all = b.all;
    const int batch = all->dim->batch, most = dn__block_columns(batch);
    const size_t size = (size_t)all->dim->size, n_inputs = (size_t)all->n,
                 room = n_inputs + (b.user ? (size_t)b.user->n : 0);
    dn_in *x = dn__memory(t, DN_SCRATCH, (n_inputs + room) * sizeof *x), *part = x + n_inputs;
    dn_dim *dims = dn__memory(t, DN_SCRATCH, (room + 1) * sizeof *dims);
    b.slots = dn__memory(t, DN_SCRATCH, n_inputs * sizeof *b.slots);
    b.asked = dn__memory(t, DN_SCRATCH, n_inputs);
    b.block = dn__memory(t, DN_SCRATCH, (size_t)most * size * sizeof *b.block);
    if (!x || !dims || !b.slots || !b.asked || !b.block) {
        t->workspace.out_of_memory = 1;
        return;
    }
    dn_gradient_routes routes = *all->routes;
    routes.wants = block_wants;
    routes.dx = block_dx;
    routes.weight_gradient = block_weight_gradient;
    routes.defers_weight = block_defers_weight;
    routes.input_done = block_input_done;
    memcpy(x, all->x, n_inputs * sizeof *x);
    memset(b.asked, 0, n_inputs);
    all->x = x;
    t->backward->blocks = &b;
    for (; b.from < batch && !t->workspace.out_of_memory; b.from += most) {
        const int n = batch - b.from < most ? batch - b.from : most;
        if (b.user) compute_unkept(&b, n, part, dims);
        else compute_block(t, b.entries, size, b.from, n, b.block);
        b.is_last = b.from + n == batch;
        if (t->workspace.out_of_memory || (b.user && !b.user_dy)) continue;
        dn_call c;
        dn__narrow(all, b.from, n, part, dims, &c);
        c.dy = b.block;
        c.routes = &routes;
        c.node->op->backward(&c);
    }
    t->backward->blocks = NULL;
}

/* ---- values that are not kept --------------------------------------------------------- */

/* The call of a node, beside one that is not over. */
static dn_in *prepare_beside(dn_tape *t, int i, dn_call *c) {
    dn_in *live = t->call.in;
    t->call.in = dn__memory(t, DN_SCRATCH, (size_t)t->nodes[i].n_args * sizeof *live);
    if (t->call.in) dn__prepare_call(t, &t->nodes[i], c);
    else t->workspace.out_of_memory = 1;
    dn_in *own = t->call.in;
    t->call.in = live;
    return own;
}

static int ahead_wants(const dn_call *c, int k) { return blocks_of(c)->ahead->grads[k] != NULL; }
static dn_grad ahead_dx(dn_call *c, int k) { return (dn_grad){blocks_of(c)->ahead->grads[k], 0}; }
static void ahead_input_done(dn_call *c, int k) { (void)c, (void)k; }

/* Room for what backward does; NULL: there is none. */
static dn_ahead *new_ahead(dn_tape *t, int user, const dn_call *c) {
    dn_ahead *a = dn__memory(t, DN_VALUES, sizeof *a);
    dn_real **grads = dn__memory(t, DN_VALUES, (size_t)c->n * sizeof *grads);
    if (!a || !grads) return NULL;
    for (int k = 0; k < c->n; k++) {
        const dn_node *x = &t->nodes[dn__input(t, (int)(c->node - t->nodes), k)];
        grads[k] = NULL;
        if (!dn__leads_to_update(x)) continue;
        grads[k] = dn__memory(t, DN_VALUES, dn__elements(&x->dim) * sizeof **grads);
        if (!grads[k]) return NULL;
    }
    *a = (dn_ahead){t->backward->ahead, (int)(c->node - t->nodes), user, t->schedule->unkept.dy,
                    grads};
    return a;
}

void dn__unkept_forward(dn_call *user) {
    dn_tape *t = user->tape;
    const int u = (int)(user->node - t->nodes), batch = user->dim->batch;
    dn_call all;
    if (!prepare_beside(t, dn__input(t, u, 0), &all)) return;
    dn_in_blocks b = {.all = &all, .user = user, .forward = 1};
    dn_gradient_routes routes = *all.routes;
    if (t->schedule->unkept.way == DN_AHEAD_OF_BACKWARD && user->node->needs_grad) {
        dn_real *dy = dn__memory(t, DN_SCRATCH, (size_t)batch * sizeof *dy);
        b.ahead = dy ? new_ahead(t, u, &all) : NULL;
        if (b.ahead) {
            dn__fill((size_t)batch, b.ahead->dy, dy);
            b.user_dy = dy;
        }
        routes.wants = ahead_wants;
        routes.dx = ahead_dx;
        routes.input_done = ahead_input_done;
        all.routes = &routes;
    }
    call_in_blocks(t, b);
    if (t->workspace.out_of_memory) return;
    if (b.ahead) t->backward->ahead = b.ahead;
    t->schedule->unkept.awaited |= user->node->needs_grad;
}

void dn__forget_ahead(dn_tape *t) {
    t->backward->ahead = NULL;
    if (t->schedule->unkept.awaited && t->schedule->unkept.way == DN_AHEAD_OF_BACKWARD)
        t->schedule->unkept.way = DN_IN_TURN;
    t->schedule->unkept.awaited = 0;
}

/* Notes the gradient that the user of a wide value got, for the next one. */
static void note_gradient(dn_schedule *s, const dn_real *dy, int n) {
    int foreseen = s->unkept.way == DN_IN_TURN || !memcmp(&s->unkept.dy, dy, sizeof *dy);
    for (int b = 1; b < n; b++) foreseen &= !memcmp(&dy[b], dy, sizeof *dy);
    if (s->unkept.way != DN_ASKED_FOR) s->unkept.way = foreseen ? DN_AHEAD_OF_BACKWARD : DN_KEPT;
    s->unkept.dy = *dy;
    s->unkept.awaited = 0;
}

/* Whether backward of the call was done ahead, and is given to its inputs now. */
static int was_done_ahead(dn_tape *t, dn_call *c, int user, const dn_real *dy) {
    const dn_ahead *a = t->backward->ahead;
    while (a && (a->node != (int)(c->node - t->nodes) || a->user != user)) a = a->next;
    if (!a) return 0;
    for (int b = 0; b < c->dim->batch; b++)
        if (memcmp(&dy[b], &a->dy, sizeof *dy)) return 0;
    for (int k = 0; k < c->n; k++)
        if (dn__wants(c, k) != (a->grads[k] != NULL)) return 0;
    for (int k = 0; k < c->n && !t->workspace.out_of_memory; k++) {
        if (!a->grads[k]) continue;
        const dn_grad g = dn__dx(c, k);
        if (g.dx) dn__axpy(dn__elements(c->x[k].dim), 1, a->grads[k], g.beta, g.dx);
        else t->workspace.out_of_memory = 1;
        dn__input_done(c, k);
    }
    return 1;
}

void dn__node_in_blocks(dn_tape *t, int i) {
    const dn_put_off *p = &t->backward->put_off[t->schedule->seats[i].put_off - 1];
    const int whole = p->group < 0 && p->n == t->nodes[i].dim.batch;
    dn_call c, user;
    dn__prepare_call(t, &t->nodes[i], &c);
    dn_in_blocks b = {.all = &c, .entries = t->schedule->seats[i].put_off};
    if (whole && dn__is_wide(&t->nodes[i])) {
        dn_real *dy = t->nodes[p->user].grad;
        note_gradient(t->schedule, dy, p->n);
        if (was_done_ahead(t, &c, p->user, dy)) return;
        if (!t->nodes[i].value) {
            if (!prepare_beside(t, p->user, &user)) return;
            b.user = &user;
            b.user_dy = dy;
        }
    }
    call_in_blocks(t, b);
}

int dn__group_in_blocks(dn_tape *t, int group) {
    dn_group *g = &t->schedule->groups[group];
    int columns = 0;
    for (int32_t at = g->put_off; at; at = t->backward->put_off[at - 1].next)
        columns += t->backward->put_off[at - 1].n;
    if (columns < g->batch) { /* the others got nothing */
        dn__group_grads(t, group);
        return 0;
    }
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) t->workspace.out_of_memory = 1;
    else call_in_blocks(t, (dn_in_blocks){.all = &c, .entries = g->put_off});
    return 1;
}
