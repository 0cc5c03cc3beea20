/* Values are read. */
#include "tape/make.h"
#include "schedule/schedule.h"

/* The parameter that node i is a view of, or NULL: its value may be in the parameter's memory. */
static const dn_param *viewed(const dn_tape *t, int i) {
    while (t->nodes[i].op->flags & DN_VIEW && t->nodes[i].n_args) i = t->args[t->nodes[i].args];
    return t->nodes[i].op->flags & DN_VIEW ? t->nodes[i].param : NULL;
}

/* The store of a parameter's value that is about to be read, and so is to be kept as it is now;
 * NULL: it is kept, or is no parameter's. */
static dn_store *unkept_store(const dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    const dn_param *p = node->failed || node->copied ? NULL : viewed(t, i);
    return p ? p->store : NULL;
}
static int keep_parameter(dn_tape *t, int i) {
    dn_store *store = unkept_store(t, i);
    return store ? dn__copy_parameter(t, i, store) : 0;
}
/* The same without waiting for another thread. */
static int keep_parameter_fast(dn_tape *t, int i) {
    dn_store *store = unkept_store(t, i);
    if (!store) return 0;
    if (dn__try_lock(store)) return DN_FALLBACK;
    const int error = dn__copy_parameter(t, i, NULL);
    dn__unlock(store);
    return error;
}

int dn_forward(int64_t a) {
    DN_ENTER_NODE(a);
    const int result = t->schedule->unreported ? t->schedule->unreported : dn__forward(t, i);
    t->schedule->unreported = 0;
    if (result) return result;
    const int error = dn__keep_value(t, i);
    return error ? error : keep_parameter(t, i);
}

/* Whether computing up to node i takes some microseconds at most: the graph is small, or little of
 * it is left to compute. */
static int is_fast(const dn_tape *t, int i) {
    for (int r = 0; r < t->n.stores; r++) /* this would wait for another thread */
        if (dn__writes_of(t->stores[r].store) & 1) return 0;
    if (t->work_made <= DN_FAST_WORK) return 1;
    if (t->schedule->any_failed) return 0;
    int64_t work = 0;
    for (int k = t->schedule->evaluated; k <= i && work <= DN_FAST_WORK; k++)
        work += t->nodes[k].work;
    return work <= DN_FAST_WORK;
}

/* Computes node i; DN_FALLBACK: that, or to say what has failed, is left to dn_forward. */
static int compute_fast(dn_tape *t, int i) {
    if (t->schedule->unreported) return DN_FALLBACK;
    const int error = dn__forward(t, i);
    if (error == DN_ERROR_PYTHON) t->schedule->unreported = error;
    return error || (t->schedule->any_failed && t->nodes[i].failed) ? DN_FALLBACK : 0;
}

int dn_fast_forward(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_FALLBACK;
    DN_ENTER_OR(t, DN_FALLBACK);
    const int i = dn__find(t, a);
    if (i < 0 || !is_fast(t, i) || compute_fast(t, i)) return DN_FALLBACK;
    return dn__keep_value(t, i) || keep_parameter_fast(t, i) ? DN_FALLBACK : 0;
}

int dn_fast_value(int64_t a, dn_dim *dim, int capacity, double *out) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_FALLBACK;
    DN_ENTER_OR(t, DN_FALLBACK);
    const int i = dn__find(t, a);
    if (i < 0 || !is_fast(t, i)) return DN_FALLBACK;
    const dn_node *node = &t->nodes[i];
    const size_t n = dn__elements(&node->dim);
    if (!n || n > (size_t)capacity) return DN_FALLBACK;
    if (compute_fast(t, i) || keep_parameter_fast(t, i)) return DN_FALLBACK;
    for (size_t k = 0; k < n; k++) out[k] = (double)node->value[k];
    *dim = node->dim;
    return 0;
}

void dn_normalize(const dn_dim *dim, int d, double *x) {
    const size_t n = (size_t)dn__size_at(dim, d), all = dn__elements(dim);
    size_t step = 1; /* from one number of a sum to the next */
    for (int i = 0; i < d && i < dim->nd; i++) step *= (size_t)dim->d[i];
    for (size_t begin = 0; begin < all; begin += n * step)
        for (size_t first = begin; first < begin + step; first++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++) sum += x[first + k * step];
            for (size_t k = 0; k < n && sum > 0; k++) x[first + k * step] /= sum;
        }
}

int dn_fast_probabilities(int64_t a, dn_dim *dim, int capacity, double *out) {
    int d;
    const int error = dn_fast_value(a, dim, capacity, out);
    if (!error && dn_node_ints(a, 1, &d) >= 1) dn_normalize(dim, d, out);
    return error;
}

const dn_real *dn_value(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return NULL;
    DN_ENTER_OR(t, NULL);
    const int i = dn__find(t, a);
    if (i < 0) return NULL;
    if (i < t->schedule->evaluated && !(t->schedule->any_failed && t->nodes[i].failed))
        return dn__keep_value(t, i) || keep_parameter(t, i) ? NULL : t->nodes[i].value;
    dn__tape_fail(t, DN_ERROR_STATE, "the value of this expression was not computed");
    return NULL;
}

const int *dn_saved_indices(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return NULL;
    DN_ENTER_OR(t, NULL);
    const int i = dn__find(t, a);
    if (i < 0 || i >= t->schedule->evaluated || !dn__saved(&t->nodes[i])) return NULL;
    const dn_node *node = &t->nodes[i];
    const dn_group *g = dn__group_of(t, node);
    const dn_real *saved = g ? g->saved : node->value + dn__aligned(dn__elements(&node->dim));
    /* as many integers as numbers before this one's */
    return (const int *)(const void *)saved + (g ? node->value - g->value : 0);
}
