/* Batched GEMM. y_1 = W x_1, y_2 = W x_2, ... with one W: once the x are known, all y are one
 * product of matrices, two to five times as fast as products of a matrix and a vector each. When
 * the first of them is computed, later nodes of the same op whose inputs are the same nodes but for
 * the last one (and whose last one is computed already) are computed with it, as a group (group.h).
 * The representative has the lowest index: when the backward pass reaches it the gradients of all
 * members are complete, and none of their inputs has been passed. Calls of one traced function
 * (program.h) whose arguments are known are joined in the same way, and so are steps of a recurrent
 * network that go on from one another (chain.c).
 *
 * In a program that makes the output layer of each step before the next step, the inputs of later
 * products are not computed yet. What they need is then computed ahead of its turn, if it does not
 * depend on the product itself. From there on the tape has an order of its own, schedule->order,
 * which the backward pass follows: there, too, all inputs precede the representative. */
#pragma once

#include "schedule.h"

enum { DN_AGAIN = 2 };

/* Computes node i and those that can be joined with it, none later than `last`. 1: done; 0: there
 * is nothing to join; DN_AGAIN: what it waits for is computed in part, the rest by the next call;
 * negative: error. */
int dn__batched_gemm_forward(dn_tape *, int i, int last);
