/* What the schedule and the backward pass give to the tape below them. */
#ifndef DN_WAYS_H
#define DN_WAYS_H

#include "tape.h"

extern const dn_upper dn__upper;

#endif
