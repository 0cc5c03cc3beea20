/* Watching a backward: which parameters have their gradients, told while the sweep goes on, so that another thread can send them.
 *
 * A parameter's node is made at its first use, so the sweep reaches it last. Its gradient is complete earlier: when the use with the lowest
 * place in the sweep has passed. For one backward, places of last uses are found by one pass over nodes and inputs; nothing of it is done in a
 * backward that nobody watches. An operation may tell of an input before it goes on with another: a matrix gets its gradient
 * before what it was multiplied by, since it takes long to send. Knows nodes and parameters; who reads the gradients and why is the watcher's
 * business. */
#include "sweep.h"

static int watches(const dn_tape *t, const dn_root *root) {
    for (int r = 0; r < t->n.roots; r++)
        if (t->roots[r].root == root) return t->roots[r].watched;
    return 0;
}

/* A dense parameter whose gradient this backward may write. */
static int is_watched(const dn_tape *t, const dn_node *node) {
    return node->param && node->op == dn_ops[DN_OP_parameter] && !node->param->rows && !node->constant && node->param->updated &&
           watches(t, node->param->root);
}

static int is_armed(const dn_tape *t) {
    for (int r = 0; r < t->n.roots; r++) {
        int watch = __atomic_load_n(&t->roots[r].root->watch, __ATOMIC_ACQUIRE);
        if (watch == DN_WATCH_ARMED || watch == DN_WATCH_STEPS) return 1;
    }
    return 0;
}

static int begins(dn_root *root, int watch) {
    return __atomic_compare_exchange_n(&root->watch, &watch, DN_WATCH_BEGUN, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* The place in the sweep where node i takes part, or -1: in a group, where its first member does. */
static int place_of(const dn_tape *t, const int32_t *places, int i) {
    const dn_node *node = &t->nodes[i];
    if (i < t->schedule->seen && dn__grouped(t, node)) i = t->schedule->members[t->schedule->groups[dn__seat(t, node)->group].first];
    return places ? places[i] : i;
}

enum { NO_USE = INT32_MAX };

int dn__watch_begin(dn_tape *t) {
    t->backward->watch.last_use = t->backward->watch.next = NULL;
    t->backward->watch.steps = t->backward->watch.told = 0;
    if (!is_armed(t)) return 0;
    size_t places_in_sweep = (size_t)t->backward->sweep + 1, n = (size_t)t->n.nodes;
    int32_t *last_use = dn__arena_take(&t->room.grads, places_in_sweep * sizeof *last_use),
        *next = dn__arena_take(&t->room.grads, n * sizeof *next);
    int32_t *at = dn__arena_take(&t->room.grads, n * sizeof *at), *places = NULL;
    if (!last_use || !next || !at) return -1;
    if (t->schedule->n.order) {
        if (!(places = dn__arena_take(&t->room.grads, n * sizeof *places))) return -1;
        for (size_t i = 0; i < n; i++) places[i] = -1;
        for (int s = 0; s <= t->backward->sweep; s++) {
            int i = t->schedule->order[s];
            places[i < 0 ? t->schedule->members[t->schedule->groups[-1 - i].first] : i] = s;
        }
    }
    dn__lock_roots(t);
    for (int r = 0; r < t->n.roots; r++) {
        dn_root *root = t->roots[r].root;
        pthread_mutex_lock(&root->watch_lock); /* nobody sees that it has begun before `ready` is of this backward */
        int steps = begins(root, DN_WATCH_STEPS);
        t->backward->watch.steps |= steps;
        t->roots[r].watched = steps || begins(root, DN_WATCH_ARMED);
        if (t->roots[r].watched) __atomic_add_fetch(&root->watched, 1, __ATOMIC_ACQ_REL);
        else pthread_mutex_unlock(&root->watch_lock);
        for (int k = 0; t->roots[r].watched && k < root->n_params; k++) dn__param_tell(root->params[k]); /* until they are found to be used */
    }
    for (size_t i = 0; i < n; i++) at[i] = NO_USE;
    for (size_t i = 0; i < n; i++) {
        const dn_node *node = &t->nodes[i];
        int place = place_of(t, places, (int)i);
        if (place < 0 || place > t->backward->sweep) continue;
        for (int k = 0; k < node->n_args; k++) {
            int j = t->args[node->args + k];
            if (place < at[j]) at[j] = place;
        }
    }
    for (size_t s = 0; s < places_in_sweep; s++) last_use[s] = -1;
    for (size_t i = 0; i < n; i++) {
        int place = at[i] == NO_USE ? place_of(t, places, (int)i) : at[i];
        if (place < 0 || place > t->backward->sweep || !is_watched(t, &t->nodes[i])) continue;
        __atomic_store_n(&t->nodes[i].param->ready, 0, __ATOMIC_RELEASE);
        next[i] = last_use[place];
        last_use[place] = (int32_t)i;
    }
    t->backward->watch.last_use = last_use;
    t->backward->watch.next = next;
    for (int r = 0; r < t->n.roots; r++) {
        if (!t->roots[r].watched) continue;
        pthread_cond_broadcast(&t->roots[r].root->watch_moved);
        pthread_mutex_unlock(&t->roots[r].root->watch_lock);
    }
    dn__unlock_roots(t);
    return 0;
}

void dn__watch_tell(dn_tape *t, int i, int64_t numbers) {
    const dn_node *node = &t->nodes[i];
    if (t->backward->watch.last_use && node->in_chunk && is_watched(t, node)) __atomic_store_n(&node->param->ready, numbers, __ATOMIC_RELEASE);
}

void dn__watch_complete(dn_tape *t, int i) {
    dn__param_tell(t->nodes[i].param);
    t->backward->watch.told = 1;
}

void dn__watch_end(dn_tape *t, int complete) {
    if (!t->backward->watch.last_use) return;
    t->backward->watch.last_use = NULL;
    for (int r = 0; r < t->n.roots; r++)
        if (t->roots[r].watched && __atomic_load_n(&t->roots[r].root->watch, __ATOMIC_ACQUIRE) == DN_WATCH_BEGUN)
            dn_root_watch(t->roots[r].root, complete ? DN_WATCH_COMPLETE : DN_WATCH_FAILED);
}
