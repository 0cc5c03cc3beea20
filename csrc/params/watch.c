/* Gradients that another thread waits for, and sends: the side of the parameters. Who tells of them is csrc/backward/ready.c's business. */
#include <errno.h>
#include <time.h>

#include "params.h"

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
    DN_HOLD(p->root);
    int unchanged = p->changes == p->watched_changes;
    return unchanged;
}
