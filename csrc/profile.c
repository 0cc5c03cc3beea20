#include "profile.h"

#include <pthread.h>
#include <stdlib.h>

int dn__profiling;

#define DN_OP_DECLARE(name) extern dn_op dn_op_##name;
#define DN_OP_ITEM DN_OP_DECLARE
#include "op_list.h"
#undef DN_OP_ITEM
#define DN_OP_PLACE(name) &dn_op_##name,
static dn_op *const rows[DN_OP_COUNT] = {
#define DN_OP_ITEM DN_OP_PLACE
#include "op_list.h"
#undef DN_OP_ITEM
};
static dn_op originals[DN_OP_COUNT];

static struct {
    pthread_mutex_t lock;
    dn_profiled *at;
    int n, capacity;
    int64_t most, lost;
    int64_t since; /* calls that began earlier belong to no profile, or to the last one */
    int64_t owner; /* 0: there is no profile */
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER, .since = INT64_MAX};

/* Of this thread: nanoseconds of calls that have ended within the one that is open. */
static __thread int64_t within;

static void append(const dn_profiled *record) {
    if (kept.n == kept.capacity && kept.capacity < kept.most) {
        const int64_t wanted = kept.capacity ? 2 * (int64_t)kept.capacity : 4096;
        const int capacity = (int)(wanted < kept.most ? wanted : kept.most);
        dn_profiled *more = realloc(kept.at, (size_t)capacity * sizeof *more);
        if (more) kept.at = more, kept.capacity = capacity;
    }
    if (kept.n < kept.capacity) kept.at[kept.n++] = *record;
    else kept.lost++;
}

static void keep(const dn_profiled *record) {
    pthread_mutex_lock(&kept.lock);
    if (record->begin >= kept.since) append(record);
    pthread_mutex_unlock(&kept.lock);
}

/* Of y = W x, or of dx = W' dy and dW = dy x' as far as they are wanted and computed in this call;
 * W is input w and x the next one. */
static int64_t of_product(const dn_call *c, int w, int backward) {
    const int64_t one = (int64_t)c->total * dn__columns_of(c->x[w].dim);
    if (!backward) return one;
    const int shared = !c->x[w].stride && (c->x[w + 1].stride || c->dim->batch == 1),
              dw = dn__wants(c, w) && !(shared && dn__defers_weight(c, w));
    return one * (dw + dn__wants(c, w + 1));
}

static int64_t multiplications(const dn_call *c, int op, int backward) {
    if (op != DN_OP_matmul && op != DN_OP_affine_transform) return -1;
    int64_t sum = 0;
    for (int w = op != DN_OP_matmul; w + 1 < c->n; w += 2) sum += of_product(c, w, backward);
    return sum;
}

static void run(dn_call *c, int op, int backward) {
    const int64_t before = within, begin = dn_meter_now();
    dn_profiled record = {.what = op,
                          .backward = backward,
                          .members = c->members,
                          .inputs = c->n,
                          .y = *c->dim,
                          .multiplications = multiplications(c, op, backward)};
    for (int k = 0; k < c->n && k < DN_PROFILED_INPUTS; k++) record.x[k] = *c->x[k].dim;
    within = 0;
    (backward ? originals[op].backward : originals[op].forward)(c);
    record.begin = begin, record.end = dn_meter_now(), record.within = within;
    within = before + record.end - begin;
    keep(&record);
}

#define DN_OP_PROFILED(name) \
    static void name##_timed_forward(dn_call *c) { run(c, DN_OP_##name, 0); } \
    static void name##_timed_backward(dn_call *c) { run(c, DN_OP_##name, 1); }
#define DN_OP_ITEM DN_OP_PROFILED
#include "op_list.h"
#undef DN_OP_ITEM
#define DN_OP_TIMED(name) {name##_timed_forward, name##_timed_backward},
static const struct {
    void (*forward)(dn_call *), (*backward)(dn_call *);
} timed[DN_OP_COUNT] = {
#define DN_OP_ITEM DN_OP_TIMED
#include "op_list.h"
#undef DN_OP_ITEM
};

int64_t dn__profile_open(void) { return dn_meter_now(); }

void dn__profile_close(int kind, int64_t begin) {
    const dn_profiled record = {
        .what = kind, .members = 1, .multiplications = -1, .begin = begin, .end = dn_meter_now()};
    keep(&record);
}

void dn__profile_close_weights(int64_t begin, int m, int k, int n, int nodes) {
    const dn_dim dw = {.nd = 2, .batch = 1, .size = m * k, .d = {m, k}},
                 dy = {.nd = 2, .batch = 1, .size = m * n, .d = {m, n}},
                 x = {.nd = 2, .batch = 1, .size = k * n, .d = {k, n}};
    const dn_profiled record = {.what = DN_PROFILE_WEIGHTS,
                                .backward = 1,
                                .members = nodes,
                                .inputs = 2,
                                .y = dw,
                                .x = {dy, x},
                                .multiplications = (int64_t)m * k * n,
                                .begin = begin,
                                .end = dn_meter_now()};
    within += record.end - begin; /* perhaps of the operation whose backward completed it */
    keep(&record);
}

/* Of operations: with the lock, as two threads may begin at once. */
static void time_calls(void) {
    for (int op = 0; op < DN_OP_COUNT; op++) {
        originals[op] = *rows[op];
        rows[op]->forward = timed[op].forward;
        rows[op]->backward = timed[op].backward;
    }
    __atomic_store_n(&dn__profiling, 1, __ATOMIC_RELEASE);
}

static void leave_calls(void) {
    __atomic_store_n(&dn__profiling, 0, __ATOMIC_RELEASE);
    for (int op = 0; op < DN_OP_COUNT; op++) {
        rows[op]->forward = originals[op].forward;
        rows[op]->backward = originals[op].backward;
    }
}

int dn_profile_begin(int64_t most, int64_t owner) {
    pthread_mutex_lock(&kept.lock);
    const int is_free = !kept.owner;
    if (is_free) {
        kept.n = 0, kept.lost = 0, kept.most = most < INT32_MAX ? most : INT32_MAX;
        kept.since = dn_meter_now(), kept.owner = owner;
        time_calls();
    }
    pthread_mutex_unlock(&kept.lock);
    return is_free ? 0 : DN_ERROR_STATE;
}

int64_t dn_profile_end(int64_t owner) {
    pthread_mutex_lock(&kept.lock);
    const int64_t lost = kept.owner == owner ? kept.lost : DN_ERROR_STATE;
    if (kept.owner == owner) {
        leave_calls();
        kept.since = INT64_MAX; /* a call that is still open must not write while these are read */
        kept.owner = 0;
    }
    pthread_mutex_unlock(&kept.lock);
    return lost;
}

int dn_profile_read(const dn_profiled **records) {
    *records = kept.at;
    return kept.n;
}

void dn_profile_free(void) {
    pthread_mutex_lock(&kept.lock);
    free(kept.at);
    kept.at = NULL;
    kept.n = kept.capacity = 0;
    pthread_mutex_unlock(&kept.lock);
}
