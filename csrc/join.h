/* Joined nodes. y_1 = W x_1, y_2 = W x_2, ... with one W: once the x are known, all y are one product of matrices, two to five times as fast
 * as products of a matrix and a vector each. When the first of them is computed, later nodes of the same op whose inputs are the same nodes but
 * for the last one (and whose last one is computed already) are computed with it, as one call with the batch counts added up; their values and
 * gradients lie side by side. The first, the leader, has the lowest index: when the backward sweep reaches it the gradients of all members are
 * complete, and none of their inputs has been passed, so backward is one call, too. */
#ifndef DN_JOIN_H
#define DN_JOIN_H

#include "tape.h"

/* Nodes are made: link the users of a matrix. */
void dn__join_made(dn_tape *, int i);
/* Computes node i and those that can be joined with it, none later than `last`. 1: done; 0: there is nothing to join; negative: error. */
int dn__join_forward(dn_tape *, int i, int last);
/* Whether node i has a value that was computed ahead. */
static inline int dn__join_computed(const dn_tape *t, const dn_node *node) { return node->leader >= 0 && node->joined == t->values_made; }
/* The gradient memory of a member, all members' at once; NULL: node i is none. */
dn_real *dn__join_grad(dn_tape *, int i);
/* Backward of node i if it is a member: 1: nothing more is to be done. */
int dn__join_backward(dn_tape *, int i);

#endif
