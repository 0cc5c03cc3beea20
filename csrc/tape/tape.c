/* Slots, errors, memory that grows. */
#include "tape.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- errors -------------------------------------------------------------------------------------------------------- */

static const char STALE[] = "expression belongs to a graph that renew_cg() or cg_revert() closed, or that ended with its thread. "
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
                         "cell: no value is known and no graph begun while a function is traced. Do it outside of the cell.");
}

int dn__no_memory(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory"); }

int dn__internal_error(dn_tape *t, const char *what) {
    return dn__tape_fail(t, DN_ERROR_INTERNAL, "internal error: %s. Please report it with the program. Call renew_cg() to go on.", what);
}

int dn__stale(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_STALE, "%s", STALE); }

const char *dn_message(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    return t ? t->message : STALE;
}

int dn__grow(void **array, int *capacity, int64_t wanted, size_t element) {
    int64_t n = *capacity ? (int64_t)*capacity * 2 : 64;
    if (n < wanted) n = wanted;
    void *p = n > INT32_MAX ? NULL : realloc(*array, (size_t)n * element);
    if (!p) return DN_ERROR_MEMORY;
    *array = p;
    *capacity = (int)n;
    return 0;
}

/* ---- slots --------------------------------------------------------------------------------------------------------- */

/* Tapes stay where they are for the life of the process; a slot that is given back goes to the next graph with its epoch raised, so that a
 * handle, which holds nothing but numbers, never leads to memory that is gone. */
enum { SLOTS = 1 << DN_GRAPH_BITS };
static dn_tape *slots[SLOTS];
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;

dn_tape *dn__graph_tape(int graph) { return graph >= 0 && graph < SLOTS ? slots[graph] : NULL; }

dn_tape *dn__handle_tape(int64_t a) { return a >= 0 && a >> 62 == 0 ? slots[a >> (DN_INDEX_BITS + DN_EPOCH_BITS)] : NULL; }

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

/* ---- roots --------------------------------------------------------------------------------------------------------- */

int dn__retain_root(dn_tape *t, dn_root *root) {
    for (int i = 0; i < t->n.roots; i++)
        if (t->roots[i].root == root) return 0;
    if (DN_GROW(t->roots, t->capacity.roots, t->n.roots + 1)) return dn__no_memory(t);
    dn__root_retain(root);
    t->roots[t->n.roots++] = (dn_used_root){.root = root, .version = -1};
    return 0;
}

/* Another thread may hold some of the same roots and wait for others: so nobody waits while holding one. */
void dn__lock_roots(dn_tape *t) {
    int first = 0, i = 0;
    while (i < t->n.roots) {
        pthread_mutex_lock(&t->roots[first].root->lock);
        for (i = 0; i < t->n.roots; i++)
            if (i != first && pthread_mutex_trylock(&t->roots[i].root->lock)) break;
        if (i == t->n.roots) return;
        for (int k = 0; k < i; k++)
            if (k != first) pthread_mutex_unlock(&t->roots[k].root->lock);
        pthread_mutex_unlock(&t->roots[first].root->lock);
        first = i;
        i = 0;
    }
}
void dn__unlock_roots(dn_tape *t) {
    for (int r = t->n.roots - 1; r >= 0; r--) pthread_mutex_unlock(&t->roots[r].root->lock);
}
