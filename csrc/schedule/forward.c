/* Computing values: nodes in the order they were made, or as autobatch.c says; what is computed is
 * kept. */
#include "schedule.h"

#include <math.h>
#include <stdlib.h>

#include "autobatch.h"
#include "batched_gemm.h"
#include "clock.h"
#include "profile.h"

/* What `last` needs of the nodes that failed before, once more in order; 1: there is more to do. */
static int retry(dn_tape *t, int last, int64_t work) {
    uint8_t *needed = calloc((size_t)last + 1, 1);
    if (!needed) return dn__no_memory(t);
    needed[last] = 1;
    for (int i = last; i >= 0; i--) {
        const dn_node *node = &t->nodes[i];
        for (int k = 0; needed[i] && node->failed && k < node->n_args; k++)
            needed[t->args[node->args + k]] = 1;
    }
    int error = 0;
    for (int i = 0; i <= last && !error; i++) {
        if (!needed[i] || !t->nodes[i].failed) continue;
        if (work <= 0) {
            free(needed);
            return 1;
        }
        work -= t->nodes[i].work;
        error = dn__compute(t, i);
        /* its value lies above them */
        dn__lower_marks(t, i);
    }
    free(needed);
    return error;
}

/* A node failed while nodes were computed in another order than they were made. All but what
 * depends on it must stay usable: compute them again, node by node (the same draws, if they are
 * keyed), until the graph is renewed. */
static void stop_batching(dn_tape *t) {
    int failed = t->schedule->order[t->schedule->n_done];
    uint64_t counter = t->workspace.rng.counter;
    dn__forget_values(t);
    t->workspace.rng.counter = counter;
    t->schedule->autobatch = 0;
    t->schedule->any_failed = 1;
    t->nodes[failed].failed = DN_FAILED_ALREADY;
}

/* In the order in which the nodes were made. */
static int forward_in_order(dn_tape *t, int last) {
    int64_t work = DN_WORK;
    while (t->schedule->evaluated <= last) {
        if (work <= 0) return 1;
        if (t->schedule->n.order && DN_GROW(t->schedule->order, t->schedule->capacity.order,
                                            (int64_t)t->schedule->n.order + 1))
            return dn__no_memory(t);
        const int i = t->schedule->evaluated;
        if (dn__is_ahead(t, i)) {
            t->schedule->evaluated++;
            continue;
        }
        work -= t->nodes[i].work;
        dn_node *node = &t->nodes[i];
        int batched_gemm = 0;
        if (node->op->flags & DN_JOINED && !(t->schedule->any_failed && dn__blocked(t, node)) &&
            (batched_gemm = dn__grouped(t, node)) == 0)
            batched_gemm = dn__batched_gemm_forward(t, i, last);
        if (batched_gemm == DN_AGAIN) return 1;
        int error = batched_gemm ? batched_gemm : dn__compute(t, i);
        /* what failed blocks nothing but what depends on it */
        if (error >= 0 || error == DN_ERROR_PYTHON) t->schedule->evaluated++;
        if (t->schedule->n.order && t->schedule->evaluated > i) dn__append_to_order(t, i);
        if (error < 0) return error;
    }
    return t->schedule->any_failed && t->nodes[last].failed ? retry(t, last, work) : 0;
}

/* What was computed before may be of the store's present values, too: then what comes now is of the
 * same, and backward may go through both. Else it may go through what comes now, which copies the
 * parameters anew. */
static void renew_version(const dn_tape *t, dn_used_store *used) {
    const int64_t version = __atomic_load_n(&used->store->version, __ATOMIC_RELAXED);
    if (used->version < 0 || used->latest == version) return;
    int end = t->schedule->evaluated, i = used->from_latest;
    if (end < t->schedule->ahead_end) end = t->schedule->ahead_end;
    if (end > t->n.nodes) end = t->n.nodes;
    while (i < end && !dn__reads_changed(t, i, used)) i++;
    if (i < end) {
        used->from_latest = end;
        t->schedule->first_gather = t->schedule->n.gathers;
    }
    used->latest = version;
    if (!used->from_latest) used->version = version;
}

/* Another thread may be writing parameters: they are read when it is done. */
static void note_writes(dn_tape *t) {
    for (int r = 0; r < t->n.stores; r++) {
        dn_store *store = t->stores[r].store;
        renew_version(t, &t->stores[r]);
        while ((t->stores[r].writes = dn__writes_of(store)) & 1) {
            dn__lock(store);
            dn__unlock(store);
        }
    }
}

/* Whether parameters that values were computed from were written meanwhile. */
static int were_written(const dn_tape *t) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (int r = 0; r < t->n.stores; r++)
        if (t->stores[r].version >= 0 && t->stores[r].writes != dn__writes_of(t->stores[r].store))
            return 1;
    return 0;
}

static int compute_up_to(dn_tape *t, int last) {
    if ((t->may_join || t->schedule->autobatch) && dn__schedule_see(t)) return DN_ERROR_MEMORY;
    if (!t->schedule->autobatch || t->schedule->immediate || t->schedule->any_failed ||
        t->schedule->ahead_end > t->schedule->evaluated)
        return forward_in_order(t, last);
    if (t->schedule->evaluated > last) return 0;
    const double start = dn__seconds(), schedule = t->schedule->counts.schedule;
    int result = dn__autobatch_forward(t, last);
    if (result == DN_IN_ORDER) {
        t->schedule->counts.nodes += last + 1 - t->schedule->evaluated;
        t->schedule->counts.batches += last + 1 - t->schedule->evaluated;
        result = forward_in_order(t, last);
    } else if (result == DN_ERROR_PYTHON) {
        stop_batching(t);
    }
    t->schedule->counts.execution +=
        dn__seconds() - start - (t->schedule->counts.schedule - schedule);
    return result;
}

int dn__forward(dn_tape *t, int last) {
    if (t->tracing) return dn__no_values(t);
    if (t->schedule->evaluated > last && !t->schedule->any_failed) return 0;
    if (!t->schedule->forward_begun) note_writes(t);
    const int64_t begin = DN_PROFILE_OPEN();
    const int result = compute_up_to(t, last);
    DN_PROFILE_CLOSE(DN_PROFILE_FORWARD, begin);
    t->schedule->forward_begun = result > 0;
    if (result < 0 || !were_written(t)) return result;
    dn__forget_values(t);
    return dn__tape_fail(t, DN_ERROR_STATE,
                         "forward: another thread has changed parameters while values were "
                         "computed from them. Compute them "
                         "again. Threads that update and threads that compute must take turns: use "
                         "a lock, or a copy of the model.");
}

int64_t dn__finish(dn_tape *t, int i) {
    if (i < 0) return i;
    if (t->schedule->immediate) {
        int error;
        while ((error = dn__forward(t, i)) > 0) {}
        if (error) return error;
        const dn_node *node = &t->nodes[i];
        size_t total = dn__elements(&node->dim);
        for (size_t j = 0; t->schedule->check_finite && j < total; j++)
            if (!isfinite(node->value[j]))
                return dn__tape_fail(t, DN_ERROR_NONFINITE,
                                     "%s: NaN or Inf detected at element %zu of %s.",
                                     node->op->name, j, DIMS(&node->dim));
    }
    return dn__handle(t, i);
}
