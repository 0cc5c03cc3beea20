/* Gradients that another thread waits for, and sends: the side of the parameters. Who tells of them is csrc/ready.c's business. */
#include <errno.h>
#include <time.h>

#include "kernels/kernels.h"
#include "params.h"

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

void dn__param_tell(dn_param *p) {
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
