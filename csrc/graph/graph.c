/* Graphs: their life, from slot to slot, checkpoint and revert; what can be asked of them and of
 * their nodes. */
#include <stdlib.h>
#include <string.h>

#include "tape/make.h"
#include "schedule/autobatch.h"
#include "backward/backward_pass.h"
#include "work.h"

/* ---- what the schedule and the backward pass give to the tape below them -------------- */

static uint32_t ordinal(const dn_call *c, int member) {
    (void)member;
    return dn__ordinal(c->tape, c->node);
}

static uint32_t group_ordinal(const dn_call *c, int member) {
    const dn_schedule *s = c->tape->schedule;
    return dn__ordinal(c->tape, &c->tape->nodes[s->members[s->groups[c->group].first + member]]);
}

static int wants_each(const dn_call *c) { return c->tape->backward->full; }

static void let_go(dn_call *c, int begin) {
    if (begin) dn__unlock_stores(c->tape);
    else dn__lock_stores(c->tape);
}

static int defers_weight(const dn_call *c, int k) { return (void)c, (void)k, 1; }

/* What a node by itself and a group have in common. */
#define ROUTES_OF_BOTH \
    .weight_gradient = dn__route_weight_gradient, .defers_weight = defers_weight, \
    .input_done = dn__route_input_done, .table_rows = dn__route_table_rows, \
    .rows_gradient = dn__route_rows_gradient, .wants_each = wants_each, \
    .rounds = dn__route_rounds, .packed = dn__route_packed, .let_go = let_go, \
    .put_off = dn__route_put_off
static const dn_gradient_routes NODE = {
    ROUTES_OF_BOTH,     .wants = dn__route_wants,
    .dx = dn__route_dx, .operand_gradient = dn__route_operand_gradient,
    .ordinal = ordinal, .beside_loss = dn__route_beside_loss,
};
static const dn_gradient_routes GROUP = {
    ROUTES_OF_BOTH,           .wants = dn__route_group_wants,
    .dx = dn__route_group_dx, .operand_gradient = dn__route_group_operand_gradient,
    .ordinal = group_ordinal, .beside_loss = dn__route_group_beside_loss,
};
static const dn_upper UPPER = {&NODE, &GROUP, dn__stop_backward, dn__unkept_forward};

/* ---- life ----------------------------------------------------------------------------- */

/* All that a graph is made of. */
typedef struct dn_graph {
    dn_tape tape;
    dn_schedule schedule;
    dn_backward_pass backward;
} dn_graph;

static dn_tape *new_tape(void) {
    dn_graph *g = calloc(1, sizeof *g);
    if (!g) return NULL;
    g->tape.schedule = &g->schedule;
    g->tape.backward = &g->backward;
    g->tape.upper = &UPPER;
    g->tape.parameters.epoch = 1;
    g->backward.last_loss = g->backward.position = -1;
    return &g->tape;
}

static void release_stores(dn_tape *t, int from) {
    for (int i = from; i < t->n.stores; i++) dn__store_release(t->stores[i].store);
    t->n.stores = from;
}

static void next_epoch(dn_tape *t) {
    t->epoch = (int64_t)t->graph << DN_EPOCH_BITS | ((t->epoch + 1) & DN_EPOCH);
}

static void start(dn_tape *t, int immediate, int check_finite, int autobatch) {
    dn__stop_backward(t);
    next_epoch(t);
    t->version++;
    release_stores(t, 0);
    while (t->kept.n) {
        const dn_kept *kept = &t->kept.at[--t->kept.n];
        kept->release(kept->object);
    }
    dn__schedule_start(t, immediate, check_finite, autobatch);
    if (t->likes.again < t->n.nodes) t->likes.again = t->n.nodes;
    t->n = (dn_extent){0};
    t->marks.n = t->holds = t->may_join = t->workspace.raised = 0;
    t->work_made = 0;
    t->dropped = 0;
    t->backward->first_new_node = t->backward->n_products = 0;
    t->parameters.epoch++;
    t->parameters.count = 0;
    t->workspace.precision.bf16 = t->workspace.precision.rounds = t->workspace.precision.exact = 0;
    t->workspace.rng.counter++;
    dn__arena_reset(&t->workspace.grads, (dn_arena_mark){0});
    dn__arena_reset(&t->data, (dn_arena_mark){0});
}

int dn_graph_new(void) {
    dn_tape *t = dn__take_slot(new_tape);
    if (!t) return DN_ERROR_MEMORY;
    start(t, 0, 0, 0);
    t->version = 0;
    return t->graph;
}

void dn_graph_free(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    if (!t) return;
    DN_ENTER_OR(t, ); /* still computed with by another thread: the slot stays taken */
    start(t, 0, 0, 0);
    dn__schedule_free(t);
    dn__backward_free(t);
    dn__arena_free(&t->data);
    dn__arena_free(&t->workspace.scratch);
    dn__arena_free(&t->workspace.grads);
    DN_FREE(t->nodes);
    DN_FREE(t->likes.kinds);
    DN_FREE(t->args);
    DN_FREE(t->ints);
    DN_FREE(t->floats);
    DN_FREE(t->stores);
    DN_FREE(t->marks.at);
    DN_FREE(t->kept.at);
    free(t->parameters.slots);
    t->parameters.slots = NULL;
    t->capacity = (dn_extent){0};
    t->marks.capacity = t->kept.capacity = t->parameters.capacity = 0;
    t->likes.capacity = t->likes.again = 0;
    dn__give_slot_back(t);
}

int dn_renew(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    if (t->holds || t->tracing) return DN_ERROR_STATE;
    DN_ENTER(t);
    start(t, 0, 0, t->schedule->default_autobatch);
    return 0;
}

int dn_graph_renew(int graph, int immediate, int check_finite, int autobatch) {
    dn_tape *t = dn__graph_tape(graph);
    if (t->tracing) return dn__no_values(t);
    DN_ENTER(t);
    start(t, immediate, check_finite, autobatch);
    return 0;
}

int dn_graph_checkpoint(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    int error = DN_GROW(t->marks.at, t->marks.capacity, t->marks.n + 1);
    if (!error) error = dn__schedule_mark(t);
    if (!error) t->marks.at[t->marks.n++] = (dn_mark){t->n, dn__arena_mark(&t->data)};
    else dn__no_memory(t);
    return error;
}

int dn_graph_revert(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    if (t->marks.n) {
        dn__stop_backward(t);
        const dn_mark m = t->marks.at[--t->marks.n];
        t->dropped += (uint32_t)(t->n.nodes - m.n.nodes);
        release_stores(t, m.n.stores);
        t->n = m.n;
        dn__arena_reset(&t->data, m.data);
        dn__schedule_revert(t);
        next_epoch(t);
    }
    return 0;
}

int dn_take_back(int graph, int n) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    if (n < 0 || n >= t->n.nodes || t->backward->last_loss >= n) return 0;
    if (dn__schedule_take_back(t, n)) return 0;
    const dn_node *first = &t->nodes[n];
    t->n = (dn_extent){n, first->args, first->ints, first->floats, t->n.stores};
    next_epoch(t); /* somebody may have them after all: an exception's frames */
    return 0;
}

int dn_graph_invalidate(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    dn__forget_values(t);
    return 0;
}

int dn_graph_exact(int graph, int exact) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    const int was = t->workspace.precision.exact;
    t->workspace.precision.exact = exact;
    if (was != exact && t->workspace.precision.rounds) dn__forget_values(t);
    return 0;
}

/* ---- settings and questions ----------------------------------------------------------- */

void dn_graph_autobatch(int graph, int strategy) {
    dn_tape *t = dn__graph_tape(graph);
    t->schedule->default_autobatch = strategy;
    if (!t->n.nodes) t->schedule->autobatch = strategy;
}

int dn_graph_strategy(int graph) { return dn__graph_tape(graph)->schedule->autobatch; }

int dn_graph_follows_agenda(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    return t->workspace.rng.generator && t->schedule->autobatch != DN_AUTOBATCH_OFF;
}

void dn_graph_hold(int graph) { dn__graph_tape(graph)->holds = 1; }

int64_t dn_graph_version(int graph) { return dn__graph_tape(graph)->version; }

void dn_graph_seed(int graph, uint64_t seed, uint64_t stream) {
    dn_tape *t = dn__graph_tape(graph);
    t->workspace.rng.seed = seed;
    t->workspace.rng.stream = stream;
    t->workspace.rng.counter = 0;
}

void dn_graph_generator(int graph, struct dn_rng *generator) {
    dn__graph_tape(graph)->workspace.rng.generator = generator;
}

uint64_t dn_graph_counter(int graph) { return dn__graph_tape(graph)->workspace.rng.counter; }
void dn_graph_set_counter(int graph, uint64_t counter) {
    dn__graph_tape(graph)->workspace.rng.counter = counter;
}

void dn_graph_autobatch_counts(int graph, dn_autobatch_counts *out) {
    const dn_schedule *s = dn__graph_tape(graph)->schedule;
    *out = s->autobatch ? s->counts : (dn_autobatch_counts){0};
}
int64_t dn_graph_least_batches(int graph) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    return t->schedule->autobatch ? dn__least_batches(t) : 0;
}

int dn_graph_size(int graph) { return dn__graph_tape(graph)->n.nodes; }

int64_t dn_graph_bytes(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    return dn__schedule_bytes(t) + dn__backward_bytes(t) +
           (int64_t)(dn__arena_bytes(&t->data) + dn__arena_bytes(&t->workspace.scratch) +
                     dn__arena_bytes(&t->workspace.grads) +
                     (size_t)t->capacity.nodes * (sizeof *t->nodes + sizeof *t->likes.kinds));
}

dn_work dn_thread_work(int graph) {
    dn_work work = dn__work;
    const dn_tape *t = dn__graph_tape(graph);
    if (t) {
        const uint64_t parts[] = {(uint64_t)t->epoch, (uint64_t)t->schedule->values_made,
                                  (uint64_t)t->n.nodes, (uint64_t)t->schedule->evaluated};
        uint64_t mixed = 0;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
            mixed = (mixed ^ parts[i]) * 0x9E3779B97F4A7C15u;
        work.activity = (int64_t)mixed;
        work.epoch = t->epoch;
        work.loss = t->backward->last_loss;
    }
    return work;
}

const char *dn_loss_op(int graph) {
    const dn_tape *t = dn__graph_tape(graph);
    const int64_t loss = t ? t->backward->last_loss : -1;
    return loss >= 0 && loss < t->n.nodes ? t->nodes[loss].op->name : "";
}

/* ---- nodes ---------------------------------------------------------------------------- */

int64_t dn_graph_node(int graph, int index) {
    dn_tape *t = dn__graph_tape(graph);
    if (index >= 0 && index < t->n.nodes) return dn__handle(t, index);
    return dn__tape_fail(t, DN_ERROR_VALUE, "node %d: this graph has %d nodes", index, t->n.nodes);
}

int64_t dn_resolve(int graph, int64_t a) {
    dn_tape *t = dn__graph_tape(graph);
    DN_ENTER(t);
    const int i = dn__find(t, a);
    return i < 0 ? i : dn__handle(t, i);
}

int dn_node_index(int64_t a) {
    DN_ENTER_NODE(a);
    return i;
}

int dn_node_dim(int64_t a, dn_dim *out) {
    DN_ENTER_NODE(a);
    *out = t->nodes[i].dim;
    return 0;
}

int dn_node_op(int64_t a) {
    DN_ENTER_NODE(a);
    int op = 0;
    while (dn_ops[op] != t->nodes[i].op) op++;
    return op;
}

int64_t dn_node_input(int64_t a, int n) {
    DN_ENTER_NODE(a);
    return n >= 0 && n < t->nodes[i].n_args ? dn__handle(t, dn__input(t, i, n)) : DN_ERROR_VALUE;
}

int dn_node_ints(int64_t a, int n, int *out) {
    DN_ENTER_NODE(a);
    const dn_node *node = &t->nodes[i];
    const int count = node->n_ints;
    if (count) memcpy(out, t->ints + node->ints, (size_t)(count < n ? count : n) * sizeof *out);
    return count;
}

int64_t dn_node_param(int64_t a) {
    DN_ENTER_NODE(a);
    return t->nodes[i].param ? dn_param_handle(t->nodes[i].param, 0) : 0;
}
