/* Forks while other threads hold the locks of stores. The child has the forking thread alone: there
 * a lock of another one would stay taken for ever, and what it was writing half done. So a fork
 * waits until no thread is in the middle of a backward step or an update, and the child gets new
 * locks. A thread that has such a lock waits neither for the forking one nor for Python's lock. */
#include <time.h>

#include "params/store.h"

static void make_watch(dn_store *r) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
#ifndef __APPLE__
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&r->hook_moved, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&r->hook_lock, NULL);
}

void dn__make_locks(dn_store *r) {
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->pack_lock, NULL);
    make_watch(r);
}

enum { MOST_PAUSES = 60000, PAUSE = 100000 /* nanoseconds */ };

static struct {
    pthread_mutex_t lock;
    dn_store *first;
    int handled; /* forks are */
} stores = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The locks of a store, in the order in which they are taken. */
static pthread_mutex_t *lock_of(dn_store *r, int i) {
    pthread_mutex_t *const locks[] = {&r->lock, &r->pack_lock, &r->hook_lock};
    return locks[i];
}

/* Some seconds are more than anybody needs; then it goes on without. */
static int take(pthread_mutex_t *lock) {
    const struct timespec pause = {0, PAUSE};
    for (int i = 0; pthread_mutex_trylock(lock); i++) {
        if (i == MOST_PAUSES) return 0;
        nanosleep(&pause, NULL);
    }
    return 1;
}

static void before_fork(void) {
    pthread_mutex_lock(&stores.lock);
    for (dn_store *r = stores.first; r; r = r->next)
        for (int i = 0; i < DN_STORE_LOCKS; i++) r->forking[i] = (uint8_t)take(lock_of(r, i));
}

static void after_fork_in_parent(void) {
    for (dn_store *r = stores.first; r; r = r->next)
        for (int i = DN_STORE_LOCKS - 1; i >= 0; i--)
            if (r->forking[i]) pthread_mutex_unlock(lock_of(r, i));
    pthread_mutex_unlock(&stores.lock);
}

static void after_fork_in_child(void) {
    for (dn_store *r = stores.first; r; r = r->next) {
        dn__make_locks(r);
        r->owned = 0;
        r->squares = NULL;
        r->writes += r->writes & 1;
    }
    pthread_mutex_init(&stores.lock, NULL);
}

int dn__list_store(dn_store *r) {
    pthread_mutex_lock(&stores.lock);
    if (!stores.handled)
        stores.handled = !pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    const int handled = stores.handled;
    r->next = stores.first;
    if (r->next) r->next->before = r;
    stores.first = r;
    pthread_mutex_unlock(&stores.lock);
    return handled ? 0 : DN_ERROR_MEMORY;
}

void dn__unlist_store(dn_store *r) {
    pthread_mutex_lock(&stores.lock);
    if (r->before) r->before->next = r->next;
    else stores.first = r->next;
    if (r->next) r->next->before = r->before;
    pthread_mutex_unlock(&stores.lock);
}
