#include "group.h"

#include <string.h>

#include "autobatch.h"
#include "cell.h"
#include "kernels/kernels.h"
#include "once.h"

static const int32_t *members_of(const dn_tape *t, const dn_group *g) { return t->members + g->first; }
static dn_node *leader_of(const dn_tape *t, const dn_group *g) { return &t->nodes[t->members[g->first]]; }

/* Members and sources lie scattered over the nodes, of which a large graph has more than the second-level cache holds: each of them would be
 * waited for, 50 ns. So those some places on in a list are asked for already, and what loops write or read of them is there in time. */
enum { AHEAD = 8 };
static inline void ask_for(const dn_tape *t, const int32_t *list, int m, int n) {
    if (m + AHEAD >= n) return;
    const char *node = (const char *)&t->nodes[list[m + AHEAD]];
    for (size_t at = 0; at < sizeof(dn_node); at += 64) __builtin_prefetch(node + at, 1);
}

void dn__forget_groups(dn_tape *t) {
    dn__abandon_plan(t);
    t->n_order = t->n_done = 0;
    t->n_groups = t->n_members = t->n_group_inputs = t->n_gathers = t->n_sources = 0;
}

int dn__group_new(dn_tape *t) {
    if (DN_GROW(t->groups, t->groups_capacity, t->n_groups + 1)) return dn__no_memory(t);
    t->groups[t->n_groups] = (dn_group){.first = t->n_members};
    return t->n_groups++;
}

/* ---- inputs -------------------------------------------------------------------------------------------------------- */

static int is_same(const dn_tape *t, const dn_group *g, int k) {
    const int32_t *members = members_of(t, g);
    int x = dn__input(t, members[0], k);
    if (t->nodes[x].dim.batch != 1) return 0;
    if (!g->joined && t->nodes[x].op == dn_ops[DN_OP_parameter]) return 1; /* the members' signatures say so */
    for (int m = 1; m < g->n; m++)
        if (dn__input(t, members[m], k) != x) return 0;
    return 1;
}

/* The block of memory that holds a node's value and, in other memory laid out alike, its gradient: its group's, or its owner's. NULL:
 * neither. */
static const dn_real *block_of(const dn_tape *t, const dn_node *node, size_t *n) {
    const dn_node *owner = node->op == dn_ops[DN_OP_part] ? &t->nodes[t->args[node->args]] : node;
    if (dn__grouped(t, owner)) {
        const dn_group *g = &t->groups[owner->group];
        *n = g->total;
        return g->value;
    }
    *n = dn__elements(&owner->dim);
    return owner == node ? NULL : owner->value;
}

/* The last gather that begins with node i, or -1. What the node says outlives evaluations and reverts, gathers do not: its number may be of
 * one that is no more, or of another node's. */
static int last_gather(const dn_tape *t, int i) {
    const int at = t->nodes[i].gathers;
    return at >= 0 && at < t->n_gathers && t->sources[t->gathers[at].first] == i ? at : -1;
}

enum { MOST_GATHERS_SEEN = 64 }; /* to look further takes longer than to copy once more */

/* A gather of the same nodes that was made before, or -1; DN_ERROR_INTERNAL. Each was made after the next one in its list: so lists end. */
static int find_gather(dn_tape *t, const int32_t *sources, int n) {
    int seen = 0;
    for (int at = last_gather(t, sources[0]), next; at >= 0 && seen < MOST_GATHERS_SEEN; at = next, seen++) {
        const dn_gather *gather = &t->gathers[at];
        next = gather->next;
        if (next >= at) return dn__internal_error(t, "gathers of a node are in a circle");
        if (gather->n == n && !gather->once && !memcmp(t->sources + gather->first, sources, (size_t)n * sizeof *sources)) return at;
    }
    return -1;
}

/* sources[n_sources ...] side by side, `count` nodes. */
static int lay_out(dn_tape *t, int group, int count, dn_group_input *in) {
    const int32_t *sources = t->sources + t->n_sources;
    int apart = 0, mirrored = 1;
    size_t total = 0;
    const dn_real *first = t->nodes[sources[0]].value, *expected = first;
    for (int m = 0; m < count; m++) {
        ask_for(t, sources, m, count);
        const dn_node *node = &t->nodes[sources[m]];
        const size_t n = dn__elements(&node->dim);
        apart |= node->value != expected;
        mirrored &= node->op == dn_ops[DN_OP_part] || (dn__grouped(t, node) && !(node->op->flags & DN_VIEW));
        expected = node->value + n;
        total += n;
    }
    in->source = sources[0];
    in->value = first;
    if (!apart && mirrored) {
        size_t n;
        const dn_real *block = block_of(t, &t->nodes[sources[0]], &n);
        if (block && first >= block && first + total <= block + n) {
            in->gather = DN_MIRRORED;
            t->counts.avoided++;
            return 0;
        }
    }
    const int once = t->groups[group].once != NULL;
    in->gather = once ? -1 : find_gather(t, sources, count); /* equal members may differ in which of their inputs are one node */
    if (in->gather == DN_ERROR_INTERNAL) return in->gather;
    if (in->gather >= 0) {
        in->value = t->gathers[in->gather].value;
        t->counts.avoided++;
        return 0;
    }
    if (DN_GROW(t->gathers, t->gathers_capacity, t->n_gathers + 1)) return dn__no_memory(t);
    if (apart) { /* kept as long as values: later groups and backward read it */
        dn_real *copy = dn__arena_take(&t->values, total * sizeof *copy), *to = copy;
        if (!copy) return dn__no_memory(t);
        for (int m = 0; m < count; m++) {
            const dn_node *node = &t->nodes[sources[m]];
            const size_t n = dn__elements(&node->dim);
            memcpy(to, node->value, n * sizeof *to);
            to += n;
        }
        in->value = copy;
        t->counts.copied++;
    } else {
        t->counts.avoided++;
    }
    const int32_t next = last_gather(t, sources[0]);
    in->gather = t->n_gathers++;
    t->gathers[in->gather] = (dn_gather){.first = t->n_sources, .n = count, .next = next, .once = once, .group = group,
                                         .value = in->value, .total = total};
    t->nodes[sources[0]].gathers = in->gather;
    t->n_sources += count;
    return 0;
}

/* Input k of all members side by side, or of all distinct ones. */
static int collect(dn_tape *t, int group, int k, dn_group_input *in) {
    const dn_group *g = &t->groups[group];
    const int32_t *members = g->once ? g->once->members : members_of(t, g);
    const int n = g->once ? g->once->n : g->n;
    if (DN_GROW(t->sources, t->sources_capacity, (int64_t)t->n_sources + n)) return dn__no_memory(t);
    for (int m = 0; m < n; m++) t->sources[t->n_sources + m] = dn__input(t, members[m], k);
    return lay_out(t, group, n, in);
}

/* The steps of all members, one after another: g->batch of them. */
static int collect_steps(dn_tape *t, int group, dn_group_input *in) {
    const dn_group *g = &t->groups[group];
    const int32_t *members = members_of(t, g);
    if (DN_GROW(t->sources, t->sources_capacity, (int64_t)t->n_sources + g->batch)) return dn__no_memory(t);
    int32_t *to = t->sources + t->n_sources;
    for (int m = 0; m < g->n; m++) {
        const dn_node *member = &t->nodes[members[m]];
        const int steps = t->ints[member->ints];
        memcpy(to, t->args + member->args + member->n_args - steps, (size_t)steps * sizeof *to);
        to += steps;
    }
    return lay_out(t, group, g->batch, in);
}

/* How many inputs the call has: of a ragged group the steps make one. */
static int inputs_of(const dn_tape *t, const dn_group *g) {
    const dn_node *node = leader_of(t, g);
    return g->ragged ? node->n_args - t->ints[node->ints] + 1 : node->n_args;
}

/* Finds out what each input is. One is always collected: from it the op learns how many batch elements there are. Negative: an error. */
static int find_inputs(dn_tape *t, int group) {
    dn_group *g = &t->groups[group];
    const dn_node *node = leader_of(t, g);
    const int n = inputs_of(t, g), each = n - g->ragged;
    if (DN_GROW(t->group_inputs, t->group_inputs_capacity, (int64_t)t->n_group_inputs + n)) return dn__no_memory(t);
    g->inputs = t->n_group_inputs;
    t->n_group_inputs += n;
    dn_group_input *in = t->group_inputs + g->inputs;
    int collected = 0, last = -1, error = 0;
    for (int k = 0; k < each; k++) {
        const int never = k < 8 && node->op->flags >> DN_SHARED_SHIFT & 1 << k, shared = never || is_same(t, g, k);
        in[k].gather = shared ? DN_SHARED_INPUT : DN_MIRRORED;
        if (!never) last = k;
        collected |= !shared;
    }
    if (collected && dn__once_find(t, group, each)) return dn__no_memory(t);
    for (int k = 0; k < each && !error; k++)
        if (in[k].gather != DN_SHARED_INPUT) error = collect(t, group, k, &in[k]);
    if (error) return error;
    if (g->ragged) return collect_steps(t, group, &in[each]);
    return collected || last < 0 ? 0 : collect(t, group, last, &in[last]);
}

/* Attributes that belong to batch elements are joined like these; others are the same in all members. */
static const int *joined_ints(dn_tape *t, const dn_group *g, int *count) {
    const dn_node *node = leader_of(t, g);
    const int32_t *members = members_of(t, g);
    *count = node->n_ints;
    if (!(node->op->flags & (DN_INTS_EACH | DN_INTS_AFTER_FIRST))) return t->ints + node->ints;
    int first = (node->op->flags & DN_INTS_AFTER_FIRST) != 0, total = first;
    for (int m = 0; m < g->n; m++) total += t->nodes[members[m]].n_ints - first;
    int *all = dn__arena_take(&t->scratch, (size_t)total * sizeof *all), *to = all;
    if (!all) return NULL;
    if (first) *to++ = t->ints[node->ints];
    for (int m = 0; m < g->n; m++) {
        const dn_node *member = &t->nodes[members[m]];
        for (int i = first; i < member->n_ints; i++) *to++ = t->ints[member->ints + i];
    }
    *count = total;
    return all;
}

/* Of a ragged group: the greatest number of steps, options, the number of steps of each member. */
static const int *packed_ints(dn_tape *t, const dn_group *g, int *count) {
    const dn_node *node = leader_of(t, g);
    const int32_t *members = members_of(t, g);
    int *all = dn__arena_take(&t->scratch, (size_t)(g->n + 2) * sizeof *all);
    if (!all) return NULL;
    all[0] = 0;
    all[1] = t->ints[node->ints + 1] | DN_SEQUENCE_PACKED | DN_SEQUENCE_BY_ELEMENT | DN_SEQUENCE_EVERY_C;
    for (int m = 0; m < g->n; m++) {
        all[2 + m] = t->ints[t->nodes[members[m]].ints];
        if (all[2 + m] > all[0]) all[0] = all[2 + m];
    }
    *count = g->n + 2;
    return all;
}

/* The leader's, with the batch counts added up. */
static int prepare(dn_tape *t, int group, dn_call *c, dn_dim *y_dim) {
    const dn_group *g = &t->groups[group];
    const int batch = g->once ? g->once->n : g->batch;
    dn_node *node = leader_of(t, g);
    dn__prepare_call(t, node, c);
    c->n = inputs_of(t, g);
    dn_dim *x_dims = dn__arena_take(&t->scratch, (size_t)c->n * sizeof *x_dims);
    c->ints = g->ragged ? packed_ints(t, g, &c->n_ints) : joined_ints(t, g, &c->n_ints);
    if (!x_dims || (!c->ints && c->n_ints)) return DN_ERROR_MEMORY;
    *y_dim = node->dim;
    if (g->ragged) *y_dim = (dn_dim){.nd = 1, .batch = 1, .size = (int)g->total, .d = {(int)g->total}};
    else y_dim->batch = batch;
    c->dim = y_dim;
    c->total = dn__elements(y_dim);
    c->group = group;
    for (int k = 0; k < c->n; k++) {
        const dn_group_input *in = &t->group_inputs[g->inputs + k];
        if (in->gather == DN_SHARED_INPUT) continue;
        x_dims[k] = *t->in[k].dim;
        x_dims[k].batch = g->ragged && k < c->n - 1 ? g->n : batch;
        t->in[k] = (dn_in){&x_dims[k], in->value, x_dims[k].batch == 1 ? 0 : (size_t)x_dims[k].size};
    }
    return 0;
}

/* What the op keeps from forward for backward, in numbers; of a ragged group it says so itself. */
static size_t saved_of(dn_tape *t, const dn_group *g, const dn_call *c) {
    const int32_t *members = members_of(t, g);
    size_t saved = 0;
    if (g->once) return (size_t)g->once->n * leader_of(t, g)->saved;
    if (!g->ragged) {
        for (int m = 0; m < g->n; m++) saved += t->nodes[members[m]].saved;
        return saved;
    }
    dn_shape s = {.op = c->node->op->name, .n = c->n, .n_ints = c->n_ints, .n_reals = c->node->n_reals, .x = t->xdims, .ints = c->ints,
                  .reals = c->reals, .parts = 1, .message = t->message};
    for (int k = 0; k < c->n; k++) t->xdims[k] = c->x[k].dim;
    return c->node->op->dims(&s) < 0 ? SIZE_MAX : s.saved;
}

/* ---- forward ------------------------------------------------------------------------------------------------------- */

/* Draws belong to nodes: each member makes its own, into its part of the group's memory. */
static void draw_each(dn_tape *t, const dn_group *g, const dn_call *all) {
    const int32_t *members = members_of(t, g);
    dn_real *saved = all->saved;
    dn_in *in = dn__arena_take(&t->scratch, (size_t)all->n * sizeof *in);
    if (!in) t->out_of_memory = 1;
    for (int m = 0; in && m < g->n; m++) {
        dn_node *member = &t->nodes[members[m]];
        const size_t column = (size_t)member->column;
        dn_call c = *all;
        c.node = member;
        c.dim = &member->dim;
        c.total = dn__elements(&member->dim);
        c.y = member->value;
        c.saved = saved;
        saved += member->saved;
        for (int k = 0; k < c.n; k++) {
            const dn_in *x = &all->x[k];
            const int shared = t->group_inputs[g->inputs + k].gather == DN_SHARED_INPUT;
            in[k] = shared ? *x : (dn_in){&t->nodes[dn__input(t, members[m], k)].dim, x->v + column * (size_t)x->dim->size, x->stride};
        }
        c.x = in;
        member->op->forward(&c);
    }
}

/* Where the tape stood before a group was computed. A group that fails leaves nothing behind: it, or what takes its place, is computed when
 * there is memory again. */
typedef struct start { int inputs, gathers, sources; dn_arena_mark values; dn_autobatch_counts counts; } start;
static start start_of(const dn_tape *t) {
    return (start){t->n_group_inputs, t->n_gathers, t->n_sources, dn__arena_mark(&t->values), t->counts};
}
static int undo(dn_tape *t, dn_group *g, const start *before, int error) {
    for (int m = 0; m < g->n; m++) t->nodes[t->members[g->first + m]].grouped = 0;
    *g = (dn_group){.first = g->first, .n = g->n, .ragged = g->ragged, .joined = g->joined};
    t->n_group_inputs = before->inputs;
    t->n_gathers = before->gathers;
    t->n_sources = before->sources;
    t->counts = before->counts;
    t->out_of_memory = 0;
    dn__arena_reset(&t->values, before->values);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    return error;
}

int dn__group_forward(dn_tape *t, int group) {
    dn_group *g = &t->groups[group];
    const int32_t *members = members_of(t, g);
    const dn_node *node = leader_of(t, g);
    const start before = start_of(t);
    for (int m = 0; m < g->n; m++) {
        ask_for(t, members, m, g->n);
        dn_node *member = &t->nodes[members[m]];
        member->group = group;
        member->column = g->batch;
        g->batch += g->ragged ? t->ints[member->ints] : member->dim.batch;
        g->total += dn__elements(&member->dim);
    }
    dn_call c;
    dn_dim y_dim;
    const int error = find_inputs(t, group);
    if (error) return undo(t, g, &before, error);
    if (prepare(t, group, &c, &y_dim)) return undo(t, g, &before, dn__no_memory(t));
    const size_t saved = saved_of(t, g, &c);
    const size_t y_size = dn__aligned(g->total), distinct = g->once ? dn__aligned(c.total) : 0;
    dn_real *y = saved > PTRDIFF_MAX / 16 ? NULL : dn__arena_take(&t->values, (y_size + distinct + saved) * sizeof *y);
    if (!y) return undo(t, g, &before, dn__no_memory(t));
    c.y = g->value = y;
    c.saved = g->saved = y + y_size + distinct;
    if (g->once) c.y = g->once->value = y + y_size;
    for (int m = 0; m < g->n; m++) {
        dn_node *member = &t->nodes[members[m]];
        member->grouped = t->values_made;
        member->failed = 0;
        member->value = y + (size_t)member->column * (size_t)(g->ragged ? member->dim.size / member->parts : member->dim.size);
    }
    if (node->op->flags & DN_RANDOM) draw_each(t, g, &c);
    else node->op->forward(&c);
    if (t->out_of_memory) return undo(t, g, &before, dn__no_memory(t));
    if (g->once) dn__once_spread(t, g);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    return 0;
}

dn_real *dn__part_address(dn_tape *t, const dn_node *owner, int offset, int gradient) {
    if (!dn__grouped(t, owner)) return (gradient ? owner->grad : owner->value) + offset;
    /* The owner's blocks are (size x batch); the group's are (size x the group's batch), and this member's part begins at its column. */
    const dn_group *g = &t->groups[owner->group];
    dn_real *base = gradient ? g->grads : g->value;
    size_t batch = (size_t)owner->dim.batch, size = (size_t)(owner->dim.size / owner->parts);
    size_t block = batch ? (size_t)offset / (size * batch) : 0;
    if (owner->op == dn_ops[DN_OP_cell]) { /* outputs of any sizes */
        const dn_cell_output *output = dn__cell_output(dn__program_of(t, owner), (size_t)offset);
        return base + output->at * (size_t)g->n + (size_t)output->dim.size * (size_t)owner->column;
    }
    if (g->ragged) { /* h of all steps of all members, then c: of this member they begin at its column */
        const size_t steps = (size_t)t->ints[owner->ints];
        return base + (block / steps * (size_t)g->batch + (size_t)owner->column + block % steps) * size;
    }
    return base + block * size * (size_t)g->batch + size * (size_t)owner->column;
}

/* ---- backward ------------------------------------------------------------------------------------------------------ */

static dn_real *new_grads(dn_tape *t, dn_group *g) {
    return g->grads = dn__arena_take(&t->grads, g->total * sizeof(dn_real));
}

dn_real *dn__group_grads(dn_tape *t, int group) {
    dn_group *g = &t->groups[group];
    if (!g->grads && new_grads(t, g)) dn__fill(g->total, 0, g->grads);
    return g->grads;
}

int dn__group_collects(const dn_call *c, int k) {
    return c->group >= 0 && c->tape->group_inputs[c->tape->groups[c->group].inputs + k].gather != DN_SHARED_INPUT;
}

int dn__group_wants(const dn_call *c, int k) {
    const dn_tape *t = c->tape;
    const dn_group_input *in = &t->group_inputs[t->groups[c->group].inputs + k];
    if (in->gather < 0) return dn__node_wants(t, &t->nodes[in->source]);
    const dn_gather *gather = &t->gathers[in->gather];
    for (int m = 0; m < gather->n; m++)
        if (dn__node_wants(t, &t->nodes[t->sources[gather->first + m]])) return 1;
    return 0;
}

/* The place of neighbours in one block, the first of which is node x: the part of the block's gradients that mirrors their values. */
static dn_grad mirror_place(dn_tape *t, int x, size_t total) {
    const dn_node *node = &t->nodes[x];
    if (node->op == dn_ops[DN_OP_part]) return dn__place(t, x); /* which sees to it that the owner has gradients */
    size_t n;
    const dn_real *block = block_of(t, node, &n);
    dn_group *g = &t->groups[node->group];
    if (!g->grads && total == n) { /* all of it is written now: no need of zeros */
        dn_real *dx = new_grads(t, g);
        return (dn_grad){dx, 0};
    }
    dn_real *grads = dn__group_grads(t, node->group);
    return (dn_grad){grads ? grads + (node->value - block) : NULL, 1};
}

dn_grad dn__group_dx(dn_call *c, int k) {
    dn_tape *t = c->tape;
    const dn_group_input *in = &t->group_inputs[t->groups[c->group].inputs + k];
    if (!dn__group_wants(c, k)) return (dn_grad){0};
    dn_grad g;
    if (in->gather < 0) {
        g = mirror_place(t, in->source, dn__elements(c->x[k].dim));
    } else {
        dn_gather *gather = &t->gathers[in->gather];
        g.beta = gather->grad != NULL;
        if (!gather->grad) gather->grad = dn__arena_take(&t->grads, gather->total * sizeof(dn_real));
        g.dx = gather->grad;
    }
    if (!g.dx) t->out_of_memory = 1;
    return g;
}

/* Rows that were looked up after the leader of joined products was made have been passed by the sweep, which goes in the order of the nodes
 * there: bring their gradient home here. */
static void add_to_row(dn_tape *t, int x, const dn_real *dx) {
    dn_call c;
    dn__prepare_call(t, &t->nodes[x], &c);
    c.dy = dx;
    c.node->op->backward(&c);
}

/* Brings the gradients of a gather home. */
static void scatter(dn_tape *t, dn_gather *gather, const dn_group *g) {
    const int leader = t->members[g->first];
    dn_real *dx = gather->grad;
    gather->grad = NULL;
    for (int m = 0; m < gather->n && !t->out_of_memory; m++) {
        ask_for(t, t->sources + gather->first, m, gather->n);
        const int x = t->sources[gather->first + m];
        dn_node *node = &t->nodes[x];
        const size_t n = dn__elements(&node->dim);
        if (dn__node_wants(t, node)) {
            if (gather->once) {
                add_to_row(t, x, dx);
            } else if (!node->grad && !dn__grouped(t, node) && node->op != dn_ops[DN_OP_parameter] && node->op != dn_ops[DN_OP_part]) {
                node->grad = dx; /* nobody else needs this memory any more */
            } else {
                dn_grad place = dn__place(t, x);
                if (place.dx) dn__axpy(n, 1, dx, place.beta, place.dx);
                else t->out_of_memory = 1;
            }
            if (g->joined && x > leader && node->param) add_to_row(t, x, dx);
        }
        dx += n;
    }
}

int dn__group_prepare(dn_tape *t, int group, dn_call *c, dn_dim *y) {
    const dn_group *g = &t->groups[group];
    if (prepare(t, group, c, y)) return dn__no_memory(t);
    c->y = g->once ? g->once->value : g->value;
    c->saved = g->saved;
    return 0;
}

static void call_backward(dn_tape *t, int group) {
    const dn_group *g = &t->groups[group];
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) {
        t->out_of_memory = 1;
        return;
    }
    c.dy = g->grads;
    if (g->once) dn__once_backward(t, group, &c);
    else c.node->op->backward(&c);
}

void dn__group_backward(dn_tape *t, int group) {
    const dn_group *g = &t->groups[group];
    const dn_node *node = leader_of(t, g);
    if (g->grads && !(node->op->flags & DN_NO_GRAD)) call_backward(t, group);
    /* also where nothing came to this group: later users of its gathers may have got something */
    const int n = inputs_of(t, g);
    for (int k = 0; k < n; k++) {
        const int at = t->group_inputs[g->inputs + k].gather;
        if (at >= 0 && t->gathers[at].group == group && t->gathers[at].grad) scatter(t, &t->gathers[at], g);
    }
}
