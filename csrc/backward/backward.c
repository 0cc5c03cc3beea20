/* The backward pass: from the loss's index down to 0, without recursion; in a graph that is batched
 * on the fly, back through the order in which nodes were computed. Products that give the gradient
 * of one matrix are collected and done as one when the backward pass reaches that matrix: every use
 * of it has passed by then. */
#include <stdlib.h>

#include "backward_pass.h"
#include "work.h"

static void backward_group(dn_tape *t, int group) {
    const dn_group *g = &t->schedule->groups[group];
    for (int m = 0; m < g->n && g->weights; m++)
        if (t->nodes[t->schedule->members[g->first + m]].products >= 0)
            dn__flush_products(t, t->schedule->members[g->first + m]);
    if (!t->workspace.out_of_memory) dn__group_backward(t, group);
    dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
}

static void backward_node(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->finished) return;
    if (node->param && node->op == dn_ops[DN_OP_parameter]) {
        dn__finish_parameter(t, i);
        return;
    }
    if (node->products >= 0) dn__flush_products(t, i);
    if (dn__grouped(t, node)) { /* by batched_gemm.c: the representative comes last */
        if (t->schedule->members[t->schedule->groups[dn__seat(t, node)->group].first] == i)
            backward_group(t, dn__seat(t, node)->group);
        return;
    }
    if (t->workspace.out_of_memory) return;
    if (!node->grad) {
        if (!t->backward->n_put_off || !dn__is_put_off(t, i)) return;
        dn__node_in_blocks(t, i);
        dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
        return;
    }
    if (node->op->flags & DN_NO_GRAD || dn__is_unread(t, i, node->grad)) return;
    dn_call c;
    dn__prepare_call(t, node, &c);
    node->op->backward(&c);
    if (t->workspace.scratch.n_chunks) dn__arena_reset(&t->workspace.scratch, (dn_arena_mark){0});
}

/* Whether node i was computed from values of this store that have changed since. Negative: no
 * memory. */
static int has_changed(dn_tape *t, int i, const dn_used_store *used) {
    uint8_t *leads = calloc((size_t)i + 1, 1); /* to node i */
    int found = 0;
    if (!leads) return dn__no_memory(t);
    leads[i] = 1;
    for (; i >= 0 && !found; i--) {
        const dn_node *node = &t->nodes[i];
        if (!leads[i]) continue;
        found = dn__reads_changed(t, i, used);
        for (int k = 0; k < node->n_args; k++) leads[t->args[node->args + k]] = 1;
    }
    free(leads);
    return found;
}

/* A backward that does not end leaves no gradients: part of a sum would be taken for the sum, and
 * added to when it is called again. What earlier backwards have left in them goes, too, as it
 * cannot be told apart. The locks are held. */
static void clear_gradients(dn_tape *t) {
    for (int i = 0; i <= t->backward->last_loss && i < t->n.nodes; i++) {
        const dn_node *node = &t->nodes[i];
        if (node->param && !node->constant && dn__param_gathers(node->param))
            dn__param_clear(node->param);
    }
}

/* There is no backward any more. */
static int end(dn_tape *t, int error) {
    t->workspace.raised = t->workspace.out_of_memory = 0;
    t->backward->position = t->backward->last_loss = -1;
    t->backward->deferred = NULL;
    return error;
}

/* Whether the values that node i was computed from are still those of its parameters; negative:
 * no. */
static int check_versions(dn_tape *t, int i) {
    for (int r = 0; r < t->n.stores; r++) {
        if (t->stores[r].version < 0 || dn__store_is_as_dynet(t->stores[r].store) ||
            t->stores[r].version == __atomic_load_n(&t->stores[r].store->version, __ATOMIC_RELAXED))
            continue;
        const int changed = has_changed(t, i, &t->stores[r]);
        if (changed < 0) return changed;
        if (changed)
            return dn__tape_fail(t, DN_ERROR_STATE,
                                 "backward: parameters were changed after the values of this graph "
                                 "had been computed. "
                                 "Build the graph anew, after renew_cg(), or compute it again: "
                                 "value(recalculate=True).");
    }
    return 0;
}

int dn__backward_begin(dn_tape *t, int i, int full) {
    if (t->tracing) return dn__no_values(t);
    if (dn__elements(&t->nodes[i].dim) != 1)
        return dn__tape_fail(
            t, DN_ERROR_VALUE,
            "backward: the loss must be one number, without a batch; got %s. Use sum_elems(), "
            "sum_batches() or esum() first.",
            DIMS(&t->nodes[i].dim));
    if (i >= t->schedule->evaluated)
        return dn__tape_fail(t, DN_ERROR_STATE, "backward: the value of the loss was not computed");
    int error = check_versions(t, i);
    if (!error && full) error = dn__keep_all(t);
    if (error) return error;
    for (int j = 0; j < t->backward->first_new_node && j < t->n.nodes; j++) {
        t->nodes[j].grad = NULL;
        t->nodes[j].products = -1;
        t->nodes[j].in_chunk = t->nodes[j].finished = 0;
    }
    for (int j = 0; j < t->schedule->n.groups; j++) {
        t->schedule->groups[j].grads = NULL;
        t->schedule->groups[j].weights = 0;
        t->schedule->groups[j].gather = -1;
        t->schedule->groups[j].put_off = 0;
    }
    for (int j = 0; j < t->schedule->n.gathers; j++) t->schedule->gathers[j].grad = NULL;
    dn__forget_put_off(t);
    dn__work.passes++;
    for (int r = 0; r < t->n.stores; r++)
        __atomic_fetch_add(&t->stores[r].store->passes, 1, __ATOMIC_RELAXED);
    t->backward->first_new_node = t->n.nodes;
    t->backward->n_products = t->backward->n_transposed = 0;
    for (int j = 0; j < DN_KEPT_COLUMNS; j++) t->backward->columns[j].first = -1;
    t->backward->deferred = NULL;
    t->workspace.out_of_memory = 0;
    t->backward->full = full;
    t->backward->last_loss = i;
    t->backward->position = t->schedule->n.order ? t->schedule->n_done - 1 : i;
    t->backward->views = NULL;
    dn__arena_reset(&t->workspace.grads, (dn_arena_mark){0});
    dn_grad g = dn__gradient_slot(t, i);
    if (g.dx) g.dx[0] = 1;
    if (g.dx && !dn__hook_begin(t)) return 0;
    /* was empty, and is so again */
    if (t->nodes[i].in_chunk) dn_param_clear_gradient(t->nodes[i].param);
    return end(t, dn__no_memory(t));
}

/* In DyNet what was used before the loss has a gradient, be it zero because the loss does not
 * depend on it: rules with moments move such rows, and files hold the zeros. */
static void touch_as_dynet(dn_tape *t) {
    if (!dn__is_as_dynet(t)) return;
    for (int i = 0; i <= t->backward->last_loss; i++) {
        const dn_node *node = &t->nodes[i];
        if (!node->param || !dn__store_is_as_dynet(node->param->store) || node->constant) continue;
        /* not while it is watched: gradients may be on their way to other ranks */
        if (node->op == dn_ops[DN_OP_parameter] && !node->param->rows &&
            !t->backward->hook.last_use)
            dn__param_filled(node->param);
        for (int k = 0; k < node->n_ints; k++)
            if (!dn__lookup_row(node->param, t->ints[node->ints + k]))
                t->workspace.out_of_memory = 1;
    }
}

int dn__backward_step(dn_tape *t) {
    int64_t work = DN_WORK;
    if (t->backward->position < 0)
        return dn__tape_fail(t, DN_ERROR_STATE,
                             "backward: the graph was renewed, reverted or set anew meanwhile");
    dn__lock_stores(t);
    /* another thread may have changed them since the step before */
    int error = check_versions(t, t->backward->last_loss);
    for (; !error && t->backward->position >= 0 && work > 0 && !t->workspace.out_of_memory &&
           !t->workspace.raised;
         t->backward->position--) {
        const int i = t->schedule->n.order ? t->schedule->order[t->backward->position]
                                           : t->backward->position;
        if (i < 0) {
            const dn_group *g = &t->schedule->groups[-1 - i];
            work -= (int64_t)g->n * t->nodes[t->schedule->members[g->first]].work;
            backward_group(t, -1 - i);
        } else {
            work -= t->nodes[i].work;
            backward_node(t, i);
        }
        if (t->backward->hook.last_use) dn__hook_passed(t);
        if (t->backward->hook.notified && t->backward->hook.steps) work = 0;
        t->backward->hook.notified = 0;
    }
    if (t->backward->position < 0 && !t->workspace.raised && !t->workspace.out_of_memory)
        touch_as_dynet(t);
    if (!error)
        error = t->workspace.raised          ? t->workspace.raised
                : t->workspace.out_of_memory ? dn__no_memory(t)
                                             : check_versions(t, t->backward->last_loss);
    /* the latter: an operation written in Python may have changed them */
    if (error) clear_gradients(t);
    if (t->backward->position < 0 || error) dn__hook_end(t, !error);
    dn__unlock_stores(t);
    if (error) return end(t, error);
    return t->backward->position >= 0;
}

void dn__stop_backward(dn_tape *t) {
    if (t->backward->position >= 0) {
        dn__lock_stores(t);
        clear_gradients(t);
        dn__hook_end(t, 0);
        dn__unlock_stores(t);
    }
    dn__forget_ahead(t);
    end(t, 0);
}

void dn__backward_free(dn_tape *t) {
    dn_backward_pass *b = t->backward;
    for (int i = 0; i < DN_KEPT_COLUMNS; i++) dn__arena_free(&b->columns[i].memory);
    DN_FREE(b->products);
    DN_FREE(b->put_off);
    b->products_capacity = b->put_off_capacity = b->n_put_off = 0;
}

int64_t dn__backward_bytes(const dn_tape *t) {
    size_t sum = 0;
    for (int i = 0; i < DN_KEPT_COLUMNS; i++)
        sum += dn__arena_bytes(&t->backward->columns[i].memory);
    return (int64_t)sum;
}
