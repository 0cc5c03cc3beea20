#include "autobatch.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agenda.h"
#include "group.h"

enum {
    /* of a group's value. Larger groups gain nothing; two in place of one keep a matrix's gradient
     * back (hooks.c) */
    MOST_NUMBERS = 1 << 24,
    FEW_NODES = 24, /* what the automatic choice does not look at */
    /* nodes that parts of a plan look at in one call: some milliseconds each, then the caller looks
     * at signals */
    PLAN_WORK = 1 << 19,
    /* nodes that could be computed at a time, on average, for the automatic choice to batch */
    LEAST_WIDTH = 2,
    WIDE_BATCH = 8 /* on average: batched by hand */
};

double dn__seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- signatures ----------------------------------------------------------------------- */

/* Whether x as input k must be the same node in all members: parameters are, and what the op says
 * cannot be batched, bit k of `broadcast`. */
static int must_be_broadcast(const dn_node *x, int broadcast, int k) {
    return x->op == dn_ops[DN_OP_parameter] || (k < 8 && broadcast & 1 << k);
}

/* The inputs of an op that cannot be batched. */
static int broadcast_inputs(const dn_tape *t, const dn_op *op) {
    return t->schedule->as_dynet ? dn__dynet_broadcasts(op) : op->flags >> DN_BROADCAST_SHIFT;
}

/* How many each batch element has, of a node with elements: members must agree. Most have none; a
 * division takes longer than all else here. */
static int ints_each(const dn_node *node) {
    const int rest = node->n_ints - dn__node_ints(node);
    return rest ? rest / node->dim.batch : 0;
}

static uint64_t mix_dims(uint64_t h, const dn_dim *d) {
    h = dn__mix(h, (uint64_t)(uint32_t)d->size << 32 | (uint64_t)(uint32_t)d->nd);
    for (int i = 1; i < d->nd; i++) h = dn__mix(h, (uint64_t)(uint32_t)d->d[i]);
    return h;
}

/* Whether nodes like this one may differ in their number of steps. A single step is quicker as an
 * ordinary group. */
static int has_variable_length(const dn_tape *t, const dn_node *node) {
    return node->op->flags & DN_VARIABLE_LENGTH && node->n_ints == 2 && node->dim.batch == 1 &&
           t->ints[node->ints] > 1;
}
/* How many inputs count for the signature. */
static int inputs_alike(const dn_tape *t, const dn_node *node) {
    return has_variable_length(t, node) ? node->n_args - t->ints[node->ints] : node->n_args;
}

/* What nodes must have in common to be members of one group, as a hash; 0: the node can be in no
 * group. */
static uint64_t hash_signature(const dn_tape *t, const dn_node *node, int depth) {
    const int flags = node->op->flags, ints = dn__node_ints(node);
    if (flags & DN_RANDOM && t->workspace.rng.generator && !dn__dynet_batches(node->op)) return 0;
    if (!(flags & DN_BATCHES) || flags & (DN_VIEW | DN_LEAF) || node->not_batchable ||
        !dn__elements(&node->dim))
        return 0;
    if ((node->n_ints - ints) % node->dim.batch) return 0;
    const int variable_length = has_variable_length(t, node), n = inputs_alike(t, node),
              broadcast = broadcast_inputs(t, node->op);
    uint64_t h =
        dn__mix((uint64_t)(uintptr_t)node->op, (uint64_t)(uint32_t)depth << 32 | (uint32_t)n);
    h = dn__mix(h, (uint64_t)node->needs_grad << 1 | (uint64_t)variable_length);
    if (!variable_length) h = mix_dims(h, &node->dim);
    int gathered = variable_length;
    for (int k = 0; k < n; k++) {
        const int at = t->args[node->args + k];
        const dn_node *x = &t->nodes[at];
        if (must_be_broadcast(x, broadcast, k)) {
            if (x->dim.batch != 1) return 0;
            h = dn__mix(h, (uint64_t)at);
        } else {
            if (x->dim.batch != node->dim.batch || !dn__elements(&x->dim)) return 0;
            h = mix_dims(h, &x->dim);
            gathered = 1;
        }
    }
    for (int i = variable_length; i < ints; i++)
        h = dn__mix(h, (uint64_t)(uint32_t)t->ints[node->ints + i]);
    h = dn__mix(h, (uint64_t)ints_each(node));
    for (int i = 0; i < node->n_floats; i++) {
        uint64_t bits;
        memcpy(&bits, &t->floats[node->floats + i], sizeof bits);
        h = dn__mix(h, bits);
    }
    return gathered ? h | 1 : 0;
}

/* Whether node b, of which nothing is known, is like node a, which can be in a group: then so can
 * b. */
static int alike(const dn_tape *t, const dn_node *a, const dn_node *b) {
    if (a->op != b->op || a->needs_grad != b->needs_grad || b->not_batchable ||
        a->n_floats != b->n_floats || !dn__elements(&b->dim))
        return 0;
    const int ints = dn__node_ints(a), variable_length = has_variable_length(t, a),
              n = inputs_alike(t, a), broadcast = broadcast_inputs(t, a->op);
    if (variable_length != has_variable_length(t, b) || n != inputs_alike(t, b) ||
        ints != dn__node_ints(b))
        return 0;
    if (b->n_ints - ints != ints_each(a) * b->dim.batch) return 0;
    if (!variable_length && !dn__equal_sizes(&a->dim, &b->dim)) return 0;
    for (int k = 0; k < n; k++) {
        const int i = t->args[a->args + k], j = t->args[b->args + k];
        if (i == j && a->dim.batch == b->dim.batch) continue;
        const dn_node *x = &t->nodes[i], *y = &t->nodes[j];
        if (must_be_broadcast(x, broadcast, k)
                ? i != j
                : y->dim.batch != b->dim.batch || must_be_broadcast(y, broadcast, k) ||
                      !dn__equal_sizes(&x->dim, &y->dim))
            return 0;
    }
    for (int i = variable_length; i < ints; i++)
        if (t->ints[a->ints + i] != t->ints[b->ints + i]) return 0;
    return !a->n_floats || !memcmp(t->floats + a->floats, t->floats + b->floats,
                                   (size_t)a->n_floats * sizeof *t->floats);
}

/* ---- the schedule --------------------------------------------------------------------- */

/* How deep each node lies, how many use it, what it waits for. */
static int count_edges(dn_agenda *s) {
    const dn_tape *t = s->t;
    const size_t n = (size_t)s->n;
    if (!(s->sign = dn__plan_take(s->t, n, sizeof *s->sign)) ||
        !(s->depth = dn__plan_take(s->t, n, sizeof *s->depth)) ||
        !(s->waits = dn__plan_take(s->t, n, sizeof *s->waits)) ||
        !(s->user_at = dn__plan_zeroed(s->t, n + 1, sizeof *s->user_at)))
        return DN_ERROR_MEMORY;
    for (int i = 0; i < s->n; i++) {
        const dn_node *node = &t->nodes[s->first + i];
        int depth = 0, waits = 0;
        for (int k = 0; k < node->n_args; k++) {
            const int x = t->args[node->args + k] - s->first;
            if (x < 0) continue;
            if (s->sign[x] == DN_LEAF_NODE) {
                if (s->as_dynet && !depth) depth = 1; /* there leaves count */
                continue;
            }
            s->user_at[x + 1]++;
            waits++;
            if (s->depth[x] >= depth) depth = s->depth[x] + 1;
        }
        s->sign[i] = node->op->flags & DN_LEAF ? DN_LEAF_NODE : DN_NOT_BATCHABLE;
        s->leaves += s->sign[i] == DN_LEAF_NODE;
        s->batches += s->sign[i] == DN_LEAF_NODE ? 0 : node->dim.batch;
        s->depth[i] = depth;
        s->waits[i] = waits;
        if (depth > s->deepest) s->deepest = depth;
    }
    return 0;
}

static int link_users(dn_agenda *s) {
    const dn_tape *t = s->t;
    for (int i = 0; i < s->n; i++) s->user_at[i + 1] += s->user_at[i];
    int total = s->user_at[s->n];
    if (!(s->users = dn__plan_take(s->t, (size_t)total, sizeof *s->users))) return DN_ERROR_MEMORY;
    /* backwards, so that filling each list from its end puts it in order */
    for (int i = s->n - 1; i >= 0; i--) {
        if (!s->waits[i]) continue;
        const dn_node *node = &t->nodes[s->first + i];
        for (int k = 0; k < node->n_args; k++) {
            const int x = t->args[node->args + k] - s->first;
            if (x >= 0 && s->sign[x] != DN_LEAF_NODE) s->users[--s->user_at[x + 1]] = i;
        }
    }
    /* user_at[x + 1] now is where x begins: move it into place */
    for (int i = 0; i < s->n; i++) s->user_at[i] = s->user_at[i + 1];
    s->user_at[s->n] = total;
    return 0;
}

/* The signature of node i, a new one if there is none like it. */
static int signature_of(dn_agenda *s, int i, uint64_t h, int level, int32_t *table, size_t slots) {
    const dn_tape *t = s->t;
    size_t at = h >> 7 & (slots - 1);
    for (; table[at]; at = (at + 1) & (slots - 1)) {
        const dn_signature *g = &s->signatures[table[at] - 1];
        if (g->hash == h && g->depth == level &&
            alike(t, &t->nodes[s->first + i], &t->nodes[g->node]))
            return table[at] - 1;
    }
    s->signatures[s->n_signatures] =
        (dn_signature){.hash = h, .node = s->first + i, .depth = level, .ready = -1, .last = -1};
    table[at] = ++s->n_signatures;
    return s->n_signatures - 1;
}

static int find_signatures(dn_agenda *s) {
    const dn_tape *t = s->t;
    size_t slots = 64;
    while (slots < 2 * (size_t)(s->n - s->leaves)) slots *= 2;
    int32_t *table = dn__plan_zeroed(s->t, slots, sizeof *table); /* signature + 1 */
    /* the signatures of nodes that have one, one after another */
    int32_t *seen = dn__plan_take(s->t, (size_t)(s->n - s->leaves), sizeof *seen);
    s->signatures = dn__plan_take(s->t, (size_t)(s->n - s->leaves), sizeof *s->signatures);
    if (!table || !seen || !s->signatures) return DN_ERROR_MEMORY;
    /* Programs make the same sequences of nodes again and again. `at` follows an earlier one in
     * `seen`: the guess is what stood there. Where it is wrong, the sequence that began like this
     * the last time is followed from now on. To confirm a guess takes half the time of a hash. */
    for (int i = 0, n = 0, at = 0; i < s->n; i++) {
        if (s->sign[i] == DN_LEAF_NODE) continue;
        const dn_node *node = &t->nodes[s->first + i];
        const int level =
            t->schedule->autobatch == (s->as_dynet ? DN_DYNET_DEPTH : DN_AUTOBATCH_DEPTH)
                ? s->depth[i]
                : 0;
        dn_signature *g = at < n ? &s->signatures[seen[at]] : NULL;
        if (!g || g->depth != level || !alike(t, &t->nodes[g->node], node)) {
            const uint64_t h = hash_signature(t, node, level);
            if (!h) continue;
            g = &s->signatures[signature_of(s, i, h, level, table, slots)];
            at = g->last;
        }
        at++;
        g->last = n;
        s->sign[i] = seen[n++] = (int32_t)(g - s->signatures);
        g->count++;
        g->depths += s->depth[i];
    }
    return 0;
}

static int by_depth(const void *a, const void *b) {
    const dn_signature *x = *(dn_signature *const *)a, *y = *(dn_signature *const *)b;
    return x->average != y->average ? (x->average < y->average ? -1 : 1)
                                    : (x->tie > y->tie) - (x->tie < y->tie);
}

/* Those whose nodes lie least deep, on average, come first. */
static int rank_signatures(dn_agenda *s) {
    for (int i = 0; i < s->n_signatures; i++) {
        dn_signature *g = &s->signatures[i];
        g->average = (double)g->depths / g->count; /* to compare products, they might overflow */
        g->tie = i;
    }
    if (s->as_dynet && s->t->schedule->autobatch != DN_DYNET_DEPTH) dn__dynet_averages(s);
    s->by_rank = dn__plan_take(s->t, (size_t)s->n_signatures, sizeof *s->by_rank);
    s->next_ready = dn__plan_take(s->t, (size_t)s->n, sizeof *s->next_ready);
    s->active = dn__plan_zeroed(s->t, (size_t)s->n_signatures / 64 + 1, sizeof *s->active);
    if (!s->by_rank || !s->next_ready || !s->active) return DN_ERROR_MEMORY;
    for (int i = 0; i < s->n_signatures; i++) s->by_rank[i] = &s->signatures[i];
    qsort(s->by_rank, (size_t)s->n_signatures, sizeof *s->by_rank, by_depth);
    for (int i = 0; i < s->n_signatures; i++) s->by_rank[i]->rank = i;
    return 0;
}

static void make_ready(dn_agenda *s, int i) {
    s->next_ready[i] = -1;
    if (s->when) s->when[i] = dn__dynet_moment(s, i);
    if (s->sign[i] < 0) {
        if (s->not_batchable < 0) s->not_batchable = s->last_not_batchable = i;
        else dn__dynet_insert(s, &s->not_batchable, &s->last_not_batchable, i);
        return;
    }
    dn_signature *g = &s->signatures[s->sign[i]];
    if (g->ready < 0) {
        const int word = g->rank / 64;
        g->ready = g->last_ready = i;
        s->active[word] |= (uint64_t)1 << g->rank % 64;
        if (word < s->lowest_active) s->lowest_active = word;
    } else {
        dn__dynet_insert(s, &g->ready, &g->last_ready, i);
    }
}

static void done(dn_agenda *s, int i) {
    if (s->turns) s->turns[i] = ++s->turn;
    for (int u = s->user_at[i]; u < s->user_at[i + 1]; u++)
        if (--s->waits[s->users[u]] == 0) make_ready(s, s->users[u]);
}

/* The first signature by rank that has nodes ready, or NULL. */
static dn_signature *next_signature(dn_agenda *s) {
    const int words = s->n_signatures / 64 + 1;
    while (s->lowest_active < words && !s->active[s->lowest_active]) s->lowest_active++;
    if (s->lowest_active == words) return NULL;
    return s->by_rank[s->lowest_active * 64 + __builtin_ctzll(s->active[s->lowest_active])];
}

/* Takes nodes that are ready off the front of a signature's list: a group, or one node by
 * itself. */
static int take_group(dn_agenda *s, dn_signature *g) {
    dn_tape *t = s->t;
    const int first = t->schedule->n.members;
    int64_t numbers = 0;
    int i = g->ready;
    for (; i >= 0 && numbers < MOST_NUMBERS; i = s->next_ready[i]) {
        const int64_t more = (int64_t)dn__elements(&t->nodes[s->first + i].dim);
        /* the group's batch elements are counted in 32 bits */
        if (numbers && numbers + more > INT32_MAX) break;
        t->schedule->members[t->schedule->n.members++] = s->first + i;
        numbers += more;
    }
    g->ready = i;
    if (i < 0) s->active[g->rank / 64] &= ~((uint64_t)1 << g->rank % 64);
    const int n = t->schedule->n.members - first, last = t->schedule->n.members;
    if (n == 1) {
        t->schedule->order[t->schedule->n.order++] = t->schedule->members[--t->schedule->n.members];
    } else {
        t->schedule->n.members = first;
        const int group = dn__group_new(t);
        if (group < 0) return group;
        t->schedule->groups[group].n = n;
        t->schedule->groups[group].variable_length =
            (uint8_t)has_variable_length(t, &t->nodes[g->node]);
        t->schedule->n.members = last;
        t->schedule->order[t->schedule->n.order++] = -1 - group;
    }
    for (int m = first; m < first + n; m++) done(s, t->schedule->members[m] - s->first);
    return 0;
}

/* Whether the nodes are better computed in the order in which they were made: too few, one after
 * another, or batched already. */
static int is_no_gain(const dn_agenda *s) {
    const int n = s->n - s->leaves;
    return n < FEW_NODES || n < LEAST_WIDTH * (s->deepest + 1) ||
           s->batches > (int64_t)WIDE_BATCH * n;
}

/* The order begins with what is there without being computed, and with what waits for nothing. */
static void begin_order(dn_agenda *s) {
    dn_tape *t = s->t;
    if (!t->schedule->n.order) { /* what came before was computed in the order of the nodes */
        for (int i = 0; i < s->first; i++) t->schedule->order[i] = i;
        t->schedule->n.order = t->schedule->n_done = s->first;
    }
    for (int i = 0; i < s->n; i++) {
        if (s->sign[i] == DN_LEAF_NODE) t->schedule->order[t->schedule->n.order++] = s->first + i;
        else if (!s->waits[i]) make_ready(s, i);
    }
}

/* Appends about PLAN_WORK nodes; 1: there are more. */
static int extend_order(dn_agenda *s) {
    dn_tape *t = s->t;
    for (int64_t work = PLAN_WORK; work > 0;) {
        if (s->not_batchable >= 0) {
            int i = s->not_batchable;
            s->not_batchable = s->next_ready[i];
            t->schedule->order[t->schedule->n.order++] = s->first + i;
            done(s, i);
            work--;
            continue;
        }
        const int members = t->schedule->n.members;
        dn_signature *g = next_signature(s);
        if (!g) return 0;
        if (take_group(s, g)) return DN_ERROR_MEMORY;
        work -= 1 + t->schedule->n.members - members;
    }
    return 1;
}

/* The next part of appending the order of the nodes to t->schedule->order. 1: there are more; 0:
 * that was the last; DN_IN_ORDER: they shall be computed as they were made. Negative: an error, and
 * half an order may be there. */
static int append_part(dn_agenda *s) {
    dn_tape *t = s->t;
    const int choose = t->schedule->autobatch == DN_AUTOBATCH_AUTO && !s->as_dynet;
    int64_t ordered = t->schedule->n.order;
    switch (s->parts_done++) {
    case 0:
        if (choose && s->n < FEW_NODES) return DN_IN_ORDER;
        if (count_edges(s)) return dn__no_memory(t);
        return choose && is_no_gain(s) ? DN_IN_ORDER : 1;
    case 1:
        if (!t->schedule->n.order) ordered = s->first;
        if (DN_GROW(t->schedule->order, t->schedule->capacity.order, ordered + s->n) ||
            DN_GROW(t->schedule->members, t->schedule->capacity.members,
                    (int64_t)t->schedule->n.members + s->n) ||
            link_users(s))
            return dn__no_memory(t);
        return 1;
    case 2: return find_signatures(s) ? dn__no_memory(t) : 1;
    case 3:
        if (rank_signatures(s) || (s->as_dynet && dn__dynet_note(s))) return dn__no_memory(t);
        begin_order(s);
        return 1;
    default: return extend_order(s);
    }
}

static int begin_plan(dn_tape *t, int first, int last) {
    dn_agenda *s = dn__memory(t, DN_PLAN, sizeof *s);
    if (!s) return dn__no_memory(t);
    *s = (dn_agenda){.t = t,
                     .first = first,
                     .n = last - first + 1,
                     .not_batchable = -1,
                     .as_dynet = dn__dynet_samples(t, first, last)};
    t->schedule->as_dynet = s->as_dynet;
    t->schedule->begun =
        (dn_schedule_mark){.n = t->schedule->n, .values = dn__memory_mark(t, DN_VALUES)};
    t->schedule->planning = s;
    return 0;
}

/* Plans the order of nodes first ... last, in calls that take some milliseconds; 1: there is more
 * to do. An error leaves the tape as it was. */
static int plan_order(dn_tape *t, int first, int last) {
    const dn_agenda *s = t->schedule->planning;
    if (s && (s->first != first || s->first + s->n != last + 1)) dn__abandon_plan(t);
    int result = t->schedule->planning ? 1 : begin_plan(t, first, last);
    if (result < 0) return result;
    int64_t work = PLAN_WORK;
    do {
        result = append_part(t->schedule->planning);
        work -= last + 1 - first;
    } while (result == 1 && work > 0);
    if (result == 1) return 1;
    if (result < 0) {
        dn__abandon_plan(t);
        return result;
    }
    if (!result) {
        /* it may have begun with what was computed before there was an order */
        t->schedule->begun.n.order = t->schedule->n_done;
        t->schedule->planned = last + 1;
    }
    dn__end_plan(t);
    return result;
}

void dn__append_to_order(dn_tape *t, int i) {
    t->schedule->order[t->schedule->n.order++] = i;
    t->schedule->n_done = t->schedule->n.order;
}

int dn__autobatch_forward(dn_tape *t, int last) {
    int64_t work = DN_WORK;
    while (t->schedule->evaluated <= last) {
        if (t->schedule->planning || t->schedule->n_done == t->schedule->n.order) {
            const double start = dn__seconds();
            const int result = plan_order(t, t->schedule->evaluated, last);
            t->schedule->counts.schedule += dn__seconds() - start;
            if (result) return result;
        }
        for (; t->schedule->n_done < t->schedule->n.order; t->schedule->n_done++) {
            if (work <= 0) return 1;
            const int i = t->schedule->order[t->schedule->n_done];
            /* what fails is tried again, in this place of the order, by the next call */
            const int n = i < 0 ? t->schedule->groups[-1 - i].n : 1;
            work -=
                (int64_t)n *
                t->nodes[i < 0 ? t->schedule->members[t->schedule->groups[-1 - i].first] : i].work;
            const int error = i < 0 ? dn__group_forward(t, -1 - i) : dn__compute(t, i);
            if (error) return error;
            t->schedule->counts.nodes += n;
            t->schedule->counts.batches++;
        }
        t->schedule->evaluated = t->schedule->planned;
    }
    return 0;
}
