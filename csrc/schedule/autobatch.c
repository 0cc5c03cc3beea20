#include "autobatch.h"

#include <stdlib.h>

#include "agenda.h"
#include "clock.h"
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
    WIDE_BATCH = 8,      /* on average: batched by hand */
    MOST_SEEN = 64,      /* signatures whose shares are compared */
    LEAST_APART = 4096,  /* numbers of values that are worth a group of their own */
    MOST_INPUTS_SEEN = 4 /* of a node whose group may end early */
};

/* ---- the schedule --------------------------------------------------------------------- */

static int link_users(dn_agenda *s) {
    for (int i = 0; i < s->n; i++) s->user_at[i + 1] += s->user_at[i];
    int total = s->user_at[s->n];
    if (!(s->users = dn__plan_take(s->t, (size_t)total, sizeof *s->users))) return DN_ERROR_MEMORY;
    /* backwards, so that filling each list from its end puts it in order */
    const int32_t *edges = s->edges;
    int32_t *restrict users = s->users, *restrict user_at = s->user_at;
    for (int i = s->n - 1; i >= 0; i--) {
        const dn_waits_for in = s->inputs[i];
        const int32_t user = dn__begin_of(s, i);
        for (int k = in.at; k < in.at + in.n; k++) users[--user_at[edges[k] + 1]] = user;
    }
    /* user_at[x + 1] now is where x begins: move it into place */
    for (int i = 0; i < s->n; i++) s->user_at[i] = s->user_at[i + 1];
    s->user_at[s->n] = total;
    return 0;
}

/* No node is in a group so far. */
static int note_places(dn_agenda *s) {
    s->places = dn__plan_take(s->t, (size_t)s->n, sizeof *s->places);
    for (int i = 0; s->places && i < s->n; i++) s->places[i] = DN_NO_PLACE;
    return s->places ? 0 : DN_ERROR_MEMORY;
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
        g->left = g->count;
        g->average = (double)g->depths / g->count; /* to compare products, they might overflow */
        g->tie = g->one = i;
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
    dn_signature *g = &s->signatures[s->signatures[s->sign[i]].one];
    g->n_ready++;
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
    const int first = s->user_at[i], n = s->user_at[i + 1] - first;
    for (int k = 0; k < n; k++) { /* DyNet begins with the node that was made last */
        const int user = s->users[first + (s->as_dynet ? n - 1 - k : k)];
        if (--s->waits[user] == 0) make_ready(s, user);
    }
}

/* Of the first signatures by rank that have nodes ready, the one with the largest share of its
 * nodes ready, of those that are not computed: the others can wait for more of theirs, and nothing
 * is gained by waiting for one whose nodes are all ready. */
static dn_signature *largest_share(const dn_agenda *s, int words) {
    dn_signature *best = NULL;
    int seen = 0;
    for (int word = s->lowest_active; word < words; word++) {
        for (uint64_t left = s->active[word]; left; left &= left - 1) {
            dn_signature *g = s->by_rank[word * 64 + __builtin_ctzll(left)];
            if (!best ||
                (int64_t)g->n_ready * best->left > (int64_t)best->n_ready * (int64_t)g->left)
                best = g;
            if (best->n_ready == best->left || ++seen == MOST_SEEN) return best;
        }
    }
    return best;
}

/* The signature whose nodes are computed next, or NULL: the first by rank that has nodes ready, or
 * by the shares that are. */
static dn_signature *next_signature(dn_agenda *s) {
    const int words = s->n_signatures / 64 + 1;
    while (s->lowest_active < words && !s->active[s->lowest_active]) s->lowest_active++;
    if (s->lowest_active == words) return NULL;
    if (s->by_share) return largest_share(s, words);
    return s->by_rank[s->lowest_active * 64 + __builtin_ctzll(s->active[s->lowest_active])];
}

/* Where the inputs of a group lie, so far: whether side by side in one group before it, and where
 * the last one does. */
typedef struct inputs_seen {
    int n, least; /* inputs, 0: not looked at; members that are worth a group of their own */
    int is_side_by_side[MOST_INPUTS_SEEN];
    int32_t last[MOST_INPUTS_SEEN];
} inputs_seen;

/* What is read where it lies need not be copied, nor its gradient be scattered. But nodes that
 * multiply by a matrix all read that: for them one group is better, however their inputs lie. */
static void look_at_inputs(const dn_agenda *s, const dn_signature *g, inputs_seen *in) {
    const dn_tape *t = s->t;
    const dn_node *node = &t->nodes[g->node];
    in->n = in->least = 0;
    if (!s->places || node->n_args > MOST_INPUTS_SEEN ||
        node->op->flags & (DN_BATCHED_GEMM | DN_TRACED | DN_VARIABLE_LENGTH))
        return;
    for (int k = 0; k < node->n_args; k++)
        if (t->nodes[t->args[node->args + k]].op == dn_ops[DN_OP_parameter]) return;
    in->n = node->n_args;
    in->least = (int)((int64_t)LEAST_APART * g->count / g->numbers) + 1;
    for (int k = 0; k < in->n; k++) in->is_side_by_side[k] = 1;
}

/* Whether the group is to end before node i, which would be its member m. */
static int ends_before(const dn_agenda *s, inputs_seen *in, int m, int i) {
    for (int k = 0; k < in->n; k++) {
        if (!in->is_side_by_side[k]) continue;
        const int x = dn__input(s->t, s->first + i, k) - s->first;
        const int32_t place = x < 0 ? DN_NO_PLACE : s->places[x];
        if (m ? place != in->last[k] + 1 : place == DN_NO_PLACE) {
            if (m >= in->least) return 1;
            in->is_side_by_side[k] = 0;
        }
        in->last[k] = place;
    }
    return 0;
}

/* Node i, and the steps that it begins, become members. */
static void take_member(dn_agenda *s, int i) {
    dn_schedule *schedule = s->t->schedule;
    for (int step = i; step >= 0; step = s->chains.next ? s->chains.next[step] : -1) {
        schedule->members[schedule->n.members++] = s->first + step;
        if (s->chains.next) schedule->seats[s->first + step].begins = step == i;
    }
}

static int needs_grad(const dn_agenda *s, int i) { return s->t->nodes[s->first + i].needs_grad; }

/* Takes nodes that are ready, of one signature, off the front of a list: a group, or one node by
 * itself. */
static int take_group(dn_agenda *s, dn_signature *list) {
    dn_tape *t = s->t;
    const int first = t->schedule->n.members;
    int taken = 0, i = list->ready;
    const dn_signature *g = &s->signatures[s->sign[i]];
    const int all_fit = g->numbers <= MOST_NUMBERS, with_grad = needs_grad(s, i);
    int64_t numbers = 0;
    inputs_seen in;
    look_at_inputs(s, g, &in);
    for (; i >= 0 && numbers < MOST_NUMBERS; i = s->next_ready[i]) {
        if (&s->signatures[s->sign[i]] != g || (s->as_dynet && needs_grad(s, i) != with_grad))
            break;
        if (in.n && ends_before(s, &in, t->schedule->n.members - first, i)) break;
        const int64_t more = all_fit ? 0 : dn__numbers_of(s, i);
        /* the group's batch elements are counted in 32 bits */
        if (numbers && numbers + more > INT32_MAX) break;
        take_member(s, i);
        numbers += more;
        taken++;
    }
    list->ready = i;
    if (i < 0) s->active[list->rank / 64] &= ~((uint64_t)1 << list->rank % 64);
    const int n = t->schedule->n.members - first, last = t->schedule->n.members;
    list->n_ready -= taken;
    list->left -= taken;
    if (n == 1) {
        t->schedule->order[t->schedule->n.order++] = t->schedule->members[--t->schedule->n.members];
    } else {
        t->schedule->n.members = first;
        const int group = dn__group_new(t);
        if (group < 0) return group;
        t->schedule->groups[group].n = n;
        t->schedule->groups[group].sequences = taken;
        t->schedule->groups[group].as = (uint8_t)dn__joined_as(s, g->node - s->first);
        t->schedule->n.members = last;
        t->schedule->order[t->schedule->n.order++] = -1 - group;
    }
    for (int m = first; m < first + n; m++) {
        const int member = t->schedule->members[m] - s->first;
        /* between groups a place stays free */
        if (s->places) s->places[member] = n == 1 ? DN_NO_PLACE : m + t->schedule->n.order;
        if (!s->as_dynet) done(s, member);
    }
    return 0;
}

/* As DyNet: all that a list has, whatever of it can be one group here. Only then is any of it
 * done. */
static int take_whole_list(dn_agenda *s, dn_signature *list) {
    int i = list->ready;
    while (list->ready >= 0)
        if (take_group(s, list)) return DN_ERROR_MEMORY;
    for (int next; i >= 0; i = next) {
        next = s->next_ready[i];
        done(s, i);
    }
    return 0;
}

/* Whether the nodes are better computed in the order in which they were made: too few, one after
 * another, or batched already. */
static int is_no_gain(const dn_agenda *s) {
    const int n = s->n - s->leaves;
    return n < FEW_NODES || n < LEAST_WIDTH * (s->deepest + 1) ||
           s->batches > (int64_t)WIDE_BATCH * n;
}

/* Whether node i comes before all that is computed: a leaf; but where the order of draws counts,
 * what draws has its turn. */
static int comes_first(const dn_agenda *s, int i) {
    return s->sign[i] == DN_LEAF_NODE &&
           !(s->as_dynet && s->t->nodes[s->first + i].op->flags & DN_RANDOM);
}

/* The order begins with what is there without being computed, and with what waits for nothing. */
static void begin_order(dn_agenda *s) {
    dn_tape *t = s->t;
    if (!t->schedule->n.order) { /* what came before was computed in the order of the nodes */
        for (int i = 0; i < s->first; i++) t->schedule->order[i] = i;
        t->schedule->n.order = t->schedule->n_done = s->first;
    }
    for (int i = 0; i < s->n; i++) {
        const int leaf = s->sign[i] == DN_LEAF_NODE;
        if (comes_first(s, i)) t->schedule->order[t->schedule->n.order++] = s->first + i;
        if (!s->waits[i] && s->sign[i] != DN_IN_CHAIN &&
            (!leaf || (s->as_dynet && dn__dynet_leaf_alone(s, i))))
            make_ready(s, i);
    }
}

/* Appends about PLAN_WORK nodes; 1: there are more. */
static int extend_order(dn_agenda *s) {
    dn_tape *t = s->t;
    for (int64_t work = PLAN_WORK; work > 0;) {
        if (s->not_batchable >= 0) {
            int i = s->not_batchable;
            s->not_batchable = s->next_ready[i];
            if (!comes_first(s, i)) t->schedule->order[t->schedule->n.order++] = s->first + i;
            done(s, i);
            work--;
            continue;
        }
        if (s->n_batched_leaves) {
            const int n = dn__dynet_leaf_batch(s);
            for (int k = 0; k < n; k++) done(s, s->batched_leaves[--s->n_batched_leaves]);
            work -= n;
            continue;
        }
        const int members = t->schedule->n.members;
        dn_signature *g = next_signature(s);
        if (!g) return 0;
        if (s->as_dynet ? take_whole_list(s, g) : take_group(s, g)) return DN_ERROR_MEMORY;
        work -= 1 + t->schedule->n.members - members;
    }
    return 1;
}

/* The next part of appending the order of the nodes to t->schedule->order. 1: there are more; 0:
 * that was the last; DN_IN_ORDER: they shall be computed as they were made. Negative: an error, and
 * half an order may be there. */
static int append_part(dn_agenda *s) {
    dn_tape *t = s->t;
    int64_t ordered = t->schedule->n.order;
    switch (s->parts_done++) {
    case 0:
        if (s->by_share && s->n < FEW_NODES) return DN_IN_ORDER;
        if (dn__count_edges(s)) return dn__no_memory(t);
        if (s->by_share && is_no_gain(s)) return DN_IN_ORDER;
        return !s->as_dynet && (dn__note_beside(s) || dn__find_chains(s)) ? dn__no_memory(t) : 1;
    case 1:
        if (!t->schedule->n.order) ordered = s->first;
        if (DN_GROW(t->schedule->order, t->schedule->capacity.order, ordered + s->n) ||
            DN_GROW(t->schedule->members, t->schedule->capacity.members,
                    (int64_t)t->schedule->n.members + s->n) ||
            link_users(s) || (s->by_share && note_places(s)))
            return dn__no_memory(t);
        return 1;
    case 2:
        return dn__find_signatures(s, t->schedule->autobatch ==
                                          (s->as_dynet ? DN_DYNET_DEPTH : DN_AUTOBATCH_DEPTH))
                   ? dn__no_memory(t)
                   : 1;
    case 3:
        if (rank_signatures(s) || (s->as_dynet && (dn__dynet_note(s) || dn__dynet_leaves(s))))
            return dn__no_memory(t);
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
    s->by_share = t->schedule->autobatch == DN_AUTOBATCH_AUTO && !s->as_dynet;
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
