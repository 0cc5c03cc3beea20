/* One node by itself: its call, its memory, its value. What is computed when, and with what, is decided above. */
#ifndef DN_COMPUTE_H
#define DN_COMPUTE_H

#include "schedule.h"

/* The call of a node by itself, with what forward and backward share. */
void dn__prepare_call(dn_tape *, dn_node *, dn_call *);
/* Computes one node by itself; its inputs are known. */
int dn__compute(dn_tape *, int i);
/* Whether a node cannot be computed because something above it failed, or it did itself a moment ago. */
int dn__blocked(const dn_tape *, const dn_node *);
/* Later readers in this graph see the value of now, whatever becomes of the parameter: where other threads may write to it, behind its lock. */
int dn__copy_parameter(dn_tape *, int i, pthread_mutex_t *lock);

#endif
