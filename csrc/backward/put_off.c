/* Gradients that never are in memory as a whole. That of a wide output layer's value, (words x
 * columns), is as large as the value itself: it would be written, read twice and forgotten. An
 * operation whose gradient can be computed for some batch elements at a time may put it off
 * (dn__put_off): when the backward pass reaches the product that gave the value, it goes on in
 * blocks of columns. Each block of the gradient is computed, multiplied, and written over by the
 * next one while it is in the cache (blocks.c). If anybody else adds to that gradient, or asks for
 * it, it is written out whole as if nothing had been put off. */
#include "schedule/group.h"
#include "backward_pass.h"

enum {
    LEAST_NUMBERS = 1 << 20, /* of the gradient: a smaller one stays in the cache */
    LEAST_COLUMNS = 64       /* each block reads and writes the matrix's gradient once */
};

/* The first entry of what is put off of a group or, NULL, of a node by itself; 0: nothing is. */
static int32_t *first_put_off(const dn_tape *t, int i, dn_group *g) {
    return g ? &g->put_off : &t->schedule->seats[i].put_off;
}

int dn__route_put_off(dn_call *c, int k, dn_columns_fn *columns) {
    dn_tape *t = c->tape;
    dn_backward_pass *pass = t->backward;
    int i = dn__input(t, (int)(c->node - t->nodes), k);
    if (c->group >= 0) { /* of all members of one group, or of none */
        const dn_group *user = &t->schedule->groups[c->group];
        const dn_group_input *in = &t->schedule->group_inputs[user->inputs + k];
        if (in->gather != DN_MIRRORED || user->deduplicated) return 0;
        i = in->source;
    } else if (dn__grouped(t, c->node)) {
        return 0;
    }
    const dn_node *to = &t->nodes[i];
    if (!(to->op->flags & DN_BATCHED_GEMM) || pass->full || !c->routes->wants(c, k)) return 0;
    dn_group *g = dn__group_of(t, to);
    const int n = c->x[k].dim->batch;
    if (g ? g->total < LEAST_NUMBERS || g->batch < LEAST_COLUMNS || g->grads || g->deduplicated
          : dn__elements(&to->dim) < LEAST_NUMBERS || n < LEAST_COLUMNS || to->grad)
        return 0;
    if (c->group >= 0 && (!g || g->batch != n || g->put_off)) return 0;
    dn_seat *seat = dn__seat(t, to);
    if (seat->put_off) return 0;
    if (DN_GROW(pass->put_off, pass->put_off_capacity, (int64_t)pass->n_put_off + 1)) {
        t->workspace.out_of_memory = 1;
        return 1;
    }
    int32_t *first = first_put_off(t, i, g);
    pass->put_off[pass->n_put_off] = (dn_put_off){.next = *first,
                                                  .to = i,
                                                  .user = (int32_t)(c->node - t->nodes),
                                                  .group = c->group,
                                                  .from = g ? seat->column : 0,
                                                  .n = n,
                                                  .columns = columns};
    *first = seat->put_off = ++pass->n_put_off;
    return 1;
}

void dn__forget_put_off(dn_tape *t) {
    for (int p = 0; p < t->backward->n_put_off; p++)
        t->schedule->seats[t->backward->put_off[p].to].put_off = 0;
    t->backward->n_put_off = 0;
}

void dn__put_off_columns(dn_tape *t, const dn_put_off *p, int from, int n, dn_real beta,
                         dn_real *dx) {
    dn_call c;
    dn_dim y_dim;
    dn_in *live = t->call.in; /* of a call that is not over */
    t->call.in =
        dn__arena_take(&t->workspace.grads, (size_t)t->nodes[p->user].n_args * sizeof *t->call.in);
    if (!t->call.in || (p->group >= 0 && dn__group_prepare(t, p->group, &c, &y_dim))) {
        t->workspace.out_of_memory = 1;
    } else {
        if (p->group >= 0) c.dy = t->schedule->groups[p->group].grads;
        else dn__prepare_call(t, &t->nodes[p->user], &c);
        p->columns(&c, from - p->from, n, beta, dx);
    }
    t->call.in = live;
}

void dn__write_put_off(dn_tape *t, int i, dn_group *g) {
    int32_t *first = first_put_off(t, i, g);
    const size_t size = (size_t)t->nodes[i].dim.size;
    for (int32_t at = *first; at && !t->workspace.out_of_memory;) {
        const dn_put_off *p = &t->backward->put_off[at - 1];
        dn_real *dx = (g ? g->grads : t->nodes[i].grad) + (size_t)p->from * size;
        dn__put_off_columns(t, p, p->from, p->n, g != NULL, dx);
        at = p->next;
    }
    if (!t->workspace.out_of_memory) *first = 0;
}

int dn__is_put_off(const dn_tape *t, int i) {
    if (!t->backward->n_put_off) return 0;
    const dn_group *g = dn__group_of(t, &t->nodes[i]);
    return g ? g->put_off && !g->grads : t->schedule->seats[i].put_off && !t->nodes[i].grad;
}
