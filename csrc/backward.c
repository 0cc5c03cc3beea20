/* The backward sweep: from the root's index down to 0, without recursion. Products that give the gradient of one matrix are collected and
 * done as one when the sweep reaches that matrix: every use of it has passed by then. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape.h"

/* ---- places for gradients ------------------------------------------------------------------------------------------ */

static dn_real *take(dn_tape *t, size_t n) {
    dn_real *p = dn__arena_take(&t->grads, n * sizeof *p);
    if (!p) t->out_of_memory = 1;
    return p;
}

dn_real *dn__backward_memory(dn_call *c, size_t n) { return take(c->tape, n); }

static int wants(const dn_tape *t, const dn_node *node) {
    return t->full ? !node->constant : node->needs_grad && !(node->param && !node->param->updated);
}

int dn__wants(const dn_call *c, int k) {
    const dn_tape *t = c->tape;
    return wants(t, &t->nodes[t->args[c->node->args + k]]);
}

/* The place of node i's gradient. A parameter whose gradient is empty gets it where it belongs; one that already has a gradient, from an
 * earlier backward, keeps this one apart until the sweep adds it, so that gradient() shows this backward only. */
static dn_grad place(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->op == dn_ops[DN_OP_part]) {
        dn_node *owner = &t->nodes[t->args[node->args]];
        if (!owner->grad) {
            size_t n = dn__elements(&owner->dim);
            if (!(owner->grad = take(t, n))) return (dn_grad){0};
            dn__fill(n, 0, owner->grad);
        }
        return (dn_grad){owner->grad + t->ints[node->ints], 1};
    }
    if (node->grad) return (dn_grad){node->grad, 1};
    if (node->op == dn_ops[DN_OP_parameter] && !node->param->rows && node->param->empty && node->param->updated &&
        !node->constant) {
        dn_real beta;
        node->grad = dn__param_gradient(node->param, &beta);
        node->in_chunk = 1;
    } else {
        node->grad = take(t, dn__elements(&node->dim));
    }
    return (dn_grad){node->grad, 0};
}

dn_grad dn__dx(dn_call *c, int k) {
    dn_tape *t = c->tape;
    int i = t->args[c->node->args + k];
    return wants(t, &t->nodes[i]) ? place(t, i) : (dn_grad){0};
}

dn_real *dn__dx_zeroed(dn_call *c, int k) {
    dn_grad g = dn__dx(c, k);
    if (g.dx && g.beta == 0) dn__fill(dn__elements(c->x[k].dim), 0, g.dx);
    return g.dx;
}

/* ---- collected products -------------------------------------------------------------------------------------------- */

void dn__weight_gradient(dn_call *c, int k, int m, int kk, int n, const dn_real *dy, const dn_real *x) {
    dn_tape *t = c->tape;
    dn_node *w = &t->nodes[t->args[c->node->args + k]];
    if (DN_GROW(t->products, t->products_capacity, t->n_products + 1)) {
        t->out_of_memory = 1;
        return;
    }
    t->products[t->n_products] = (dn_product){w->products, m, kk, n, dy, x};
    w->products = t->n_products++;
}

/* One product of all columns: dW = [dy_1 dy_2 ...] [x_1 x_2 ...]'. The list runs from the last use to the first. */
static void flush_products(dn_tape *t, int i) {
    int first = t->nodes[i].products, columns = 0;
    t->nodes[i].products = -1;
    const dn_product *p = &t->products[first];
    int m = p->m, k = p->k;
    for (int j = first; j >= 0; j = t->products[j].next) columns += t->products[j].n;
    dn_grad g = place(t, i);
    if (!g.dx) return;
    const dn_real *dy = p->dy, *x = p->x;
    if (p->next >= 0) {
        dn_real *all_dy = dn__arena_take(&t->scratch, (size_t)columns * (size_t)m * sizeof *dy);
        dn_real *all_x = dn__arena_take(&t->scratch, (size_t)columns * (size_t)k * sizeof *x);
        if (!all_dy || !all_x) {
            t->out_of_memory = 1;
            return;
        }
        size_t at = 0;
        for (int j = first; j >= 0; j = t->products[j].next) {
            p = &t->products[j];
            memcpy(all_dy + at * (size_t)m, p->dy, (size_t)p->n * (size_t)m * sizeof *dy);
            memcpy(all_x + at * (size_t)k, p->x, (size_t)p->n * (size_t)k * sizeof *x);
            at += (size_t)p->n;
        }
        dy = all_dy;
        x = all_x;
    }
    dn__mm_dw(m, k, columns, dy, m, x, k, g.beta, g.dx, m);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
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
    if (p->root->ready) p->root->ready(p->root->ready_context, p);
}

static void backward_node(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    if (node->products >= 0) flush_products(t, i);
    if (!node->grad || t->out_of_memory) return;
    if (node->param && node->op == dn_ops[DN_OP_parameter]) {
        if (!node->constant && node->param->updated) add_to_parameter(t, node);
        return;
    }
    if (node->op->flags & DN_NO_GRAD) return;
    dn_call c;
    dn__prepare_call(t, node, &c);
    node->op->backward(&c);
    if (t->scratch.n_chunks) dn__arena_reset(&t->scratch, (dn_arena_mark){0});
}

static int begin(dn_tape *t, int i, int full) {
    if (dn__elements(&t->nodes[i].dim) != 1)
        return dn__tape_fail(t, DN_ERROR_VALUE, "backward: the loss must be one number, without a batch; got %s. Use sum_elems(), "
                             "sum_batches() or esum() first.", DIMS(&t->nodes[i].dim));
    if (i >= t->evaluated) return dn__tape_fail(t, DN_ERROR_STATE, "backward: the value of the loss was not computed");
    for (int r = 0; r < t->n_roots; r++)
        if (t->roots[r].version >= 0 && t->roots[r].version != t->roots[r].root->version)
            return dn__tape_fail(t, DN_ERROR_STATE, "backward: parameters were changed after the values of this graph had been computed. "
                                 "Build the graph anew, or compute it again: value(recalculate=True).");
    for (int j = 0; j < t->n_nodes; j++) {
        t->nodes[j].grad = NULL;
        t->nodes[j].products = -1;
        t->nodes[j].in_chunk = 0;
    }
    t->n_products = 0;
    t->out_of_memory = 0;
    t->full = full;
    t->swept_root = t->sweep = i;
    dn__arena_reset(&t->grads, (dn_arena_mark){0});
    dn_grad g = place(t, i);
    if (!g.dx) return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory");
    g.dx[0] = 1;
    return 0;
}

static int step(dn_tape *t) {
    int64_t work = DN_WORK;
    for (int r = 0; r < t->n_roots; r++) pthread_mutex_lock(&t->roots[r].root->lock);
    for (; t->sweep >= 0 && work > 0 && !t->out_of_memory; t->sweep--) {
        work -= dn__work(t, &t->nodes[t->sweep]);
        backward_node(t, t->sweep);
    }
    for (int r = t->n_roots - 1; r >= 0; r--) pthread_mutex_unlock(&t->roots[r].root->lock);
    if (t->out_of_memory) {
        t->out_of_memory = 0;
        t->sweep = -1;
        return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory");
    }
    return t->sweep >= 0;
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

int dn_gradient(int64_t a, dn_real *out) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, a), error = 0;
    if (i < 0) {
        error = i;
    } else if (i > t->swept_root) {
        error = dn__tape_fail(t, DN_ERROR_STATE, "Requested gradient for node %d, but %s", i,
                              t->swept_root < 0 ? "backward() has not been called on this graph."
                                                : "it was made after the loss that backward() was called on.");
    } else {
        const dn_node *node = &t->nodes[i];
        const dn_real *grad = node->grad;
        if (node->op == dn_ops[DN_OP_part]) {
            grad = t->nodes[t->args[node->args]].grad;
            if (grad) grad += t->ints[node->ints];
        }
        size_t n = dn__elements(&node->dim);
        if (grad) memcpy(out, grad, n * sizeof *out);
        else dn__fill(n, 0, out);
    }
    dn__tape_leave(t);
    return error;
}
