/* Slots, errors, memory that grows. */
#include "tape.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors --------------------------------------------------------------------------- */

static const char STALE[] = "expression belongs to a graph that renew_cg() or cg_revert() closed, "
                            "or that ended with its thread. "
                            "Build it again in this graph.";

int dn__tape_fail(dn_tape *t, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t->message, DN_MESSAGE, format, args);
    va_end(args);
    return error;
}

int dn__no_values(dn_tape *t) {
    return dn__tape_fail(t, DN_ERROR_STATE,
                         "traced: no value is known and no graph begun while a function is traced. "
                         "Do it outside of the function.");
}

int dn__no_memory(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory"); }

int dn__internal_error(dn_tape *t, const char *what) {
    return dn__tape_fail(
        t, DN_ERROR_INTERNAL,
        "internal error: %s. Please report it with the program. Call renew_cg() to go on.", what);
}

int dn__stale(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_STALE, "%s", STALE); }

const char *dn_message(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    return t ? t->message : STALE;
}

/* Aligned, and on huge pages where it is large: nodes are read in any order. */
int dn__grow(void *array, int *capacity, int64_t wanted, size_t element) {
    int64_t n = *capacity ? (int64_t)*capacity * 2 : 64;
    if (n < wanted) n = wanted;
    void *old, *p = n > INT32_MAX ? NULL : dn__block_raw((size_t)n * element);
    if (!p) return DN_ERROR_MEMORY;
    memcpy(&old, array, sizeof old);
    if (*capacity) memcpy(p, old, (size_t)*capacity * element);
    dn__block_free(old);
    memcpy(array, &p, sizeof p);
    *capacity = (int)n;
    return 0;
}

/* ---- slots ---------------------------------------------------------------------------- */

/* Tapes stay where they are for the life of the process; a slot that is given back goes to the next
 * graph with its epoch raised, so that a handle, which holds nothing but numbers, never leads to
 * memory that is gone. */
enum { SLOTS = 1 << DN_GRAPH_BITS };
static dn_tape *slots[SLOTS];
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;

dn_tape *dn__graph_tape(int graph) { return graph >= 0 && graph < SLOTS ? slots[graph] : NULL; }

dn_tape *dn__handle_tape(int64_t a) {
    return a >= 0 && a >> 62 == 0 ? slots[a >> (DN_INDEX_BITS + DN_EPOCH_BITS)] : NULL;
}

dn_tape *dn__take_slot(dn_tape *(*make)(void)) {
    dn_tape *t = NULL;
    int graph = 0;
    pthread_mutex_lock(&slots_lock);
    while (graph < SLOTS && slots[graph] && slots[graph]->taken) graph++;
    if (graph < SLOTS && (slots[graph] || (slots[graph] = make()))) {
        t = slots[graph];
        if (!t->version) t->epoch = (int64_t)(t->graph = graph) << DN_EPOCH_BITS; /* it is new */
        t->taken = 1;
    }
    pthread_mutex_unlock(&slots_lock);
    return t;
}

void dn__give_slot_back(dn_tape *t) {
    pthread_mutex_lock(&slots_lock);
    t->taken = 0;
    pthread_mutex_unlock(&slots_lock);
}

/* ---- stores --------------------------------------------------------------------------- */

int dn__is_as_dynet(const dn_tape *t) {
    for (int i = 0; i < t->n.stores; i++)
        if (t->stores[i].store->as_dynet) return 1;
    return 0;
}

int dn__retain_store(dn_tape *t, dn_store *store) {
    for (int i = 0; i < t->n.stores; i++)
        if (t->stores[i].store == store) return 0;
    if (DN_GROW(t->stores, t->capacity.stores, t->n.stores + 1)) return dn__no_memory(t);
    dn__store_retain(store);
    t->stores[t->n.stores++] = (dn_used_store){.store = store, .version = -1};
    return 0;
}

/* Rows are read when their own node is computed, dense values, which are never copied, when what
 * has them as an input is. */
int dn__reads_changed(const dn_tape *t, int i, const dn_used_store *used) {
    const dn_node *node = &t->nodes[i];
    const int64_t version = i < used->from_latest ? used->version : used->latest;
    if (node->param && node->param->store == used->store && node->param->rows)
        return dn__param_changed_since(node->param, version,
                                       node->n_ints ? t->ints + node->ints : NULL, node->n_ints);
    for (int k = 0; k < node->n_args; k++) {
        const dn_param *p = t->nodes[t->args[node->args + k]].param;
        if (p && p->store == used->store && !p->rows &&
            dn__param_changed_since(p, version, NULL, 0))
            return 1;
    }
    return 0;
}

/* Another thread may hold some of the same stores and wait for others: so nobody waits while
 * holding one. */
void dn__lock_stores(dn_tape *t) {
    int first = 0, i = 0;
    while (i < t->n.stores) {
        dn__lock(t->stores[first].store);
        for (i = 0; i < t->n.stores; i++)
            if (i != first && dn__try_lock(t->stores[i].store)) break;
        if (i == t->n.stores) return;
        for (int k = 0; k < i; k++)
            if (k != first) dn__unlock(t->stores[k].store);
        dn__unlock(t->stores[first].store);
        first = i;
        i = 0;
    }
}
void dn__unlock_stores(dn_tape *t) {
    for (int r = t->n.stores - 1; r >= 0; r--) dn__unlock(t->stores[r].store);
}
