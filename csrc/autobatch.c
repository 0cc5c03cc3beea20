#include "autobatch.h"

#include <string.h>

#include "group.h"

enum { MOST_NUMBERS = 1 << 22 }; /* of a group's value: larger groups only take memory */

/* ---- signatures ---------------------------------------------------------------------------------------------------- */

/* Whether input k must be the same node in all members: parameters are, and what the op says cannot be batched. */
static int must_be_shared(const dn_tape *t, const dn_node *node, int k) {
    return t->nodes[t->args[node->args + k]].op == dn_ops[DN_OP_parameter] || (k < 8 && node->op->flags >> DN_SHARED_SHIFT & 1 << k);
}

/* How many ints belong to the node as a whole; the others belong to batch elements. */
static int whole_ints(const dn_node *node) {
    if (node->op->flags & DN_INTS_EACH) return 0;
    return node->op->flags & DN_INTS_AFTER_FIRST ? 1 : node->n_ints;
}
/* How many each batch element has, of a node with elements: members must agree. */
static int ints_each(const dn_node *node) { return (node->n_ints - whole_ints(node)) / node->dim.batch; }

static int can_be_grouped(const dn_tape *t, const dn_node *node) {
    if (!(node->op->flags & DN_BATCHES) || node->op->flags & (DN_VIEW | DN_LEAF | DN_RANDOM) || node->alone || !dn__elements(&node->dim)) return 0;
    if ((node->n_ints - whole_ints(node)) % node->dim.batch) return 0;
    int collected = 0;
    for (int k = 0; k < node->n_args; k++) {
        const dn_node *x = &t->nodes[t->args[node->args + k]];
        if (must_be_shared(t, node, k)) {
            if (x->dim.batch != 1) return 0;
        } else {
            if (x->dim.batch != node->dim.batch || !dn__elements(&x->dim)) return 0;
            collected = 1;
        }
    }
    return collected;
}

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}
static uint64_t mix_dims(uint64_t h, const dn_dim *d) {
    h = mix(h, (uint64_t)d->nd);
    for (int i = 0; i < d->nd; i++) h = mix(h, (uint64_t)d->d[i]);
    return h;
}

static uint64_t hash(const dn_tape *t, const dn_node *node, int depth) {
    uint64_t h = mix((uint64_t)(uintptr_t)node->op, (uint64_t)(uint32_t)depth << 32 | (uint32_t)node->n_args);
    h = mix_dims(h, &node->dim);
    for (int k = 0; k < node->n_args; k++) {
        int x = t->args[node->args + k];
        h = must_be_shared(t, node, k) ? mix(h, (uint64_t)x) : mix_dims(h, &t->nodes[x].dim);
    }
    for (int i = 0; i < whole_ints(node); i++) h = mix(h, (uint64_t)(uint32_t)t->ints[node->ints + i]);
    h = mix(h, (uint64_t)ints_each(node));
    for (int i = 0; i < node->n_reals; i++) {
        uint64_t bits;
        memcpy(&bits, &t->reals[node->reals + i], sizeof bits);
        h = mix(h, bits);
    }
    return h;
}

static int equal_dims(const dn_dim *a, const dn_dim *b) { return a->nd == b->nd && !memcmp(a->d, b->d, (size_t)a->nd * sizeof *a->d); }

static int alike(const dn_tape *t, const dn_node *a, const dn_node *b) {
    if (a->op != b->op || a->n_args != b->n_args || a->n_reals != b->n_reals || whole_ints(a) != whole_ints(b)) return 0;
    if (ints_each(a) != ints_each(b) || !equal_dims(&a->dim, &b->dim)) return 0;
    for (int k = 0; k < a->n_args; k++) {
        int x = t->args[a->args + k], y = t->args[b->args + k];
        if (must_be_shared(t, a, k) || must_be_shared(t, b, k) ? x != y : !equal_dims(&t->nodes[x].dim, &t->nodes[y].dim)) return 0;
    }
    return !memcmp(t->ints + a->ints, t->ints + b->ints, (size_t)whole_ints(a) * sizeof *t->ints) &&
           !memcmp(t->reals + a->reals, t->reals + b->reals, (size_t)a->n_reals * sizeof *t->reals);
}

/* ---- the schedule -------------------------------------------------------------------------------------------------- */

/* The nodes of one signature: how deep they lie, and which of them are ready. */
typedef struct signature { int node, depth, count, ready, last_ready; int64_t depths; } signature;

typedef struct schedule {
    dn_tape *t;
    int first, n;               /* nodes first ... first + n - 1 */
    int32_t *sign;              /* signature of a node; -1: computed alone */
    int32_t *depth, *waits;     /* longest way from what is computed; how many inputs are not computed */
    int32_t *users, *user_at;   /* users[user_at[i] ... user_at[i + 1]] use node i */
    int32_t *next_ready;
    signature *signatures;
    int n_signatures;
    int32_t *active;            /* signatures that have nodes ready */
    int n_active;
    int alone, last_alone;      /* nodes ready that are computed alone */
} schedule;

static void *zeroed(dn_tape *t, size_t n, size_t size) {
    void *p = dn__arena_take(&t->scratch, (n + 1) * size);
    return p ? memset(p, 0, (n + 1) * size) : NULL;
}

static int allocate(schedule *s, int edges) {
    size_t n = (size_t)s->n;
    return (s->sign = zeroed(s->t, n, sizeof *s->sign)) && (s->depth = zeroed(s->t, n, sizeof *s->depth)) &&
           (s->waits = zeroed(s->t, n, sizeof *s->waits)) && (s->users = zeroed(s->t, (size_t)edges, sizeof *s->users)) &&
           (s->user_at = zeroed(s->t, n + 1, sizeof *s->user_at)) && (s->next_ready = zeroed(s->t, n, sizeof *s->next_ready)) &&
           (s->signatures = zeroed(s->t, n, sizeof *s->signatures)) && (s->active = zeroed(s->t, n, sizeof *s->active));
}

static void link_users(schedule *s) {
    const dn_tape *t = s->t;
    for (int i = 0; i < s->n; i++) {
        const dn_node *node = &t->nodes[s->first + i];
        for (int k = 0; k < node->n_args; k++) {
            int x = t->args[node->args + k] - s->first;
            if (x < 0) continue;
            s->user_at[x + 1]++;
            s->waits[i]++;
            if (s->depth[x] >= s->depth[i]) s->depth[i] = s->depth[x] + 1;
        }
    }
    for (int i = 0; i < s->n; i++) s->user_at[i + 1] += s->user_at[i];
    int total = s->user_at[s->n];
    for (int i = s->n - 1; i >= 0; i--) { /* backwards, so that filling each list from its end puts it in order */
        const dn_node *node = &t->nodes[s->first + i];
        for (int k = 0; k < node->n_args; k++) {
            int x = t->args[node->args + k] - s->first;
            if (x >= 0) s->users[--s->user_at[x + 1]] = i;
        }
    }
    /* user_at[x + 1] now is where x begins: move it into place */
    for (int i = 0; i < s->n; i++) s->user_at[i] = s->user_at[i + 1];
    s->user_at[s->n] = total;
}

static int find_signatures(schedule *s) {
    const dn_tape *t = s->t;
    size_t slots = 64;
    while (slots < 2 * (size_t)s->n) slots *= 2;
    int32_t *table = zeroed(s->t, slots, sizeof *table); /* signature + 1 */
    if (!table) return DN_ERROR_MEMORY;
    for (int i = 0; i < s->n; i++) {
        const dn_node *node = &t->nodes[s->first + i];
        if (!can_be_grouped(t, node)) {
            s->sign[i] = -1;
            continue;
        }
        int level = t->autobatch == DN_AUTOBATCH_DEPTH ? s->depth[i] : 0;
        size_t at = hash(t, node, level) & (slots - 1);
        for (; table[at]; at = (at + 1) & (slots - 1)) {
            const signature *g = &s->signatures[table[at] - 1];
            if (g->depth == level && alike(t, node, &t->nodes[g->node])) break;
        }
        if (!table[at]) {
            s->signatures[s->n_signatures] = (signature){.node = s->first + i, .depth = level, .ready = -1};
            table[at] = ++s->n_signatures;
        }
        s->sign[i] = table[at] - 1;
        s->signatures[s->sign[i]].count++;
        s->signatures[s->sign[i]].depths += s->depth[i];
    }
    return 0;
}

static void make_ready(schedule *s, int i) {
    s->next_ready[i] = -1;
    if (s->sign[i] < 0) {
        if (s->alone < 0) s->alone = i;
        else s->next_ready[s->last_alone] = i;
        s->last_alone = i;
        return;
    }
    signature *g = &s->signatures[s->sign[i]];
    if (g->ready < 0) {
        g->ready = i;
        s->active[s->n_active++] = s->sign[i];
    } else {
        s->next_ready[g->last_ready] = i;
    }
    g->last_ready = i;
}

static void done(schedule *s, int i) {
    for (int u = s->user_at[i]; u < s->user_at[i + 1]; u++)
        if (--s->waits[s->users[u]] == 0) make_ready(s, s->users[u]);
}

/* The position in `active` of the signature whose nodes lie least deep on average. */
static int next_signature(const schedule *s) {
    int best = 0;
    for (int a = 1; a < s->n_active; a++) {
        const signature *g = &s->signatures[s->active[a]], *b = &s->signatures[s->active[best]];
        if (g->depths * b->count < b->depths * g->count) best = a;
    }
    return best;
}

/* Takes nodes that are ready off the front of a signature's list and links them as a group; returns the leader. */
static int take_group(schedule *s, int position) {
    dn_tape *t = s->t;
    signature *g = &s->signatures[s->active[position]];
    int i = g->ready, leader = s->first + i, tail = -1;
    int64_t numbers = 0;
    while (i >= 0 && (tail < 0 || numbers < MOST_NUMBERS)) {
        int node = s->first + i;
        if (tail >= 0) t->nodes[tail].next_member = node;
        t->nodes[node].next_member = -1;
        tail = node;
        numbers += (int64_t)dn__elements(&t->nodes[node].dim);
        i = s->next_ready[i];
    }
    g->ready = i;
    if (i < 0) s->active[position] = s->active[--s->n_active];
    return leader;
}

/* Appends the order of nodes first ... last to t->order. */
static int plan(dn_tape *t, int first, int last) {
    schedule s = {.t = t, .first = first, .n = last - first + 1, .alone = -1};
    int edges = 0, order = t->n_order;
    for (int i = first; i <= last; i++) edges += t->nodes[i].n_args;
    if (DN_GROW(t->order, t->order_capacity, t->n_order + s.n) || !allocate(&s, edges)) return dn__no_memory(t);
    link_users(&s);
    if (find_signatures(&s)) return dn__no_memory(t);
    for (int i = 0; i < s.n; i++)
        if (!s.waits[i]) make_ready(&s, i);
    while (s.alone >= 0 || s.n_active) {
        if (s.alone >= 0) {
            int i = s.alone;
            s.alone = s.next_ready[i];
            t->nodes[first + i].leader = t->nodes[first + i].next_member = -1;
            t->order[order++] = first + i;
            done(&s, i);
            continue;
        }
        int leader = take_group(&s, next_signature(&s));
        t->order[order++] = leader;
        for (int j = leader; j >= 0; j = t->nodes[j].next_member) done(&s, j - first);
    }
    t->n_order = order;
    t->planned = last + 1;
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
    return 0;
}

int dn__autobatch_forward(dn_tape *t, int last) {
    int64_t work = DN_WORK;
    while (t->evaluated <= last) {
        if (t->n_done == t->n_order) {
            int error = plan(t, t->evaluated, last);
            if (error) return error;
        }
        for (; t->n_done < t->n_order; t->n_done++) {
            if (work <= 0) return 1;
            int i = t->order[t->n_done], error;
            for (int j = i; j >= 0; j = t->nodes[j].next_member) work -= dn__work(t, &t->nodes[j]);
            error = t->nodes[i].next_member >= 0 ? dn__group_forward(t, i) : dn__compute(t, i);
            if (error) return error;
        }
        t->evaluated = t->planned;
    }
    return 0;
}
