/* Watching a backward: which parameters have their gradients, notified while the backward pass goes
 * on, so that another thread can send them.
 *
 * A parameter's node is made at its first use, so the backward pass reaches it last. Its gradient
 * is complete earlier: when the use with the lowest place in the backward pass has passed. For one
 * backward, places of last uses are found by one pass over nodes and inputs; nothing of it is done
 * in a backward that nobody watches. An operation may tell of an input before it goes on with
 * another: a matrix gets its gradient before what it was multiplied by, since it takes long to
 * send. Knows nodes and parameters; why gradients are read is the business of the hook's owner. */
#include "backward_pass.h"

static int hooks(const dn_tape *t, const dn_store *store) {
    for (int r = 0; r < t->n.stores; r++)
        if (t->stores[r].store == store) return t->stores[r].hooked;
    return 0;
}

/* A dense parameter whose gradient this backward may write. */
static int is_hooked(const dn_tape *t, const dn_node *node) {
    return node->param && node->op == dn_ops[DN_OP_parameter] && !node->param->rows &&
           !node->constant && dn__param_is_updated(node->param) && hooks(t, node->param->store);
}

static int is_armed(const dn_tape *t) {
    for (int r = 0; r < t->n.stores; r++) {
        int hook = __atomic_load_n(&t->stores[r].store->hook, __ATOMIC_ACQUIRE);
        if (hook == DN_HOOK_ARMED || hook == DN_HOOK_STEPS) return 1;
    }
    return 0;
}

static int begins(dn_store *store, int hook) {
    return __atomic_compare_exchange_n(&store->hook, &hook, DN_HOOK_BEGUN, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

/* The place in the backward pass where node i takes part, or -1: in a group, where its first member
 * does. */
static int position_of(const dn_tape *t, const int32_t *places, int i) {
    const dn_node *node = &t->nodes[i];
    const dn_group *g = i < t->schedule->seen ? dn__group_of(t, node) : NULL;
    if (g) i = t->schedule->members[g->first];
    return places ? places[i] : i;
}

enum { NO_USE = INT32_MAX };

/* places[i]: the place of node i in the order of the schedule, of a group its first member's; -1 of
 * other nodes */
static void find_places(const dn_tape *t, int32_t *places) {
    for (int i = 0; i < t->n.nodes; i++) places[i] = -1;
    for (int s = 0; s <= t->backward->position; s++) {
        int i = t->schedule->order[s];
        places[i < 0 ? t->schedule->members[t->schedule->groups[-1 - i].first] : i] = s;
    }
}

/* at[i]: the lowest place in the backward pass of a use of node i */
static void find_lowest_uses(const dn_tape *t, const int32_t *places, int32_t *at) {
    for (int i = 0; i < t->n.nodes; i++) at[i] = NO_USE;
    for (int i = 0; i < t->n.nodes; i++) {
        const dn_node *node = &t->nodes[i];
        int slot = position_of(t, places, i);
        if (slot < 0 || slot > t->backward->position) continue;
        for (int k = 0; k < node->n_args; k++) {
            int j = t->args[node->args + k];
            if (slot < at[j]) at[j] = slot;
        }
    }
}

/* Lists of the hooked parameters by their last uses, last_use[place] the first one's node; they are
 * not ready from now on. */
static void list_last_uses(const dn_tape *t, const int32_t *places, const int32_t *at,
                           int32_t *last_use, int32_t *next) {
    for (int s = 0; s <= t->backward->position; s++) last_use[s] = -1;
    for (int i = 0; i < t->n.nodes; i++) {
        int slot = at[i] == NO_USE ? position_of(t, places, i) : at[i];
        if (slot < 0 || slot > t->backward->position || !is_hooked(t, &t->nodes[i])) continue;
        __atomic_store_n(&t->nodes[i].param->ready, 0, __ATOMIC_RELEASE);
        next[i] = last_use[slot];
        last_use[slot] = i;
    }
}

/* Begins the hooks that are armed; they keep their locks: nobody sees that they have begun before
 * `ready` is of this backward. */
static void begin_hooks(dn_tape *t) {
    for (int r = 0; r < t->n.stores; r++) {
        dn_store *store = t->stores[r].store;
        pthread_mutex_lock(&store->hook_lock);
        int steps = begins(store, DN_HOOK_STEPS);
        t->backward->hook.steps |= steps;
        t->stores[r].hooked = steps || begins(store, DN_HOOK_ARMED);
        if (t->stores[r].hooked) __atomic_add_fetch(&store->hooked, 1, __ATOMIC_ACQ_REL);
        else pthread_mutex_unlock(&store->hook_lock);
        /* until they are found to be used */
        for (int k = 0; t->stores[r].hooked && k < store->n_params; k++)
            dn__param_notify(store->params[k]);
    }
}

static void show_hooks(dn_tape *t) {
    for (int r = 0; r < t->n.stores; r++) {
        if (!t->stores[r].hooked) continue;
        pthread_cond_broadcast(&t->stores[r].store->hook_moved);
        pthread_mutex_unlock(&t->stores[r].store->hook_lock);
    }
}

int dn__hook_begin(dn_tape *t) {
    t->backward->hook.last_use = t->backward->hook.next = NULL;
    t->backward->hook.steps = t->backward->hook.notified = 0;
    if (!is_armed(t)) return 0;
    size_t n_positions = (size_t)t->backward->position + 1, n = (size_t)t->n.nodes;
    int32_t *last_use = dn__arena_take(&t->workspace.grads, n_positions * sizeof *last_use),
            *next = dn__arena_take(&t->workspace.grads, n * sizeof *next);
    int32_t *at = dn__arena_take(&t->workspace.grads, n * sizeof *at), *places = NULL;
    if (!last_use || !next || !at) return -1;
    if (t->schedule->n.order) {
        if (!(places = dn__arena_take(&t->workspace.grads, n * sizeof *places))) return -1;
        find_places(t, places);
    }
    find_lowest_uses(t, places, at);
    dn__lock_stores(t);
    begin_hooks(t);
    list_last_uses(t, places, at, last_use, next);
    t->backward->hook.last_use = last_use;
    t->backward->hook.next = next;
    show_hooks(t);
    dn__unlock_stores(t);
    return 0;
}

void dn__hook_notify(dn_tape *t, int i, int64_t numbers) {
    const dn_node *node = &t->nodes[i];
    if (t->backward->hook.last_use && node->in_chunk && is_hooked(t, node))
        __atomic_store_n(&node->param->ready, numbers, __ATOMIC_RELEASE);
}

void dn__hook_complete(dn_tape *t, int i) {
    dn__param_notify(t->nodes[i].param);
    t->backward->hook.notified = 1;
}

void dn__hook_end(dn_tape *t, int complete) {
    if (!t->backward->hook.last_use) return;
    t->backward->hook.last_use = NULL;
    for (int r = 0; r < t->n.stores; r++)
        if (t->stores[r].hooked &&
            __atomic_load_n(&t->stores[r].store->hook, __ATOMIC_ACQUIRE) == DN_HOOK_BEGUN)
            dn_store_set_hook(t->stores[r].store, complete ? DN_HOOK_COMPLETE : DN_HOOK_FAILED);
}
