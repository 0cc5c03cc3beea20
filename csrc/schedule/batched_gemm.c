#include "batched_gemm.h"

#include <string.h>

#include "group.h"

enum { MOST_COLUMNS = 1024 }; /* of one product, as MOST_NUMBERS of autobatch.c */

static int last_input(const dn_tape *t, const dn_node *node) {
    return t->args[node->args + node->n_args - 1];
}

/* Whether node i is computed; inputs and rows, whose memory exists, are computed on the way. */
static int is_known(dn_tape *t, int i) {
    const dn_op *op = t->nodes[i].op;
    if (i < t->schedule->evaluated) return !(t->schedule->any_failed && t->nodes[i].failed);
    return (op == dn_ops[DN_OP_input] || op == dn_ops[DN_OP_lookup]) && !dn__compute(t, i);
}

/* Whether node j can be computed with the representative: equal but for the last input, which is
 * known and of equal dims. */
static int fits(dn_tape *t, const dn_node *representative, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != representative->op || node->n_args != representative->n_args ||
        node->needs_grad != representative->needs_grad || dn__grouped(t, node))
        return 0;
    const dn_dim *x = &t->nodes[last_input(t, representative)].dim,
                 *other = &t->nodes[last_input(t, node)].dim;
    return !memcmp(t->args + node->args, t->args + representative->args,
                   (size_t)(representative->n_args - 1) * sizeof *t->args) &&
           x->nd == other->nd && x->batch == other->batch &&
           !memcmp(x->d, other->d, (size_t)x->nd * sizeof *x->d) &&
           is_known(t, last_input(t, node));
}

/* The same for traced functions: each argument is known. Parameters are the same nodes for all. */
static int traced_fits(dn_tape *t, const dn_node *representative, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != representative->op || t->ints[node->ints] != t->ints[representative->ints])
        return 0;
    if (node->needs_grad != representative->needs_grad || dn__grouped(t, node)) return 0;
    for (int k = 0; k < node->n_args; k++) {
        const int x = t->args[node->args + k], y = t->args[representative->args + k];
        const int is_parameter = t->nodes[x].op == dn_ops[DN_OP_parameter];
        if (is_parameter ? x != y : t->nodes[x].dim.batch != node->dim.batch || !is_known(t, x))
            return 0;
    }
    return 1;
}

static int broadcast_inputs_are_unbatched(const dn_tape *t, const dn_node *node) {
    for (int k = 0; k < node->n_args - 1 && !(node->op->flags & DN_TRACED); k++)
        if (t->nodes[t->args[node->args + k]].dim.batch != 1) return 0;
    return 1;
}

int dn__batched_gemm_forward(dn_tape *t, int i, int last) {
    dn_node *node = &t->nodes[i];
    const dn_seat *seat = dn__seat(t, node);
    if (seat->next_user < 0 || seat->next_user > last || !dn__elements(&node->dim) ||
        !broadcast_inputs_are_unbatched(t, node))
        return 0;
    int members = 1, most = MOST_COLUMNS / node->dim.batch, first = t->schedule->n.members;
    const int is_traced = (node->op->flags & DN_TRACED) != 0;
    if (is_traced && !traced_fits(t, node, i)) return 0;
    int misses = 0, before = i, lookahead = seat->lookahead;
    for (int j = seat->next_user, next;
         j > before && j <= last && members < most && misses < lookahead; before = j, j = next) {
        next = t->schedule->seats[j].next_user;
        if (is_traced ? !traced_fits(t, node, j) : !fits(t, node, j)) {
            misses++;
            continue;
        }
        misses = 0;
        lookahead = DN_MOST_LOOKAHEAD;
        if (DN_GROW(t->schedule->members, t->schedule->capacity.members, first + members + 1))
            return dn__no_memory(t);
        t->schedule->members[first + members++] = j;
    }
    if (members == 1) {
        const int less = lookahead / 2;
        t->schedule->seats[seat->next_user].lookahead =
            (uint8_t)(less > DN_LEAST_LOOKAHEAD ? less : DN_LEAST_LOOKAHEAD);
        return 0;
    }
    t->schedule->members[first] = i;
    int group = dn__group_new(t);
    if (group < 0) return group;
    t->schedule->n.members = first + members;
    t->schedule->groups[group].n = members;
    t->schedule->groups[group].batched_gemm = 1;
    const int error = dn__group_forward(t, group);
    if (!error) return 1;
    t->schedule->n.groups--; /* the same nodes may be joined otherwise when it is tried again */
    t->schedule->n.members = first;
    return error;
}
