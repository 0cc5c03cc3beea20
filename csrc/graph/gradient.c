/* Gradients are asked for: backward from a node, and what it has left. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/make.h"
#include "backward/backward_pass.h"
#include "profile.h"

/* Whether the weights are those of backward. */
static int have_weights_changed(const dn_tape *t) {
    for (int r = 0; r < t->n.stores; r++)
        if (t->stores[r].version != __atomic_load_n(&t->stores[r].store->version, __ATOMIC_RELAXED))
            return 1;
    return 0;
}

/* Adds to `out`, of the dims of node i, a row of a table, what was kept from it. Negative: an
 * error. */
static int add_deferred(dn_tape *t, int i, dn_real *out) {
    if (t->nodes[i].op == dn_ops[DN_OP_parameter] || !dn__node_wants(t, &t->nodes[i])) return 0;
    for (const dn_deferred *deferred = t->backward->deferred; deferred; deferred = deferred->next) {
        if (have_weights_changed(t))
            return dn__tape_fail(
                t, DN_ERROR_STATE,
                "gradient: parameters have changed since backward(), which has added up the "
                "gradients of equal rows. Ask before the update, or use backward(full=True).");
        if (deferred->count) dn__deferred_add(t, deferred, i, out);
        else dn__deduplicated_add(t, deferred->group, i, out);
    }
    const int failed = t->workspace.out_of_memory;
    t->workspace.out_of_memory = 0;
    return failed ? dn__no_memory(t) : 0;
}

void dn_backward_abandon(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER_OR(t, );
    if (t->backward->position >= 0) dn__stop_backward(t);
}

static int timed_step(dn_tape *t) {
    const int64_t begin = DN_PROFILE_OPEN();
    const int result = dn__backward_step(t);
    DN_PROFILE_CLOSE(DN_PROFILE_BACKWARD, begin);
    return result;
}

int dn_backward_step(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return timed_step(t);
}

int dn_backward(int64_t a, int full) {
    DN_ENTER_NODE(a);
    int result = dn__forward(t, i);
    if (result) return result > 0 ? 2 : result;
    result = dn__backward_begin(t, i, full);
    return result ? result : timed_step(t);
}

int dn_fast_backward(int64_t a, int full) {
    const dn_tape *t = dn__handle_tape(a);
    if (!t || t->work_made > DN_FAST_WORK) return DN_FALLBACK;
    /* another thread may be at these parameters for longer than is good to wait here */
    for (int r = 0; r < t->n.stores; r++) {
        if (dn__try_lock(t->stores[r].store)) return DN_FALLBACK;
        dn__unlock(t->stores[r].store);
    }
    return dn_backward(a, full);
}

/* The gradient of node i, which backward has put off. Negative: no memory, and it is as it was. */
static int write_out(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    dn_group *g = dn__group_of(t, node);
    const int failed = !dn__gradient_slot(t, i).dx || t->workspace.out_of_memory;
    t->workspace.out_of_memory = 0;
    dn__memory_back_to(t, DN_SCRATCH, (dn_arena_mark){0});
    if (!failed) return 0;
    if (g) g->grads = NULL;
    else node->grad = NULL;
    return -1;
}

static int copy_gradient(dn_tape *t, int i, dn_real *out) {
    const int loss = t->backward->last_loss;
    const dn_node *node = &t->nodes[i];
    /* an output may be named only afterwards: its gradient is its owner's */
    const int owner = node->op == dn_ops[DN_OP_output_view] ? dn__input(t, i, 0) : i;
    if (owner > loss)
        return dn__tape_fail(
            t, DN_ERROR_STATE, "Requested gradient for node %d, but %s", i,
            loss < 0
                ? "backward() has not been called on this graph since its values were computed."
                : "it was made after the loss that backward() was called on.");
    if (i <= loss && dn__is_put_off(t, i)) {
        const int error = dn__keep_value(t, i);
        if (error) return error;
        if (write_out(t, i)) return dn__no_memory(t);
    }
    const dn_real *grad = dn__arrived(t, i);
    const size_t n = dn__elements(&node->dim);
    dn_store *lock = node->in_chunk ? node->param->store : NULL;
    int error = 0;
    if (lock) { /* the chunk's gradients may have been moved since */
        dn__lock(lock);
        if (node->written != dn__param_written(node->param))
            error = dn__tape_fail(t, DN_ERROR_STATE,
                                  "gradient: the parameter's gradient was added to, scaled, "
                                  "clipped or replaced since "
                                  "backward(). Ask before that, or for grad_as_array(), which is "
                                  "the parameter's own.");
        grad = node->param->store->chunks[node->param->chunk].grads + node->param->offset;
    }
    if (grad && n) memcpy(out, grad, n * sizeof *out);
    else dn__fill(n, 0, out);
    if (!error && t->backward->deferred && node->param) error = add_deferred(t, i, out);
    if (lock) dn__unlock(lock);
    return error;
}

int dn_gradient(int64_t a, dn_real *out) {
    DN_ENTER_NODE(a);
    return copy_gradient(t, i, out);
}

int dn_fast_gradient(int64_t a, dn_dim *dim, int capacity, double *out) {
    dn_real few[DN_FAST_CAPACITY];
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_FALLBACK;
    DN_ENTER_OR(t, DN_FALLBACK);
    const int i = dn__find(t, a);
    /* a parameter's gradient is behind a lock */
    if (i < 0 || t->nodes[i].param) return DN_FALLBACK;
    *dim = t->nodes[i].dim;
    const int64_t n = (int64_t)dim->size * dim->batch;
    if (n < 1 || n > capacity || n > DN_FAST_CAPACITY || copy_gradient(t, i, few))
        return DN_FALLBACK;
    for (int64_t k = 0; k < n; k++) out[k] = (double)few[k];
    return 0;
}
