#include "make.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

static int grow_nodes(dn_tape *t) {
    if (t->n.nodes >= 1 << DN_INDEX_BITS)
        return dn__tape_fail(
            t, DN_ERROR_VALUE,
            "a graph holds at most %d nodes. Call renew_cg() for each example or batch.",
            1 << DN_INDEX_BITS);
    if (DN_GROW(t->likes.kinds, t->likes.capacity, t->n.nodes + 1) ||
        DN_GROW(t->nodes, t->capacity.nodes, t->n.nodes + 1))
        return dn__no_memory(t);
    return 0;
}

/* Memory for one more node with so many inputs. */
INLINE int reserve(dn_tape *t, int n) {
    const int error = t->n.nodes < t->capacity.nodes ? 0 : grow_nodes(t);
    if (error) return error;
    return DN_GROW(t->args, t->capacity.args, (int64_t)t->n.args + n) ? dn__no_memory(t) : 0;
}

/* And with so many attributes, and for what dims() sees. */
INLINE int reserve_all(dn_tape *t, int n, int n_ints, int n_floats) {
    const int error = reserve(t, n);
    if (error) return error;
    if (DN_GROW(t->ints, t->capacity.ints, (int64_t)t->n.ints + n_ints + 1) ||
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

/* ---- nodes like earlier ones ---------------------------------------------------------- */

/* Programs make the same sequences of nodes again and again, one for each example. So a node is
 * mostly like the one that follows what the last node was like. To compare the two takes fewer
 * instructions than dims(), and tells the schedule that they have one signature. */

/* Whether values have the same sizes and batch, and are not empty. */
INLINE int same_dims(const dn_dim *a, const dn_dim *b) {
    return a->size && a->batch == b->batch && dn__equal_sizes(a, b);
}

/* Whether node j is of this operation, and these could take its inputs' places in a group. */
INLINE int is_like(const dn_tape *t, int j, const dn_op *op, int n, const int *inputs,
                   const dn_param *param) {
    const dn_node *like = &t->nodes[j];
    if (like->op != op || like->n_args != n || like->param != param) return 0;
    const int32_t *at = t->args + like->args, *kinds = t->likes.kinds;
    const int broadcast = op->flags >> DN_BROADCAST_SHIFT;
    for (int k = 0; k < n; k++) {
        const int i = inputs[k];
        if (i == at[k]) continue;
        if (broadcast && k < 8 && broadcast >> k & 1) return 0;
        if (kinds[i] == kinds[at[k]] && kinds[i] >= 0) continue;
        const dn_node *x = &t->nodes[i], *y = &t->nodes[at[k]];
        if (x->op == dn_ops[DN_OP_parameter] || y->op == dn_ops[DN_OP_parameter] ||
            x->needs_grad != y->needs_grad || !same_dims(&x->dim, &y->dim))
            return 0;
    }
    return 1;
}

/* Where `begun` has a node of this operation and these parameters. */
INLINE int32_t *begun_by(dn_tape *t, const dn_op *op, int n, const int *inputs,
                         const dn_param *param) {
    size_t key = (uintptr_t)op / 8 + (uintptr_t)param / 64 + (size_t)n;
    for (int k = 0; k < n && k < 2; k++)
        if (t->nodes[inputs[k]].op == dn_ops[DN_OP_parameter]) key += (size_t)(17 * inputs[k]);
    return &t->likes.begun[key % (sizeof t->likes.begun / sizeof *t->likes.begun)];
}

INLINE int is_there(const dn_tape *t, int j, const dn_op *op, int n, const int *inputs,
                    const dn_param *param) {
    return j < t->n.nodes && is_like(t, j, op, n, inputs, param);
}

/* A node that the next one, of these inputs, is like; -1: none is found. */
INLINE int find_like(dn_tape *t, const dn_op *op, int n, const int *inputs, const dn_param *param) {
    dn_likes *l = &t->likes;
    int j = l->next;
    if (!is_there(t, j, op, n, inputs, param)) {
        /* those of parameters are made at their first use */
        while (j < t->n.nodes && t->nodes[j].op == dn_ops[DN_OP_parameter]) j++;
        if (j == l->next || !is_there(t, j, op, n, inputs, param)) {
            int32_t *begun = begun_by(t, op, n, inputs, param);
            j = *begun;
            if (!is_there(t, j, op, n, inputs, param)) {
                *begun = t->n.nodes;
                l->next = INT32_MAX;
                return -1;
            }
        }
    }
    l->next = j + 1;
    return j;
}

/* Whether two nodes of one operation and like inputs have the same sizes and attributes, but for
 * integers that belong to batch elements. */
INLINE int are_alike(const dn_tape *t, const dn_node *a, const dn_node *b) {
    const int ints = dn__node_ints(a);
    return a->n_ints == b->n_ints && same_dims(&a->dim, &b->dim) &&
           a->needs_grad == b->needs_grad && a->not_batchable == b->not_batchable &&
           !memcmp(t->ints + a->ints, t->ints + b->ints, (size_t)ints * sizeof *t->ints) &&
           dn__equal_floats(t, a, b);
}

/* Whether its inputs' sizes decide all that it was made with. */
INLINE int has_no_attributes(const dn_node *node) {
    const int others = DN_LEAF | DN_VIEW | DN_NO_GRAD | DN_RANDOM | DN_TRACED;
    return !node->n_ints && !node->n_floats && !node->rng && !(node->op->flags & others);
}

/* The next node begins: its inputs and attributes will come after those of the last one, and
 * nothing has been done with it. */
INLINE void begin_life(const dn_tape *t, dn_node *node) {
    node->args = t->n.args;
    node->ints = t->n.ints;
    node->floats = t->n.floats;
    node->value = node->grad = NULL;
    node->epoch = (uint32_t)(t->epoch & DN_EPOCH);
    node->products = -1;
    node->copied = node->in_chunk = node->finished = node->failed = 0;
}

/* Appends a node that is like node j, which has no attributes. */
INLINE int append_like(dn_tape *t, int j, int n, const int *inputs) {
    const int error = reserve(t, n);
    if (error) return error;
    const int index = t->n.nodes;
    const dn_node *like = &t->nodes[j];
    dn_node *node = &t->nodes[index];
    *node = *like;
    begin_life(t, node);
    t->likes.again = 0;
    int32_t *args = t->args + t->n.args;
    for (int i = 0; i < n; i++) {
        args[i] = inputs[i];
        __asm__(""); /* else GCC makes a call of memcpy of it */
    }
    t->n.args += n;
    t->likes.kinds[index] = t->likes.kinds[j] < 0 ? index : t->likes.kinds[j];
    t->work_made += node->work;
    return t->n.nodes++;
}

/* ---- nodes of the graph before -------------------------------------------------------- */

/* Graphs of one shape follow one another, of which many are small. Where a graph has so far been
 * made as the one before, that one's next node is still there; made of the same, it is the same. */

/* Whether the next node, of these inputs, is of the same operation and inputs as the one that is
 * still there. */
INLINE int is_again(const dn_tape *t, const dn_op *op, int n, const int *inputs) {
    if (t->n.nodes >= t->likes.again) return 0;
    const dn_node *node = &t->nodes[t->n.nodes];
    if (node->op != op || node->n_args != n) return 0;
    for (int i = 0; i < n; i++)
        if (t->args[node->args + i] != inputs[i]) return 0;
    return 1;
}

/* Appends it as it is: it has no attributes. */
INLINE int append_again(dn_tape *t) {
    dn_node *node = &t->nodes[t->n.nodes];
    begin_life(t, node);
    t->n.args += node->n_args;
    t->work_made += node->work;
    if (node->op->flags & DN_JOINED) t->may_join = 1;
    return t->n.nodes++;
}

/* ---- one more node -------------------------------------------------------------------- */

/* Appends any other node; like: as find_like. */
static int append_node(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints,
                       const int *ints, int n_floats, const double *floats, const dn_origin *origin,
                       int like) {
    dn_shape s;
    from_inputs from;
    int error = reserve_all(t, n, n_ints, n_floats);
    if (error < 0) return error;
    error = infer_dims(t, op, n, inputs, n_ints, ints, n_floats, floats, origin, &s, &from);
    if (error < 0) return error;
    int index = t->n.nodes;
    dn_node *node = &t->nodes[index];
    const uint8_t needs_grad =
        (uint8_t)(from.needs_grad && (!(op->flags & DN_NO_GRAD) || dn__is_as_dynet(t)));
    if (!is_again(t, op, n, inputs) || node->needs_grad != needs_grad ||
        node->dim.batch != s.y.batch || !dn__equal_sizes(&node->dim, &s.y))
        t->likes.again = 0;
    /* Field by field: GCC clears a whole struct with `rep stos`, which costs more than all the
     * rest. */
    node->op = op;
    begin_life(t, node);
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
    node->n_ints = n_ints;
    node->n_floats = n_floats;
    node->saved = s.saved;
    node->needs_grad = needs_grad;
    node->constant = (uint8_t)origin->constant;
    node->param = origin->param;
    node->parts = s.parts;
    node->not_batchable = (uint8_t)(s.not_batchable != 0);
    node->rng = (uint8_t)(s.rng != 0);
    for (int i = 0; i < n; i++) t->args[t->n.args++] = inputs[i];
    for (int i = 0; i < n_ints; i++) t->ints[t->n.ints++] = ints[i];
    if (dn__draws(node)) t->ints[t->n.ints++] = (int)(t->dropped + (uint32_t)index);
    for (int i = 0; i < n_floats; i++) t->floats[t->n.floats++] = floats[i];
    t->n.nodes++;
    t->likes.kinds[index] =
        like >= 0 && t->likes.kinds[like] >= 0 && are_alike(t, &t->nodes[like], node)
            ? t->likes.kinds[like]
            : index;
    /* 64: see dn_node */
    const int64_t work = 64 + (s.work ? s.work : from.elements) + (int64_t)dn__elements(&s.y);
    node->work = work < INT32_MAX ? (int32_t)work : INT32_MAX;
    t->work_made += node->work;
    if (op->flags & DN_JOINED) t->may_join = 1;
    /* its own draws have the ordinals between its and the next node's */
    t->dropped += (uint32_t)s.rng;
    return index;
}

static const dn_origin NOWHERE;

int dn__make_plain(dn_tape *t, const dn_op *op, int n, const int *inputs) {
    if (is_again(t, op, n, inputs) && has_no_attributes(&t->nodes[t->n.nodes]))
        return append_again(t);
    const int like = find_like(t, op, n, inputs, NULL);
    if (like >= 0 && has_no_attributes(&t->nodes[like])) return append_like(t, like, n, inputs);
    return append_node(t, op, n, inputs, 0, NULL, 0, NULL, &NOWHERE, like);
}

int dn__make(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints, const int *ints,
             int n_floats, const double *floats, const dn_origin *origin) {
    if (!n_ints && !n_floats && !origin) return dn__make_plain(t, op, n, inputs);
    if (!origin) origin = &NOWHERE;
    const int like =
        op == dn_ops[DN_OP_parameter] ? -1 : find_like(t, op, n, inputs, origin->param);
    return append_node(t, op, n, inputs, n_ints, ints, n_floats, floats, origin, like);
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
    t->likes.kinds[node - t->nodes] = -1;
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
    const int old_capacity = t->parameters.capacity,
              capacity = old_capacity ? old_capacity * 2 : 32;
    dn_used_param *old = t->parameters.slots, *grown = calloc((size_t)capacity, sizeof *grown);
    if (!grown) return dn__no_memory(t);
    t->parameters.slots = grown;
    t->parameters.capacity = capacity;
    for (int i = 0; i < old_capacity; i++)
        if (old[i].epoch == t->parameters.epoch) grown[param_slot(t, old[i].handle)] = old[i];
    free(old);
    return 0;
}

static __attribute__((noinline)) int new_param_node(dn_tape *t, int64_t handle, dn_param *p,
                                                    int constant) {
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
    t->parameters.slots[slot] = (dn_used_param){handle, t->parameters.epoch, i};
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
