/* Computing values: nodes in the order they were made, what is computed is kept. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "autobatch.h"
#include "cell.h"
#include "group.h"
#include "join.h"
#include "rng.h"
#include "tape.h"

void dn__use_root(dn_tape *t, dn_root *root) {
    if (t->out_of_memory) return; /* nothing was read */
    for (int i = 0; i < t->n_roots; i++)
        if (t->roots[i].root == root && t->roots[i].version < 0) {
            t->roots[i].version = __atomic_load_n(&root->version, __ATOMIC_RELAXED);
            t->roots[i].reader = t->evaluated;
        }
}

void dn__forget_values(dn_tape *t) {
    dn__stop_backward(t);
    t->evaluated = t->any_failed = t->unreported = t->forward_begun = 0;
    t->values_made++;
    dn__forget_groups(t);
    t->counter++;
    for (int i = 0; i < t->n_roots; i++) t->roots[i].version = -1;
    /* marks that point above the bottom would keep what is now forgotten: let them begin at the bottom, too */
    for (int i = 0; i < t->n_marks; i++) {
        t->marks[i].evaluated = t->marks[i].order = 0;
        t->marks[i].groups = t->marks[i].members = t->marks[i].group_inputs = t->marks[i].gathers = t->marks[i].sources = 0;
        t->marks[i].values = t->marks[i].copies = (dn_arena_mark){0};
    }
    dn__arena_reset(&t->values, (dn_arena_mark){0});
    dn__arena_reset(&t->copies, (dn_arena_mark){0});
}

void dn__prepare_call(dn_tape *t, dn_node *node, dn_call *c) {
    const int32_t *args = t->args + node->args;
    for (int k = 0; k < node->n_args; k++) {
        const dn_node *x = &t->nodes[args[k]];
        t->in[k] = (dn_in){&x->dim, x->value, x->dim.batch == 1 ? 0 : (size_t)x->dim.size};
    }
    /* Field by field: GCC clears a whole struct with `rep stos`, which costs more than the rest of this function. */
    c->n = node->n_args;
    c->x = t->in;
    c->dim = &node->dim;
    c->total = dn__elements(&node->dim);
    c->y = node->value;
    c->saved = node->saved_memory;
    c->ints = t->ints + node->ints;
    c->reals = t->reals + node->reals;
    c->n_ints = node->n_ints;
    c->dy = node->grad;
    c->node = node;
    c->tape = t;
    c->group = -1;
    c->inner = NULL;
}

/* Whether a node cannot be computed because something above it failed, or it did itself a moment ago. */
static int blocked(const dn_tape *t, const dn_node *node) {
    if (node->failed == DN_FAILED_ALREADY) return 1;
    for (int k = 0; k < node->n_args; k++)
        if (t->nodes[t->args[node->args + k]].failed) return 1;
    return 0;
}

/* Later readers in this graph see the value of now, whatever becomes of the parameter: where other threads may write to it, behind its lock. */
static int copy_parameter(dn_tape *t, int i, pthread_mutex_t *lock) {
    dn_node *node = &t->nodes[i];
    size_t bytes = dn__elements(&node->dim) * sizeof(dn_real);
    dn_real *copy = dn__arena_take(&t->copies, bytes);
    if (!copy) return dn__no_memory(t);
    if (lock) pthread_mutex_lock(lock);
    node->value = memcpy(copy, node->value, bytes);
    if (lock) pthread_mutex_unlock(lock);
    node->copied = 1;
    for (int m = 0; m < t->n_marks; m++) /* reverts that leave this value must leave the copy, too */
        if (i < t->marks[m].evaluated) t->marks[m].copies = dn__arena_mark(&t->copies);
    return 0;
}

/* There was no memory to compute a node: all is as it was before, so that it can be tried again. */
static int no_value(dn_tape *t, dn_node *node, dn_arena_mark before) {
    t->out_of_memory = 0;
    node->value = node->saved_memory = NULL;
    dn__arena_reset(&t->values, before);
    return dn__no_memory(t);
}

int dn__compute(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    node->failed = (uint8_t)(t->any_failed && blocked(t, node));
    if (node->failed) return 0;
    if (node->data) { /* an input is there already; many graphs of small nodes are half inputs */
        node->value = (dn_real *)node->data;
        node->copied = 0;
        return 0;
    }
    dn_call c;
    dn__prepare_call(t, node, &c);
    const dn_arena_mark before = {t->values.current, t->values.used};
    if (!(node->op->flags & DN_VIEW)) {
        const size_t y_size = dn__aligned(c.total);
        node->value = c.y = dn__arena_take(&t->values, (y_size + node->saved) * sizeof(dn_real));
        if (!c.y) return no_value(t, node, before);
        node->saved_memory = c.saved = c.y + y_size;
    }
    node->op->forward(&c);
    if (node->op->flags & DN_VIEW) {
        node->value = c.y;
        node->copied = 0;
        if (node->param && node->param->root->as_dynet) t->out_of_memory |= copy_parameter(t, i, NULL) != 0;
    }
    if (t->scratch.n_chunks) dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    if (t->out_of_memory) return no_value(t, node, before);
    if (t->raised) {
        int error = t->raised;
        t->raised = 0;
        node->failed = DN_FAILED;
        t->any_failed = 1;
        return error;
    }
    return 0;
}

/* A revert to this mark keeps values of nodes below i alone. In an order other than that of the nodes it cannot tell which those are: none. */
static void lower_mark(const dn_tape *t, dn_mark *m, int i) {
    m->evaluated = t->n_order ? 0 : i;
    if (!t->n_order) return;
    m->order = m->groups = m->members = m->group_inputs = m->gathers = m->sources = 0;
    m->values = (dn_arena_mark){0};
}

/* What `last` needs of the nodes that failed before, once more in order; 1: there is more to do. */
static int retry(dn_tape *t, int last, int64_t work) {
    uint8_t *needed = calloc((size_t)last + 1, 1);
    if (!needed) return dn__no_memory(t);
    needed[last] = 1;
    for (int i = last; i >= 0; i--) {
        const dn_node *node = &t->nodes[i];
        for (int k = 0; needed[i] && node->failed && k < node->n_args; k++) needed[t->args[node->args + k]] = 1;
    }
    int error = 0;
    for (int i = 0; i <= last && !error; i++) {
        if (!needed[i] || !t->nodes[i].failed) continue;
        if (work <= 0) {
            free(needed);
            return 1;
        }
        work -= t->nodes[i].work;
        error = dn__compute(t, i);
        for (int m = 0; m < t->n_marks; m++) /* its value lies above them: a revert must forget it, and what follows it in the order */
            if (t->marks[m].evaluated > i) lower_mark(t, &t->marks[m], i);
    }
    free(needed);
    return error;
}

/* A node failed while nodes were computed in another order than they were made. All but what depends on it must stay usable: compute them
 * again, node by node (the same draws, if they are keyed), until the graph is renewed. */
static void stop_batching(dn_tape *t) {
    int failed = t->order[t->n_done];
    uint64_t counter = t->counter;
    dn__forget_values(t);
    t->counter = counter;
    t->autobatch = 0;
    t->any_failed = 1;
    t->nodes[failed].failed = DN_FAILED_ALREADY;
}

/* In the order in which the nodes were made. */
static int forward_in_order(dn_tape *t, int last) {
    int64_t work = DN_WORK;
    while (t->evaluated <= last) {
        if (work <= 0) return 1;
        if (t->n_order && DN_GROW(t->order, t->order_capacity, (int64_t)t->n_order + 1)) return dn__no_memory(t);
        const int i = t->evaluated;
        work -= t->nodes[i].work;
        dn_node *node = &t->nodes[i];
        int joined = 0;
        if ((node->op->flags & DN_JOINS || node->op == dn_ops[DN_OP_cell]) && !(t->any_failed && blocked(t, node)) &&
            (joined = dn__grouped(t, node)) == 0)
            joined = dn__join_forward(t, i, last);
        int error = joined ? joined : dn__compute(t, i);
        if (error >= 0 || error == DN_ERROR_PYTHON) t->evaluated++; /* what failed blocks nothing but what depends on it */
        if (t->n_order && t->evaluated > i) dn__append_to_order(t, i);
        if (error < 0) return error;
    }
    return t->any_failed && t->nodes[last].failed ? retry(t, last, work) : 0;
}

static int64_t writes_of(const dn_root *root) { return __atomic_load_n(&root->writes, __ATOMIC_ACQUIRE); }

/* Another thread may be writing parameters: they are read when it is done. */
static void note_writes(dn_tape *t) {
    for (int r = 0; r < t->n_roots; r++) {
        dn_root *root = t->roots[r].root;
        while ((t->roots[r].writes = writes_of(root)) & 1) {
            pthread_mutex_lock(&root->lock);
            pthread_mutex_unlock(&root->lock);
        }
    }
}

/* Whether parameters that values were computed from were written meanwhile. */
static int were_written(const dn_tape *t) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    for (int r = 0; r < t->n_roots; r++)
        if (t->roots[r].version >= 0 && t->roots[r].writes != writes_of(t->roots[r].root)) return 1;
    return 0;
}

static int compute_up_to(dn_tape *t, int last) {
    if (!t->autobatch || t->immediate || t->any_failed) return forward_in_order(t, last);
    if (t->evaluated > last) return 0;
    const double start = dn__seconds(), schedule = t->counts.schedule;
    int result = dn__autobatch_forward(t, last);
    if (result == DN_IN_ORDER) {
        t->counts.nodes += last + 1 - t->evaluated;
        t->counts.batches += last + 1 - t->evaluated;
        result = forward_in_order(t, last);
    } else if (result == DN_ERROR_PYTHON) {
        stop_batching(t);
    }
    t->counts.execution += dn__seconds() - start - (t->counts.schedule - schedule);
    return result;
}

int dn__forward(dn_tape *t, int last) {
    if (t->tracing) return dn__no_values(t);
    if (t->evaluated > last && !t->any_failed) return 0;
    if (!t->forward_begun) note_writes(t);
    const int result = compute_up_to(t, last);
    t->forward_begun = result > 0;
    if (result < 0 || !were_written(t)) return result;
    dn__forget_values(t);
    return dn__tape_fail(t, DN_ERROR_STATE, "forward: another thread has changed parameters while values were computed from them. Compute them "
                         "again. Threads that update and threads that compute must take turns: use a lock, or a copy of the model.");
}

/* The parameter that node i is a view of, or NULL: its value may be in the parameter's memory. */
static const dn_param *viewed(const dn_tape *t, int i) {
    while (t->nodes[i].op->flags & DN_VIEW && t->nodes[i].n_args) i = t->args[t->nodes[i].args];
    return t->nodes[i].op->flags & DN_VIEW ? t->nodes[i].param : NULL;
}

/* A parameter's value that is about to be read is kept as it is now. */
static int keep_parameter(dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    const dn_param *p = node->failed || node->copied ? NULL : viewed(t, i);
    return p ? copy_parameter(t, i, &p->root->lock) : 0;
}

int dn_forward(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int last = dn__find(t, a), result = last < 0 ? last : t->unreported ? t->unreported : dn__forward(t, last);
    if (!result) result = keep_parameter(t, last);
    t->unreported = 0;
    dn__tape_leave(t);
    return result;
}

/* Whether computing up to node i takes some microseconds at most: the graph is small, or little of it is left to compute. */
static int is_quick(const dn_tape *t, int i) {
    for (int r = 0; r < t->n_roots; r++)
        if (writes_of(t->roots[r].root) & 1) return 0; /* this would wait for another thread */
    if (t->work_made <= DN_QUICK) return 1;
    if (t->any_failed) return 0;
    int64_t work = 0;
    for (int k = t->evaluated; k <= i && work <= DN_QUICK; k++) work += t->nodes[k].work;
    return work <= DN_QUICK;
}

int dn_quick_value(int64_t a, dn_dim *dim, int room, double *out) {
    dn_tape *t = dn__handle_tape(a);
    int result = DN_LONG_WAY;
    if (!t || dn__tape_enter(t)) return result;
    int i = dn__find(t, a);
    if (i >= 0 && is_quick(t, i)) {
        const dn_node *node = &t->nodes[i];
        const size_t n = dn__elements(&node->dim);
        /* parameters are left to dn_value, which copies what is read */
        if (n && n <= (size_t)room && !viewed(t, i)) {
            int error = dn__forward(t, i);
            if (!error && !(t->any_failed && node->failed)) {
                for (size_t k = 0; k < n; k++) out[k] = (double)node->value[k];
                *dim = node->dim;
                result = 0;
            }
            if (error == DN_ERROR_PYTHON) t->unreported = error;
        }
    }
    dn__tape_leave(t);
    return result;
}

int dn_graph_invalidate(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    dn__forget_values(t);
    dn__tape_leave(t);
    return 0;
}

const dn_real *dn_value(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t || dn__tape_enter(t)) return NULL;
    int i = dn__find(t, a);
    const dn_real *value = NULL;
    if (i >= 0 && i < t->evaluated && !(t->any_failed && t->nodes[i].failed)) {
        if (!keep_parameter(t, i)) value = t->nodes[i].value;
    } else if (i >= 0) {
        dn__tape_fail(t, DN_ERROR_STATE, "the value of this expression was not computed");
    }
    dn__tape_leave(t);
    return value;
}

const int *dn_saved_indices(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t || dn__tape_enter(t)) return NULL;
    int i = dn__find(t, a);
    const int *indices = NULL;
    if (i >= 0 && i < t->evaluated && t->nodes[i].saved) {
        const dn_node *node = &t->nodes[i];
        const dn_group *g = dn__grouped(t, node) ? &t->groups[node->group] : NULL;
        indices = g ? (const int *)g->saved + (node->value - g->value) : (const int *)node->saved_memory;
    }
    dn__tape_leave(t);
    return indices;
}

dn_real *dn__scratch(dn_call *c, size_t n) {
    dn_real *p = dn__arena_take(&c->tape->scratch, n * sizeof *p);
    if (!p) c->tape->out_of_memory = 1;
    return p;
}

struct dn_rng *dn__generator(const dn_call *c) { return c->tape->generator; }

void dn__draw_key(const dn_call *c, struct dn_draw *out) {
    *out = (struct dn_draw){.seed = c->tape->seed, .stream = c->tape->stream, .counter = c->tape->counter,
                            .node = c->inner ? dn__inner_ordinal(c) : c->node->ordinal};
}
