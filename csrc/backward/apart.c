/* Backward of groups: gradients of inputs that were collected go back to where those came from. */
#include "schedule/group.h"
#include "kernels/kernels.h"
#include "schedule/once.h"
#include "sweep.h"

/* Rows that were looked up after the leader of joined products was made have been passed by the sweep, which goes in the order of the nodes
 * there: bring their gradient home here. */
static void add_to_row(dn_tape *t, int x, const dn_real *dx) {
    dn_call c;
    dn__prepare_call(t, &t->nodes[x], &c);
    c.dy = dx;
    c.node->op->backward(&c);
}

/* Brings the gradients of a gather home. */
static void scatter(dn_tape *t, dn_gather *gather, const dn_group *g) {
    const int leader = t->schedule->members[g->first];
    dn_real *dx = gather->grad;
    gather->grad = NULL;
    for (int m = 0; m < gather->n && !t->room.out_of_memory; m++) {
        dn__ask_for(t, t->schedule->sources + gather->first, m, gather->n);
        const int x = t->schedule->sources[gather->first + m];
        dn_node *node = &t->nodes[x];
        const size_t n = dn__elements(&node->dim);
        if (dn__node_wants(t, node)) {
            if (gather->once) {
                add_to_row(t, x, dx);
            } else if (!node->grad && !dn__grouped(t, node) && node->op != dn_ops[DN_OP_parameter] && node->op != dn_ops[DN_OP_part]) {
                node->grad = dx; /* nobody else needs this memory any more */
            } else {
                dn_grad place = dn__place(t, x);
                if (place.dx) dn__axpy(n, 1, dx, place.beta, place.dx);
                else t->room.out_of_memory = 1;
            }
            if (g->joined && x > leader && node->param) add_to_row(t, x, dx);
        }
        dx += n;
    }
}

static void call_backward(dn_tape *t, int group) {
    const dn_group *g = &t->schedule->groups[group];
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) {
        t->room.out_of_memory = 1;
        return;
    }
    c.dy = g->grads;
    if (g->once) dn__once_backward(t, group, &c);
    else c.node->op->backward(&c);
}

void dn__group_backward(dn_tape *t, int group) {
    const dn_group *g = &t->schedule->groups[group];
    const dn_node *node = dn__leader_of(t, g);
    if (g->grads && !(node->op->flags & DN_NO_GRAD)) call_backward(t, group);
    /* also where nothing came to this group: later users of its gathers may have got something */
    const int n = dn__inputs_of(t, g);
    for (int k = 0; k < n; k++) {
        const int at = t->schedule->group_inputs[g->inputs + k].gather;
        if (at >= 0 && t->schedule->gathers[at].group == group && t->schedule->gathers[at].grad) scatter(t, &t->schedule->gathers[at], g);
    }
}
