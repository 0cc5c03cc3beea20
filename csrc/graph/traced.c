/* Programs of traced functions: made from a traced graph, counted, and called. They are run by
 * csrc/ops/traced.c. */
#include <stdlib.h>
#include <string.h>

#include "tape/make.h"
#include "program.h"
#include "schedule/schedule.h"

enum { NOT_NEEDED = INT32_MAX, MOST_CAPTURED = 1000 };
struct dn_traced { dn_program *programs; };

/* ---- life ----------------------------------------------------------------------------- */

dn_traced *dn_traced_new(void) { return calloc(1, sizeof(dn_traced)); }

int64_t dn_traced_handle(dn_traced *traced) { return (int64_t)(intptr_t)traced; }

static void release(void *program) {
    dn_program *p = program;
    if (__atomic_sub_fetch(&p->references, 1, __ATOMIC_ACQ_REL)) return;
    for (int i = 0; i < p->n_captured && p->captured; i++)
        if (p->captured[i].store) dn__store_release(p->captured[i].store);
    for (int i = 0; i < p->n_nodes && p->nodes; i++) free(p->nodes[i].data);
    free(p->given);
    free(p->captured);
    free(p->nodes);
    free(p->outputs);
    free(p->blocks);
    free(p->leads);
    free(p->args);
    free(p->ints);
    free(p->floats);
    free(p);
}

void dn_traced_free(dn_traced *traced) {
    dn_program *next;
    for (dn_program *p = traced->programs; p; p = next) {
        next = p->next;
        release(p);
    }
    free(traced);
}

/* ---- tracing: the graph on which the function runs ------------------------------------ */

int dn_trace_begin(int graph, int outer) {
    dn_tape *t = dn__graph_tape(graph), *around = dn__graph_tape(outer);
    /* calls on the graph around it are errors until dn_trace_end */
    if (dn__tape_enter(around)) return DN_ERROR_BUSY;
    t->tracing = 1;
    return 0;
}

void dn_trace_end(int graph, int outer) {
    dn_tape *t = dn__graph_tape(graph);
    if (t->tracing) dn__tape_leave(dn__graph_tape(outer));
    t->tracing = 0;
}

/* What is needed for the outputs gets its place: place[i] >= 0, a node of the program; < 0, an
 * input of the traced function. */
typedef struct trace {
    dn_tape *t;
    dn_program *p;
    int last; /* the last node that is needed */
    int32_t *place;
    uint8_t *varies; /* may differ between members: depends on an argument */
} trace;

static int is_captured(const dn_node *node) { return node->param != NULL; }

/* Marks what the outputs need, and counts. */
static int mark_needed(trace *r, const int *given, const int *outputs) {
    const dn_tape *t = r->t;
    dn_program *p = r->p;
    for (int i = 0; i < t->n.nodes; i++) r->place[i] = NOT_NEEDED;
    for (int k = 0; k < p->n_outputs; k++) {
        r->place[outputs[k]] = 0;
        if (outputs[k] > r->last) r->last = outputs[k];
    }
    for (int i = r->last; i >= 0; i--) {
        const dn_node *node = &t->nodes[i];
        for (int k = 0; r->place[i] != NOT_NEEDED && k < node->n_args; k++)
            r->place[t->args[node->args + k]] = 0;
    }
    for (int k = 0; k < p->n_given; k++) r->place[given[k]] = INT32_MIN;
    for (int i = 0; i <= r->last; i++) {
        const dn_node *node = &t->nodes[i];
        if (r->place[i] == NOT_NEEDED || r->place[i] == INT32_MIN) continue;
        if (node->op == dn_ops[DN_OP_function])
            return dn__tape_fail(r->t, DN_ERROR_VALUE,
                                 "traced: operations written in Python cannot be traced. Call them "
                                 "outside of the function.");
        if (is_captured(node)) r->place[i] = -1 - p->n_captured++;
        else r->place[i] = p->n_nodes++;
        p->n_args += is_captured(node) ? 0 : node->n_args;
        p->n_ints += node->n_ints;
        p->n_floats += node->n_floats;
        if (node->n_args > p->most_inputs) p->most_inputs = node->n_args;
    }
    if (p->n_captured > MOST_CAPTURED)
        return dn__tape_fail(r->t, DN_ERROR_VALUE,
                             "traced: uses at most %d parameters and rows; got %d.", MOST_CAPTURED,
                             p->n_captured);
    for (int k = 0; k < p->n_given; k++) {
        r->place[given[k]] = -1 - p->n_captured - k;
        r->varies[given[k]] = 1;
    }
    return 0;
}

/* Whether the node's batch elements can be joined by those of other members of a group. */
static int joins(const trace *r, int i, int batch) {
    const dn_tape *t = r->t;
    const dn_node *node = &t->nodes[i];
    const int flags = node->op->flags;
    if (node->dim.batch != (r->varies[i] ? batch : 1) || node->not_batchable ||
        !dn__elements(&node->dim))
        return 0;
    if ((node->n_ints - dn__node_ints(node)) % node->dim.batch) return 0;
    if (node->op == dn_ops[DN_OP_input] || node->op == dn_ops[DN_OP_fill]) return 1;
    if (flags & DN_LEAF || (flags & DN_RANDOM && !r->varies[i])) return 0;
    if (!(flags & (DN_BATCHES | DN_VIEW))) return 0;
    for (int k = 0; k < node->n_args; k++)
        if (k < 8 && flags >> DN_BROADCAST_SHIFT & 1 << k && r->varies[t->args[node->args + k]])
            return 0;
    return 1;
}

static void copy_node(trace *r, int i, int *n_nodes, int *n_args, int *n_ints, int *n_floats) {
    const dn_tape *t = r->t;
    const dn_node *node = &t->nodes[i];
    dn_program *p = r->p;
    dn_inner *inner = &p->nodes[(*n_nodes)++];
    *inner = (dn_inner){.op = node->op,
                        .dim = node->dim,
                        .n_args = node->n_args,
                        .args = *n_args,
                        .n_ints = node->n_ints,
                        .ints = *n_ints,
                        .n_floats = node->n_floats,
                        .floats = *n_floats,
                        .parts = node->parts,
                        .each = dn__node_ints(node),
                        .output = -1,
                        .saved = dn__saved(node)};
    for (int k = 0; k < node->n_args; k++) {
        const int32_t x = r->place[t->args[node->args + k]];
        p->args[(*n_args)++] = x;
        if (x >= 0) p->nodes[x].consumed = 1;
    }
    /* NULL while there is none */
    if (node->n_ints)
        memcpy(p->ints + *n_ints, t->ints + node->ints, (size_t)node->n_ints * sizeof *p->ints);
    if (node->n_floats)
        memcpy(p->floats + *n_floats, t->floats + node->floats,
               (size_t)node->n_floats * sizeof *p->floats);
    *n_ints += node->n_ints;
    *n_floats += node->n_floats;
    if (node->op->flags & DN_RANDOM) inner->rng = ++p->rng;
    if (!(node->op->flags & DN_VIEW)) {
        inner->value_at = p->saved;
        inner->saved_at = p->saved + dn__aligned(dn__elements(&node->dim));
        p->saved = inner->saved_at + dn__aligned(node->saved);
    }
    p->work += node->work;
}

/* Nodes and captured parameters, in the order in which they were made. Negative: no memory. */
static int copy_nodes(trace *r) {
    const dn_tape *t = r->t;
    dn_program *p = r->p;
    int n_nodes = 0, n_args = 0, n_ints = 0, n_floats = 0, n_captured = 0;
    for (int i = 0; i <= r->last; i++) {
        const dn_node *node = &t->nodes[i];
        if (r->place[i] == NOT_NEEDED || r->place[i] < -p->n_captured) continue;
        if (is_captured(node)) {
            p->captured[n_captured++] =
                (dn_captured){node->op, dn_param_handle(node->param, node->constant),
                              node->param->store, node->n_ints, n_ints};
            dn__store_retain(node->param->store);
            if (node->n_ints)
                memcpy(p->ints + n_ints, t->ints + node->ints,
                       (size_t)node->n_ints * sizeof *p->ints);
            n_ints += node->n_ints;
            /* rows are batches of rows: one row varies no more than a parameter */
            continue;
        }
        for (int k = 0; k < node->n_args; k++) r->varies[i] |= r->varies[t->args[node->args + k]];
        copy_node(r, i, &n_nodes, &n_args, &n_ints, &n_floats);
        if (node->op == dn_ops[DN_OP_input]) {
            const size_t bytes = dn__elements(&node->dim) * sizeof(dn_real);
            dn_real *data = malloc(bytes + 1);
            if (!data) return DN_ERROR_MEMORY;
            p->nodes[n_nodes - 1].data = memcpy(data, node->given, bytes);
        }
    }
    return 0;
}

/* Whether nodes of the program may be members of a group. Sets the batch count of such a node. */
static int groups(const trace *r, const int *given, const int *outputs, int *batch) {
    const dn_tape *t = r->t;
    const dn_program *p = r->p;
    *batch = 1;
    for (int k = 0; k < p->n_given; k++)
        if (t->nodes[given[k]].dim.batch != 1) *batch = t->nodes[given[k]].dim.batch;
    for (int i = 0; i <= r->last; i++) {
        if (r->place[i] != NOT_NEEDED && r->place[i] >= 0 && !joins(r, i, *batch)) return 0;
        if (r->place[i] < 0 && r->place[i] >= -p->n_captured && t->nodes[i].dim.batch != 1)
            return 0;
    }
    for (int k = 0; k < p->n_outputs; k++)
        if (t->nodes[outputs[k]].dim.batch != *batch) return 0;
    return p->n_given > 0;
}

static int place_outputs(trace *r, const int *given, const int *outputs) {
    const dn_tape *t = r->t;
    dn_program *p = r->p;
    int batch;
    size_t total = 0;
    p->not_batchable = !groups(r, given, outputs, &batch);
    for (int k = 0; k < p->n_outputs; k++) {
        const int32_t source = r->place[outputs[k]];
        p->outputs[k] = (dn_traced_output){source, t->nodes[outputs[k]].dim, total};
        p->blocks[k] = (dn_block){total, (size_t)p->outputs[k].dim.size};
        total += dn__elements(&p->outputs[k].dim);
        if (source < 0) continue;
        dn_inner *inner = &p->nodes[source];
        if (inner->output >= 0) inner->consumed = 1;
        else if (!(inner->op->flags & DN_VIEW)) inner->output = k;
    }
    if (p->n_outputs == 1) {
        p->dim = p->outputs[0].dim;
        return 0;
    }
    const size_t size = p->not_batchable ? total : total / (size_t)batch;
    if (total > INT32_MAX)
        return dn__tape_fail(r->t, DN_ERROR_VALUE,
                             "traced: the outputs would have more than %d elements.", INT32_MAX);
    p->dim = (dn_dim){.nd = 1,
                      .batch = p->not_batchable ? 1 : batch,
                      .size = (int)size,
                      .d = {(int)size}};
    return 0;
}

/* What each of several outputs is computed from. Negative: no memory. */
static int find_leads(dn_program *p) {
    const int n_inputs = p->n_captured + p->n_given;
    const size_t n = (size_t)(n_inputs + p->n_nodes);
    if (p->n_outputs == 1) return 0;
    if (!(p->leads = calloc((size_t)p->n_outputs * n, 1))) return DN_ERROR_MEMORY;
    for (int output = 0; output < p->n_outputs; output++) {
        uint8_t *leads = p->leads + (size_t)output * n + n_inputs; /* [source] */
        leads[p->outputs[output].source] = 1;
        for (int at = p->outputs[output].source; at >= 0; at--)
            for (int k = 0; leads[at] && k < p->nodes[at].n_args; k++)
                leads[p->args[p->nodes[at].args + k]] = 1;
    }
    return 0;
}

static int fill_program(trace *r, const int *given, const int *outputs) {
    dn_program *p = r->p;
    int error = mark_needed(r, given, outputs);
    if (error) return error;
    p->given = malloc(((size_t)p->n_given + 1) * sizeof *p->given);
    p->captured = calloc((size_t)p->n_captured + 1, sizeof *p->captured);
    p->nodes = calloc((size_t)p->n_nodes + 1, sizeof *p->nodes);
    p->outputs = malloc((size_t)p->n_outputs * sizeof *p->outputs);
    p->blocks = malloc((size_t)p->n_outputs * sizeof *p->blocks);
    p->args = malloc(((size_t)p->n_args + 1) * sizeof *p->args);
    p->ints = malloc(((size_t)p->n_ints + 1) * sizeof *p->ints);
    p->floats = malloc(((size_t)p->n_floats + 1) * sizeof *p->floats);
    if (!p->given || !p->captured || !p->nodes || !p->outputs || !p->blocks || !p->args ||
        !p->ints || !p->floats || copy_nodes(r))
        return dn__no_memory(r->t);
    for (int k = 0; k < p->n_given; k++) p->given[k] = r->t->nodes[given[k]].dim;
    error = place_outputs(r, given, outputs);
    return error ? error : find_leads(p) ? dn__no_memory(r->t) : 0;
}

static int find_all(dn_tape *t, int n, const int64_t *handles, int *indices) {
    for (int k = 0; k < n; k++)
        if ((indices[k] = dn__find(t, handles[k])) < 0) return indices[k];
    return 0;
}

int dn_traced_add(dn_traced *traced, int graph, int n_given, const int64_t *given, int n_outputs,
                  const int64_t *outputs) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    dn_program *p = calloc(1, sizeof *p);
    int *indices = malloc(((size_t)n_given + (size_t)n_outputs + 1) * sizeof *indices);
    trace r = {.t = t, .p = p, .last = -1};
    int error = p && indices ? find_all(t, n_given, given, indices) : dn__no_memory(t);
    if (!error) error = find_all(t, n_outputs, outputs, indices + n_given);
    if (!error) { /* all parameters have their nodes by now */
        *p = (dn_program){.references = 1, .n_given = n_given, .n_outputs = n_outputs};
        r.place = malloc((size_t)t->n.nodes * sizeof *r.place);
        r.varies = calloc((size_t)t->n.nodes, 1);
        error =
            r.place && r.varies ? fill_program(&r, indices, indices + n_given) : dn__no_memory(t);
    }
    free(r.place);
    free(r.varies);
    free(indices);
    if (!error) { /* other threads may be calling the traced function */
        p->next = traced->programs;
        __atomic_store_n(&traced->programs, p, __ATOMIC_RELEASE);
    } else if (p) {
        p->references = 1;
        release(p);
    }
    return error;
}

/* ---- calls ---------------------------------------------------------------------------- */

static int same_dims(const dn_dim *a, const dn_dim *b) {
    if (a->nd != b->nd || a->batch != b->batch) return 0;
    for (int i = 0; i < a->nd; i++)
        if (a->d[i] != b->d[i]) return 0;
    return 1;
}

/* The program for these dims; NULL: the function was not traced with them yet. */
static dn_program *matching(const dn_traced *traced, const dn_tape *t, int n, const int *x) {
    for (dn_program *p = __atomic_load_n(&traced->programs, __ATOMIC_ACQUIRE); p; p = p->next) {
        int k = p->n_given == n ? 0 : n + 1;
        while (k < n && same_dims(&p->given[k], &t->nodes[x[k]].dim)) k++;
        if (k == n) return p;
    }
    return NULL;
}

/* The number of the program in this graph, which keeps it until it is renewed. */
static int number_of(dn_tape *t, dn_program *p) {
    for (int i = t->kept.n - 1; i >= 0; i--)
        if (t->kept.at[i].object == p) return i;
    if (DN_GROW(t->kept.at, t->kept.capacity, t->kept.n + 1)) return dn__no_memory(t);
    __atomic_add_fetch(&p->references, 1, __ATOMIC_RELAXED);
    t->kept.at[t->kept.n] = (dn_kept){p, release, -1, -1};
    return t->kept.n++;
}

static int captured_node(dn_tape *t, const dn_program *p, const dn_captured *captured) {
    int constant;
    dn_param *param = dn__handle_param(captured->handle, &constant);
    if (captured->op == dn_ops[DN_OP_parameter])
        return dn__param_node(t, captured->handle, param, constant);
    if (dn__retain_store(t, param->store)) return DN_ERROR_MEMORY;
    return dn__make(t, captured->op, 0, NULL, captured->n_rows, p->ints + captured->rows, 0, NULL,
                    &(dn_origin){param, constant, NULL});
}

/* The last node of this program in the graph, or -1. */
static int last_node(const dn_tape *t, int number) {
    const int i = t->kept.at[number].last;
    const int is_one = i >= 0 && i < t->n.nodes && t->nodes[i].op == dn_ops[DN_OP_traced] &&
                       t->ints[t->nodes[i].ints] == number;
    return is_one ? i : -1; /* a revert may have dropped it */
}

static int find_captured(dn_tape *t, const dn_program *p, int last, int *inputs) {
    for (int k = 0; k < p->n_captured; k++) {
        if (last >= 0 && p->captured[k].op == dn_ops[DN_OP_parameter])
            inputs[k] = t->args[t->nodes[last].args + k];
        else if ((inputs[k] = captured_node(t, p, &p->captured[k])) < 0) return inputs[k];
    }
    return 0;
}

static int make_output_view(dn_tape *t, int owner, const dn_traced_output *output) {
    int ints[DN_MAX_DIMS + 2] = {(int)output->at, output->dim.batch};
    for (int d = 0; d < output->dim.nd; d++) ints[d + 2] = output->dim.d[d];
    return dn__make(t, dn_ops[DN_OP_output_view], 1, &owner, output->dim.nd + 2, ints, 0, NULL,
                    NULL);
}

static int64_t call_traced(dn_tape *t, const dn_traced *traced, int n, const int64_t *handles,
                           int *inputs) {
    if (t->tracing) return DN_ERROR_UNTRACED;
    for (int k = 0; k < n; k++) {
        /* parameters belong to the signature */
        if (!dn__handle_tape(handles[k])) return DN_ERROR_UNTRACED;
        if ((inputs[MOST_CAPTURED + k] = dn__find(t, handles[k])) < 0)
            return inputs[MOST_CAPTURED + k];
    }
    dn_program *p = matching(traced, t, n, inputs + MOST_CAPTURED);
    if (!p) return DN_ERROR_UNTRACED;
    const int number = number_of(t, p);
    if (number < 0) return number;
    int *first = inputs + MOST_CAPTURED - p->n_captured;
    const int last = last_node(t, number), error = find_captured(t, p, last, first);
    if (error) return error;
    const int owner = dn__make(t, dn_ops[DN_OP_traced], p->n_captured + n, first, 1, &number, 0,
                               NULL, &(dn_origin){NULL, 0, p});
    if (owner < 0) return owner;
    t->kept.at[number].last = owner;
    if (p->n_outputs == 1) return dn__finish(t, owner);
    int64_t result = 0;
    for (int k = 0; k < p->n_outputs && result >= 0; k++)
        result = dn__finish(t, make_output_view(t, owner, &p->outputs[k]));
    return result < 0 ? result : dn__handle(t, owner + 1);
}

int64_t dn_traced_call(int64_t traced, int n, const int64_t *handles) {
    dn_tape *t = NULL;
    for (int k = 0; k < n && !t; k++) t = dn__handle_tape(handles[k]);
    if (!t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(t);
    int small[MOST_CAPTURED + 16],
        *inputs = n <= 16 ? small : malloc((size_t)(MOST_CAPTURED + n) * sizeof *inputs);
    const int64_t result =
        inputs ? call_traced(t, (const dn_traced *)(intptr_t)traced, n, handles, inputs)
               : dn__no_memory(t);
    if (inputs != small) free(inputs);
    return result;
}
