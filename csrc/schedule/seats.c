/* Seats of nodes, and lists of nodes that may be computed with one another. */
#include "schedule.h"

/* The last node that was made by the same program before node i, a call of it, or -1: a revert may
 * have dropped it. */
static int last_call(const dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    const int program = t->ints[node->ints], last = t->kept.at[program].seen;
    const dn_node *other = last >= 0 && last < i ? &t->nodes[last] : NULL;
    return other && other->op == node->op && t->ints[other->ints] == program ? last : -1;
}

/* Calls of one program follow one another in one list, users of a matrix in another, steps of a
 * sequence in a third. */
static void link(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    dn_seat *seats = t->schedule->seats;
    if (node->op->flags & DN_TRACED) {
        const int last = last_call(t, i);
        if (last >= 0 && !node->not_batchable) seats[last].next_user = i;
        t->kept.at[t->ints[node->ints]].seen = i;
        return;
    }
    if (node->op->flags & DN_VARIABLE_LENGTH) {
        dn__link_step(t, i);
        return;
    }
    if (node->n_args < 2) return;
    const int w = t->args[node->args + node->n_args - 2], at = seats[w].last_user;
    if (at >= 0 && at < i) {
        const dn_node *last = &t->nodes[at];
        /* after a revert, another node may have its index */
        if (last->op == node->op && last->n_args == node->n_args &&
            t->args[last->args + last->n_args - 2] == w)
            seats[at].next_user = i;
    }
    seats[w].last_user = i;
}

int dn__schedule_see(dn_tape *t) {
    dn_schedule *s = t->schedule;
    if (DN_GROW(s->seats, s->seats_capacity, t->n.nodes)) return dn__no_memory(t);
    static const dn_seat NEW = {.next_user = -1,
                                .last_user = -1,
                                .gathers = -1,
                                .lookahead = DN_MOST_LOOKAHEAD};
    const int n = t->n.nodes;
    for (int i = s->seen; i < n; i++) {
        s->seats[i] = NEW;
        if (t->nodes[i].op->flags & DN_JOINED) link(t, i);
    }
    s->seen = n;
    return 0;
}
