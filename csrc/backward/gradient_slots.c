/* Where gradients are put: of nodes, of groups, of the inputs of both. */
#include "schedule/group.h"
#include "kernels/kernels.h"
#include "backward_pass.h"

static dn_real *take_gradient_memory(dn_tape *t, size_t n) {
    dn_real *p = dn__arena_take(&t->workspace.grads, n * sizeof *p);
    if (!p) t->workspace.out_of_memory = 1;
    return p;
}

int dn__leads_to_update(const dn_node *node) {
    return node->needs_grad && !(node->param && !dn__param_gathers(node->param));
}

int dn__node_wants(const dn_tape *t, const dn_node *node) {
    return t->backward->full || dn__leads_to_update(node);
}

dn_real *dn__group_new_grads(dn_tape *t, dn_group *g) {
    return g->grads = take_gradient_memory(t, g->total);
}

dn_real *dn__group_grads(dn_tape *t, int group) {
    dn_group *g = &t->schedule->groups[group];
    if (!g->grads && dn__group_new_grads(t, g)) {
        dn__fill(g->total, 0, g->grads);
        if (g->put_off) dn__write_put_off(t, t->schedule->members[g->first], g);
    }
    return g->grads;
}

/* The gradient slot of node i. A parameter whose gradient is empty gets it where it belongs; one
 * that already has a gradient, from an earlier backward, keeps this one apart until the backward
 * pass adds it, so that gradient() shows this backward only. */
dn_grad dn__gradient_slot(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->op == dn_ops[DN_OP_output_view]) {
        dn_node *owner = &t->nodes[t->args[node->args]];
        if (!dn__grouped(t, owner) && !owner->grad &&
            (owner->grad = take_gradient_memory(t, dn__elements(&owner->dim))))
            dn__fill(dn__elements(&owner->dim), 0, owner->grad);
        if (dn__grouped(t, owner) ? !dn__group_grads(t, dn__seat(t, owner)->group) : !owner->grad)
            return (dn_grad){0};
        return (dn_grad){dn__output_view_address(t, owner, t->ints[node->ints], 1), 1};
    }
    if (dn__grouped(t, node)) {
        dn_real *grads = dn__group_grads(t, dn__seat(t, node)->group);
        return (dn_grad){grads ? grads + (node->value - dn__group_of(t, node)->value) : NULL, 1};
    }
    if (node->grad) return (dn_grad){node->grad, 1};
    if (node->op == dn_ops[DN_OP_parameter] && !node->param->rows &&
        dn__param_is_empty(node->param) && dn__param_gathers(node->param) && !node->constant) {
        dn_real beta;
        node->grad = dn__param_gradient(node->param, &beta);
        node->in_chunk = 1;
        node->written = dn__param_written(node->param);
    } else {
        const int put_off = t->backward->n_put_off && dn__is_put_off(t, i);
        node->grad = take_gradient_memory(t, dn__elements(&node->dim));
        if (node->grad && put_off) {
            dn__write_put_off(t, i, NULL);
            return (dn_grad){node->grad, 1};
        }
    }
    return (dn_grad){node->grad, 0};
}

const dn_real *dn__arrived(const dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i], *owner = node->op == dn_ops[DN_OP_output_view]
                                                     ? &t->nodes[dn__input(t, i, 0)]
                                                     : node;
    const dn_group *g = dn__group_of(t, owner);
    if (g ? !g->grads : !owner->grad) return NULL;
    if (owner != node) return dn__output_view_address(t, owner, t->ints[node->ints], 1);
    return g ? g->grads + (node->value - g->value) : node->grad;
}

int dn__route_wants(const dn_call *c, int k) {
    const dn_tape *t = c->tape;
    return dn__node_wants(t, &t->nodes[t->args[c->node->args + k]]);
}

/* Nothing comes from an empty batch, so the op may not write at all. */
static __attribute__((noinline)) dn_grad slot_of_nothing(dn_tape *t, int i) {
    const dn_grad g = dn__gradient_slot(t, i);
    if (!g.dx || g.beta != 0) return g;
    dn__fill(dn__elements(&t->nodes[i].dim), 0, g.dx);
    return (dn_grad){g.dx, 1};
}

dn_grad dn__route_dx(dn_call *c, int k) {
    dn_tape *t = c->tape;
    const int i = t->args[c->node->args + k];
    if (!dn__node_wants(t, &t->nodes[i])) return (dn_grad){0};
    return c->total ? dn__gradient_slot(t, i) : slot_of_nothing(t, i);
}

/* ---- inputs of groups ----------------------------------------------------------------- */

int dn__group_gathers(const dn_call *c, int k) {
    const dn_schedule *s = c->tape->schedule;
    return s->group_inputs[s->groups[c->group].inputs + k].gather != DN_BROADCAST_INPUT;
}

static int wants(const dn_call *c, int k) {
    const dn_tape *t = c->tape;
    const dn_group_input *in = &t->schedule->group_inputs[t->schedule->groups[c->group].inputs + k];
    if (in->gather < 0) return dn__node_wants(t, &t->nodes[in->source]);
    const dn_gather *gather = &t->schedule->gathers[in->gather];
    for (int m = 0; m < gather->n; m++)
        if (dn__node_wants(t, &t->nodes[t->schedule->sources[gather->first + m]])) return 1;
    return 0;
}

/* The place of neighbours in one block, the first of which is node x: the part of the block's
 * gradients that mirrors their values. */
static dn_grad mirror_slot(dn_tape *t, int x, size_t total) {
    const dn_node *node = &t->nodes[x];
    /* which sees to it that the owner has gradients */
    if (node->op == dn_ops[DN_OP_output_view]) return dn__gradient_slot(t, x);
    size_t n;
    const dn_real *block = dn__block_of(t, node, &n);
    dn_group *g = &t->schedule->groups[dn__seat(t, node)->group];
    if (!g->grads && !g->put_off && total == n) { /* all of it is written now: no need of zeros */
        dn_real *dx = dn__group_new_grads(t, g);
        return (dn_grad){dx, 0};
    }
    dn_real *grads = dn__group_grads(t, dn__seat(t, node)->group);
    return (dn_grad){grads ? grads + (node->value - block) : NULL, 1};
}

int dn__route_group_wants(const dn_call *c, int k) {
    return dn__group_gathers(c, k) ? wants(c, k) : dn__route_wants(c, k);
}

dn_grad dn__route_group_dx(dn_call *c, int k) {
    dn_tape *t = c->tape;
    if (!dn__group_gathers(c, k)) return dn__route_dx(c, k);
    const dn_group_input *in = &t->schedule->group_inputs[t->schedule->groups[c->group].inputs + k];
    if (!wants(c, k)) return (dn_grad){0};
    dn_grad g;
    if (in->gather < 0) {
        g = mirror_slot(t, in->source, dn__elements(c->x[k].dim));
    } else {
        dn_gather *gather = &t->schedule->gathers[in->gather];
        g.beta = gather->grad != NULL;
        if (!gather->grad)
            gather->grad = dn__arena_take(&t->workspace.grads, gather->total * sizeof(dn_real));
        g.dx = gather->grad;
    }
    if (!g.dx) t->workspace.out_of_memory = 1;
    return g;
}
