/* Joined products. y_1 = W x_1, y_2 = W x_2, ... with one W: once the x are known, all y are one product of matrices, two to five times as fast
 * as products of a matrix and a vector each. When the first of them is computed, later nodes of the same op whose inputs are the same nodes but
 * for the last one (and whose last one is computed already) are computed with it, as a group (group.h). The leader has the lowest index: when
 * the backward sweep reaches it the gradients of all members are complete, and none of their inputs has been passed. Calls of one cell (cell.h)
 * whose arguments are known are joined in the same way. */
#ifndef DN_JOIN_H
#define DN_JOIN_H

#include "tape.h"

/* Of dn_node.patience: in a long chain no input is known, so that each search in vain halves it for the next one along the chain, down to the
 * least; a search that has found something leaves the next one with the most. */
enum { DN_MOST_PATIENCE = 128, DN_LEAST_PATIENCE = 4 };

/* A node of an op with DN_JOINS was made: link the users of a matrix. */
void dn__join_made(dn_tape *, int i);
/* Computes node i and those that can be joined with it, none later than `last`. 1: done; 0: there is nothing to join; negative: error. */
int dn__join_forward(dn_tape *, int i, int last);

#endif
