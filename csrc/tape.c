/* Life of graphs, handles, checkpoint and revert. Nodes are made in make.c, computed in forward.c and backward.c. */
#include "autobatch.h"
#include "cell.h"
#include "group.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static const char STALE[] = "expression belongs to a graph that renew_cg() or cg_revert() closed, or that ended with its thread. "
                            "Build it again in this graph.";

int dn__tape_fail(dn_tape *t, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t->message, DN_MESSAGE, format, args);
    va_end(args);
    return error;
}

int dn__no_values(dn_tape *t) {
    return dn__tape_fail(t, DN_ERROR_STATE,
                         "cell: no value is known and no graph begun while a function is traced. Do it outside of the cell.");
}

int dn__no_memory(dn_tape *t) { return dn__tape_fail(t, DN_ERROR_MEMORY, "out of memory"); }

int dn__internal_error(dn_tape *t, const char *what) {
    return dn__tape_fail(t, DN_ERROR_INTERNAL, "internal error: %s. Please report it with the program. Call renew_cg() to go on.", what);
}

const char *dn_message(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    return t ? t->message : STALE;
}

int dn__grow(void **array, int *capacity, int64_t wanted, size_t element) {
    int64_t n = *capacity ? (int64_t)*capacity * 2 : 64;
    if (n < wanted) n = wanted;
    void *p = n > INT32_MAX ? NULL : realloc(*array, (size_t)n * element);
    if (!p) return DN_ERROR_MEMORY;
    *array = p;
    *capacity = (int)n;
    return 0;
}

/* ---- slots --------------------------------------------------------------------------------------------------------- */

/* Tapes stay where they are for the life of the process; a slot that is given back goes to the next graph with its epoch raised, so that a
 * handle, which holds nothing but numbers, never leads to memory that is gone. */
enum { SLOTS = 1 << DN_GRAPH_BITS };
static dn_tape *slots[SLOTS];
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;

dn_tape *dn__graph_tape(int graph) { return graph >= 0 && graph < SLOTS ? slots[graph] : NULL; }

dn_tape *dn__handle_tape(int64_t a) { return a >= 0 && a >> 62 == 0 ? slots[a >> (DN_INDEX_BITS + DN_EPOCH_BITS)] : NULL; }

static dn_tape *new_tape(int graph) {
    dn_tape *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    t->graph = graph;
    t->epoch = (int64_t)graph << DN_EPOCH_BITS;
    t->swept_root = t->sweep = -1;
    t->param_epoch = 1;
    return t;
}

int dn_graph_new(void) {
    int graph = 0, error = DN_ERROR_MEMORY;
    pthread_mutex_lock(&slots_lock);
    while (graph < SLOTS && slots[graph] && slots[graph]->taken) graph++;
    if (graph < SLOTS && (slots[graph] || (slots[graph] = new_tape(graph)))) {
        dn_tape *t = slots[graph];
        t->taken = 1;
        dn__start_graph(t, 0, 0, 0);
        t->version = 0;
        error = graph;
    }
    pthread_mutex_unlock(&slots_lock);
    return error;
}

static void release_roots(dn_tape *t, int from) {
    for (int i = from; i < t->n_roots; i++) dn__root_release(t->roots[i].root);
    t->n_roots = from;
}

void dn_graph_free(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    if (!t || dn__tape_enter(t)) return; /* still computed with by another thread: the slot stays taken */
    dn__start_graph(t, 0, 0, 0);
    dn__arena_free(&t->values);
    dn__arena_free(&t->copies);
    dn__arena_free(&t->grads);
    dn__arena_free(&t->data);
    dn__arena_free(&t->scratch);
    dn__arena_free(&t->plan_memory);
    for (int i = 0; i < DN_KEPT_COLUMNS; i++) dn__arena_free(&t->columns[i].memory);
    void **const memory[] = {(void **)&t->nodes, (void **)&t->args,  (void **)&t->ints,     (void **)&t->reals,
                             (void **)&t->marks, (void **)&t->roots, (void **)&t->products, (void **)&t->param_nodes, (void **)&t->order,
                             (void **)&t->groups, (void **)&t->members, (void **)&t->sources, (void **)&t->group_inputs, (void **)&t->gathers,
                             (void **)&t->programs};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) {
        free(*memory[i]);
        *memory[i] = NULL;
    }
    t->nodes_capacity = t->args_capacity = t->ints_capacity = t->reals_capacity = 0;
    t->marks_capacity = t->roots_capacity = t->products_capacity = t->param_capacity = t->order_capacity = 0;
    t->groups_capacity = t->members_capacity = t->sources_capacity = t->group_inputs_capacity = t->gathers_capacity = t->programs_capacity = 0;
    pthread_mutex_lock(&slots_lock);
    t->taken = 0;
    pthread_mutex_unlock(&slots_lock);
    dn__tape_leave(t);
}

static void next_epoch(dn_tape *t) {
    const int64_t mask = ((int64_t)1 << DN_EPOCH_BITS) - 1;
    t->epoch = (int64_t)t->graph << DN_EPOCH_BITS | ((t->epoch + 1) & mask);
}

void dn__start_graph(dn_tape *t, int immediate, int check_finite, int autobatch) {
    dn__stop_backward(t);
    next_epoch(t);
    t->version++;
    t->immediate = immediate;
    t->check_finite = check_finite;
    t->autobatch = autobatch;
    dn__forget_groups(t);
    memset(&t->counts, 0, sizeof t->counts);
    t->work_made = 0;
    t->n_nodes = t->evaluated = t->swept_nodes = 0;
    t->dropped = 0;
    t->n_args = t->n_ints = t->n_reals = t->n_marks = t->n_products = 0;
    t->values_made++;
    t->holds = t->raised = t->any_failed = t->unreported = t->forward_begun = 0;
    t->param_epoch++;
    t->param_count = 0;
    t->counter++;
    release_roots(t, 0);
    while (t->n_programs) dn__program_release(t->programs[--t->n_programs].program);
    dn__arena_reset(&t->values, (dn_arena_mark){0});
    dn__arena_reset(&t->copies, (dn_arena_mark){0});
    dn__arena_reset(&t->grads, (dn_arena_mark){0});
    dn__arena_reset(&t->data, (dn_arena_mark){0});
}

int dn_renew(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    if (t->holds || t->tracing) return DN_ERROR_STATE;
    DN_ENTER(t);
    dn__start_graph(t, 0, 0, t->usual_autobatch);
    dn__tape_leave(t);
    return 0;
}

int dn_graph_renew(int graph, int immediate, int check_finite, int autobatch) {
    dn_tape *t = dn__graph_tape(graph);
    if (t->tracing) return dn__no_values(t);
    DN_ENTER(t);
    dn__start_graph(t, immediate, check_finite, autobatch);
    dn__tape_leave(t);
    return 0;
}

void dn_graph_autobatch(int graph, int strategy) {
    dn_tape *t = dn__graph_tape(graph);
    t->usual_autobatch = strategy;
    if (!t->n_nodes) t->autobatch = strategy;
}

void dn_graph_hold(int graph) { dn__graph_tape(graph)->holds = 1; }

int64_t dn_graph_version(int graph) { return dn__graph_tape(graph)->version; }

void dn_graph_seed(int graph, uint64_t seed, uint64_t stream) {
    dn_tape *t = dn__graph_tape(graph);
    t->seed = seed;
    t->stream = stream;
    t->counter = 0;
}

void dn_graph_generator(int graph, struct dn_rng *generator) { dn__graph_tape(graph)->generator = generator; }

uint64_t dn_graph_counter(int graph) { return dn__graph_tape(graph)->counter; }
void dn_graph_set_counter(int graph, uint64_t counter) { dn__graph_tape(graph)->counter = counter; }

int dn_graph_checkpoint(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    int error = DN_GROW(t->marks, t->marks_capacity, t->n_marks + 1);
    if (!error) dn__drop_plan(t);
    if (!error)
        t->marks[t->n_marks++] = (dn_mark){.nodes = t->n_nodes, .evaluated = t->evaluated, .order = t->n_done, .args = t->n_args,
                                           .ints = t->n_ints, .reals = t->n_reals, .roots = t->n_roots, .groups = t->n_groups,
                                           .members = t->n_members, .group_inputs = t->n_group_inputs, .gathers = t->n_gathers,
                                           .sources = t->n_sources, .values = dn__arena_mark(&t->values),
                                           .copies = dn__arena_mark(&t->copies), .data = dn__arena_mark(&t->data)};
    else
        dn__no_memory(t);
    dn__tape_leave(t);
    return error;
}

int dn_graph_revert(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    if (t->n_marks) {
        dn__stop_backward(t);
        dn__abandon_plan(t);
        dn_mark m = t->marks[--t->n_marks];
        t->dropped += (uint32_t)(t->n_nodes - m.nodes);
        t->n_nodes = m.nodes;
        t->n_args = m.args;
        t->n_ints = m.ints;
        t->n_reals = m.reals;
        /* Nodes from before the mark that were computed after it have their values above it: compute them again (the same draws). */
        if (t->evaluated > m.evaluated) t->evaluated = m.evaluated;
        for (int i = m.evaluated; i < m.nodes; i++) /* groups that were computed after the mark are no more */
            if (dn__grouped(t, &t->nodes[i]) && t->nodes[i].group >= m.groups) t->nodes[i].grouped = 0;
        t->n_order = t->n_done = m.order;
        t->n_groups = m.groups;
        t->n_members = m.members;
        t->n_group_inputs = m.group_inputs;
        t->n_gathers = m.gathers;
        t->n_sources = m.sources;
        dn__arena_reset(&t->values, m.values);
        dn__arena_reset(&t->copies, m.copies);
        dn__arena_reset(&t->data, m.data);
        release_roots(t, m.roots);
        for (int i = 0; i < t->n_roots; i++)
            if (t->roots[i].reader >= t->evaluated) t->roots[i].version = -1;
        next_epoch(t);
    }
    dn__tape_leave(t);
    return 0;
}

void dn_graph_autobatch_counts(int graph, dn_autobatch_counts *out) {
    const dn_tape *t = dn__graph_tape(graph);
    *out = t->autobatch ? t->counts : (dn_autobatch_counts){0};
}

int dn_graph_size(int graph) { return dn__graph_tape(graph)->n_nodes; }

int64_t dn_graph_bytes(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    size_t columns = 0;
    for (int i = 0; i < DN_KEPT_COLUMNS; i++) columns += dn__arena_bytes(&t->columns[i].memory);
    return (int64_t)(columns + dn__arena_bytes(&t->values) + dn__arena_bytes(&t->copies) + dn__arena_bytes(&t->grads) +
                     dn__arena_bytes(&t->data) + dn__arena_bytes(&t->scratch) + dn__arena_bytes(&t->plan_memory) +
                     (size_t)t->nodes_capacity * sizeof(dn_node));
}

/* ---- handles ------------------------------------------------------------------------------------------------------- */

int dn__find_parameter(dn_tape *t, int64_t handle) {
    int constant;
    dn_param *p = dn__handle_param(handle, &constant);
    if (p) return dn__param_node(t, handle, p, constant);
    return dn__tape_fail(t, DN_ERROR_STALE, "%s", STALE);
}

int64_t dn_graph_node(int graph, int index) {
    dn_tape *t = dn__graph_tape(graph);
    if (index >= 0 && index < t->n_nodes) return dn__handle(t, index);
    return dn__tape_fail(t, DN_ERROR_VALUE, "node %d: this graph has %d nodes", index, t->n_nodes);
}

int64_t dn_resolve(int graph, int64_t a) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    int i = dn__find(t, a);
    int64_t handle = i < 0 ? i : dn__handle(t, i);
    dn__tape_leave(t);
    return handle;
}

/* The tape of a node's handle, entered; *i is its index. */
static int enter_node(int64_t a, dn_tape **t, int *i) {
    *t = dn__handle_tape(a);
    if (!*t) return DN_ERROR_NO_GRAPH;
    DN_ENTER(*t);
    *i = dn__find(*t, a);
    if (*i < 0) dn__tape_leave(*t);
    return *i < 0 ? *i : 0;
}

int dn_node_index(int64_t a) {
    dn_tape *t;
    int i, error = enter_node(a, &t, &i);
    if (error) return error;
    dn__tape_leave(t);
    return i;
}

int dn_node_dim(int64_t a, dn_dim *out) {
    dn_tape *t;
    int i, error = enter_node(a, &t, &i);
    if (error) return error;
    *out = t->nodes[i].dim;
    dn__tape_leave(t);
    return 0;
}

int dn_node_op(int64_t a) {
    dn_tape *t;
    int i, op = 0, error = enter_node(a, &t, &i);
    if (error) return error;
    while (dn_ops[op] != t->nodes[i].op) op++;
    dn__tape_leave(t);
    return op;
}

int64_t dn_node_input(int64_t a, int n) {
    dn_tape *t;
    int i, error = enter_node(a, &t, &i);
    if (error) return error;
    const dn_node *node = &t->nodes[i];
    int64_t handle = n >= 0 && n < node->n_args ? dn__handle(t, t->args[node->args + n]) : DN_ERROR_VALUE;
    dn__tape_leave(t);
    return handle;
}

int dn_node_ints(int64_t a, int n, int *out) {
    dn_tape *t;
    int i, error = enter_node(a, &t, &i);
    if (error) return error;
    const dn_node *node = &t->nodes[i];
    int count = node->n_ints;
    if (count) memcpy(out, t->ints + node->ints, (size_t)(count < n ? count : n) * sizeof *out);
    dn__tape_leave(t);
    return count;
}

int64_t dn_node_param(int64_t a) {
    dn_tape *t;
    int i, error = enter_node(a, &t, &i);
    if (error) return error;
    const dn_node *node = &t->nodes[i];
    int64_t handle = node->param ? dn_param_handle(node->param, 0) : 0;
    dn__tape_leave(t);
    return handle;
}
