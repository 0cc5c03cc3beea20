#include "work.h"

#include "tape.h"

__thread dn_work dn__work;

static int64_t updates_made; /* atomic */

void dn__count_update(void) {
    dn__work.updates++;
    __atomic_fetch_add(&updates_made, 1, __ATOMIC_RELAXED);
}

int64_t dn_updates_made(void) { return __atomic_load_n(&updates_made, __ATOMIC_RELAXED); }

dn_work dn_thread_work(int graph) {
    dn_work work = dn__work;
    const dn_tape *t = dn__graph_tape(graph);
    if (t) {
        const uint64_t parts[] = {(uint64_t)t->epoch, (uint64_t)t->values_made, (uint64_t)t->n_nodes, (uint64_t)t->evaluated};
        uint64_t mixed = 0;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mixed = (mixed ^ parts[i]) * 0x9E3779B97F4A7C15u;
        work.activity = (int64_t)mixed;
    }
    return work;
}
