/* One node by itself: its call, its memory, its value. */
#include "schedule.h"

#include <string.h>

int dn__blocked(const dn_tape *t, const dn_node *node) {
    if (node->failed == DN_FAILED_ALREADY) return 1;
    for (int k = 0; k < node->n_args; k++)
        if (t->nodes[t->args[node->args + k]].failed) return 1;
    return 0;
}

int dn__copy_parameter(dn_tape *t, int i, dn_store *lock) {
    dn_node *node = &t->nodes[i];
    size_t bytes = dn__elements(&node->dim) * sizeof(dn_real);
    dn_real *copy = dn__memory(t, DN_COPIES, dn__copy_bytes(t, node));
    if (!copy) return dn__no_memory(t);
    if (lock) dn__lock(lock);
    node->value = memcpy(copy, node->value, bytes);
    if (lock) dn__unlock(lock);
    node->copied = 1;
    dn__pack_copy(t, node);
    /* reverts that leave this value must leave the copy, too */
    for (int m = 0; m < t->schedule->marks.n; m++)
        if (i < t->schedule->marks.at[m].evaluated)
            t->schedule->marks.at[m].copies = dn__memory_mark(t, DN_COPIES);
    return 0;
}

/* There was no memory to compute a node: all is as it was before, so that it can be tried again. */
static int no_value(dn_tape *t, dn_node *node, dn_arena_mark before) {
    t->workspace.out_of_memory = 0;
    node->value = NULL;
    dn__memory_back_to(t, DN_VALUES, before);
    return dn__no_memory(t);
}

int dn__compute(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    node->failed = (uint8_t)(t->schedule->any_failed && dn__blocked(t, node));
    if (node->failed) return 0;
    /* it is there already; many graphs of small nodes are half inputs */
    if (node->op == dn_ops[DN_OP_input]) {
        node->value = node->given;
        node->copied = 0;
        return 0;
    }
    const int wide = dn__is_wide(node);
    int in_blocks = 0;
    if (wide && dn__leave_unkept(t, i)) return 0;
    if (t->schedule->unkept.any) {
        const int error = dn__keep_inputs(t, i, &in_blocks);
        if (error) return error;
    }
    dn_call c;
    dn__prepare_call(t, node, &c);
    const dn_arena_mark before = dn__memory_mark(t, DN_VALUES);
    if (!(node->op->flags & DN_VIEW)) {
        const size_t y_size = dn__aligned(c.total);
        node->value = c.y = dn__memory(t, DN_VALUES, (y_size + node->saved) * sizeof(dn_real));
        if (!c.y) return no_value(t, node, before);
        c.saved = c.y + y_size;
    }
    if (in_blocks) t->upper->forward_in_blocks(&c);
    else if (wide) dn__forward_in_blocks(&c);
    else node->op->forward(&c);
    if (node->op->flags & DN_VIEW) {
        node->value = c.y;
        node->copied = 0;
        if (node->param && dn__store_is_as_dynet(node->param->store))
            t->workspace.out_of_memory |= dn__copy_parameter(t, i, NULL) != 0;
    }
    if (t->workspace.scratch.n_chunks) dn__memory_back_to(t, DN_SCRATCH, (dn_arena_mark){0});
    if (t->workspace.out_of_memory) return no_value(t, node, before);
    if (t->workspace.raised) {
        int error = t->workspace.raised;
        t->workspace.raised = 0;
        node->failed = DN_FAILED;
        t->schedule->any_failed = 1;
        return error;
    }
    return 0;
}
