#include "work.h"

__thread dn_work dn__work;

static int64_t updates_made; /* atomic */

void dn__count_update(void) {
    dn__work.updates++;
    __atomic_fetch_add(&updates_made, 1, __ATOMIC_RELAXED);
}

int64_t dn_updates_made(void) { return __atomic_load_n(&updates_made, __ATOMIC_RELAXED); }
