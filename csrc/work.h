/* What each thread has done so far, for whoever wants to know which of its data an update came from. It knows nothing else. */
#ifndef DN_WORK_H
#define DN_WORK_H

#include "dn_api.h"

extern __thread dn_work dn__work;
void dn__count_update(void);

#endif
