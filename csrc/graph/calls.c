/* The calls that make nodes: dims are inferred, errors phrased, the node appended, and computed
 * where values are wanted at once. They keep Python's lock; a tape that another thread computes
 * with is busy. */
#include <stdlib.h>
#include <string.h>

#include "kernels/each.h"
#include "tape/make.h"
#include "schedule/schedule.h"

static const dn_op *checked_op(dn_tape *t, int op, int n) {
    if (op < 0 || op >= DN_OP_COUNT || dn_ops[op]->flags & DN_LEAF ||
        dn_ops[op]->flags & DN_TRACED) {
        dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d does not exist or takes no inputs",
                      op);
        return NULL;
    }
    if (dn_ops[op]->inputs >= 0 ? n != dn_ops[op]->inputs : n < 1) {
        dn__tape_fail(t, DN_ERROR_VALUE, "%s: takes %d inputs; got %d.", dn_ops[op]->name,
                      dn_ops[op]->inputs, n);
        return NULL;
    }
    return dn_ops[op];
}

/* The graph of the first input that is a node; parameters go along. */
static dn_tape *tape_of(int n, const int64_t *handles) {
    dn_tape *t = NULL;
    for (int i = 0; i < n && !t; i++) t = dn__handle_tape(handles[i]);
    return t;
}

/* Outputs first, first + 1, ... of node i, `size` numbers each; the index of the first. */
static int make_output_views(dn_tape *t, int i, int first, int n, int size) {
    const int begin = t->n.nodes, batch = t->nodes[i].dim.batch;
    for (int k = 0; k < n; k++) {
        int64_t offset = (int64_t)(first + k) * size * batch;
        int ints[] = {offset > INT32_MAX ? -1 : (int)offset, batch, size};
        int64_t handle =
            dn__finish(t, dn__make(t, dn_ops[DN_OP_output_view], 1, &i, 3, ints, 0, NULL, NULL));
        if (handle < 0) return (int)handle;
    }
    return begin;
}

/* parts: how many outputs are made, too, the first of which is the result; 0: none */
static int64_t make_many(int op, int n, const int64_t *handles, int n_ints, const int *ints,
                         int n_floats, const double *floats, int parts) {
    dn_tape *t = tape_of(n, handles);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    const dn_op *o = checked_op(t, op, n);
    if (!o) return DN_ERROR_VALUE;
    int small[16], *inputs = n <= 16 ? small : malloc((size_t)n * sizeof *inputs);
    if (!inputs) return dn__no_memory(t);
    int i = 0;
    for (; i < n; i++)
        if ((inputs[i] = dn__find(t, handles[i])) < 0) break;
    int64_t result =
        i < n ? inputs[i] : dn__make(t, o, n, inputs, n_ints, ints, n_floats, floats, NULL);
    if (inputs != small) free(inputs);
    const int owner = (int)result;
    result = dn__finish(t, owner);
    if (result < 0 || !parts) return result;
    const int first =
        make_output_views(t, owner, 0, parts, t->nodes[owner].dim.size / t->nodes[owner].parts);
    return first < 0 ? first : dn__handle(t, first);
}

/* A node of one or two inputs without attributes, the most frequent kind: no arrays on the way. */
static int64_t make_small(int op, int n, const int64_t *handles) {
    dn_tape *t = dn__handle_tape(handles[0]);
    if (!t && n == 2) t = dn__handle_tape(handles[1]);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    const dn_op *o = checked_op(t, op, n);
    if (!o) return DN_ERROR_VALUE;
    int inputs[2];
    if ((inputs[0] = dn__find(t, handles[0])) < 0) return inputs[0];
    if (n == 2 && (inputs[1] = dn__find(t, handles[1])) < 0) return inputs[1];
    return dn__finish(t, dn__make_plain(t, o, n, inputs));
}

int64_t dn_node_many(int op, int n, const int64_t *handles, int n_ints, const int *ints,
                     int n_floats, const double *floats) {
    if ((n == 1 || n == 2) && !n_ints && !n_floats) return make_small(op, n, handles);
    return make_many(op, n, handles, n_ints, ints, n_floats, floats, 0);
}

int64_t dn_node_with_views(int op, int n, const int64_t *handles, int n_ints, const int *ints,
                           int n_floats, const double *floats, int parts) {
    return make_many(op, n, handles, n_ints, ints, n_floats, floats, parts);
}

int64_t dn_tree_node(const int64_t *weights, int n_ary, int64_t x, int n, int64_t first,
                     int64_t second) {
    const int64_t children[] = {first, second}, states[] = {first + 1, second + 1};
    int64_t handles[11];
    int at = 6, ints[] = {n > 2 ? 2 : n < 0 ? 0 : n, x != 0, n_ary};
    memcpy(handles, weights, 6 * sizeof *handles);
    if (x) handles[at++] = x;
    for (int i = 0; i < ints[0]; i++) handles[at++] = children[i];
    for (int i = 0; i < ints[0]; i++) handles[at++] = states[i];
    return make_many(DN_OP_tree_lstm, at, handles, 3, ints, 0, NULL, 2);
}

int64_t dn_leaf(int graph, int op, int n_ints, const int *ints, int n_floats,
                const double *floats) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    if (op < 0 || op >= DN_OP_COUNT || dn_ops[op]->inputs)
        return dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d takes inputs", op);
    return dn__finish(t, dn__make(t, dn_ops[op], 0, NULL, n_ints, ints, n_floats, floats, NULL));
}

int64_t dn_output_views(int64_t owner, int first, int n, int size) {
    dn_tape *t = dn__handle_tape(owner);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int i = dn__find(t, owner);
    if (i < 0) return i;
    if (n < 1)
        return dn__tape_fail(t, DN_ERROR_VALUE, "output_view: takes at least one output; got %d.",
                             n);
    const int begin = make_output_views(t, i, first, n, size);
    return begin < 0 ? begin : dn__handle(t, begin);
}

static void copy_doubles(int64_t n, const double *from, dn_real *to) {
    for (int64_t i = 0; i < n; i++) to[i] = (dn_real)from[i];
}

/* What it holds comes from data or from numbers; both NULL: zeros. */
static int64_t input(dn_tape *t, int n_dims, const int *dims, int batch, const dn_real *data,
                     const double *numbers) {
    int ints[DN_MAX_DIMS + 1] = {batch};
    if (n_dims < 0 || n_dims > DN_MAX_DIMS)
        return dn__tape_fail(t, DN_ERROR_VALUE, "input: at most %d dims; got %d.", DN_MAX_DIMS,
                             n_dims);
    for (int i = 0; i < n_dims; i++) ints[i + 1] = dims[i];
    int index = dn__make(t, dn_ops[DN_OP_input], 0, NULL, n_dims + 1, ints, 0, NULL, NULL);
    if (index < 0) return index;
    size_t n = dn__elements(&t->nodes[index].dim), bytes = n * sizeof(dn_real);
    dn_real *memory = dn__arena_take(&t->data, bytes);
    if (!memory) { /* as if it had never been made */
        t->n.nodes--;
        t->n.ints -= n_dims + 1;
        t->work_made -= t->nodes[index].work;
        return dn__no_memory(t);
    }
    if (data) dn__copy(n, data, memory);
    else if (numbers) copy_doubles((int64_t)n, numbers, memory);
    else memset(memory, 0, bytes);
    t->nodes[index].given = memory;
    return dn__finish(t, index);
}

int64_t dn_input(int graph, int n_dims, const int *dims, int batch, const dn_real *data) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return input(t, n_dims, dims, batch, data, NULL);
}

int64_t dn_input_numbers(int graph, int n_dims, const int *dims, int batch, const double *data) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return input(t, n_dims, dims, batch, NULL, data);
}

/* New contents of an input, from one of the two; values are forgotten. */
static int set_input_elements(int64_t a, int64_t n, const dn_real *data, const double *numbers) {
    DN_ENTER_NODE(a);
    const dn_node *node = &t->nodes[i];
    if (node->op != dn_ops[DN_OP_input])
        return dn__tape_fail(t, DN_ERROR_STATE,
                             "set: only inputs can be set; this is a node of %s.", node->op->name);
    if (n != (int64_t)dn__elements(&node->dim))
        return dn__tape_fail(
            t, DN_ERROR_VALUE,
            "set: the number of values must equal the size of the input; got %lld values for %s.",
            (long long)n, DIMS(&node->dim));
    dn__forget_values(t);
    if (numbers) copy_doubles(n, numbers, node->given);
    else if (data) dn__copy((size_t)n, data, node->given);
    return 0;
}

int dn_input_set(int64_t a, int64_t n, const dn_real *data) {
    return set_input_elements(a, n, data, NULL);
}
int dn_input_set_numbers(int64_t a, int64_t n, const double *data) {
    return set_input_elements(a, n, NULL, data);
}

int dn_ints_set(int64_t a, int n, const int *ints) {
    DN_ENTER_NODE(a);
    const int error = dn__change_ints(t, &t->nodes[i], n, ints);
    if (!error) dn__forget_values(t);
    return error;
}

/* ---- rows of tables ------------------------------------------------------------------- */

static int64_t make_lookup(dn_tape *t, int op, int64_t table, int n, const int *rows) {
    int constant;
    dn_param *p = dn__handle_param(table, &constant);
    DN_ENTER(t);
    if (!p || !p->rows)
        return dn__tape_fail(t, DN_ERROR_VALUE,
                             "lookup: the first argument must be a LookupParameters object");
    if (dn__retain_store(t, p->store)) return DN_ERROR_MEMORY;
    return dn__finish(t, dn__make(t, dn_ops[op], 0, NULL, n, rows, 0, NULL,
                                  &(dn_origin){p, constant, NULL}));
}
int64_t dn_lookup(int graph, int64_t table, int row) {
    return make_lookup(dn__graph_tape(graph), DN_OP_lookup, table, 1, &row);
}
int64_t dn_lookup_batch(int graph, int64_t table, int n, const int *rows) {
    return make_lookup(dn__graph_tape(graph), DN_OP_lookup_batch, table, n, rows);
}

static const dn_node_calls NODE_CALLS = {
#define DN_NODE_ADDRESS(result, name, params, args) dn_##name,
    DN_NODE_CALLS(DN_NODE_ADDRESS)};
const void *dn_node_table(void) { return &NODE_CALLS; }
