/* Values are computed when they are asked for. */
#ifndef DN_FORWARD_H
#define DN_FORWARD_H

#include "schedule.h"

/* computes nodes up to index `last` until about DN_WORK numbers were read and written; 0: done, 1: more to do */
int dn__forward(dn_tape *, int last);
static inline int64_t dn__writes_of(const dn_root *root) { return __atomic_load_n(&root->writes, __ATOMIC_ACQUIRE); }

#endif
