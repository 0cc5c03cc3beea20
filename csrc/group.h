/* Groups: nodes of one op that are computed as one call with their batch counts added up. The members' values lie side by side, and so do their
 * gradients; the leader is the member that stands for all. Which nodes make a group is decided by join.c (products with one matrix, in the order of
 * the nodes) and autobatch.c (everything that fits); here it is done.
 *
 * An input is *shared* when it is the same unbatched node in all members (a weight, a bias): the call sees it once, with stride 0. Any other input is
 * *collected*: the members' ones side by side, where they are if they lie so, else copied. */
#ifndef DN_GROUP_H
#define DN_GROUP_H

#include "tape.h"

/* beta of a collected input's place, once the op has asked for it: only then has it written there. */
enum { DN_PLACE_TAKEN = 2 };

/* Whether node i has a value that was computed as a member of a group. */
static inline int dn__grouped(const dn_tape *t, const dn_node *node) { return node->leader >= 0 && node->grouped == t->values_made; }
/* Computes the members: a list that begins at `leader` and goes on by next_member. */
int dn__group_forward(dn_tape *, int leader);
/* The gradient memory of a member, all members' at once; NULL: out of memory. */
dn_real *dn__group_grad(dn_tape *, int i);
/* Backward of the whole group; to be called when the gradients of all members are complete. */
void dn__group_backward(dn_tape *, int leader);
/* Where a `part` node's value (or, in the gradient's memory, gradient) lies: `offset` numbers into its owner, as if that were no member. */
dn_real *dn__part_address(dn_tape *, const dn_node *owner, int offset, int gradient);

#endif
