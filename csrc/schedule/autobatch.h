/* On-the-fly batching: nodes of like signature that wait for nothing but what is computed are
 * computed as one group (group.h). The schedule is made in time linear in nodes and edges, without
 * a string and without an allocation per node; it knows no op by name. */
#pragma once

#include "schedule.h"

enum { DN_IN_ORDER = 2 };
/* As dn__forward: computes all nodes up to `last`; the order is kept for backward in
 * schedule->order. DN_IN_ORDER: the strategy chooses to compute the nodes from schedule->evaluated
 * on in the order in which they were made. */
int dn__autobatch_forward(dn_tape *, int last);
/* Node i was computed by itself, after all that is in schedule->order, which has capacity for
 * it. */
void dn__append_to_order(dn_tape *, int i);
/* bound.c: the fewest batches that can compute what is computed; negative: no memory. */
int64_t dn__least_batches(dn_tape *);
