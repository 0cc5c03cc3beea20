/* Making nodes: dims are inferred, errors phrased, the node appended. These calls keep Python's lock; a tape that another thread computes with
 * is busy. */
#include "cell.h"
#include "join.h"
#include "tape.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int dn__fail(dn_shape *s, int error, const char *format, ...) {
    int n = snprintf(s->message, DN_MESSAGE, "%s: ", s->op);
    va_list args;
    va_start(args, format);
    vsnprintf(s->message + n, DN_MESSAGE - (size_t)n, format, args);
    va_end(args);
    return error;
}

dn_text dn__dims_text(const dn_dim *d) {
    dn_text text;
    int n = snprintf(text.s, sizeof text.s, "(");
    for (int i = 0; i < d->nd; i++) n += snprintf(text.s + n, sizeof text.s - (size_t)n, i ? ", %d" : "%d", d->d[i]);
    n += snprintf(text.s + n, sizeof text.s - (size_t)n, d->nd == 1 ? ",)" : ")");
    if (d->batch != 1) snprintf(text.s + n, sizeof text.s - (size_t)n, " x %d", d->batch);
    return text;
}

int dn__set_dims(dn_shape *s, int nd, const int *d, int batch) {
    int64_t size = 1;
    if (nd < 0 || nd > DN_MAX_DIMS) return dn__fail(s, DN_ERROR_VALUE, "at most %d dims; got %d.", DN_MAX_DIMS, nd);
    if (batch < 0) return dn__fail(s, DN_ERROR_VALUE, "the batch size must not be negative; got %d.", batch);
    s->y.nd = nd;
    s->y.batch = batch;
    for (int i = 0; i < nd; i++) {
        if (d[i] < 0) return dn__fail(s, DN_ERROR_VALUE, "dims must not be negative; got %d as dim %d.", d[i], i);
        s->y.d[i] = d[i];
        size *= d[i];
        if (size > INT32_MAX) break;
    }
    if (size > INT32_MAX || size * (batch ? batch : 1) > INT32_MAX)
        return dn__fail(s, DN_ERROR_VALUE, "the result would have more than %d elements.", INT32_MAX);
    s->y.size = (int)size;
    return 0;
}

int dn__common_batch(dn_shape *s) {
    int batch = 1;
    for (int i = 0; i < s->n; i++) {
        if (s->x[i]->batch == 1 || s->x[i]->batch == batch) continue;
        if (batch != 1)
            return dn__fail(s, DN_ERROR_VALUE, "batch sizes must be equal or 1; got %d and %d.", batch, s->x[i]->batch);
        batch = s->x[i]->batch;
    }
    return batch;
}

int dn__same_sizes(const dn_dim *a, const dn_dim *b) {
    int n = a->nd > b->nd ? a->nd : b->nd;
    for (int i = 0; i < n; i++)
        if ((i < a->nd ? a->d[i] : 1) != (i < b->nd ? b->d[i] : 1)) return 0;
    return 1;
}

int dn__alike_dims(dn_shape *s) {
    int batch = dn__common_batch(s);
    if (batch < 0) return batch;
    for (int i = 1; i < s->n; i++)
        if (!dn__same_sizes(s->x[0], s->x[i]))
            return dn__fail(s, DN_ERROR_VALUE, "all inputs must have the same dims; got x_0 = %s, x_%d = %s.", DIMS(s->x[0]), i, DIMS(s->x[i]));
    return dn__set_dims(s, s->x[0]->nd, s->x[0]->d, batch);
}

int dn__make(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints, const int *ints, int n_reals, const double *reals,
             dn_param *param, int constant) {
    if (t->n_nodes >= 1 << DN_INDEX_BITS)
        return dn__tape_fail(t, DN_ERROR_VALUE, "a graph holds at most %d nodes. Call renew_cg() for each example or batch.",
                             1 << DN_INDEX_BITS);
    if (DN_GROW(t->nodes, t->nodes_capacity, t->n_nodes + 1) || DN_GROW(t->args, t->args_capacity, (int64_t)t->n_args + n) ||
        DN_GROW(t->ints, t->ints_capacity, (int64_t)t->n_ints + n_ints) ||
        DN_GROW(t->reals, t->reals_capacity, (int64_t)t->n_reals + n_reals))
        return dn__no_memory(t);
    if (n + 1 > t->call_capacity) {
        int capacity = t->call_capacity;
        if (DN_GROW(t->in, capacity, n + 1)) return dn__no_memory(t);
        capacity = t->call_capacity;
        if (DN_GROW(t->xdims, capacity, n + 1)) return dn__no_memory(t);
        t->call_capacity = capacity;
    }
    dn_shape s;
    s.op = op->name;
    s.n = n;
    s.n_ints = n_ints;
    s.n_reals = n_reals;
    s.x = t->xdims;
    s.ints = ints;
    s.reals = reals;
    s.saved = 0;
    s.parts = 1;
    s.alone = 0;
    s.program = op == dn_ops[DN_OP_cell] ? t->programs[ints[0]].program : NULL;
    s.message = t->message;
    int needs_grad = 0;
    int64_t work = 64; /* see dn_node */
    for (int i = 0; i < n; i++) {
        t->xdims[i] = &t->nodes[inputs[i]].dim;
        needs_grad |= t->nodes[inputs[i]].needs_grad;
        work += (int64_t)dn__elements(t->xdims[i]);
    }
    if (s.program) work = 64 + s.program->work;
    if (param) {
        t->xdims[0] = &param->dim;
        s.n = 1;
        needs_grad = dn__param_gathers(param) && !constant;
    }
    int error = op->dims(&s);
    if (error < 0) return error;
    if (s.y.size * (int64_t)s.y.batch + (int64_t)s.saved > PTRDIFF_MAX / (int64_t)sizeof(dn_real)) return dn__no_memory(t);

    int index = t->n_nodes;
    dn_node *node = &t->nodes[index];
    /* Field by field: GCC clears a whole struct with `rep stos`, which costs more than all the rest. */
    node->op = op;
    node->epoch = t->epoch;
    node->dim.nd = s.y.nd; /* number by number, as dims() has just written them: wider loads would wait for those stores to reach the cache */
    node->dim.batch = s.y.batch;
    node->dim.size = s.y.size;
    for (int i = 0; i < s.y.nd; i++) node->dim.d[i] = s.y.d[i];
    node->n_args = n;
    node->args = t->n_args;
    node->n_ints = n_ints;
    node->ints = t->n_ints;
    node->n_reals = n_reals;
    node->reals = t->n_reals;
    node->ordinal = t->dropped + (uint32_t)index;
    node->products = -1;
    node->saved = s.saved;
    node->needs_grad = (uint8_t)(needs_grad && !(op->flags & DN_NO_GRAD));
    node->constant = (uint8_t)constant;
    node->copied = node->in_chunk = node->finished = node->failed = 0;
    node->param = param;
    node->data = NULL;
    node->value = node->saved_memory = node->grad = NULL;
    node->next_user = node->last_user = node->gathers = -1;
    node->grouped = 0;
    node->patience = DN_MOST_PATIENCE;
    node->parts = s.parts;
    node->alone = (uint8_t)(s.alone != 0);
    for (int i = 0; i < n; i++) t->args[t->n_args++] = inputs[i];
    for (int i = 0; i < n_ints; i++) t->ints[t->n_ints++] = ints[i];
    for (int i = 0; i < n_reals; i++) t->reals[t->n_reals++] = reals[i];
    t->n_nodes++;
    work += (int64_t)dn__elements(&s.y);
    node->work = work < INT32_MAX ? (int32_t)work : INT32_MAX;
    t->work_made += node->work;
    if (op->flags & DN_JOINS) dn__join_made(t, index);
    return index;
}

int64_t dn__finish(dn_tape *t, int i) {
    if (i < 0) return i;
    if (t->immediate) {
        int error;
        while ((error = dn__forward(t, i)) > 0) {}
        if (error) return error;
        const dn_node *node = &t->nodes[i];
        size_t total = dn__elements(&node->dim);
        for (size_t j = 0; t->check_finite && j < total; j++)
            if (!isfinite(node->value[j]))
                return dn__tape_fail(t, DN_ERROR_NONFINITE, "%s: NaN or Inf detected at element %zu of %s.", node->op->name, j,
                                     DIMS(&node->dim));
    }
    return dn__handle(t, i);
}

static const dn_op *checked_op(dn_tape *t, int op, int n) {
    if (op < 0 || op >= DN_OP_COUNT || dn_ops[op]->flags & DN_LEAF || op == DN_OP_cell) {
        dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d does not exist or takes no inputs", op);
        return NULL;
    }
    if (dn_ops[op]->inputs >= 0 ? n != dn_ops[op]->inputs : n < 1) {
        dn__tape_fail(t, DN_ERROR_VALUE, "%s: takes %d inputs; got %d.", dn_ops[op]->name, dn_ops[op]->inputs, n);
        return NULL;
    }
    return dn_ops[op];
}

/* The end of each node-making call: like all calls it has entered the tape, because another thread may compute on it without Python's lock. */
static int64_t left(dn_tape *t, int64_t result) {
    dn__tape_leave(t);
    return result;
}

/* The graph of the first input that is a node; parameters go along. */
static dn_tape *tape_of(int n, const int64_t *handles) {
    dn_tape *t = NULL;
    for (int i = 0; i < n && !t; i++) t = dn__handle_tape(handles[i]);
    return t;
}

/* Nodes of a few inputs, the most frequent ones, without arrays on the way. */
static int64_t make_small(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals,
                          const double *reals) {
    dn_tape *t = tape_of(n, handles);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    const dn_op *o = checked_op(t, op, n);
    if (!o) return left(t, DN_ERROR_VALUE);
    int inputs[2];
    for (int i = 0; i < n; i++)
        if ((inputs[i] = dn__find(t, handles[i])) < 0) return left(t, inputs[i]);
    return left(t, dn__finish(t, dn__make(t, o, n, inputs, n_ints, ints, n_reals, reals, NULL, 0)));
}

int64_t dn_node1(int op, int64_t a) { return make_small(op, 1, &a, 0, NULL, 0, NULL); }
int64_t dn_node2(int op, int64_t a, int64_t b) { return make_small(op, 2, (int64_t[]){a, b}, 0, NULL, 0, NULL); }
int64_t dn_node1_int(int op, int64_t a, int i) { return make_small(op, 1, &a, 1, &i, 0, NULL); }
int64_t dn_node1_real(int op, int64_t a, double r, double s) { return make_small(op, 1, &a, 0, NULL, 2, (double[]){r, s}); }

/* Outputs first, first + 1, ... of node i, `size` numbers each; the index of the first. */
static int make_parts(dn_tape *t, int i, int first, int n, int size) {
    const int begin = t->n_nodes, batch = t->nodes[i].dim.batch;
    for (int k = 0; k < n; k++) {
        int64_t offset = (int64_t)(first + k) * size * batch;
        int ints[] = {offset > INT32_MAX ? -1 : (int)offset, batch, size};
        int64_t handle = dn__finish(t, dn__make(t, dn_ops[DN_OP_part], 1, &i, 3, ints, 0, NULL, NULL, 0));
        if (handle < 0) return (int)handle;
    }
    return begin;
}

/* parts: how many outputs are made, too, the first of which is the result; 0: none */
static int64_t make_many(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    dn_tape *t = tape_of(n, handles);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    const dn_op *o = checked_op(t, op, n);
    if (!o) return left(t, DN_ERROR_VALUE);
    int small[16], *inputs = n <= 16 ? small : malloc((size_t)n * sizeof *inputs);
    if (!inputs) return left(t, dn__no_memory(t));
    int i = 0;
    for (; i < n; i++)
        if ((inputs[i] = dn__find(t, handles[i])) < 0) break;
    int64_t result = i < n ? inputs[i] : dn__make(t, o, n, inputs, n_ints, ints, n_reals, reals, NULL, 0);
    if (inputs != small) free(inputs);
    const int owner = (int)result;
    result = dn__finish(t, owner);
    if (result < 0 || !parts) return left(t, result);
    const int first = make_parts(t, owner, 0, parts, t->nodes[owner].dim.size / t->nodes[owner].parts);
    return left(t, first < 0 ? first : dn__handle(t, first));
}

int64_t dn_node_many(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals) {
    return make_many(op, n, handles, n_ints, ints, n_reals, reals, 0);
}

int64_t dn_node_parts(int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals, int parts) {
    return make_many(op, n, handles, n_ints, ints, n_reals, reals, parts);
}

int64_t dn_tree_node(const int64_t *weights, int n_ary, int64_t x, int n, int64_t first, int64_t second) {
    const int64_t children[] = {first, second}, states[] = {first + 1, second + 1};
    int64_t handles[11];
    int at = 6, ints[] = {n > 2 ? 2 : n < 0 ? 0 : n, x != 0, n_ary};
    memcpy(handles, weights, 6 * sizeof *handles);
    if (x) handles[at++] = x;
    for (int i = 0; i < ints[0]; i++) handles[at++] = children[i];
    for (int i = 0; i < ints[0]; i++) handles[at++] = states[i];
    return make_many(DN_OP_tree_lstm, at, handles, 3, ints, 0, NULL, 2);
}

int64_t dn_leaf(int graph, int op, int n_ints, const int *ints, int n_reals, const double *reals) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    if (op < 0 || op >= DN_OP_COUNT || dn_ops[op]->inputs)
        return left(t, dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d takes inputs", op));
    return left(t, dn__finish(t, dn__make(t, dn_ops[op], 0, NULL, n_ints, ints, n_reals, reals, NULL, 0)));
}

int64_t dn_parts(int64_t owner, int first, int n, int size) {
    dn_tape *t = dn__handle_tape(owner);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, owner);
    if (i < 0) return left(t, i);
    if (n < 1) return left(t, dn__tape_fail(t, DN_ERROR_VALUE, "part: takes at least one part; got %d.", n));
    const int begin = make_parts(t, i, first, n, size);
    return left(t, begin < 0 ? begin : dn__handle(t, begin));
}

static void copy_numbers(int64_t n, const double *from, dn_real *to) {
    for (int64_t i = 0; i < n; i++) to[i] = (dn_real)from[i];
}

/* What it holds comes from data or from numbers; both NULL: zeros. */
static int64_t input(dn_tape *t, int n_dims, const int *dims, int batch, const dn_real *data, const double *numbers) {
    int ints[DN_MAX_DIMS + 1] = {batch};
    if (n_dims < 0 || n_dims > DN_MAX_DIMS) return dn__tape_fail(t, DN_ERROR_VALUE, "input: at most %d dims; got %d.", DN_MAX_DIMS, n_dims);
    for (int i = 0; i < n_dims; i++) ints[i + 1] = dims[i];
    int index = dn__make(t, dn_ops[DN_OP_input], 0, NULL, n_dims + 1, ints, 0, NULL, NULL, 0);
    if (index < 0) return index;
    size_t bytes = dn__elements(&t->nodes[index].dim) * sizeof(dn_real);
    dn_real *memory = dn__arena_take(&t->data, bytes);
    if (!memory) { /* as if it had never been made */
        t->n_nodes--;
        t->n_ints -= n_dims + 1;
        t->work_made -= t->nodes[index].work;
        return dn__no_memory(t);
    }
    if (data) memcpy(memory, data, bytes);
    else if (numbers) copy_numbers((int64_t)dn__elements(&t->nodes[index].dim), numbers, memory);
    else memset(memory, 0, bytes);
    t->nodes[index].data = memory;
    return dn__finish(t, index);
}

int64_t dn_input(int graph, int n_dims, const int *dims, int batch, const dn_real *data) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return left(t, input(t, n_dims, dims, batch, data, NULL));
}

int64_t dn_input_vector(int graph, int n, const dn_real *data) { return dn_input(graph, 1, &n, 1, data); }

int64_t dn_input_zeros(int graph, int n) { return dn_input(graph, 1, &n, 1, NULL); }

int64_t dn_input_scalar(int graph, double value) {
    dn_real x = (dn_real)value;
    return dn_input(graph, 1, (int[]){1}, 1, &x);
}

int64_t dn_input_numbers(int graph, int n_dims, const int *dims, int batch, const double *data) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return left(t, input(t, n_dims, dims, batch, NULL, data));
}

/* An input whose n numbers are to be written; values are forgotten. NULL: *error. */
static dn_real *to_set(dn_tape *t, int64_t a, int64_t n, int *error) {
    int i = dn__find(t, a);
    if (i < 0) {
        *error = i;
        return NULL;
    }
    dn_node *node = &t->nodes[i];
    if (node->op != dn_ops[DN_OP_input]) {
        *error = dn__tape_fail(t, DN_ERROR_STATE, "set: only inputs can be set; this is a node of %s.", node->op->name);
        return NULL;
    }
    if (n != (int64_t)dn__elements(&node->dim)) {
        *error = dn__tape_fail(t, DN_ERROR_VALUE, "set: the number of values must equal the size of the input; got %lld values for %s.",
                               (long long)n, DIMS(&node->dim));
        return NULL;
    }
    dn__forget_values(t);
    *error = 0;
    return (dn_real *)node->data;
}

int dn_input_set(int64_t a, int64_t n, const dn_real *data) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int error;
    dn_real *out = to_set(t, a, n, &error);
    if (out && n) memcpy(out, data, (size_t)n * sizeof *data);
    return (int)left(t, error);
}

int dn_input_set_numbers(int64_t a, int64_t n, const double *data) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int error;
    dn_real *out = to_set(t, a, n, &error);
    if (out) copy_numbers(n, data, out);
    return (int)left(t, error);
}

static int ints_set(dn_tape *t, int64_t a, int n, const int *ints) {
    int i = dn__find(t, a);
    if (i < 0) return i;
    dn_node *node = &t->nodes[i];
    if (n != node->n_ints)
        return dn__tape_fail(t, DN_ERROR_VALUE, "%s: set takes as many indices as the node was made with (%d); got %d.", node->op->name,
                             node->n_ints, n);
    dn_shape s = {.op = node->op->name, .n = node->n_args, .n_ints = n, .n_reals = node->n_reals, .x = t->xdims, .ints = ints,
                  .reals = t->reals + node->reals, .message = t->message};
    for (int k = 0; k < node->n_args; k++) t->xdims[k] = &t->nodes[t->args[node->args + k]].dim;
    if (node->param) {
        t->xdims[0] = &node->param->dim;
        s.n = 1;
    }
    int error = node->op->dims(&s);
    if (error < 0) return error;
    if (n) memcpy(t->ints + node->ints, ints, (size_t)n * sizeof *ints);
    dn__forget_values(t);
    return 0;
}

int dn_ints_set(int64_t a, int n, const int *ints) {
    dn_tape *t = dn__handle_tape(a);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    return (int)left(t, ints_set(t, a, n, ints));
}

/* ---- parameters of this graph -------------------------------------------------------------------------------------- */

int dn__retain_root(dn_tape *t, dn_root *root) {
    for (int i = 0; i < t->n_roots; i++)
        if (t->roots[i].root == root) return 0;
    if (DN_GROW(t->roots, t->roots_capacity, t->n_roots + 1)) return dn__no_memory(t);
    dn__root_retain(root);
    t->roots[t->n_roots++] = (dn_used_root){.root = root, .version = -1};
    return 0;
}

/* The slot of a parameter's handle in the table param_nodes, which has room. */
static int param_slot(const dn_tape *t, int64_t handle) {
    uint64_t h = (uint64_t)handle * 0x9E3779B97F4A7C15u;
    int mask = t->param_capacity - 1, i = (int)(h >> 32) & mask;
    while (t->param_nodes[i].epoch == t->param_epoch && t->param_nodes[i].handle != handle) i = (i + 1) & mask;
    return i;
}

static int param_table_grow(dn_tape *t) {
    int old_capacity = t->param_capacity;
    void *old_memory = t->param_nodes;
    __typeof__(t->param_nodes) old = old_memory, grown = calloc(old_capacity ? (size_t)old_capacity * 2 : 32, sizeof *old);
    if (!grown) return dn__no_memory(t);
    t->param_nodes = grown;
    t->param_capacity = old_capacity ? old_capacity * 2 : 32;
    for (int i = 0; i < old_capacity; i++)
        if (old[i].epoch == t->param_epoch) t->param_nodes[param_slot(t, old[i].handle)] = old[i];
    free(old_memory);
    return 0;
}

static int new_param_node(dn_tape *t, int64_t handle, dn_param *p, int constant) {
    if (t->param_count * 2 >= t->param_capacity && param_table_grow(t)) return DN_ERROR_MEMORY;
    if (dn__retain_root(t, p->root)) return DN_ERROR_MEMORY;
    int i = dn__make(t, dn_ops[DN_OP_parameter], 0, NULL, 0, NULL, 0, NULL, p, constant);
    if (i < 0) return i;
    int slot = param_slot(t, handle);
    t->param_count += t->param_nodes[slot].epoch != t->param_epoch;
    t->param_nodes[slot].handle = handle;
    t->param_nodes[slot].node = i;
    t->param_nodes[slot].epoch = t->param_epoch;
    return i;
}

int dn__param_node(dn_tape *t, int64_t handle, dn_param *p, int constant) {
    const int slot = t->param_capacity ? param_slot(t, handle) : -1;
    if (slot >= 0 && t->param_nodes[slot].epoch == t->param_epoch) {
        const int i = t->param_nodes[slot].node;
        /* after a revert the entry may be of a node that is gone */
        if (i < t->n_nodes && t->nodes[i].op == dn_ops[DN_OP_parameter] && t->nodes[i].param == p && t->nodes[i].constant == constant)
            return i;
    }
    return new_param_node(t, handle, p, constant);
}

static int64_t make_lookup(dn_tape *t, int op, int64_t table, int n, const int *rows) {
    int constant;
    dn_param *p = dn__handle_param(table, &constant);
    DN_ENTER(t);
    if (!p || !p->rows) return left(t, dn__tape_fail(t, DN_ERROR_VALUE, "lookup: the first argument must be a LookupParameters object"));
    if (dn__retain_root(t, p->root)) return left(t, DN_ERROR_MEMORY);
    return left(t, dn__finish(t, dn__make(t, dn_ops[op], 0, NULL, n, rows, 0, NULL, p, constant)));
}
int64_t dn_lookup(int graph, int64_t table, int row) { return make_lookup(dn__graph_tape(graph), DN_OP_lookup, table, 1, &row); }
int64_t dn_lookup_batch(int graph, int64_t table, int n, const int *rows) {
    return make_lookup(dn__graph_tape(graph), DN_OP_lookup_batch, table, n, rows);
}

static const dn_node_calls NODE_CALLS = {
#define DN_NODE_ADDRESS(result, name, params, args) dn_##name,
    DN_NODE_CALLS(DN_NODE_ADDRESS)};
void *dn_node_table(void) { return (void *)&NODE_CALLS; }

