/* Groups: nodes of one op that are computed as one call with their batch counts added up. The
 * members' values lie side by side, and so do their gradients; the representative, the first
 * member, stands for all. Which nodes make a group is decided by batched_gemm.c (products with one
 * matrix, in the order of the nodes) and autobatch.c (everything that fits); here it is done.
 *
 * An input is *broadcast* when it is the same unbatched node for all nodes of the group (a weight,
 * a bias): the call sees it once, with stride 0. Any other input is *gathered*: the nodes' inputs
 * side by side. Where they lie so in the memory of one group or owner, their gradients do, too, and
 * both are used in place. Otherwise they are copied: a *gather*, which later groups with the same
 * inputs use again. Its gradient is scattered once, after the backward of the group that made it,
 * which is the first user in forward and so the last in backward. */
#pragma once

#include "schedule.h"

static inline const int32_t *dn__members_of(const dn_tape *t, const dn_group *g) {
    return t->schedule->members + g->first;
}
static inline dn_node *dn__representative_of(const dn_tape *t, const dn_group *g) {
    return &t->nodes[t->schedule->members[g->first]];
}
/* Whether member m of a group of sequences or steps is a sequence, or begins one. */
static inline int dn__begins_sequence(const dn_tape *t, const dn_group *g, int m) {
    return g->as == DN_AS_SEQUENCES || !m ||
           (g->sequences > 1 && t->schedule->seats[dn__members_of(t, g)[m]].begins);
}
/* How many inputs the call has: the steps of all members make one, the last. */
static inline int dn__inputs_of(const dn_tape *t, const dn_group *g) {
    const dn_node *node = dn__representative_of(t, g);
    return g->as ? node->n_args - t->ints[node->ints] + 1 : node->n_args;
}
/* Members and sources lie scattered over the nodes, of which a large graph has more than the
 * second-level cache holds: each of them would be waited for, 50 ns. So those some places on in a
 * list are asked for already, and what loops write or read of them is there in time. */
enum { DN_AHEAD = 8 };
/* lines: how many of the node's cache lines are needed */
static inline void dn__ask_for(const dn_tape *t, const int32_t *list, int m, int n, int lines) {
    if (m + DN_AHEAD >= n) return;
    const int i = list[m + DN_AHEAD];
    const char *node = (const char *)&t->nodes[i];
    for (int at = 0; at < 64 * lines; at += 64) __builtin_prefetch(node + at, 1);
    __builtin_prefetch(&t->schedule->seats[i], 1);
}
/* A new group, of the members that are appended to schedule->members behind it; negative: out of
 * memory. */
int dn__group_new(dn_tape *);
/* Computes the group. An error leaves all as it was, to be tried again. */
int dn__group_forward(dn_tape *, int group);
/* The call that stands for all members, without y and dy for all of them; negative: out of
 * memory. */
int dn__group_prepare(dn_tape *, int group, dn_call *, dn_dim *y);
/* The block of memory that holds a node's value and, in other memory laid out alike, its gradient:
 * its group's, or its owner's. NULL: neither. */
const dn_real *dn__block_of(const dn_tape *, const dn_node *, size_t *n);
/* Where a `output_view` node's value (or, in the gradient's memory, gradient) lies: `offset`
 * numbers into its owner, as if that were no member. */
dn_real *dn__output_view_address(const dn_tape *, const dn_node *owner, int offset, int gradient);
