/* The search for the first number that is not finite, for people who look for a fault: not fast. */
#include <math.h>
#include <stdlib.h>

#include "schedule/group.h"
#include "tape/make.h"
#include "backward/backward_pass.h"

/* The first element that is NaN, or infinite where that counts; n: none. */
static size_t first_bad(const dn_real *x, size_t n, int nan_only) {
    for (size_t i = 0; i < n; i++)
        if (nan_only ? isnan(x[i]) : !isfinite(x[i])) return i;
    return n;
}

static size_t bad_gradient(dn_tape *t, int i, int nan_only) {
    const dn_node *node = &t->nodes[i];
    const dn_real *grad = dn__arrived(t, i);
    const size_t n = dn__elements(&node->dim);
    if (!grad || !node->in_chunk) return grad ? first_bad(grad, n, nan_only) : n;
    dn_store *store = node->param->store;
    dn__lock(store); /* the chunk's gradients may have been moved since */
    size_t at =
        first_bad(store->chunks[node->param->chunk].grads + node->param->offset, n, nan_only);
    dn__unlock(store);
    return at;
}

/* Of a value with several outputs that was computed in a group: each lies with those of the
 * others. */
static size_t first_bad_output(const dn_tape *t, int i, int gradients, int nan_only) {
    const dn_node *node = &t->nodes[i];
    if (gradients && !dn__arrived(t, i)) return dn__elements(&node->dim);
    for (int part = 0; part < node->parts; part++) {
        const dn_block block = dn__block(t, node, part);
        const size_t n = block.size * (size_t)node->dim.batch,
                     at = first_bad(dn__output_view_address(t, node, (int)block.at, gradients), n,
                                    nan_only);
        if (at < n) return block.at + at;
    }
    return dn__elements(&node->dim);
}

static size_t first_bad_of(dn_tape *t, int i, int gradients, int nan_only) {
    const dn_node *node = &t->nodes[i];
    if (node->parts > 1 && dn__grouped(t, node)) return first_bad_output(t, i, gradients, nan_only);
    return gradients ? bad_gradient(t, i, nan_only)
                     : first_bad(node->value, dn__elements(&node->dim), nan_only);
}

/* Marks what node i was computed from, itself included. */
static uint8_t *ancestors(const dn_tape *t, int i) {
    uint8_t *needed = calloc((size_t)i + 1, 1);
    if (!needed) return NULL;
    needed[i] = 1;
    for (; i >= 0; i--)
        for (int k = 0; needed[i] && k < t->nodes[i].n_args; k++)
            needed[t->args[t->nodes[i].args + k]] = 1;
    return needed;
}

static int find(dn_tape *t, int last, int gradients, int nan_only, int *node, int64_t *element) {
    uint8_t *needed = ancestors(t, last);
    if (!needed) return dn__no_memory(t);
    int found = 0;
    for (int k = 0; k <= last && !found; k++) {
        int i = gradients ? last - k : k;
        const size_t n = dn__elements(&t->nodes[i].dim),
                     at = needed[i] ? first_bad_of(t, i, gradients, nan_only) : n;
        if (at == n) continue;
        found = 1;
        *node = i;
        *element = (int64_t)at;
    }
    free(needed);
    return found;
}

int dn_find_nonfinite(int64_t a, int gradients, int nan_only, int *node, int64_t *element) {
    DN_ENTER_NODE(a);
    if (gradients && t->backward->last_loss < i) return 0;
    if (i >= t->schedule->evaluated || (t->schedule->any_failed && t->nodes[i].failed))
        return dn__tape_fail(t, DN_ERROR_STATE, "the value of this expression was not computed");
    const int error = gradients ? 0 : dn__keep_all(t);
    return error ? error : find(t, i, gradients, nan_only, node, element);
}
