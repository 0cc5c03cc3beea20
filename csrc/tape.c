/* The node table: making nodes, forward, checkpoint and revert. Backward is in backward.c. */
#include "tape.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rng.h"

#define DN_OP_DECLARE(name) extern const dn_op dn_op_##name;
#define DN_OP_ITEM DN_OP_DECLARE
#include "op_list.h"
#undef DN_OP_ITEM
#define DN_OP_ADDRESS(name) &dn_op_##name,
const dn_op *const dn_ops[DN_OP_COUNT] = {
#define DN_OP_ITEM DN_OP_ADDRESS
#include "op_list.h"
#undef DN_OP_ITEM
};

const char *dn_op_name(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->name : NULL; }
const char *dn_op_formula(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->formula : NULL; }
int dn_op_flags(int op) { return op >= 0 && op < DN_OP_COUNT ? dn_ops[op]->flags : 0; }

/* ---- small things ------------------------------------------------------------------------------------------------ */

static const char STALE[] = "expression belongs to a graph that renew_cg() or cg_revert() closed, or to another thread. "
                            "Build it again in this graph.";

int dn__tape_enter(dn_tape *t) { return __atomic_exchange_n(&t->busy, 1, __ATOMIC_ACQUIRE) ? DN_ERROR_BUSY : 0; }
void dn__tape_leave(dn_tape *t) { __atomic_store_n(&t->busy, 0, __ATOMIC_RELEASE); }

int dn__tape_fail(dn_tape *t, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t->message, DN_MESSAGE, format, args);
    va_end(args);
    return error;
}

static int no_memory(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory"); }

const char *dn_message(dn_tape *t) { return t->message; }

int dn__grow(void **array, int *capacity, int wanted, size_t element) {
    if (wanted <= *capacity) return 0;
    int64_t n = *capacity ? (int64_t)*capacity * 2 : 64;
    if (n < wanted) n = wanted;
    void *p = n > INT32_MAX ? NULL : realloc(*array, (size_t)n * element);
    if (!p) return DN_ERROR_MEMORY;
    *array = p;
    *capacity = (int)n;
    return 0;
}
#define GROW(array, capacity, wanted) dn__grow((void **)&(array), &(capacity), wanted, sizeof *(array))

/* ---- life ---------------------------------------------------------------------------------------------------------- */

dn_tape *dn_tape_new(int64_t first_epoch, int n) {
    dn_tape *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->epoch = first_epoch;
    t->last_epoch = first_epoch + n - 1;
    t->swept_root = -1;
    t->param_epoch = 1;
    return t;
}

static void release_roots(dn_tape *t, int from) {
    for (int i = from; i < t->n_roots; i++) dn__root_release(t->roots[i].root);
    t->n_roots = from;
}

void dn_tape_free(dn_tape *t) {
    if (!t) return;
    release_roots(t, 0);
    dn__arena_free(&t->values);
    dn__arena_free(&t->copies);
    dn__arena_free(&t->grads);
    dn__arena_free(&t->data);
    dn__arena_free(&t->scratch);
    free(t->nodes);
    free(t->args);
    free(t->ints);
    free(t->reals);
    free(t->marks);
    free(t->param_nodes);
    free(t->roots);
    free(t->products);
    free(t->in);
    free(t->xdims);
    free(t);
}

static void start_graph(dn_tape *t, int immediate, int check_finite) {
    t->version++;
    t->immediate = immediate;
    t->check_finite = check_finite;
    t->n_nodes = t->evaluated = t->dropped = 0;
    t->n_args = t->n_ints = t->n_reals = t->n_marks = t->n_products = 0;
    t->swept_root = -1;
    t->param_epoch++;
    t->param_count = 0;
    t->counter++;
    release_roots(t, 0);
    dn__arena_reset(&t->values, (dn_arena_mark){0});
    dn__arena_reset(&t->copies, (dn_arena_mark){0});
    dn__arena_reset(&t->grads, (dn_arena_mark){0});
    dn__arena_reset(&t->data, (dn_arena_mark){0});
}

int dn_renew(void *tape) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
    if (t->epoch >= t->last_epoch) return DN_ERROR_STATE;
    t->epoch++;
    start_graph(t, 0, 0);
    return 0;
}

static void set_epochs(dn_tape *t, int64_t first_epoch, int n) {
    t->epoch = first_epoch;
    t->last_epoch = first_epoch + n - 1;
}

int dn_tape_renew(dn_tape *t, int64_t first_epoch, int n, int immediate, int check_finite) {
    int error = dn__tape_enter(t);
    if (error) return error;
    set_epochs(t, first_epoch, n);
    start_graph(t, immediate, check_finite);
    dn__tape_leave(t);
    return 0;
}

int64_t dn_tape_version(dn_tape *t) { return t->version; }

void dn_tape_seed(dn_tape *t, uint64_t seed, uint64_t stream) {
    t->seed = seed;
    t->stream = stream;
    t->counter = 0;
}

int dn_tape_checkpoint(dn_tape *t) {
    int error = dn__tape_enter(t);
    if (error) return error;
    error = GROW(t->marks, t->marks_capacity, t->n_marks + 1);
    if (!error)
        t->marks[t->n_marks++] = (dn_mark){t->n_nodes, t->evaluated, t->n_args, t->n_ints, t->n_reals, t->n_roots,
                                           dn__arena_mark(&t->values), dn__arena_mark(&t->data)};
    else
        no_memory(t);
    dn__tape_leave(t);
    return error;
}

int dn_tape_revert(dn_tape *t, int64_t first_epoch, int n) {
    int error = dn__tape_enter(t);
    if (error) return error;
    if (t->n_marks) {
        dn_mark m = t->marks[--t->n_marks];
        t->dropped += t->n_nodes - m.nodes;
        t->n_nodes = m.nodes;
        t->n_args = m.args;
        t->n_ints = m.ints;
        t->n_reals = m.reals;
        /* Nodes from before the mark that were computed after it have their values above it: compute them again (the same draws). */
        if (t->evaluated > m.evaluated) t->evaluated = m.evaluated;
        dn__arena_reset(&t->values, m.values);
        dn__arena_reset(&t->data, m.data);
        release_roots(t, m.roots);
        t->swept_root = -1;
        set_epochs(t, first_epoch, n);
    }
    dn__tape_leave(t);
    return 0;
}

int dn_tape_size(dn_tape *t) { return t->n_nodes; }

int64_t dn_tape_bytes(dn_tape *t) {
    return (int64_t)(dn__arena_bytes(&t->values) + dn__arena_bytes(&t->copies) + dn__arena_bytes(&t->grads) + dn__arena_bytes(&t->data) +
                     dn__arena_bytes(&t->scratch) + (size_t)t->nodes_capacity * sizeof(dn_node));
}

/* ---- handles ------------------------------------------------------------------------------------------------------- */

static int64_t handle_of(const dn_tape *t, int i) { return t->nodes[i].epoch << DN_INDEX_BITS | i; }

static int param_node(dn_tape *t, int64_t handle, dn_param *p, int constant);

int dn__find(dn_tape *t, int64_t handle) {
    int64_t i = handle & (((int64_t)1 << DN_INDEX_BITS) - 1);
    if (handle >= 0 && i < t->n_nodes && t->nodes[i].epoch == handle >> DN_INDEX_BITS) return (int)i;
    int constant;
    dn_param *p = dn__handle_param(handle, &constant);
    if (p) return param_node(t, handle, p, constant);
    return dn__tape_fail(t, DN_ERROR_STALE, "%s", STALE);
}

int64_t dn_tape_node(dn_tape *t, int index) {
    return index >= 0 && index < t->n_nodes ? handle_of(t, index)
                                            : dn__tape_fail(t, DN_ERROR_VALUE, "node %d: this graph has %d nodes", index, t->n_nodes);
}
/* Calls that may be asked about a tape that another thread computes with. */
#define ENTER(t)                           \
    do {                                   \
        int busy_ = dn__tape_enter(t);     \
        if (busy_) return busy_;           \
    } while (0)

int dn_index(dn_tape *t, int64_t a) {
    ENTER(t);
    int i = dn__find(t, a);
    dn__tape_leave(t);
    return i;
}

int64_t dn_resolve(dn_tape *t, int64_t a) {
    ENTER(t);
    int i = dn__find(t, a);
    int64_t handle = i < 0 ? i : handle_of(t, i);
    dn__tape_leave(t);
    return handle;
}

int dn_node_dim(dn_tape *t, int64_t a, dn_dim *out) {
    ENTER(t);
    int i = dn__find(t, a);
    if (i >= 0) *out = t->nodes[i].dim;
    dn__tape_leave(t);
    return i < 0 ? i : 0;
}

int dn_node_op(dn_tape *t, int64_t a) {
    ENTER(t);
    int i = dn__find(t, a), op = 0;
    while (i >= 0 && dn_ops[op] != t->nodes[i].op) op++;
    dn__tape_leave(t);
    return i < 0 ? i : op;
}

int64_t dn_node_input(dn_tape *t, int64_t a, int n) {
    ENTER(t);
    int i = dn__find(t, a);
    int64_t handle = i < 0 ? i : n < 0 || n >= t->nodes[i].n_args ? DN_ERROR_VALUE : handle_of(t, t->args[t->nodes[i].args + n]);
    dn__tape_leave(t);
    return handle;
}

/* ---- making nodes -------------------------------------------------------------------------------------------------- */

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

static int compute(dn_tape *t, int i);

/* Appends a node. `inputs` are indices; `param` is NULL but for parameter and lookup nodes, whose dims are asked with the table's dim. */
static int make(dn_tape *t, const dn_op *op, int n, const int *inputs, int n_ints, const int *ints, int n_reals, const double *reals,
                dn_param *param, int constant) {
    if (t->n_nodes >= 1 << DN_INDEX_BITS)
        return dn__tape_fail(t, DN_ERROR_VALUE, "a graph holds at most %d nodes. Call renew_cg() for each example or batch.",
                             1 << DN_INDEX_BITS);
    if (GROW(t->nodes, t->nodes_capacity, t->n_nodes + 1) || GROW(t->args, t->args_capacity, t->n_args + n) ||
        GROW(t->ints, t->ints_capacity, t->n_ints + n_ints) || GROW(t->reals, t->reals_capacity, t->n_reals + n_reals))
        return no_memory(t);
    if (n + 1 > t->call_capacity) {
        int capacity = t->call_capacity;
        if (GROW(t->in, capacity, n + 1)) return no_memory(t);
        capacity = t->call_capacity;
        if (GROW(t->xdims, capacity, n + 1)) return no_memory(t);
        t->call_capacity = capacity;
    }
    dn_shape s = {.op = op->name, .n = n, .n_ints = n_ints, .n_reals = n_reals, .x = t->xdims, .ints = ints, .reals = reals,
                  .message = t->message};
    int needs_grad = 0;
    for (int i = 0; i < n; i++) {
        t->xdims[i] = &t->nodes[inputs[i]].dim;
        needs_grad |= t->nodes[inputs[i]].needs_grad;
    }
    if (param) {
        t->xdims[0] = &param->dim;
        s.n = 1;
        needs_grad = param->updated && !constant;
    }
    int error = op->dims(&s);
    if (error < 0) return error;
    if (s.y.size * (int64_t)s.y.batch + (int64_t)s.saved > PTRDIFF_MAX / (int64_t)sizeof(dn_real)) return no_memory(t);

    int index = t->n_nodes;
    dn_node *node = &t->nodes[index];
    *node = (dn_node){.op = op, .epoch = t->epoch, .dim = s.y, .n_args = n, .args = t->n_args, .n_ints = n_ints, .ints = t->n_ints,
                      .n_reals = n_reals, .reals = t->n_reals, .ordinal = t->dropped + index, .products = -1, .saved = s.saved,
                      .needs_grad = (uint8_t)(needs_grad && !(op->flags & DN_NO_GRAD)), .constant = (uint8_t)constant, .param = param};
    for (int i = 0; i < n; i++) t->args[t->n_args++] = inputs[i];
    for (int i = 0; i < n_ints; i++) t->ints[t->n_ints++] = ints[i];
    for (int i = 0; i < n_reals; i++) t->reals[t->n_reals++] = reals[i];
    t->n_nodes++;
    return index;
}

/* The last step of each node-making call: immediate mode, and the handle. */
static int64_t finish(dn_tape *t, int i) {
    if (i < 0) return i;
    if (t->immediate) {
        int error = 0;
        for (; t->evaluated <= i && !error;) {
            error = compute(t, t->evaluated);
            if (!error) t->evaluated++;
        }
        if (error) return error;
        const dn_node *node = &t->nodes[i];
        size_t total = dn__elements(&node->dim);
        for (size_t j = 0; t->check_finite && j < total; j++)
            if (!isfinite(node->value[j]))
                return dn__tape_fail(t, DN_ERROR_NONFINITE, "%s: NaN or Inf detected at element %zu of %s.", node->op->name, j,
                                     DIMS(&node->dim));
    }
    return handle_of(t, i);
}

static const dn_op *checked_op(dn_tape *t, int op, int n) {
    if (t->busy) return NULL;
    if (op < 0 || op >= DN_OP_COUNT || dn_ops[op]->flags & DN_LEAF) {
        dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d does not exist or takes no inputs", op);
        return NULL;
    }
    if (dn_ops[op]->inputs >= 0 ? n != dn_ops[op]->inputs : n < 1) {
        dn__tape_fail(t, DN_ERROR_VALUE, "%s: takes %d inputs; got %d.", dn_ops[op]->name, dn_ops[op]->inputs, n);
        return NULL;
    }
    return dn_ops[op];
}
static int64_t bad_op(const dn_tape *t) { return t->busy ? DN_ERROR_BUSY : DN_ERROR_VALUE; }

/* Nodes of up to three inputs, the most frequent ones, without arrays on the way. */
static int64_t make_small(dn_tape *t, int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals,
                          const double *reals) {
    const dn_op *o = checked_op(t, op, n);
    if (!o) return bad_op(t);
    int inputs[3];
    for (int i = 0; i < n; i++)
        if ((inputs[i] = dn__find(t, handles[i])) < 0) return inputs[i];
    return finish(t, make(t, o, n, inputs, n_ints, ints, n_reals, reals, NULL, 0));
}

int64_t dn_node1(void *tape, int op, int64_t a) { return make_small(tape, op, 1, &a, 0, NULL, 0, NULL); }
int64_t dn_node2(void *tape, int op, int64_t a, int64_t b) {
    return make_small(tape, op, 2, (int64_t[]){a, b}, 0, NULL, 0, NULL);
}
int64_t dn_node3(void *tape, int op, int64_t a, int64_t b, int64_t c) {
    return make_small(tape, op, 3, (int64_t[]){a, b, c}, 0, NULL, 0, NULL);
}
int64_t dn_node1_int(void *tape, int op, int64_t a, int i) { return make_small(tape, op, 1, &a, 1, &i, 0, NULL); }
int64_t dn_node1_real(void *tape, int op, int64_t a, double r, double s) {
    return make_small(tape, op, 1, &a, 0, NULL, 2, (double[]){r, s});
}

int64_t dn_node_many(void *tape, int op, int n, const int64_t *handles, int n_ints, const int *ints, int n_reals, const double *reals) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
    if (op < 0 || op >= DN_OP_COUNT || n < 0) return dn__tape_fail(t, DN_ERROR_VALUE, "operation number %d does not exist", op);
    const dn_op *o = dn_ops[op];
    if (!(o->flags & DN_LEAF) && !(o = checked_op(t, op, n))) return bad_op(t);
    int small[16], *inputs = n <= 16 ? small : malloc((size_t)n * sizeof *inputs);
    if (!inputs) return no_memory(t);
    int i = 0;
    for (; i < n; i++)
        if ((inputs[i] = dn__find(t, handles[i])) < 0) break;
    int64_t result = i < n ? inputs[i] : finish(t, make(t, o, n, inputs, n_ints, ints, n_reals, reals, NULL, 0));
    if (inputs != small) free(inputs);
    return result;
}

int64_t dn_parts(void *tape, int64_t owner, int first, int n, int size) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
    int i = dn__find(t, owner), begin = t->n_nodes;
    if (i < 0) return i;
    if (n < 1) return dn__tape_fail(t, DN_ERROR_VALUE, "part: takes at least one part; got %d.", n);
    int batch = t->nodes[i].dim.batch;
    int64_t handle = 0;
    for (int k = 0; k < n && handle >= 0; k++) {
        int64_t offset = (int64_t)(first + k) * size * batch;
        int ints[] = {offset > INT32_MAX ? -1 : (int)offset, batch, size};
        handle = finish(t, make(t, dn_ops[DN_OP_part], 1, &i, 3, ints, 0, NULL, NULL, 0));
    }
    return handle < 0 ? handle : handle_of(t, begin);
}

int64_t dn_input(void *tape, int n_dims, const int *dims, int batch, const dn_real *data) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
    int ints[DN_MAX_DIMS + 1] = {batch};
    if (n_dims < 0 || n_dims > DN_MAX_DIMS) return dn__tape_fail(t, DN_ERROR_VALUE, "input: at most %d dims; got %d.", DN_MAX_DIMS, n_dims);
    for (int i = 0; i < n_dims; i++) ints[i + 1] = dims[i];
    int index = make(t, dn_ops[DN_OP_input], 0, NULL, n_dims + 1, ints, 0, NULL, NULL, 0);
    if (index < 0) return index;
    size_t bytes = dn__elements(&t->nodes[index].dim) * sizeof(dn_real);
    dn_real *memory = dn__arena_take(&t->data, bytes);
    if (!memory) {
        t->n_nodes--;
        return no_memory(t);
    }
    if (data) memcpy(memory, data, bytes);
    else memset(memory, 0, bytes);
    t->nodes[index].data = memory;
    return finish(t, index);
}

int64_t dn_input_vector(void *tape, int n, const dn_real *data) { return dn_input(tape, 1, &n, 1, data); }

int64_t dn_input_scalar(void *tape, double value) {
    dn_real x = (dn_real)value;
    return dn_input(tape, 1, (int[]){1}, 1, &x);
}

static void forget_values(dn_tape *t) {
    t->evaluated = 0;
    t->counter++;
    for (int i = 0; i < t->n_roots; i++) t->roots[i].version = -1;
    /* marks that point above the bottom would keep what is now forgotten: let them begin at the bottom, too */
    for (int i = 0; i < t->n_marks; i++) {
        t->marks[i].evaluated = 0;
        t->marks[i].values = (dn_arena_mark){0};
    }
    dn__arena_reset(&t->values, (dn_arena_mark){0});
    dn__arena_reset(&t->copies, (dn_arena_mark){0});
}

int dn_input_set(void *tape, int64_t a, int64_t n, const dn_real *data) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
    int i = dn__find(t, a);
    if (i < 0) return i;
    dn_node *node = &t->nodes[i];
    if (node->op != dn_ops[DN_OP_input])
        return dn__tape_fail(t, DN_ERROR_STATE, "set: only inputs can be set; this is a node of %s.", node->op->name);
    if (n != (int64_t)dn__elements(&node->dim))
        return dn__tape_fail(t, DN_ERROR_VALUE, "set: the number of values must equal the size of the input; got %lld values for %s.",
                             (long long)n, DIMS(&node->dim));
    memcpy((dn_real *)node->data, data, (size_t)n * sizeof *data);
    forget_values(t);
    return 0;
}

int dn_ints_set(void *tape, int64_t a, int n, const int *ints) {
    dn_tape *t = tape;
    if (t->busy) return DN_ERROR_BUSY;
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
    memcpy(t->ints + node->ints, ints, (size_t)n * sizeof *ints);
    forget_values(t);
    return 0;
}

/* ---- parameters of this graph -------------------------------------------------------------------------------------- */

static int retain_root(dn_tape *t, dn_root *root) {
    for (int i = 0; i < t->n_roots; i++)
        if (t->roots[i].root == root) return 0;
    if (GROW(t->roots, t->roots_capacity, t->n_roots + 1)) return no_memory(t);
    dn__root_retain(root);
    t->roots[t->n_roots++] = (dn_used_root){root, -1};
    return 0;
}

void dn__use_root(dn_tape *t, dn_root *root) {
    for (int i = 0; i < t->n_roots; i++)
        if (t->roots[i].root == root && t->roots[i].version < 0) t->roots[i].version = root->version;
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
    if (!grown) return no_memory(t);
    t->param_nodes = grown;
    t->param_capacity = old_capacity ? old_capacity * 2 : 32;
    for (int i = 0; i < old_capacity; i++)
        if (old[i].epoch == t->param_epoch) t->param_nodes[param_slot(t, old[i].handle)] = old[i];
    free(old_memory);
    return 0;
}

static int param_node(dn_tape *t, int64_t handle, dn_param *p, int constant) {
    if (t->param_count * 2 >= t->param_capacity && param_table_grow(t)) return DN_ERROR_MEMORY;
    int slot = param_slot(t, handle);
    if (t->param_nodes[slot].epoch == t->param_epoch) {
        int i = t->param_nodes[slot].node;
        /* after a revert the entry may be of a node that is gone */
        if (i < t->n_nodes && t->nodes[i].op == dn_ops[DN_OP_parameter] && t->nodes[i].param == p && t->nodes[i].constant == constant)
            return i;
    } else {
        t->param_count++;
    }
    if (retain_root(t, p->root)) return DN_ERROR_MEMORY;
    int i = make(t, dn_ops[DN_OP_parameter], 0, NULL, 0, NULL, 0, NULL, p, constant);
    t->param_nodes[slot].handle = handle;
    t->param_nodes[slot].node = i < 0 ? INT32_MAX : i;
    t->param_nodes[slot].epoch = t->param_epoch;
    return i;
}

static int64_t make_lookup(dn_tape *t, int op, int64_t table, int n, const int *rows) {
    if (t->busy) return DN_ERROR_BUSY;
    int constant;
    dn_param *p = dn__handle_param(table, &constant);
    if (!p || !p->rows) return dn__tape_fail(t, DN_ERROR_VALUE, "lookup: the first argument must be a LookupParameters object");
    if (retain_root(t, p->root)) return DN_ERROR_MEMORY;
    return finish(t, make(t, dn_ops[op], 0, NULL, n, rows, 0, NULL, p, constant));
}
int64_t dn_lookup(void *tape, int64_t table, int row) { return make_lookup(tape, DN_OP_lookup, table, 1, &row); }
int64_t dn_lookup_batch(void *tape, int64_t table, int n, const int *rows) {
    return make_lookup(tape, DN_OP_lookup_batch, table, n, rows);
}

static const dn_node_calls NODE_CALLS = {
#define DN_NODE_ADDRESS(result, name, params, args) dn_##name,
    DN_NODE_CALLS(DN_NODE_ADDRESS)};
void *dn_node_table(void) { return (void *)&NODE_CALLS; }

/* ---- forward ------------------------------------------------------------------------------------------------------- */

void dn__prepare_call(dn_tape *t, dn_node *node, dn_call *c) {
    const int32_t *args = t->args + node->args;
    for (int k = 0; k < node->n_args; k++) {
        const dn_node *x = &t->nodes[args[k]];
        t->in[k] = (dn_in){&x->dim, x->value, x->dim.batch == 1 ? 0 : (size_t)x->dim.size};
    }
    *c = (dn_call){.n = node->n_args, .x = t->in, .dim = &node->dim, .total = dn__elements(&node->dim), .y = node->value,
                   .saved = node->saved_memory, .ints = t->ints + node->ints, .reals = t->reals + node->reals, .n_ints = node->n_ints,
                   .node = node, .tape = t};
}

enum { ALIGN_NUMBERS = 16 };

static int compute(dn_tape *t, int i) {
    dn_node *node = &t->nodes[i];
    dn_call c;
    dn__prepare_call(t, node, &c);
    if (!(node->op->flags & DN_VIEW)) {
        size_t y_size = (c.total + ALIGN_NUMBERS - 1) & ~(size_t)(ALIGN_NUMBERS - 1);
        node->value = c.y = dn__arena_take(&t->values, (y_size + node->saved) * sizeof(dn_real));
        if (!c.y) return no_memory(t);
        node->saved_memory = c.saved = c.y + y_size;
    }
    node->op->forward(&c);
    if (node->op->flags & DN_VIEW) {
        node->value = c.y;
        node->copied = 0;
    }
    if (t->scratch.n_chunks) dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    if (t->out_of_memory) {
        t->out_of_memory = 0;
        return no_memory(t);
    }
    return 0;
}

int64_t dn__work(const dn_tape *t, const dn_node *node) {
    int64_t work = 64 + (int64_t)dn__elements(&node->dim);
    for (int k = 0; k < node->n_args; k++) work += (int64_t)dn__elements(&t->nodes[t->args[node->args + k]].dim);
    return work;
}

int dn__forward(dn_tape *t, int last, int64_t work) {
    while (t->evaluated <= last) {
        if (work <= 0) return 1;
        work -= dn__work(t, &t->nodes[t->evaluated]);
        int error = compute(t, t->evaluated);
        if (error) return error;
        t->evaluated++;
    }
    return 0;
}

int dn_forward(dn_tape *t, int64_t a, int64_t work) {
    ENTER(t);
    int last = dn__find(t, a), result = last < 0 ? last : dn__forward(t, last, work);
    dn__tape_leave(t);
    return result;
}

double dn_scalar(dn_tape *t, int64_t a, int64_t work) {
    double value = NAN;
    if (dn__tape_enter(t)) return value;
    int i = dn__find(t, a);
    /* parameters are left to dn_value, which copies what is read */
    if (i >= 0 && t->nodes[i].dim.size == 1 && t->nodes[i].dim.batch == 1 && t->nodes[i].dim.nd < 2 && !t->nodes[i].param &&
        dn__forward(t, i, work) == 0)
        value = (double)t->nodes[i].value[0];
    dn__tape_leave(t);
    return value;
}

int dn_tape_invalidate(dn_tape *t) {
    ENTER(t);
    forget_values(t);
    dn__tape_leave(t);
    return 0;
}

const dn_real *dn_value(dn_tape *t, int64_t a) {
    if (dn__tape_enter(t)) return NULL;
    int i = dn__find(t, a);
    const dn_real *value = NULL;
    if (i >= 0 && i < t->evaluated) {
        dn_node *node = &t->nodes[i];
        if (node->param && node->op->flags & DN_VIEW && !node->copied) {
            /* What was read stays: later readers in this graph see the value of now, whatever becomes of the parameter. */
            size_t bytes = dn__elements(&node->dim) * sizeof(dn_real);
            dn_real *copy = dn__arena_take(&t->copies, bytes);
            if (copy) {
                node->value = memcpy(copy, node->value, bytes);
                node->copied = 1;
            }
        }
        value = node->value;
    } else if (i >= 0) {
        dn__tape_fail(t, DN_ERROR_STATE, "the value of this expression was not computed");
    }
    dn__tape_leave(t);
    return value;
}

dn_real *dn__scratch(dn_call *c, size_t n) {
    dn_real *p = dn__arena_take(&c->tape->scratch, n * sizeof *p);
    if (!p) c->tape->out_of_memory = 1;
    return p;
}

void dn__draw_key(const dn_call *c, struct dn_draw *out) {
    *out = (struct dn_draw){.seed = c->tape->seed, .stream = c->tape->stream, .counter = c->tape->counter,
                            .node = (uint32_t)c->node->ordinal};
}
