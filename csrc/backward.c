/* The backward sweep: from the root's index down to 0, without recursion; in a graph that is batched on the fly, back through the order in
 * which nodes were computed. Products that give the gradient of one matrix are collected and done as one when the sweep reaches that matrix:
 * every use of it has passed by then. */
#include <stdlib.h>
#include <string.h>

#include "cell.h"
#include "group.h"
#include "kernels/kernels.h"
#include "rows.h"
#include "tape.h"
#include "work.h"

/* ---- places for gradients ------------------------------------------------------------------------------------------ */

static dn_real *take(dn_tape *t, size_t n) {
    dn_real *p = dn__arena_take(&t->grads, n * sizeof *p);
    if (!p) t->out_of_memory = 1;
    return p;
}

dn_real *dn__backward_memory(dn_call *c, size_t n) { return take(c->tape, n); }

int dn__node_wants(const dn_tape *t, const dn_node *node) {
    return t->full ? !node->constant : node->needs_grad && !(node->param && !dn__param_gathers(node->param));
}

int dn__wants(const dn_call *c, int k) {
    const dn_tape *t = c->tape;
    if (c->inner) return dn__inner_wants(c, k);
    if (dn__group_collects(c, k)) return t->only != DN_ONLY_SHARED && dn__group_wants(c, k);
    return t->only != DN_ONLY_COLLECTED && dn__node_wants(t, &t->nodes[t->args[c->node->args + k]]);
}

/* The place of node i's gradient. A parameter whose gradient is empty gets it where it belongs; one that already has a gradient, from an
 * earlier backward, keeps this one apart until the sweep adds it, so that gradient() shows this backward only. */
dn_grad dn__place(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->op == dn_ops[DN_OP_part]) {
        dn_node *owner = &t->nodes[t->args[node->args]];
        if (!dn__grouped(t, owner) && !owner->grad && (owner->grad = take(t, dn__elements(&owner->dim))))
            dn__fill(dn__elements(&owner->dim), 0, owner->grad);
        if (dn__grouped(t, owner) ? !dn__group_grads(t, owner->group) : !owner->grad) return (dn_grad){0};
        return (dn_grad){dn__part_address(t, owner, t->ints[node->ints], 1), 1};
    }
    if (dn__grouped(t, node)) {
        dn_real *grads = dn__group_grads(t, node->group);
        return (dn_grad){grads ? grads + (node->value - t->groups[node->group].value) : NULL, 1};
    }
    if (node->grad) return (dn_grad){node->grad, 1};
    if (node->op == dn_ops[DN_OP_parameter] && !node->param->rows && node->param->empty && dn__param_gathers(node->param) &&
        !node->constant) {
        dn_real beta;
        node->grad = dn__param_gradient(node->param, &beta);
        node->in_chunk = 1;
        node->written = dn__param_written(node->param);
    } else {
        node->grad = take(t, dn__elements(&node->dim));
        if (!node->grad) t->out_of_memory = 1;
    }
    return (dn_grad){node->grad, 0};
}

dn_grad dn__dx(dn_call *c, int k) {
    dn_tape *t = c->tape;
    if (c->inner) return dn__inner_dx(c, k);
    const int i = t->args[c->node->args + k], collects = dn__group_collects(c, k);
    if (t->only == (collects ? DN_ONLY_SHARED : DN_ONLY_COLLECTED)) return (dn_grad){0};
    if (collects) return dn__group_dx(c, k);
    if (!dn__node_wants(t, &t->nodes[i])) return (dn_grad){0};
    dn_grad g = dn__place(t, i);
    if (!c->total && g.dx && g.beta == 0) { /* nothing comes from an empty batch, so the op may not write at all */
        dn__fill(dn__elements(&t->nodes[i].dim), 0, g.dx);
        g.beta = 1;
    }
    return g;
}

dn_real *dn__dx_zeroed(dn_call *c, int k) {
    dn_grad g = dn__dx(c, k);
    if (g.dx && g.beta == 0) dn__fill(dn__elements(c->x[k].dim), 0, g.dx);
    return g.dx;
}

/* ---- collected products -------------------------------------------------------------------------------------------- */

void dn__weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy, const dn_real *x) {
    dn_tape *t = c->tape;
    if (c->inner) {
        dn__inner_weight_gradient(c, k, m, kk, n, dy, x);
        return;
    }
    dn_node *w = &t->nodes[t->args[c->node->args + k]];
    if (DN_GROW(t->products, t->products_capacity, (int64_t)t->n_products + 1)) {
        t->out_of_memory = 1;
        return;
    }
    t->products[t->n_products] = (dn_product){w->products, m, kk, n, dy, x};
    w->products = t->n_products++;
    if (dn__grouped(t, w)) t->groups[w->group].weights = 1;
}

enum { MOST_KEPT = 1 << 17 }; /* numbers: larger copies are made anew for each matrix, in memory that is in the cache */

static int rows_of(const dn_product *p, int of_x) { return of_x ? p->k : p->m; }

/* Whether two lists of products have the same columns. */
static int equal_columns(const dn_tape *t, int a, int b, int of_x) {
    if (rows_of(&t->products[a], of_x) != rows_of(&t->products[b], of_x)) return 0;
    for (; a >= 0 && b >= 0; a = t->products[a].next, b = t->products[b].next) {
        const dn_product *p = &t->products[a], *q = &t->products[b];
        if (p->n != q->n || (of_x ? p->x != q->x : p->dy != q->dy)) return 0;
    }
    return a < 0 && b < 0;
}

/* A copy of the columns of a list that was made before, or NULL. */
static const dn_real *find_columns(dn_tape *t, int first, int wide, int of_x) {
    for (dn_kept_columns *c = t->columns; c < t->columns + DN_KEPT_COLUMNS; c++) {
        if (c->first < 0 || c->wide != wide || c->of_x != of_x || !equal_columns(t, c->first, first, of_x)) continue;
        c->used = ++t->columns_used;
        return c->all;
    }
    return NULL;
}

/* Memory for n numbers, kept as the columns of a list in place of those that were not used for longest. */
static dn_real *new_columns(dn_tape *t, int first, int wide, int of_x, size_t n) {
    if (n > MOST_KEPT) return dn__arena_take(&t->scratch, n * sizeof(dn_real));
    dn_kept_columns *c = t->columns;
    for (int i = 1; i < DN_KEPT_COLUMNS; i++)
        if (t->columns[i].used < c->used) c = &t->columns[i];
    dn__arena_reset(&c->memory, (dn_arena_mark){0});
    c->all = dn__arena_take(&c->memory, n * sizeof *c->all);
    c->first = c->all ? first : -1;
    c->wide = wide;
    c->of_x = of_x;
    c->used = ++t->columns_used;
    return c->all;
}

/* The columns of a list's products with fewer than `wide` columns side by side, in the order of their nodes: where they are, if they lie so,
 * else a copy. The list runs from the last node to the first. */
static const dn_real *gather(dn_tape *t, int first, int wide, int columns, int of_x) {
    const int rows = rows_of(&t->products[first], of_x);
    const dn_real *from = NULL, *expected = NULL;
    int j = first;
    for (; j >= 0; j = t->products[j].next) {
        const dn_product *p = &t->products[j];
        if (p->n >= wide) continue;
        from = of_x ? p->x : p->dy;
        if (expected && from + (size_t)p->n * (size_t)rows != expected) break;
        expected = from;
    }
    if (j < 0) return from;
    const dn_real *known = find_columns(t, first, wide, of_x);
    if (known) return known;
    dn_real *all = new_columns(t, first, wide, of_x, (size_t)columns * (size_t)rows), *to = all + (size_t)columns * (size_t)rows;
    for (j = first; all && j >= 0; j = t->products[j].next) {
        const dn_product *p = &t->products[j];
        if (p->n >= wide) continue;
        size_t n = (size_t)p->n * (size_t)rows;
        to -= n;
        memcpy(to, of_x ? p->x : p->dy, n * sizeof *to);
    }
    return all;
}

enum { WIDE = 64, PANEL = 128, LARGE = 1 << 20 }; /* columns; columns; numbers of a matrix */

/* From how many columns on a product is better done by itself than copied to others: then dW, which it reads and writes once more, is no larger
 * than its columns. */
static int wide_columns(int m, int k) {
    const int64_t both = (int64_t)m + k, columns = both ? (int64_t)m * k / both : 0;
    return columns < WIDE ? WIDE : columns > INT32_MAX ? INT32_MAX : (int)columns;
}

/* dW = sum of dy x' over a list of products: one product of all columns that lie side by side or are few, and each that is wide by itself. Of a
 * large parameter that somebody watches the first columns are told first. */
static void flush_products(dn_tape *t, int i) {
    const int first = t->nodes[i].products;
    dn_arena_mark mark = dn__arena_mark(&t->scratch);
    t->nodes[i].products = -1;
    const int m = t->products[first].m, k = t->products[first].k, wide = wide_columns(m, k);
    int columns = 0;
    for (int j = first; j >= 0; j = t->products[j].next) columns += t->products[j].n < wide ? t->products[j].n : 0;
    const dn_real *dy = gather(t, first, wide, columns, 0), *x = gather(t, first, wide, columns, 1);
    dn_grad g = !columns || (dy && x) ? dn__place(t, i) : (dn_grad){0}; /* after all that may fail: a place must be written to */
    const int panel = t->watch.last_use && (int64_t)m * k >= LARGE ? PANEL : k;
    if (!g.dx) t->out_of_memory = 1;
    for (int from = 0; g.dx && from < k; from += panel) {
        const int n = k - from < panel ? k - from : panel;
        dn_real *dw = g.dx + (size_t)from * (size_t)m, beta = g.beta;
        for (int j = first; j >= 0; j = t->products[j].next) {
            const dn_product *p = &t->products[j];
            if (p->n < wide) continue;
            dn__mm_dw(m, n, p->n, p->dy, m, p->x + from, k, beta, dw, m);
            beta = 1;
        }
        if (columns || beta == 0) dn__mm_dw(m, n, columns, dy, m, x + from, k, beta, dw, m);
        if (panel < k) dn__watch_tell(t, i, (int64_t)(from + n) * m);
    }
    dn__arena_reset(&t->scratch, mark);
}

/* ---- the sweep ----------------------------------------------------------------------------------------------------- */

static void add_to_parameter(dn_tape *t, dn_node *node) {
    dn_param *p = node->param;
    if (!node->in_chunk && p->rows) { /* the whole table was an expression */
        for (int64_t row = 0; row < p->rows && !t->out_of_memory; row++) {
            dn_real *to = dn__lookup_row(p, row);
            if (to) dn__add((size_t)p->row_size, to, node->grad + row * p->row_size, to);
            else t->out_of_memory = 1;
        }
    } else if (!node->in_chunk) {
        dn_real beta, *to = dn__param_gradient(p, &beta);
        dn__axpy((size_t)p->row_size, 1, node->grad, beta, to);
    }
}

void dn__finish_parameter(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->products >= 0) flush_products(t, i);
    if (node->grad && !t->out_of_memory && !node->constant && dn__param_gathers(node->param)) add_to_parameter(t, node);
    node->finished = 1;
}

static void backward_group(dn_tape *t, int group) {
    const dn_group *g = &t->groups[group];
    for (int m = 0; m < g->n && g->weights; m++)
        if (t->nodes[t->members[g->first + m]].products >= 0) flush_products(t, t->members[g->first + m]);
    if (!t->out_of_memory) dn__group_backward(t, group);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
}

static void backward_node(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->finished) return;
    if (node->param && node->op == dn_ops[DN_OP_parameter]) {
        dn__finish_parameter(t, i);
        return;
    }
    if (node->products >= 0) flush_products(t, i);
    if (dn__grouped(t, node)) { /* by join.c: the leader comes last */
        if (t->members[t->groups[node->group].first] == i) backward_group(t, node->group);
        return;
    }
    if (!node->grad || t->out_of_memory) return;
    if (node->op->flags & DN_NO_GRAD) return;
    dn_call c;
    dn__prepare_call(t, node, &c);
    node->op->backward(&c);
    if (t->scratch.n_chunks) dn__arena_reset(&t->scratch, (dn_arena_mark){0});
}

/* Whether node i was computed from values of this root. Negative: no memory. */
static int depends_on(dn_tape *t, int i, const dn_root *root) {
    uint8_t *leads = calloc((size_t)i + 1, 1); /* to node i */
    int found = 0;
    if (!leads) return dn__no_memory(t);
    leads[i] = 1;
    for (; i >= 0 && !found; i--) {
        const dn_node *node = &t->nodes[i];
        if (!leads[i]) continue;
        found = node->param && node->param->root == root;
        for (int k = 0; k < node->n_args; k++) leads[t->args[node->args + k]] = 1;
    }
    free(leads);
    return found;
}

/* A backward that does not end leaves no gradients: part of a sum would be taken for the sum, and added to when it is called again. What earlier
 * backwards have left in them goes, too, as it cannot be told apart. The locks are held. */
static void clear_gradients(dn_tape *t) {
    for (int i = 0; i <= t->swept_root && i < t->n_nodes; i++) {
        const dn_node *node = &t->nodes[i];
        if (node->param && !node->constant && dn__param_gathers(node->param)) dn__param_clear(node->param);
    }
}

/* There is no backward any more. */
static int end(dn_tape *t, int error) {
    t->raised = t->out_of_memory = 0;
    t->sweep = t->swept_root = -1;
    t->late = NULL;
    return error;
}

/* Whether the values that node i was computed from are still those of its parameters; negative: no. */
static int check_versions(dn_tape *t, int i) {
    for (int r = 0; r < t->n_roots; r++) {
        if (t->roots[r].version < 0 || t->roots[r].root->as_dynet ||
            t->roots[r].version == __atomic_load_n(&t->roots[r].root->version, __ATOMIC_RELAXED))
            continue;
        const int depends = depends_on(t, i, t->roots[r].root);
        if (depends < 0) return depends;
        if (depends)
            return dn__tape_fail(t, DN_ERROR_STATE, "backward: parameters were changed after the values of this graph had been computed. "
                                 "Build the graph anew, after renew_cg(), or compute it again: value(recalculate=True).");
    }
    return 0;
}

static int begin(dn_tape *t, int i, int full) {
    if (t->tracing) return dn__no_values(t);
    if (dn__elements(&t->nodes[i].dim) != 1)
        return dn__tape_fail(t, DN_ERROR_VALUE, "backward: the loss must be one number, without a batch; got %s. Use sum_elems(), "
                             "sum_batches() or esum() first.", DIMS(&t->nodes[i].dim));
    if (i >= t->evaluated) return dn__tape_fail(t, DN_ERROR_STATE, "backward: the value of the loss was not computed");
    const int error = check_versions(t, i);
    if (error) return error;
    for (int j = 0; j < t->swept_nodes && j < t->n_nodes; j++) {
        t->nodes[j].grad = NULL;
        t->nodes[j].products = -1;
        t->nodes[j].in_chunk = t->nodes[j].finished = 0;
    }
    for (int j = 0; j < t->n_groups; j++) {
        t->groups[j].grads = NULL;
        t->groups[j].weights = 0;
    }
    for (int j = 0; j < t->n_gathers; j++) t->gathers[j].grad = NULL;
    dn__work.passes++;
    for (int r = 0; r < t->n_roots; r++) __atomic_fetch_add(&t->roots[r].root->passes, 1, __ATOMIC_RELAXED);
    t->swept_nodes = t->n_nodes;
    t->n_products = t->zero_rows = 0;
    for (int j = 0; j < DN_KEPT_COLUMNS; j++) t->columns[j].first = -1;
    t->late = NULL;
    t->only = DN_ALL_INPUTS;
    t->out_of_memory = 0;
    t->full = full;
    t->swept_root = i;
    t->sweep = t->n_order ? t->n_done - 1 : i;
    dn__arena_reset(&t->grads, (dn_arena_mark){0});
    dn_grad g = dn__place(t, i);
    if (g.dx) g.dx[0] = 1;
    if (g.dx && !dn__watch_begin(t)) return 0;
    if (t->nodes[i].in_chunk) dn_param_clear_gradient(t->nodes[i].param); /* was empty, and is so again */
    return end(t, dn__no_memory(t));
}

/* Another thread may hold some of the same roots and wait for others: so nobody waits while holding one. */
void dn__lock_roots(dn_tape *t) {
    int first = 0, i = 0;
    while (i < t->n_roots) {
        pthread_mutex_lock(&t->roots[first].root->lock);
        for (i = 0; i < t->n_roots; i++)
            if (i != first && pthread_mutex_trylock(&t->roots[i].root->lock)) break;
        if (i == t->n_roots) return;
        for (int k = 0; k < i; k++)
            if (k != first) pthread_mutex_unlock(&t->roots[k].root->lock);
        pthread_mutex_unlock(&t->roots[first].root->lock);
        first = i;
        i = 0;
    }
}
void dn__unlock_roots(dn_tape *t) {
    for (int r = t->n_roots - 1; r >= 0; r--) pthread_mutex_unlock(&t->roots[r].root->lock);
}

/* In DyNet a row has a gradient if it was looked up before the loss, be it zero because the loss does not depend on it: rules with moments
 * move it. */
static void touch_rows_as_dynet(dn_tape *t) {
    int wanted = 0;
    for (int r = 0; r < t->n_roots; r++) wanted |= t->roots[r].root->as_dynet;
    for (int i = 0; wanted && i <= t->swept_root; i++) {
        const dn_node *node = &t->nodes[i];
        if (!node->param || !node->param->root->as_dynet || node->constant || node->op == dn_ops[DN_OP_parameter]) continue;
        for (int k = 0; k < node->n_ints; k++)
            if (!dn__lookup_row(node->param, t->ints[node->ints + k])) t->out_of_memory = 1;
    }
}

/* A row has a gradient, be it zero, if the loss depends on it. Zeros may have come from nodes beside the loss that were computed with nodes of it:
 * so they did not count, and rows that have nothing but zeros get them here. */
static DN_NOT_INLINE void touch_rows_of_loss(dn_tape *t) {
    for (int i = 0; i <= t->swept_root; i++) t->nodes[i].reached = i == t->swept_root;
    for (int i = t->swept_root; i >= 0; i--) {
        const dn_node *node = &t->nodes[i];
        if (!node->reached || node->op->flags & DN_NO_GRAD) continue;
        for (int k = 0; k < node->n_args; k++) {
            dn_node *x = &t->nodes[t->args[node->args + k]];
            x->reached |= (uint8_t)dn__node_wants(t, x);
        }
        const int is_row = node->param && node->op != dn_ops[DN_OP_parameter] && !node->constant && dn__param_gathers(node->param);
        for (int k = 0; is_row && k < node->n_ints; k++)
            if (!dn__lookup_row(node->param, t->ints[node->ints + k])) t->out_of_memory = 1;
    }
}

static int step(dn_tape *t) {
    int64_t work = DN_WORK;
    if (t->sweep < 0) return dn__tape_fail(t, DN_ERROR_STATE, "backward: the graph was renewed, reverted or set anew meanwhile");
    dn__lock_roots(t);
    int error = check_versions(t, t->swept_root); /* another thread may have changed them since the step before */
    for (; !error && t->sweep >= 0 && work > 0 && !t->out_of_memory && !t->raised; t->sweep--) {
        const int i = t->n_order ? t->order[t->sweep] : t->sweep;
        if (i < 0) {
            const dn_group *g = &t->groups[-1 - i];
            work -= (int64_t)g->n * t->nodes[t->members[g->first]].work;
            backward_group(t, -1 - i);
        } else {
            work -= t->nodes[i].work;
            backward_node(t, i);
        }
        if (t->watch.last_use) dn__watch_passed(t);
        if (t->watch.told && t->watch.steps) work = 0;
        t->watch.told = 0;
    }
    if (t->sweep < 0 && !t->raised && !t->out_of_memory && t->zero_rows) touch_rows_of_loss(t);
    if (t->sweep < 0 && !t->raised && !t->out_of_memory) touch_rows_as_dynet(t);
    if (!error) error = t->raised ? t->raised : t->out_of_memory ? dn__no_memory(t) : 0;
    if (error) clear_gradients(t);
    if (t->sweep < 0 || error) dn__watch_end(t, !error);
    dn__unlock_roots(t);
    if (error) return end(t, error);
    return t->sweep >= 0;
}

void dn__stop_backward(dn_tape *t) {
    if (t->sweep >= 0) {
        dn__lock_roots(t);
        clear_gradients(t);
        dn__watch_end(t, 0);
        dn__unlock_roots(t);
    }
    end(t, 0);
}

void dn_backward_abandon(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    if (dn__tape_enter(t)) return;
    if (t->sweep >= 0) dn__stop_backward(t);
    dn__tape_leave(t);
}

int dn_backward_begin(int64_t a, int full) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, a), error = i < 0 ? i : begin(t, i, full);
    dn__tape_leave(t);
    return error;
}

int dn_backward_step(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    int result = step(t);
    dn__tape_leave(t);
    return result;
}

int dn_backward(int64_t a) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, a), result = i < 0 ? i : dn__forward(t, i);
    if (result > 0) result = 2;
    else if (!result && !(result = begin(t, i, 0))) result = step(t);
    dn__tape_leave(t);
    return result;
}

int dn_quick_backward(int64_t a) {
    const dn_tape *t = dn__handle_tape(a);
    if (!t || t->work_made > DN_QUICK) return DN_LONG_WAY;
    for (int r = 0; r < t->n_roots; r++) { /* another thread may be at these parameters for longer than is good to wait here */
        if (pthread_mutex_trylock(&t->roots[r].root->lock)) return DN_LONG_WAY;
        pthread_mutex_unlock(&t->roots[r].root->lock);
    }
    return dn_backward(a);
}

int dn_gradient(int64_t a, dn_real *out) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, a), error = 0;
    if (i < 0) {
        error = i;
    } else if (i > t->swept_root) {
        error = dn__tape_fail(t, DN_ERROR_STATE, "Requested gradient for node %d, but %s", i,
                              t->swept_root < 0 ? "backward() has not been called on this graph since its values were computed."
                                                : "it was made after the loss that backward() was called on.");
    } else {
        const dn_node *node = &t->nodes[i];
        const dn_real *grad = node->grad;
        pthread_mutex_t *lock = node->in_chunk ? &node->param->root->lock : NULL;
        if (lock) { /* the chunk's gradients may have been moved since */
            pthread_mutex_lock(lock);
            if (node->written != dn__param_written(node->param))
                error = dn__tape_fail(t, DN_ERROR_STATE, "gradient: the parameter's gradient was added to, scaled, clipped or replaced since "
                                      "backward(). Ask before that, or for grad_as_array(), which is the parameter's own.");
            grad = node->param->root->chunks[node->param->chunk].grads + node->param->offset;
        }
        if (node->op == dn_ops[DN_OP_part]) {
            const dn_node *owner = &t->nodes[t->args[node->args]];
            int arrived = dn__grouped(t, owner) ? t->groups[owner->group].grads != NULL : owner->grad != NULL;
            grad = arrived ? dn__part_address(t, owner, t->ints[node->ints], 1) : NULL;
        } else if (dn__grouped(t, node)) {
            const dn_group *g = &t->groups[node->group];
            grad = g->grads ? g->grads + (node->value - g->value) : NULL;
        }
        size_t n = dn__elements(&node->dim);
        if (grad && n) memcpy(out, grad, n * sizeof *out);
        else dn__fill(n, 0, out);
        if (!error && t->late && node->param) error = dn__add_late(t, i, out);
        if (lock) pthread_mutex_unlock(lock);
    }
    dn__tape_leave(t);
    return error;
}

int dn_quick_gradient(int64_t a, dn_dim *dim, int room, double *out) {
    dn_real few[DN_QUICK_ROOM];
    dn_tape *t = dn__handle_tape(a);
    if (!t || dn__tape_enter(t)) return DN_LONG_WAY;
    const int i = dn__find(t, a), quick = i >= 0 && !t->nodes[i].param; /* a parameter's gradient is behind a lock */
    if (quick) *dim = t->nodes[i].dim;
    dn__tape_leave(t);
    if (!quick) return DN_LONG_WAY;
    const int64_t n = (int64_t)dim->size * dim->batch;
    if (n < 1 || n > room || n > DN_QUICK_ROOM || dn_gradient(a, few)) return DN_LONG_WAY;
    for (int64_t k = 0; k < n; k++) out[k] = (double)few[k];
    return 0;
}
