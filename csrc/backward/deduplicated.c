/* Backward of groups whose equal members were computed once (schedule/deduplicate.h). */
#include <string.h>

#include "schedule/group.h"
#include "kernels/kernels.h"
#include "schedule/deduplicate.h"
#include "backward_pass.h"

/* dy of the distinct members: the sum over equal ones. */
static void sum_equal_members(const dn_tape *t, const dn_group *g, dn_real *dy) {
    const struct dn_deduplicated *deduplicated = g->deduplicated;
    const dn_node *node = &t->nodes[t->schedule->members[g->first]];
    for (int k = 0; k < node->parts; k++) {
        const dn_block b = dn__block(t, node, k);
        const dn_real *from = g->grads + b.at * (size_t)g->n;
        dn_real *sums = dy + b.at * (size_t)deduplicated->n;
        int seen = 0;
        for (int m = 0; m < g->n; m++, from += b.size) {
            dn_real *to = sums + b.size * (size_t)deduplicated->column[m];
            if (deduplicated->column[m] == seen) memcpy(to, from, b.size * sizeof *to);
            else dn__add(b.size, to, from, to);
            seen += deduplicated->column[m] == seen;
        }
    }
}

/* dy of one member alone. */
static void put_member_alone(const dn_tape *t, const dn_group *g, int m, dn_real *dy) {
    const dn_node *node = &t->nodes[t->schedule->members[g->first]];
    for (int k = 0; k < node->parts; k++) {
        const dn_block b = dn__block(t, node, k);
        memcpy(dy + b.at * (size_t)g->deduplicated->n + b.size * (size_t)g->deduplicated->column[m],
               g->grads + b.at * (size_t)g->n + b.size * (size_t)m, b.size * sizeof *dy);
    }
}

/* ---- backward ------------------------------------------------------------------------- */

static int broadcast_wants(const dn_call *c, int k) {
    return !dn__group_gathers(c, k) && dn__route_wants(c, k);
}
static dn_grad broadcast_dx(dn_call *c, int k) {
    return dn__group_gathers(c, k) ? (dn_grad){0} : dn__route_dx(c, k);
}
static int gathered_wants(const dn_call *c, int k) {
    return dn__group_gathers(c, k) && dn__route_group_wants(c, k);
}
static dn_grad gathered_dx(dn_call *c, int k) {
    return dn__group_gathers(c, k) ? dn__route_group_dx(c, k) : (dn_grad){0};
}

enum only { ALL_INPUTS, ONLY_BROADCAST, ONLY_GATHERED };

static void backward_of_inputs(dn_call *c, enum only only) {
    const dn_gradient_routes *all = c->routes;
    const dn_arena_mark mark = dn__arena_mark(&c->workspace->scratch);
    dn_gradient_routes routes = *all;
    if (only) routes.wants = only == ONLY_BROADCAST ? broadcast_wants : gathered_wants;
    if (only) routes.dx = only == ONLY_BROADCAST ? broadcast_dx : gathered_dx;
    c->routes = &routes;
    c->node->op->backward(c);
    c->routes = all;
    dn__arena_reset(&c->workspace->scratch, mark);
}

/* The gradient of input k of member m that the last call has left; NULL: none is wanted. */
static const dn_real *arrived(const dn_tape *t, const dn_group *g, int m, int k) {
    const dn_group_input *in = &t->schedule->group_inputs[g->inputs + k];
    const dn_real *dx = in->gather < 0 ? NULL : t->schedule->gathers[in->gather].grad;
    const size_t n =
        dn__elements(&t->nodes[dn__input(t, t->schedule->members[g->first + m], k)].dim);
    return dx ? dx + (size_t)g->deduplicated->column[m] * n : NULL;
}

static void forget_arrived(dn_tape *t, const dn_group *g, int n_inputs) {
    for (int k = 0; k < n_inputs; k++)
        if (dn__is_gathered(t, g, k))
            t->schedule->gathers[t->schedule->group_inputs[g->inputs + k].gather].grad = NULL;
}

/* The gradients of all members' own inputs: as many calls as the most frequent member occurs times,
 * the r-th for the r-th of equal ones. */
static void for_each_member(dn_tape *t, const dn_group *g, dn_call *c, dn_real *dy) {
    int32_t *times = dn__scratch_of(c, 2 * (size_t)g->n, sizeof *times), *rank = times + g->n;
    if (!times) return;
    int rounds = 0;
    memset(times, 0, (size_t)g->n * sizeof *times);
    for (int m = 0; m < g->n; m++) {
        rank[m] = times[g->deduplicated->column[m]]++;
        if (rank[m] >= rounds) rounds = rank[m] + 1;
    }
    for (int r = 0; r < rounds && !t->workspace.out_of_memory; r++) {
        dn__fill(c->total, 0, dy);
        for (int m = 0; m < g->n; m++)
            if (rank[m] == r) put_member_alone(t, g, m, dy);
        backward_of_inputs(c, ONLY_GATHERED);
        for (int k = 0; k < c->n; k++) {
            for (int m = 0; m < g->n && !t->workspace.out_of_memory && dn__is_gathered(t, g, k);
                 m++) {
                const int x = dn__input(t, t->schedule->members[g->first + m], k);
                const dn_real *dx =
                    rank[m] == r && dn__node_wants(t, &t->nodes[x]) ? arrived(t, g, m, k) : NULL;
                const dn_grad to = dx ? dn__gradient_slot(t, x) : (dn_grad){0};
                if (to.dx) dn__axpy(dn__elements(&t->nodes[x].dim), 1, dx, to.beta, to.dx);
            }
        }
        forget_arrived(t, g, c->n);
    }
}

void dn__deduplicated_backward(dn_tape *t, int group, dn_call *c) {
    const dn_group *g = &t->schedule->groups[group];
    dn_real *dy = dn__backward_memory(c, c->total);
    if (!dy) return;
    sum_equal_members(t, g, dy);
    c->dy = dy;
    if (!t->backward->full) {
        backward_of_inputs(c, ALL_INPUTS);
        dn__deferred_group(c);
        return;
    }
    backward_of_inputs(c, ONLY_BROADCAST);
    c->dy = dy = dn__backward_memory(c, c->total); /* what was put off still needs the sums */
    if (dy) for_each_member(t, g, c, dy);
}

int dn__deduplicated_unread(dn_tape *t, const dn_group *g, int x, const dn_real *dx) {
    const dn_node *row = &t->nodes[x];
    if (!dn__is_unread(t, x, dx)) return 0;
    for (int m = 0; m < g->n; m++) {
        const dn_node *member = &t->nodes[t->schedule->members[g->first + m]];
        for (int k = 0; k < member->n_args; k++) {
            const int y = t->args[member->args + k];
            const dn_node *other = &t->nodes[y];
            if (other->param == row->param && other->n_ints == row->n_ints &&
                !memcmp(t->ints + other->ints, t->ints + row->ints,
                        (size_t)row->n_ints * sizeof *t->ints) &&
                !dn__is_unneeded(t, y))
                return 0;
        }
    }
    return 1;
}

void dn__deduplicated_add(dn_tape *t, int group, int i, dn_real *out) {
    const dn_group *g = &t->schedule->groups[group];
    const size_t n = dn__elements(&t->nodes[i].dim);
    const dn_arena_mark mark = dn__arena_mark(&t->workspace.grads);
    dn_backward_pass *b = t->backward;
    const int n_transposed = b->n_transposed;
    dn_transposed transposed[DN_MOST_TRANSPOSED]; /* others that are made now go with the mark */
    memcpy(transposed, b->transposed, (size_t)n_transposed * sizeof *transposed);
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) t->workspace.out_of_memory = 1;
    for (int m = 0; m < g->n; m++) {
        int uses = 0;
        for (int k = 0; k < c.n; k++)
            uses |= dn__is_gathered(t, g, k) &&
                    dn__input(t, t->schedule->members[g->first + m], k) == i;
        dn_real *dy = uses && !t->workspace.out_of_memory ? dn__backward_memory(&c, c.total) : NULL;
        if (!dy) continue;
        dn__fill(c.total, 0, dy);
        put_member_alone(t, g, m, dy);
        c.dy = dy;
        backward_of_inputs(&c, ONLY_GATHERED);
        for (int k = 0; k < c.n && !t->workspace.out_of_memory; k++) {
            const int is_input = dn__input(t, t->schedule->members[g->first + m], k) == i &&
                                 dn__is_gathered(t, g, k);
            const dn_real *dx = is_input ? arrived(t, g, m, k) : NULL;
            if (dx) dn__add(n, out, dx, out);
        }
        forget_arrived(t, g, c.n);
    }
    memcpy(b->transposed, transposed, (size_t)n_transposed * sizeof *transposed);
    b->n_transposed = n_transposed;
    dn__arena_reset(&t->workspace.grads, mark);
    dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
}
