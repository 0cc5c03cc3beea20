/* Watching a backward: which parameters have their gradients, told while the sweep goes on, so that another thread can send them.
 *
 * A parameter's node is made at its first use, so the sweep reaches it last. Its gradient is complete earlier: when the use with the lowest
 * place in the sweep has passed. For one backward, places of last uses are found by one pass over nodes and inputs; nothing of it is done in a
 * backward that nobody watches. An operation may tell of an input before it goes on with another: a matrix gets its gradient
 * before what it was multiplied by, since it takes long to send. Knows nodes and parameters; who reads the gradients and why is the watcher's
 * business. */
#include <errno.h>
#include <time.h>

#include "group.h"
#include "kernels/kernels.h"

void dn__watch_init(dn_root *r) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
#ifndef __APPLE__
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&r->watch_moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&r->watch_lock, NULL);
}

void dn__watch_destroy(dn_root *r) {
    pthread_cond_destroy(&r->watch_moved);
    pthread_mutex_destroy(&r->watch_lock);
}

void dn_root_watch(dn_root *r, int watch) {
    pthread_mutex_lock(&r->watch_lock);
    __atomic_store_n(&r->watch, watch, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&r->watch_moved);
    pthread_mutex_unlock(&r->watch_lock);
}

int dn_root_await(dn_root *r, double seconds) {
    struct timespec until;
#ifdef __APPLE__
    clock_gettime(CLOCK_REALTIME, &until);
#else
    clock_gettime(CLOCK_MONOTONIC, &until);
#endif
    int64_t ns = until.tv_nsec + (int64_t)(seconds * 1e9);
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    int timeout = 0;
    pthread_mutex_lock(&r->watch_lock);
    while (r->watch == DN_WATCH_ARMED && timeout != ETIMEDOUT) timeout = pthread_cond_timedwait(&r->watch_moved, &r->watch_lock, &until);
    int watch = r->watch;
    pthread_mutex_unlock(&r->watch_lock);
    return watch;
}

int64_t dn_root_passes(dn_root *r) { return __atomic_load_n(&r->passes, __ATOMIC_RELAXED); }
int64_t dn_root_watched(dn_root *r) { return __atomic_load_n(&r->watched, __ATOMIC_ACQUIRE); }

static void tell(dn_param *p) {
    p->watched_changes = p->changes;
    __atomic_store_n(&p->ready, p->row_size, __ATOMIC_RELEASE);
}

int64_t dn_param_ready(dn_param *p) { return __atomic_load_n(&p->ready, __ATOMIC_ACQUIRE); }
int dn_param_unchanged(dn_param *p) {
    pthread_mutex_lock(&p->root->lock);
    int unchanged = p->changes == p->watched_changes;
    pthread_mutex_unlock(&p->root->lock);
    return unchanged;
}

/* ---- the backward's side ------------------------------------------------------------------------------------------- */

static int watches(const dn_tape *t, const dn_root *root) {
    for (int r = 0; r < t->n_roots; r++)
        if (t->roots[r].root == root) return t->roots[r].watched;
    return 0;
}

/* A dense parameter whose gradient this backward may write. */
static int is_watched(const dn_tape *t, const dn_node *node) {
    return node->param && node->op == dn_ops[DN_OP_parameter] && !node->param->rows && !node->constant && node->param->updated &&
           watches(t, node->param->root);
}

static int is_armed(const dn_tape *t) {
    for (int r = 0; r < t->n_roots; r++) {
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
    if (dn__grouped(t, node)) i = t->members[t->groups[node->group].first];
    return places ? places[i] : i;
}

enum { NO_USE = INT32_MAX };

int dn__watch_begin(dn_tape *t) {
    t->watch.last_use = t->watch.next = NULL;
    t->watch.steps = t->watch.told = 0;
    if (!is_armed(t)) return 0;
    size_t places_in_sweep = (size_t)t->sweep + 1, n = (size_t)t->n_nodes;
    int32_t *last_use = dn__arena_take(&t->grads, places_in_sweep * sizeof *last_use), *next = dn__arena_take(&t->grads, n * sizeof *next);
    int32_t *at = dn__arena_take(&t->grads, n * sizeof *at), *places = NULL;
    if (!last_use || !next || !at) return -1;
    if (t->n_order) {
        if (!(places = dn__arena_take(&t->grads, n * sizeof *places))) return -1;
        for (size_t i = 0; i < n; i++) places[i] = -1;
        for (int s = 0; s <= t->sweep; s++) {
            int i = t->order[s];
            places[i < 0 ? t->members[t->groups[-1 - i].first] : i] = s;
        }
    }
    dn__lock_roots(t);
    for (int r = 0; r < t->n_roots; r++) {
        dn_root *root = t->roots[r].root;
        pthread_mutex_lock(&root->watch_lock); /* nobody sees that it has begun before `ready` is of this backward */
        int steps = begins(root, DN_WATCH_STEPS);
        t->watch.steps |= steps;
        t->roots[r].watched = steps || begins(root, DN_WATCH_ARMED);
        if (t->roots[r].watched) __atomic_add_fetch(&root->watched, 1, __ATOMIC_ACQ_REL);
        else pthread_mutex_unlock(&root->watch_lock);
        for (int k = 0; t->roots[r].watched && k < root->n_params; k++) tell(root->params[k]); /* until they are found to be used */
    }
    for (size_t i = 0; i < n; i++) at[i] = NO_USE;
    for (size_t i = 0; i < n; i++) {
        const dn_node *node = &t->nodes[i];
        int place = place_of(t, places, (int)i);
        if (place < 0 || place > t->sweep) continue;
        for (int k = 0; k < node->n_args; k++) {
            int j = t->args[node->args + k];
            if (place < at[j]) at[j] = place;
        }
    }
    for (size_t s = 0; s < places_in_sweep; s++) last_use[s] = -1;
    for (size_t i = 0; i < n; i++) {
        int place = at[i] == NO_USE ? place_of(t, places, (int)i) : at[i];
        if (place < 0 || place > t->sweep || !is_watched(t, &t->nodes[i])) continue;
        __atomic_store_n(&t->nodes[i].param->ready, 0, __ATOMIC_RELEASE);
        next[i] = last_use[place];
        last_use[place] = (int32_t)i;
    }
    t->watch.last_use = last_use;
    t->watch.next = next;
    for (int r = 0; r < t->n_roots; r++) {
        if (!t->roots[r].watched) continue;
        pthread_cond_broadcast(&t->roots[r].root->watch_moved);
        pthread_mutex_unlock(&t->roots[r].root->watch_lock);
    }
    dn__unlock_roots(t);
    return 0;
}

void dn__watch_tell(dn_tape *t, int i, int64_t numbers) {
    const dn_node *node = &t->nodes[i];
    if (t->watch.last_use && node->in_chunk && is_watched(t, node)) __atomic_store_n(&node->param->ready, numbers, __ATOMIC_RELEASE);
}

/* Parameter node i has no further use: its gradient is completed and told, once. */
static void finish(dn_tape *t, int i) {
    if (t->nodes[i].finished) return;
    dn__finish_parameter(t, i);
    if (t->out_of_memory) return;
    tell(t->nodes[i].param);
    t->watch.told = 1;
}

void dn__watch_passed(dn_tape *t) {
    for (int i = t->watch.last_use[t->sweep]; i >= 0; i = t->watch.next[i]) finish(t, i);
}

void dn__input_done(dn_call *c, int k) {
    dn_tape *t = c->tape;
    if (!t->watch.last_use || c->inner) return;
    int w = t->args[c->node->args + k], uses = 0;
    for (int i = 0; i < c->node->n_args; i++) uses += t->args[c->node->args + i] == w;
    if (uses > 1) return;
    for (int i = t->watch.last_use[t->sweep]; i >= 0; i = t->watch.next[i])
        if (i == w) finish(t, i);
}

void dn__watch_end(dn_tape *t, int complete) {
    if (!t->watch.last_use) return;
    t->watch.last_use = NULL;
    for (int r = 0; r < t->n_roots; r++)
        if (t->roots[r].watched && __atomic_load_n(&t->roots[r].root->watch, __ATOMIC_ACQUIRE) == DN_WATCH_BEGUN)
            dn_root_watch(t->roots[r].root, complete ? DN_WATCH_COMPLETE : DN_WATCH_FAILED);
}

/* ---- the watcher's side, and sums between hosts -------------------------------------------------------------------- */

void dn_param_take(dn_param *p, double factor, int64_t from, int64_t to, dn_real *out) {
    size_t n = (size_t)(to - from);
    if (p->empty || factor == 0) dn__fill(n, 0, out);
    else dn__axpy(n, (dn_real)factor, p->root->chunks[p->chunk].grads + p->offset + from, 0, out);
}

void dn_param_put(dn_param *p, double factor, const dn_real *in) {
    dn_real beta;
    pthread_mutex_lock(&p->root->lock);
    dn__axpy((size_t)p->row_size, (dn_real)factor, in, 0, dn__param_gradient(p, &beta));
    pthread_mutex_unlock(&p->root->lock);
}

void dn_sum_arrays(int count, dn_real *const *x, int64_t n, dn_real *sum) { dn__sum_arrays(count, x, (size_t)n, sum); }
void dn_bf16_encode(int64_t n, const dn_real *x, dn_real *rest, uint16_t *code) { dn__bf16_encode((size_t)n, x, rest, code); }
void dn_bf16_decode(int64_t n, const uint16_t *code, dn_real *x) { dn__bf16_decode((size_t)n, code, x); }
void dn_flag_set(int64_t *flag, int64_t value) { __atomic_store_n(flag, value, __ATOMIC_RELEASE); }
int64_t dn_flag_get(const int64_t *flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
