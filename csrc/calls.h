/* What node-making calls end with. */
#ifndef DN_CALLS_H
#define DN_CALLS_H

#include "tape.h"

/* Immediate mode, and the handle of node i; an error is passed on. */
int64_t dn__finish(dn_tape *, int i);

#endif
