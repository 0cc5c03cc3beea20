/* What each thread has done so far, for whoever wants to know which of its data an update came
 * from. It knows nothing else. */
#pragma once

#include "dn_api.h"

extern __thread dn_work dn__work;
void dn__count_update(void);
