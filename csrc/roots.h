/* The roots whose parameters a graph uses. */
#ifndef DN_ROOTS_H
#define DN_ROOTS_H

#include "tape.h"

/* The graph uses parameters of this root, and keeps it until it is renewed. */
int dn__retain_root(dn_tape *, dn_root *);
/* the locks of all roots that the graph uses: held while backward runs, but not by an op that calls out */
void dn__lock_roots(dn_tape *);
void dn__unlock_roots(dn_tape *);

#endif
