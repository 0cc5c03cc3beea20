#include "make.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Memory for one more node with so many inputs and attributes. */
INLINE int reserve(dn_tape *t, int n, int n_ints, int n_floats) {
    if (t->n.nodes >= 1 << DN_INDEX_BITS)
        return dn__tape_fail(
            t, DN_ERROR_VALUE,
            "a graph holds at most %d nodes. Call renew_cg() for each example or batch.",
            1 << DN_INDEX_BITS);
    if (DN_GROW(t->nodes, t->capacity.nodes, t->n.nodes + 1) ||
        DN_GROW(t->args, t->capacity.args, (int64_t)t->n.args + n) ||
        DN_GROW(t->ints, t->capacity.ints, (int64_t)t->n.ints + n_ints + 1) ||
        DN_GROW(t->floats, t->capacity.floats, (int64_t)t->n.floats + n_floats))
        return dn__no_memory(t);
    if (n + 1 > t->call.capacity) {
        int capacity = t->call.capacity;
        if (DN_GROW(t->call.in, capacity, n + 1)) return dn__no_memory(t);
        capacity = t->call.capacity;
        if (DN_GROW(t->call.xdims, capacity, n + 1)) return dn__no_memory(t);
        t->call.capacity = capacity;
    }
    return 0;
}

/* What a node gets of its inputs: whether it needs a gradient, and their elements. */
typedef struct from_inputs {
    int needs_grad;
    int64_t elements;
} from_inputs;

/* Fills what dims() sees, and calls it. */
INLINE int infer_dims(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints,
                      const int *ints, int n_floats, const double *floats, const dn_origin *origin,
                      dn_shape *s, from_inputs *from) {
    s->op = op->name;
    s->n = n;
    s->n_ints = n_ints;
    s->n_floats = n_floats;
    s->x = t->call.xdims;
    s->ints = ints;
    s->floats = floats;
    s->saved = 0;
    s->parts = 1;
    s->not_batchable = 0;
    s->rng = 0;
    s->work = 0;
    s->own = origin->own;
    s->message = t->message;
    *from = (from_inputs){0};
    for (int i = 0; i < n; i++) {
        t->call.xdims[i] = &t->nodes[inputs[i]].dim;
        from->needs_grad |= t->nodes[inputs[i]].needs_grad;
        from->elements += (int64_t)dn__elements(t->call.xdims[i]);
    }
    if (origin->param) {
        t->call.xdims[0] = &origin->param->dim;
        s->n = 1;
        from->needs_grad = dn__param_gathers(origin->param) && !origin->constant;
    }
    int error = op->dims(s);
    if (error < 0) return error;
    if (s->y.size * (int64_t)s->y.batch + (int64_t)s->saved >
        PTRDIFF_MAX / (int64_t)sizeof(dn_real))
        return dn__no_memory(t);
    return 0;
}

INLINE int append_node(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints,
                       const int *ints, int n_floats, const double *floats,
                       const dn_origin *origin) {
    dn_shape s;
    from_inputs from;
    int error = reserve(t, n, n_ints, n_floats);
    if (error < 0) return error;
    error = infer_dims(t, op, n, inputs, n_ints, ints, n_floats, floats, origin, &s, &from);
    if (error < 0) return error;
    int index = t->n.nodes;
    dn_node *node = &t->nodes[index];
    /* Field by field: GCC clears a whole struct with `rep stos`, which costs more than all the
     * rest. */
    node->op = op;
    node->epoch = (uint32_t)(t->epoch & DN_EPOCH);
    /* number by number, as dims() has just written them: wider loads would wait for those stores to
     * reach the cache */
    node->dim.nd = s.y.nd;
    node->dim.batch = s.y.batch;
    node->dim.size = s.y.size;
    for (int i = 0; i < s.y.nd; i++) {
        node->dim.d[i] = s.y.d[i];
        __asm__(""); /* else GCC makes a call of memcpy of it */
    }
    node->n_args = n;
    node->args = t->n.args;
    node->n_ints = n_ints;
    node->ints = t->n.ints;
    node->n_floats = n_floats;
    node->floats = t->n.floats;
    node->products = -1;
    node->saved = s.saved;
    node->needs_grad =
        (uint8_t)(from.needs_grad && (!(op->flags & DN_NO_GRAD) || dn__is_as_dynet(t)));
    node->constant = (uint8_t)origin->constant;
    node->copied = node->in_chunk = node->finished = node->failed = 0;
    node->param = origin->param;
    node->value = node->grad = NULL;
    node->parts = s.parts;
    node->not_batchable = (uint8_t)(s.not_batchable != 0);
    node->rng = (uint8_t)(s.rng != 0);
    for (int i = 0; i < n; i++) t->args[t->n.args++] = inputs[i];
    for (int i = 0; i < n_ints; i++) t->ints[t->n.ints++] = ints[i];
    if (dn__draws(node)) t->ints[t->n.ints++] = (int)(t->dropped + (uint32_t)index);
    for (int i = 0; i < n_floats; i++) t->floats[t->n.floats++] = floats[i];
    t->n.nodes++;
    /* 64: see dn_node */
    const int64_t work = 64 + (s.work ? s.work : from.elements) + (int64_t)dn__elements(&s.y);
    node->work = work < INT32_MAX ? (int32_t)work : INT32_MAX;
    t->work_made += node->work;
    if (op->flags & DN_JOINED) t->may_join = 1;
    /* its own draws have the ordinals between its and the next node's */
    t->dropped += (uint32_t)s.rng;
    return index;
}

int dn__make(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints, const int *ints,
             int n_floats, const double *floats, const dn_origin *origin) {
    static const dn_origin NONE;
    /* most nodes */
    if (!n_ints && !n_floats && !origin)
        return append_node(t, op, n, inputs, 0, NULL, 0, NULL, &NONE);
    return append_node(t, op, n, inputs, n_ints, ints, n_floats, floats, origin ? origin : &NONE);
}

int dn__change_ints(dn_tape *t, dn_node *node, int n, const int *ints) {
    if (n != node->n_ints)
        return dn__tape_fail(
            t, DN_ERROR_VALUE,
            "%s: set takes as many indices as the node was made with (%d); got %d.", node->op->name,
            node->n_ints, n);
    dn_shape s = {.op = node->op->name,
                  .n = node->n_args,
                  .n_ints = n,
                  .n_floats = node->n_floats,
                  .x = t->call.xdims,
                  .ints = ints,
                  .floats = t->floats + node->floats,
                  .message = t->message};
    for (int k = 0; k < node->n_args; k++)
        t->call.xdims[k] = &t->nodes[t->args[node->args + k]].dim;
    if (node->param) {
        t->call.xdims[0] = &node->param->dim;
        s.n = 1;
    }
    int error = node->op->dims(&s);
    if (error < 0) return error;
    if (n) memcpy(t->ints + node->ints, ints, (size_t)n * sizeof *ints);
    return 0;
}

/* ---- parameters of this graph --------------------------------------------------------- */

/* The slot of a parameter's handle in the table of parameters, which has room. */
static int param_slot(const dn_tape *t, int64_t handle) {
    uint64_t h = (uint64_t)handle * 0x9E3779B97F4A7C15u;
    int mask = t->parameters.capacity - 1, i = (int)(h >> 32) & mask;
    while (t->parameters.slots[i].epoch == t->parameters.epoch &&
           t->parameters.slots[i].handle != handle)
        i = (i + 1) & mask;
    return i;
}

static int param_table_grow(dn_tape *t) {
    int old_capacity = t->parameters.capacity;
    void *old_memory = t->parameters.slots;
    __typeof__(t->parameters.slots) old = old_memory,
                                    grown = calloc(old_capacity ? (size_t)old_capacity * 2 : 32,
                                                   sizeof *old);
    if (!grown) return dn__no_memory(t);
    t->parameters.slots = grown;
    t->parameters.capacity = old_capacity ? old_capacity * 2 : 32;
    for (int i = 0; i < old_capacity; i++)
        if (old[i].epoch == t->parameters.epoch)
            t->parameters.slots[param_slot(t, old[i].handle)] = old[i];
    free(old_memory);
    return 0;
}

static int new_param_node(dn_tape *t, int64_t handle, dn_param *p, int constant) {
    if (t->parameters.count * 2 >= t->parameters.capacity && param_table_grow(t))
        return DN_ERROR_MEMORY;
    if (dn__retain_store(t, p->store)) return DN_ERROR_MEMORY;
    if (!t->parameters.count) dn__settle_precision(t);
    t->workspace.precision.rounds |=
        t->workspace.precision.bf16 | (p->precision == DN_PRECISION_BF16);
    int i = dn__make(t, dn_ops[DN_OP_parameter], 0, NULL, 0, NULL, 0, NULL,
                     &(dn_origin){p, constant, NULL});
    if (i < 0) return i;
    int slot = param_slot(t, handle);
    t->parameters.count += t->parameters.slots[slot].epoch != t->parameters.epoch;
    t->parameters.slots[slot].handle = handle;
    t->parameters.slots[slot].node = i;
    t->parameters.slots[slot].epoch = t->parameters.epoch;
    return i;
}

int dn__param_node(dn_tape *t, int64_t handle, dn_param *p, int constant) {
    const int slot = t->parameters.capacity ? param_slot(t, handle) : -1;
    if (slot >= 0 && t->parameters.slots[slot].epoch == t->parameters.epoch) {
        const int i = t->parameters.slots[slot].node;
        /* after a revert the entry may be of a node that is gone */
        if (i < t->n.nodes && t->nodes[i].op == dn_ops[DN_OP_parameter] && t->nodes[i].param == p &&
            t->nodes[i].constant == constant)
            return i;
    }
    return new_param_node(t, handle, p, constant);
}

int dn__find_parameter(dn_tape *t, int64_t handle) {
    int constant;
    dn_param *p = dn__handle_param(handle, &constant);
    return p ? dn__param_node(t, handle, p, constant) : dn__stale(t);
}
