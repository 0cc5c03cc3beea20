#include "join.h"

#include <string.h>

#include "group.h"

enum { MOST_COLUMNS = 1024 }; /* of one product, as MOST_NUMBERS of autobatch.c */

static int last_input(const dn_tape *t, const dn_node *node) { return t->args[node->args + node->n_args - 1]; }

void dn__join_made(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->n_args < 2) return;
    int w = t->args[node->args + node->n_args - 2];
    dn_node *matrix = &t->nodes[w];
    if (matrix->last_user >= 0 && matrix->last_user < i) {
        dn_node *last = &t->nodes[matrix->last_user];
        /* after a revert, another node may have its index */
        if (last->op == node->op && last->n_args == node->n_args && t->args[last->args + last->n_args - 2] == w) last->next_user = i;
    }
    matrix->last_user = i;
}

/* Whether node i is computed; inputs and rows, whose memory exists, are computed on the way. */
static int is_known(dn_tape *t, int i) {
    const dn_op *op = t->nodes[i].op;
    if (i < t->evaluated) return !(t->any_failed && t->nodes[i].failed);
    return (op == dn_ops[DN_OP_input] || op == dn_ops[DN_OP_lookup]) && !dn__compute(t, i);
}

/* Whether node j can be computed with the leader: equal but for the last input, which is known and of equal dims. */
static int fits(dn_tape *t, const dn_node *leader, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != leader->op || node->n_args != leader->n_args || node->needs_grad != leader->needs_grad || dn__grouped(t, node)) return 0;
    const dn_dim *x = &t->nodes[last_input(t, leader)].dim, *other = &t->nodes[last_input(t, node)].dim;
    return !memcmp(t->args + node->args, t->args + leader->args, (size_t)(leader->n_args - 1) * sizeof *t->args) && x->nd == other->nd &&
           x->batch == other->batch && !memcmp(x->d, other->d, (size_t)x->nd * sizeof *x->d) && is_known(t, last_input(t, node));
}

/* The same for cells: each argument is known. Parameters are the same nodes for all. */
static int cell_fits(dn_tape *t, const dn_node *leader, int j) {
    const dn_node *node = &t->nodes[j];
    if (node->op != leader->op || t->ints[node->ints] != t->ints[leader->ints]) return 0;
    if (node->needs_grad != leader->needs_grad || dn__grouped(t, node)) return 0;
    for (int k = 0; k < node->n_args; k++) {
        const int x = t->args[node->args + k], y = t->args[leader->args + k];
        const int is_parameter = t->nodes[x].op == dn_ops[DN_OP_parameter];
        if (is_parameter ? x != y : t->nodes[x].dim.batch != node->dim.batch || !is_known(t, x)) return 0;
    }
    return 1;
}

static int shared_are_unbatched(const dn_tape *t, const dn_node *node) {
    for (int k = 0; k < node->n_args - 1 && node->op != dn_ops[DN_OP_cell]; k++)
        if (t->nodes[t->args[node->args + k]].dim.batch != 1) return 0;
    return 1;
}

int dn__join_forward(dn_tape *t, int i, int last) {
    dn_node *node = &t->nodes[i];
    if (node->next_user < 0 || node->next_user > last || !dn__elements(&node->dim) || !shared_are_unbatched(t, node)) return 0;
    int members = 1, most = MOST_COLUMNS / node->dim.batch, first = t->n_members;
    const int is_cell = node->op == dn_ops[DN_OP_cell];
    if (is_cell && !cell_fits(t, node, i)) return 0;
    int misfits = 0, before = i, patience = node->patience;
    for (int j = node->next_user; j > before && j <= last && members < most && misfits < patience; before = j, j = t->nodes[j].next_user) {
        if (is_cell ? !cell_fits(t, node, j) : !fits(t, node, j)) {
            misfits++;
            continue;
        }
        misfits = 0;
        patience = DN_MOST_PATIENCE;
        if (DN_GROW(t->members, t->members_capacity, first + members + 1)) return dn__no_memory(t);
        t->members[first + members++] = j;
    }
    if (members == 1) {
        const int less = patience / 2;
        t->nodes[node->next_user].patience = (uint8_t)(less > DN_LEAST_PATIENCE ? less : DN_LEAST_PATIENCE);
        return 0;
    }
    t->members[first] = i;
    int group = dn__group_new(t);
    if (group < 0) return group;
    t->n_members = first + members;
    t->groups[group].n = members;
    t->groups[group].joined = 1;
    const int error = dn__group_forward(t, group);
    if (!error) return 1;
    t->n_groups--; /* the same nodes may be joined otherwise when it is tried again */
    t->n_members = first;
    return error;
}
