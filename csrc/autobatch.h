/* On-the-fly batching: nodes of like signature that wait for nothing but what is computed are computed as one group (group.h). The schedule is
 * made in time linear in nodes and edges, without a string and without an allocation per node; it knows no op by name. */
#ifndef DN_AUTOBATCH_H
#define DN_AUTOBATCH_H

#include "tape.h"

enum { DN_IN_ORDER = 2 };
/* As dn__forward: computes all nodes up to `last`; the order is kept for backward in tape->order. DN_IN_ORDER: the strategy chooses to compute
 * the nodes from tape->evaluated on in the order in which they were made. */
int dn__autobatch_forward(dn_tape *, int last);
/* Node i was computed by itself, after all that is in tape->order, which has capacity for it. */
void dn__append_to_order(dn_tape *, int i);
/* Forgets an order that is computed in part, with what is computed of it: nodes from tape->evaluated on are as they were before. For a
 * checkpoint, which knows only how far the nodes are computed. */
void dn__drop_plan(dn_tape *);
/* Forgets an order that is being made; all else is as it was before. */
void dn__abandon_plan(dn_tape *);
double dn__seconds(void);

#endif
