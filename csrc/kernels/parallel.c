/* The pool of threads. One computation at a time has it. Threads claim pieces from a counter, the
 * caller from the front and the others from the back, so that each finds in its cache what it had
 * the last time. Where there is nothing to claim they watch for the next computation, a fraction of
 * a millisecond at most, then sleep. */
#include "parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>

#include "../clock.h"

enum { STACK = 1 << 20, MOST_CLAIMS = 1 << 15 };
/* Nanoseconds. To wake a thread costs the caller up to 35,000 where the core has other work, and
 * the thread begins up to 150,000 later; so it watches as long before it sleeps. Watching is paid
 * for by computing: a thread has watched for no longer than it has computed, and where nothing came
 * that counts FUTILE times. A thread that loses its core while it watches, which a gap of LOST
 * between two looks shows, is in the way of others: it does not watch before it has computed for
 * as long as DEBT. */
enum {
    WATCH = 200000,
    MOST_CREDIT = 1000000,
    FUTILE = 4,
    LOST = 500000,
    DEBT = 10000000,
    LOOKS = 8
};
/* Nanoseconds that the caller may wait for pieces under way, beside what it has computed itself,
 * before it takes the core of whoever computes them for lost; and for how many times as long as it
 * has waited then it computes alone. */
enum { STALL = 100000, PAUSE = 20 };

atomic_int dn__threads = 1, dn__watching;
double dn__shared_work = 60000, dn__piece_work = 12000;

/* The computation at hand. `claims` holds its number (32 bits), and from which piece (16 bits) to
 * which (16 bits) nobody has claimed them. A claim replaces it, which fails if another computation
 * has begun since it was read: so the fields that were read after it belong to the same one. */
static struct {
    _Atomic uint64_t claims;
    _Atomic(dn__piece *) body;
    _Atomic(const void *) context;
    atomic_uint rounding; /* the caller's floating-point mode */
    atomic_int left;      /* pieces that are not done */
} job;

static struct {
    pthread_mutex_t owner; /* whoever computes holds it */
    pthread_mutex_t lock;  /* of the numbers of threads */
    pthread_cond_t wake, done;
    int workers, wakes, stop, failed, forks;
    atomic_int sleeping, waiting; /* waiting: the caller, for pieces under way */
    uint64_t alone_until;         /* of the owner */
} pool = {.owner = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

/* ---- the processor -------------------------------------------------------------------- */

/* Tells the core that this loop waits. */
static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* How a thread rounds, and whether it flushes denormals: a program may have changed it. */
static unsigned rounding(void) {
#if defined(__x86_64__)
    return __builtin_ia32_stmxcsr() & ~0x3fu; /* without what has happened */
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__)
    return __builtin_aarch64_get_fpcr();
#else
    return 0;
#endif
}
static void set_rounding(unsigned mode) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_aarch64_set_fpcr(mode);
#else
    (void)mode;
#endif
}

/* ---- claims --------------------------------------------------------------------------- */

static int unclaimed(uint64_t claims) {
    return (int)(claims & 0xffff) - (int)(claims >> 16 & 0xffff);
}

/* Computes what it can claim, and says how many pieces that was. */
static int take_part(int from_the_back) {
    int done = 0;
    uint64_t claims = atomic_load(&job.claims);
    while (unclaimed(claims) > 0) {
        dn__piece *body = atomic_load_explicit(&job.body, memory_order_relaxed);
        const void *context = atomic_load_explicit(&job.context, memory_order_relaxed);
        unsigned mode = atomic_load_explicit(&job.rounding, memory_order_relaxed);
        uint64_t rest = from_the_back ? claims - 1 : claims + (1 << 16);
        if (!atomic_compare_exchange_strong(&job.claims, &claims, rest)) continue;
        if (from_the_back && mode != rounding()) set_rounding(mode);
        body(context, (int)(from_the_back ? rest & 0xffff : claims >> 16 & 0xffff));
        done++;
        claims = rest;
        if (from_the_back && atomic_fetch_sub(&job.left, 1) == 1 && atomic_load(&pool.waiting)) {
            pthread_mutex_lock(&pool.lock);
            pthread_mutex_unlock(&pool.lock);
            pthread_cond_broadcast(&pool.done);
        }
    }
    return done;
}

/* ---- sleep ---------------------------------------------------------------------------- */

/* Wakes two, as far as there are pieces for them; each does the same, so that many are soon up. */
static void wake_some(void) {
    int most = unclaimed(atomic_load(&job.claims));
    if (most > 2) most = 2;
    if (most <= 0 || atomic_load(&pool.sleeping) == 0) return;
    pthread_mutex_lock(&pool.lock);
    int sleeping = atomic_load(&pool.sleeping), n = sleeping < most ? sleeping : most;
    atomic_fetch_sub(&pool.sleeping, n);
    pool.wakes += n;
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < n; i++) pthread_cond_signal(&pool.wake);
}

/* Returns 0 if the thread is to end. */
static int sleep_until_woken(void) {
    int stays = 1;
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1);
    /* whoever has begun meanwhile has seen nobody asleep */
    if (pool.stop || unclaimed(atomic_load(&job.claims)) > 0) {
        atomic_fetch_sub(&pool.sleeping, 1);
    } else {
        while (!pool.wakes) pthread_cond_wait(&pool.wake, &pool.lock);
        pool.wakes--;
    }
    if (pool.stop) {
        stays = 0;
        pool.workers--;
        pthread_cond_broadcast(&pool.done);
    }
    pthread_mutex_unlock(&pool.lock);
    return stays;
}

/* Whether there is something to claim, before `most` nanoseconds are over. *now is when it began,
 * and then when it has ended; *lost: whether it has been without its core. */
static int watch(int64_t most, uint64_t *now, int *lost) {
    uint64_t begun = *now, before;
    int came = 0;
    atomic_fetch_add(&dn__watching, 1);
    do {
        for (int i = 0; i < LOOKS && !came; i++) {
            relax();
            came = unclaimed(atomic_load(&job.claims)) > 0;
        }
        before = *now;
        *now = dn__nanoseconds();
        *lost |= *now - before > LOST;
    } while (!came && (int64_t)(*now - begun) < most);
    atomic_fetch_sub(&dn__watching, 1);
    return came;
}

static void *worker(void *unused) {
    int64_t credit = 0; /* how long it may watch */
    (void)unused;
    do {
        int came = 1, lost = 0;
        uint64_t now = dn__nanoseconds(), begun = now;
        wake_some();
        while (came) {
            if (take_part(1)) {
                now = dn__nanoseconds();
                credit += (int64_t)(now - begun);
                if (credit > MOST_CREDIT) credit = MOST_CREDIT;
            }
            begun = now;
            came = watch(credit < WATCH ? credit : WATCH, &now, &lost);
            credit -= (int64_t)(now - begun) * (came ? 1 : FUTILE);
            if (lost) credit = -DEBT;
            begun = now;
            lost = 0;
        }
    } while (sleep_until_woken());
    return NULL;
}

/* ---- the owner's side ----------------------------------------------------------------- */

/* The child has this thread alone, and no lock of the others'. */
static void after_fork(void) {
    pthread_mutex_init(&pool.owner, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pthread_cond_init(&pool.done, NULL);
    pool.workers = pool.wakes = pool.stop = pool.failed = 0;
    pool.alone_until = 0;
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.waiting, 0);
    atomic_store(&dn__watching, 0);
    atomic_store(&job.claims, 0);
}

static int make_worker(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&attributes)) return 0;
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are for the program's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, worker, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return !error;
}

/* As many as can be made; with fewer all goes on, and with none. */
static int make_workers(int wanted) {
    if (!pool.forks && !(pool.forks = !pthread_atfork(NULL, NULL, after_fork))) return 0;
    pthread_mutex_lock(&pool.lock);
    while (pool.workers < wanted && !pool.failed) {
        pool.failed = !make_worker();
        pool.workers += !pool.failed;
    }
    int workers = pool.workers;
    pthread_mutex_unlock(&pool.lock);
    return workers;
}

static void stop_workers(void) {
    pthread_mutex_lock(&pool.lock);
    pool.stop = 1;
    pool.wakes += atomic_exchange(&pool.sleeping, 0);
    pthread_cond_broadcast(&pool.wake);
    while (pool.workers) pthread_cond_wait(&pool.done, &pool.lock);
    pool.stop = pool.wakes = pool.failed = 0;
    pool.alone_until = 0; /* that was for the sake of those */
    pthread_mutex_unlock(&pool.lock);
}

void dn__set_threads(int n) {
    pthread_mutex_lock(&pool.owner);
    if (n != atomic_load(&dn__threads)) stop_workers();
    atomic_store(&dn__threads, n);
    pthread_mutex_unlock(&pool.owner);
}

void dn__compute_alone(double time) {
    pthread_mutex_lock(&pool.owner);
    pool.alone_until = dn__nanoseconds() + (uint64_t)time;
    pthread_mutex_unlock(&pool.owner);
}

static void wait_for_all(uint64_t begun) {
    uint64_t before = dn__nanoseconds();
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (!atomic_load(&job.left)) return;
            relax();
        }
    } while (dn__nanoseconds() - before < WATCH);
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waiting, 1);
    while (atomic_load(&job.left)) pthread_cond_wait(&pool.done, &pool.lock);
    atomic_store(&pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
    uint64_t now = dn__nanoseconds();
    if (now - before > before - begun + STALL) pool.alone_until = now + PAUSE * (now - before);
}

/* Whether it was done. */
static int share(int pieces, double work, dn__piece *body, const void *context) {
    uint64_t begun = dn__nanoseconds();
    if (begun < pool.alone_until || !make_workers(atomic_load(&dn__threads) - 1)) return 0;
    uint64_t number = (atomic_load(&job.claims) >> 32) + 1;
    atomic_store_explicit(&job.body, body, memory_order_relaxed);
    atomic_store_explicit(&job.context, context, memory_order_relaxed);
    atomic_store_explicit(&job.rounding, rounding(), memory_order_relaxed);
    atomic_store(&job.left, pieces);
    atomic_store(&job.claims, number << 32 | (uint64_t)pieces);
    if (work >= dn__shared_work) wake_some();
    atomic_fetch_sub(&job.left, take_part(0));
    wait_for_all(begun);
    return 1;
}

void dn__parallel(int pieces, double work, dn__piece *body, const void *context) {
    int done = 0;
    if (pieces > 1 && pieces <= MOST_CLAIMS && atomic_load(&dn__threads) > 1 &&
        !pthread_mutex_trylock(&pool.owner)) {
        done = share(pieces, work, body, context);
        pthread_mutex_unlock(&pool.owner);
    }
    for (int i = 0; !done && i < pieces; i++) body(context, i);
}

typedef struct ranges {
    dn__pieces pieces;
    dn__range_body *body;
    const void *context;
} ranges;
static void range_piece(const void *context, int i) {
    const ranges *r = context;
    r->body(r->context, dn__piece_from(&r->pieces, i), dn__piece_size(&r->pieces, i));
}
void dn__shared_ranges(size_t n, double each, size_t unit, dn__range_body *body,
                       const void *context) {
    ranges r = {dn__in_pieces(n, each, unit), body, context};
    dn__parallel(r.pieces.count, (double)n * each, range_piece, &r);
}
