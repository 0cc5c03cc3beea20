#include "group.h"

#include <string.h>

#include "deduplicate.h"

int dn__group_new(dn_tape *t) {
    if (DN_GROW(t->schedule->groups, t->schedule->capacity.groups, t->schedule->n.groups + 1))
        return dn__no_memory(t);
    t->schedule->groups[t->schedule->n.groups] = (dn_group){.first = t->schedule->n.members};
    return t->schedule->n.groups++;
}

/* ---- inputs --------------------------------------------------------------------------- */

/* One sequence, whose state and masks are those of its first step. */
static int is_one_sequence(const dn_group *g) { return g->as && g->sequences == 1; }

/* Whether member m has inputs of its own before the last one: a step has those of the one that
 * begins its chain, and the state that it goes on from. */
static int has_inputs(const dn_tape *t, const dn_group *g, int m) {
    return !g->as || dn__begins_sequence(t, g, m);
}

static int is_same(const dn_tape *t, const dn_group *g, int k) {
    const int32_t *members = dn__members_of(t, g);
    int x = dn__input(t, members[0], k);
    if (is_one_sequence(g)) return 1;
    if (t->nodes[x].dim.batch != 1) return 0;
    /* the members' signatures say so */
    if (!g->batched_gemm && t->nodes[x].op == dn_ops[DN_OP_parameter]) return 1;
    for (int m = 1; m < g->n; m++)
        if (has_inputs(t, g, m) && dn__input(t, members[m], k) != x) return 0;
    return 1;
}

const dn_real *dn__block_of(const dn_tape *t, const dn_node *node, size_t *n) {
    const dn_node *owner =
        node->op == dn_ops[DN_OP_output_view] ? &t->nodes[t->args[node->args]] : node;
    const dn_group *g = dn__group_of(t, owner);
    if (g) {
        *n = g->total;
        return g->value;
    }
    *n = dn__elements(&owner->dim);
    return owner == node ? NULL : owner->value;
}

/* The last gather that begins with node i, or -1. What the node says outlives evaluations and
 * reverts, gathers do not: its number may be of one that is no more, or of another node's. */
static int last_gather(const dn_tape *t, int i) {
    const int at = t->schedule->seats[i].gathers;
    return at >= 0 && at < t->schedule->n.gathers &&
                   t->schedule->sources[t->schedule->gathers[at].first] == i
               ? at
               : -1;
}

enum { MOST_GATHERS_SEEN = 64 }; /* to look further takes longer than to copy once more */

/* Whether an input of the group before this one is that gather. Equal members that are computed
 * once may differ in which of their inputs are one node: so these keep their gradients apart. */
static int is_taken(const dn_tape *t, int group, const dn_group_input *in, int gather) {
    const dn_group_input *k = t->schedule->group_inputs + t->schedule->groups[group].inputs;
    while (k < in && k->gather != gather) k++;
    return k < in;
}

/* A gather of the same nodes that was made before, or -1; DN_ERROR_INTERNAL. Each was made after
 * the next one in its list: so lists end. */
static int find_gather(dn_tape *t, int group, const dn_group_input *in, const int32_t *sources,
                       int n) {
    const int deduplicated = t->schedule->groups[group].deduplicated != NULL;
    int seen = 0;
    for (int at = last_gather(t, sources[0]), next;
         at >= t->schedule->first_gather && seen < MOST_GATHERS_SEEN; at = next, seen++) {
        const dn_gather *gather = &t->schedule->gathers[at];
        next = gather->next;
        if (next >= at) return dn__internal_error(t, "gathers of a node are in a circle");
        if (gather->n == n && gather->deduplicated == deduplicated &&
            !memcmp(t->schedule->sources + gather->first, sources, (size_t)n * sizeof *sources) &&
            !(deduplicated && is_taken(t, group, in, at)))
            return at;
    }
    return -1;
}

/* How values lie that a group needs side by side: `total` numbers from `first` on, one after
 * another, or apart. mirrored: gradients may lie likewise. */
typedef struct placement {
    const dn_real *first;
    size_t total;
    int apart, mirrored;
} placement;

static placement placement_of(dn_tape *t, const int32_t *sources, int count) {
    placement p = {.first = t->nodes[sources[0]].value, .mirrored = 1};
    const dn_real *expected = p.first;
    for (int m = 0; m < count; m++) {
        dn__ask_for(t, sources, m, count, 1);
        const dn_node *node = &t->nodes[sources[m]];
        const size_t n = dn__elements(&node->dim);
        p.apart |= node->value != expected;
        p.mirrored &= node->op == dn_ops[DN_OP_output_view] ||
                      (dn__grouped(t, node) && !(node->op->flags & DN_VIEW));
        expected = node->value + n;
        p.total += n;
    }
    return p;
}

/* Whether the values are a part of one block, as their gradients are, which are used in place. */
static int is_in_block(const dn_tape *t, const dn_node *first, const placement *p) {
    if (p->apart || !p->mirrored) return 0;
    size_t n;
    const dn_real *block = dn__block_of(t, first, &n);
    return block && p->first >= block && p->first + p->total <= block + n;
}

/* Kept as long as values: later groups and backward read it. NULL: no memory. */
static dn_real *copy_of_values(dn_tape *t, const int32_t *sources, int count, size_t total) {
    dn_real *copy = dn__memory(t, DN_VALUES, total * sizeof *copy), *to = copy;
    for (int m = 0; copy && m < count; m++) {
        const dn_node *node = &t->nodes[sources[m]];
        const size_t n = dn__elements(&node->dim);
        memcpy(to, node->value, n * sizeof *to);
        to += n;
    }
    return copy;
}

/* sources[n_sources ...] side by side, `count` nodes. */
static int lay_out(dn_tape *t, int group, int count, dn_group_input *in) {
    const int32_t *sources = t->schedule->sources + t->schedule->n.sources;
    const placement p = placement_of(t, sources, count);
    in->source = sources[0];
    in->value = p.first;
    if (is_in_block(t, &t->nodes[sources[0]], &p)) {
        in->gather = DN_MIRRORED;
        t->schedule->counts.avoided++;
        return 0;
    }
    in->gather = find_gather(t, group, in, sources, count);
    if (in->gather == DN_ERROR_INTERNAL) return in->gather;
    if (in->gather >= 0) {
        in->value = t->schedule->gathers[in->gather].value;
        t->schedule->counts.avoided++;
        return 0;
    }
    if (DN_GROW(t->schedule->gathers, t->schedule->capacity.gathers, t->schedule->n.gathers + 1))
        return dn__no_memory(t);
    if (p.apart && !(in->value = copy_of_values(t, sources, count, p.total)))
        return dn__no_memory(t);
    if (p.apart) t->schedule->counts.copied++;
    else t->schedule->counts.avoided++;
    const int32_t next = last_gather(t, sources[0]);
    if (t->schedule->first_gather > t->schedule->n.gathers) /* those have been dropped */
        t->schedule->first_gather = t->schedule->n.gathers;
    in->gather = t->schedule->n.gathers++;
    t->schedule->gathers[in->gather] =
        (dn_gather){.first = t->schedule->n.sources,
                    .n = count,
                    .next = next,
                    .deduplicated = t->schedule->groups[group].deduplicated != NULL,
                    .group = group,
                    .value = in->value,
                    .total = p.total};
    t->schedule->seats[sources[0]].gathers = in->gather;
    t->schedule->n.sources += count;
    return 0;
}

/* Input k of all members side by side, or of all distinct ones. */
static int gather_input(dn_tape *t, int group, int k, dn_group_input *in) {
    const dn_group *g = &t->schedule->groups[group];
    const int32_t *members = g->deduplicated ? g->deduplicated->members : dn__members_of(t, g);
    const int n = g->deduplicated ? g->deduplicated->n : g->n;
    if (DN_GROW(t->schedule->sources, t->schedule->capacity.sources,
                (int64_t)t->schedule->n.sources + n))
        return dn__no_memory(t);
    int32_t *to = t->schedule->sources + t->schedule->n.sources;
    int count = 0;
    for (int m = 0; m < n; m++)
        if (has_inputs(t, g, m)) to[count++] = dn__input(t, members[m], k);
    return lay_out(t, group, count, in);
}

/* The steps of all members, one after another. */
static int gather_sequences(dn_tape *t, int group, dn_group_input *in) {
    const dn_group *g = &t->schedule->groups[group];
    const int32_t *members = dn__members_of(t, g);
    const int all = g->as == DN_AS_STEPS ? g->n : g->batch;
    if (DN_GROW(t->schedule->sources, t->schedule->capacity.sources,
                (int64_t)t->schedule->n.sources + all))
        return dn__no_memory(t);
    int32_t *to = t->schedule->sources + t->schedule->n.sources;
    for (int m = 0; m < g->n; m++) {
        const dn_node *member = &t->nodes[members[m]];
        const int steps = t->ints[member->ints];
        memcpy(to, t->args + member->args + member->n_args - steps, (size_t)steps * sizeof *to);
        to += steps;
    }
    return lay_out(t, group, all, in);
}

/* Finds out what each input is. One is always gathered: from it the op learns how many batch
 * elements there are. Negative: an error. */
static int find_inputs(dn_tape *t, int group) {
    dn_group *g = &t->schedule->groups[group];
    const dn_node *node = dn__representative_of(t, g);
    const int n = dn__inputs_of(t, g), each = n - (g->as != DN_AS_ELEMENTS);
    if (DN_GROW(t->schedule->group_inputs, t->schedule->capacity.group_inputs,
                (int64_t)t->schedule->n.group_inputs + n))
        return dn__no_memory(t);
    g->inputs = t->schedule->n.group_inputs;
    t->schedule->n.group_inputs += n;
    dn_group_input *in = t->schedule->group_inputs + g->inputs;
    int gathered = 0, last = -1, error = 0;
    for (int k = 0; k < each; k++) {
        const int never = k < 8 && node->op->flags >> DN_BROADCAST_SHIFT & 1 << k,
                  broadcast = never || is_same(t, g, k);
        in[k].gather = broadcast ? DN_BROADCAST_INPUT : DN_MIRRORED;
        if (!never) last = k;
        gathered |= !broadcast;
    }
    if (gathered && dn__deduplicated_find(t, group, each)) return dn__no_memory(t);
    for (int k = 0; k < each && !error; k++)
        if (in[k].gather != DN_BROADCAST_INPUT) error = gather_input(t, group, k, &in[k]);
    if (error) return error;
    if (g->as) return gather_sequences(t, group, &in[each]);
    return gathered || last < 0 ? 0 : gather_input(t, group, last, &in[last]);
}

/* Attributes that belong to batch elements are joined like these; others are the same in all
 * members. */
static const int *joined_ints(dn_tape *t, const dn_group *g, int *count) {
    const dn_node *node = dn__representative_of(t, g);
    const int32_t *members = dn__members_of(t, g);
    *count = node->n_ints;
    if (!(node->op->flags & (DN_INTS_EACH | DN_INTS_AFTER_FIRST))) return t->ints + node->ints;
    int first = (node->op->flags & DN_INTS_AFTER_FIRST) != 0, total = first;
    for (int m = 0; m < g->n; m++) total += t->nodes[members[m]].n_ints - first;
    int *all = dn__memory(t, DN_SCRATCH, (size_t)total * sizeof *all), *to = all;
    if (!all) return NULL;
    if (first) *to++ = t->ints[node->ints];
    for (int m = 0; m < g->n; m++) {
        const dn_node *member = &t->nodes[members[m]];
        for (int i = first; i < member->n_ints; i++) *to++ = t->ints[member->ints + i];
    }
    *count = total;
    return all;
}

/* Of several sequences: the greatest number of steps, options, the number of steps of each. Of one:
 * the number of steps, options. */
static const int *sequence_ints(dn_tape *t, const dn_group *g, int *count) {
    const dn_node *node = dn__representative_of(t, g);
    const int32_t *members = dn__members_of(t, g);
    int *all = dn__memory(t, DN_SCRATCH, (size_t)(g->sequences + 2) * sizeof *all);
    if (!all) return NULL;
    if (is_one_sequence(g)) {
        all[0] = g->n;
        all[1] = t->ints[node->ints + 1] | DN_SEQUENCE_STEPS;
        *count = 2;
        return all;
    }
    all[0] = 0;
    all[1] =
        t->ints[node->ints + 1] | DN_SEQUENCE_PACKED | DN_SEQUENCE_BY_ELEMENT | DN_SEQUENCE_EVERY_C;
    for (int m = 0, at = 1; m < g->n; m++) {
        if (dn__begins_sequence(t, g, m)) all[++at] = 0;
        all[at] += t->ints[t->nodes[members[m]].ints];
        if (all[at] > all[0]) all[0] = all[at];
    }
    *count = g->sequences + 2;
    return all;
}

/* The representative's, with the batch counts added up. */
static int prepare_group(dn_tape *t, int group, dn_call *c, dn_dim *y_dim) {
    const dn_group *g = &t->schedule->groups[group];
    const int batch = g->deduplicated ? g->deduplicated->n : g->batch;
    dn_node *node = dn__representative_of(t, g);
    dn__prepare_call(t, node, c);
    c->n = dn__inputs_of(t, g);
    dn_dim *x_dims = dn__memory(t, DN_SCRATCH, (size_t)c->n * sizeof *x_dims);
    c->ints = g->as ? sequence_ints(t, g, &c->n_ints) : joined_ints(t, g, &c->n_ints);
    if (!x_dims || (!c->ints && c->n_ints)) return DN_ERROR_MEMORY;
    *y_dim = node->dim;
    if (is_one_sequence(g)) y_dim->size = y_dim->d[0] = node->dim.size * g->n;
    else if (g->as)
        *y_dim = (dn_dim){.nd = 1, .batch = 1, .size = (int)g->total, .d = {(int)g->total}};
    else y_dim->batch = batch;
    c->dim = y_dim;
    c->total = dn__elements(y_dim);
    c->group = group;
    c->members = g->deduplicated ? g->deduplicated->n : g->n;
    c->routes = t->upper->group;
    for (int k = 0; k < c->n; k++) {
        const dn_group_input *in = &t->schedule->group_inputs[g->inputs + k];
        if (in->gather == DN_BROADCAST_INPUT) continue;
        x_dims[k] = *t->call.in[k].dim;
        x_dims[k].batch = g->as && k < c->n - 1 ? g->sequences : batch;
        t->call.in[k] =
            (dn_in){&x_dims[k], in->value, x_dims[k].batch == 1 ? 0 : (size_t)x_dims[k].size};
    }
    return 0;
}

/* What the op keeps from forward for backward, in numbers, of all members `each` together; of
 * sequences it says so itself. */
static size_t saved_of(dn_tape *t, const dn_group *g, const dn_call *c, size_t each) {
    if (g->deduplicated) return (size_t)g->deduplicated->n * dn__representative_of(t, g)->saved;
    if (!g->as) return each;
    dn_shape s = {.op = c->node->op->name,
                  .n = c->n,
                  .n_ints = c->n_ints,
                  .n_floats = c->node->n_floats,
                  .x = t->call.xdims,
                  .ints = c->ints,
                  .floats = c->floats,
                  .parts = 1,
                  .message = t->message};
    for (int k = 0; k < c->n; k++) t->call.xdims[k] = c->x[k].dim;
    return c->node->op->dims(&s) < 0 ? SIZE_MAX : s.saved;
}

/* ---- forward -------------------------------------------------------------------------- */

/* Draws belong to nodes: each member makes its own, into its part of the group's memory. */
static void draw_each(dn_tape *t, const dn_group *g, const dn_call *all) {
    const int32_t *members = dn__members_of(t, g);
    dn_real *saved = all->saved;
    dn_in *in = dn__memory(t, DN_SCRATCH, (size_t)all->n * sizeof *in);
    if (!in) t->workspace.out_of_memory = 1;
    for (int m = 0; in && m < g->n; m++) {
        dn_node *member = &t->nodes[members[m]];
        const size_t column = (size_t)dn__seat(t, member)->column;
        dn_call c = *all;
        c.node = member;
        c.members = 1;
        c.routes = t->upper->node;
        c.dim = &member->dim;
        c.total = dn__elements(&member->dim);
        c.y = member->value;
        c.saved = saved;
        saved += member->saved;
        for (int k = 0; k < c.n; k++) {
            const dn_in *x = &all->x[k];
            const int broadcast =
                t->schedule->group_inputs[g->inputs + k].gather == DN_BROADCAST_INPUT;
            in[k] = broadcast ? *x
                              : (dn_in){&t->nodes[dn__input(t, members[m], k)].dim,
                                        x->v + column * (size_t)x->dim->size, x->stride};
        }
        c.x = in;
        member->op->forward(&c);
    }
}

/* Where the tape stood before a group was computed. A group that fails leaves nothing behind: it,
 * or what takes its place, is computed when there is memory again. */
typedef struct start {
    int inputs, gathers, sources;
    dn_arena_mark values;
    dn_autobatch_counts counts;
} start;
static start start_of(dn_tape *t) {
    return (start){t->schedule->n.group_inputs, t->schedule->n.gathers, t->schedule->n.sources,
                   dn__memory_mark(t, DN_VALUES), t->schedule->counts};
}
static int undo(dn_tape *t, dn_group *g, const start *before, int error) {
    for (int m = 0; m < g->n; m++) t->schedule->seats[t->schedule->members[g->first + m]].made = 0;
    *g = (dn_group){.first = g->first,
                    .n = g->n,
                    .sequences = g->sequences,
                    .as = g->as,
                    .batched_gemm = g->batched_gemm};
    t->schedule->n.group_inputs = before->inputs;
    t->schedule->n.gathers = before->gathers;
    t->schedule->n.sources = before->sources;
    t->schedule->counts = before->counts;
    t->workspace.out_of_memory = 0;
    dn__memory_back_to(t, DN_VALUES, before->values);
    dn__memory_back_to(t, DN_SCRATCH, (dn_arena_mark){0});
    return error;
}

int dn__group_forward(dn_tape *t, int group) {
    dn_group *g = &t->schedule->groups[group];
    const int32_t *members = dn__members_of(t, g);
    const dn_node *node = dn__representative_of(t, g);
    for (int m = 0; m < g->n && t->schedule->unkept.any; m++) {
        const int failed = dn__keep_inputs(t, members[m], NULL);
        if (failed) return failed;
    }
    const start before = start_of(t);
    const int saves = g->as || node->saved;
    size_t each = 0;
    for (int m = 0; m < g->n; m++) {
        dn__ask_for(t, members, m, g->n, 1 + saves);
        const dn_node *member = &t->nodes[members[m]];
        dn__seat(t, member)->group = group;
        dn__seat(t, member)->column = g->batch;
        g->batch += g->as == DN_AS_SEQUENCES ? t->ints[member->ints] : member->dim.batch;
        g->total += dn__elements(&member->dim);
        if (saves) each += member->saved;
    }
    dn_call c;
    dn_dim y_dim;
    const int error = find_inputs(t, group);
    if (error) return undo(t, g, &before, error);
    if (prepare_group(t, group, &c, &y_dim)) return undo(t, g, &before, dn__no_memory(t));
    const size_t saved = saved_of(t, g, &c, each);
    const size_t y_size = dn__aligned(g->total),
                 distinct = g->deduplicated ? dn__aligned(c.total) : 0;
    dn_real *y = saved > PTRDIFF_MAX / 16
                     ? NULL
                     : dn__memory(t, DN_VALUES, (y_size + distinct + saved) * sizeof *y);
    if (!y) return undo(t, g, &before, dn__no_memory(t));
    c.y = g->value = y;
    c.saved = g->saved = y + y_size + distinct;
    if (g->deduplicated) c.y = g->deduplicated->value = y + y_size;
    for (int m = 0; m < g->n; m++) {
        dn_node *member = &t->nodes[members[m]];
        dn_seat *seat = dn__seat(t, member);
        seat->made = (uint32_t)t->schedule->values_made;
        seat->ahead = 0;
        if (t->schedule->any_failed) member->failed = 0;
        const int outputs = g->as ? member->parts : 1;
        member->value = y + (size_t)seat->column * (size_t)(member->dim.size / outputs);
    }
    if (node->op->flags & DN_RANDOM) draw_each(t, g, &c);
    else node->op->forward(&c);
    if (t->workspace.out_of_memory) return undo(t, g, &before, dn__no_memory(t));
    if (g->deduplicated) dn__deduplicated_spread(t, g);
    dn__memory_back_to(t, DN_SCRATCH, (dn_arena_mark){0});
    return 0;
}

dn_real *dn__output_view_address(const dn_tape *t, const dn_node *owner, int offset, int gradient) {
    const dn_group *g = dn__group_of(t, owner);
    if (!g) return (gradient ? owner->grad : owner->value) + offset;
    /* The owner's blocks are (size x batch); the group's are (size x the group's batch), and this
     * member's part begins at its column. */
    dn_real *base = gradient ? g->grads : g->value;
    const size_t column = (size_t)dn__seat(t, owner)->column;
    const dn_block *blocks = dn__blocks(t, owner);
    if (blocks) { /* of any sizes */
        int k = owner->parts - 1;
        while (k > 0 && blocks[k].at > (size_t)offset) k--;
        return base + blocks[k].at * (size_t)g->n + blocks[k].size * column;
    }
    size_t batch = (size_t)owner->dim.batch, size = (size_t)(owner->dim.size / owner->parts);
    size_t block = batch ? (size_t)offset / (size * batch) : 0;
    /* h of all steps of all members, then c: of this member they begin at its column */
    if (g->as == DN_AS_SEQUENCES) {
        const size_t steps = (size_t)t->ints[owner->ints];
        return base + (block / steps * (size_t)g->batch + column + block % steps) * size;
    }
    return base + block * size * (size_t)g->batch + size * column;
}

int dn__group_prepare(dn_tape *t, int group, dn_call *c, dn_dim *y) {
    const dn_group *g = &t->schedule->groups[group];
    if (prepare_group(t, group, c, y)) return dn__no_memory(t);
    c->y = g->deduplicated ? g->deduplicated->value : g->value;
    c->saved = g->saved;
    return 0;
}
