/* The call of one node by itself, with what forward and backward share. */
#include "schedule.h"

void dn__prepare_call(dn_tape *t, dn_node *node, dn_call *c) {
    const int32_t *args = t->args + node->args;
    for (int k = 0; k < node->n_args; k++) {
        const dn_node *x = &t->nodes[args[k]];
        t->call.in[k] = (dn_in){&x->dim, x->value, x->dim.batch == 1 ? 0 : (size_t)x->dim.size};
    }
    /* Field by field: GCC clears a whole struct with `rep stos`, which costs more than the rest of
     * this function. */
    c->n = node->n_args;
    c->x = t->call.in;
    c->dim = &node->dim;
    c->total = dn__elements(&node->dim);
    c->y = node->value;
    c->saved = node->value ? node->value + dn__aligned(c->total) : NULL;
    c->ints = t->ints + node->ints;
    c->floats = t->floats + node->floats;
    c->n_ints = node->n_ints;
    c->dy = node->grad;
    c->members = 1;
    c->own = dn__own(t, node);
    c->workspace = &t->workspace;
    c->routes = t->upper->node;
    c->tape = t;
    c->node = node;
    c->group = -1;
}
