/* Gradient-ready hooks on the side of the parameters: another thread waits for gradients, and sends
 * them. csrc/backward/hooks.c notifies it. */
#include <errno.h>
#include <time.h>

#include "kernels/kernels.h"
#include "params.h"

void dn_store_set_hook(dn_store *r, int hook) {
    if (hook == DN_HOOK_ARMED)
        dn__check_blas(); /* what is notified in parts is computed in parts */
    pthread_mutex_lock(&r->hook_lock);
    __atomic_store_n(&r->hook, hook, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&r->hook_moved);
    pthread_mutex_unlock(&r->hook_lock);
}

int dn_store_await(dn_store *r, double seconds) {
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
    pthread_mutex_lock(&r->hook_lock);
    while (r->hook == DN_HOOK_ARMED && timeout != ETIMEDOUT)
        timeout = pthread_cond_timedwait(&r->hook_moved, &r->hook_lock, &until);
    int hook = r->hook;
    pthread_mutex_unlock(&r->hook_lock);
    return hook;
}

int64_t dn_store_passes(dn_store *r) { return __atomic_load_n(&r->passes, __ATOMIC_RELAXED); }
int64_t dn_store_hook_count(dn_store *r) { return __atomic_load_n(&r->hooked, __ATOMIC_ACQUIRE); }

void dn__param_notify(dn_param *p) {
    p->hooked_changes = p->changes;
    __atomic_store_n(&p->ready, p->row_size, __ATOMIC_RELEASE);
}

int64_t dn_param_ready(dn_param *p) { return __atomic_load_n(&p->ready, __ATOMIC_ACQUIRE); }
int dn_param_unchanged(dn_param *p) {
    DN_HOLD(p->store);
    return p->changes == p->hooked_changes;
}
