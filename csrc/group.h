/* Groups: nodes of one op that are computed as one call with their batch counts added up. The members' values lie side by side, and so do their
 * gradients; the leader, the first member, stands for all. Which nodes make a group is decided by join.c (products with one matrix, in the
 * order of the nodes) and autobatch.c (everything that fits); here it is done.
 *
 * An input is *shared* when it is the same unbatched node in all members (a weight, a bias): the call sees it once, with stride 0. Any other
 * input is *collected*: the members' ones side by side. Where they lie so in the memory of one group or owner, their gradients do, too, and
 * both are used in place. Otherwise they are copied: a *gather*, which later groups with the same inputs use again. Its gradient is brought
 * home once, after the backward of the group that made it: that is the first user in forward, so the last in backward. */
#ifndef DN_GROUP_H
#define DN_GROUP_H

#include "tape.h"

/* Whether a node has a value that was computed as a member of a group. */
static inline int dn__grouped(const dn_tape *t, const dn_node *node) { return node->grouped == t->values_made; }
/* A new group, of the members that are appended to tape->members behind it; negative: out of memory. */
int dn__group_new(dn_tape *);
/* Computes the group. An error leaves all as it was, to be tried again. */
int dn__group_forward(dn_tape *, int group);
/* The call that stands for all members, without y and dy for all of them; negative: out of memory. */
int dn__group_prepare(dn_tape *, int group, dn_call *, dn_dim *y);
/* The memory of a group's gradients, zeros before anything has come; NULL: out of memory. */
dn_real *dn__group_grads(dn_tape *, int group);
/* Backward of the whole group; to be called when the gradients of all members are complete. */
void dn__group_backward(dn_tape *, int group);
/* dn__wants and dn__dx for input k of a call that computes a group, where it is collected; where it is shared: 0. */
int dn__group_collects(const dn_call *, int k);
int dn__group_wants(const dn_call *, int k);
dn_grad dn__group_dx(dn_call *, int k);
/* No value is kept: nor are groups. */
void dn__forget_groups(dn_tape *);
/* Where a `part` node's value (or, in the gradient's memory, gradient) lies: `offset` numbers into its owner, as if that were no member. */
dn_real *dn__part_address(dn_tape *, const dn_node *owner, int offset, int gradient);

/* A hash of what was hashed before, h, and of x. */
static inline uint64_t dn__mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

#endif
