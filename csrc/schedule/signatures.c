/* Which nodes of a graph are alike, and which of them wait for others: what an order is made
 * from. */
#include "agenda.h"

/* ---- edges ---------------------------------------------------------------------------- */

static int take_edges(dn_agenda *s) {
    const dn_tape *t = s->t;
    const size_t n = (size_t)s->n, n_args = (size_t)(t->n.args - t->nodes[s->first].args);
    s->sign = dn__plan_take(s->t, n, sizeof *s->sign);
    s->depth = dn__plan_take(s->t, n, sizeof *s->depth);
    s->waits = dn__plan_take(s->t, n, sizeof *s->waits);
    s->inputs = dn__plan_take(s->t, n, sizeof *s->inputs);
    s->edges = dn__plan_take(s->t, n_args, sizeof *s->edges);
    s->user_at = dn__plan_zeroed(s->t, n + 1, sizeof *s->user_at);
    return s->sign && s->depth && s->waits && s->inputs && s->edges && s->user_at ? 0
                                                                                  : DN_ERROR_MEMORY;
}

int dn__count_edges(dn_agenda *s) {
    const dn_tape *t = s->t;
    if (take_edges(s)) return DN_ERROR_MEMORY;
    const dn_node *node = t->nodes + s->first;
    /* for GCC to see that nothing of it is written in between */
    const int first = s->first, as_dynet = s->as_dynet;
    int32_t *restrict sign = s->sign, *restrict depth = s->depth, *restrict user_at = s->user_at,
                      *restrict edges = s->edges, n = 0;
    for (int i = 0; i < s->n; i++, node++) {
        const int32_t *x = t->args + node->args, begin = n;
        int32_t deepest = -1;
        for (int k = 0; k < node->n_args; k++) {
            const int32_t on = x[k] - first;
            if (on < 0 || (sign[on] == DN_LEAF_NODE && !as_dynet))
                continue; /* there leaves count */
            edges[n++] = on;
            user_at[on + 1]++;
            if (depth[on] > deepest) deepest = depth[on];
        }
        const int is_leaf = node->op->flags & DN_LEAF;
        sign[i] = is_leaf ? DN_LEAF_NODE : DN_NOT_BATCHABLE;
        depth[i] = deepest + 1;
        s->waits[i] = n - begin;
        s->inputs[i] = (dn_waits_for){begin, n - begin};
        s->leaves += is_leaf != 0;
        s->batches += is_leaf ? 0 : node->dim.batch;
        s->steps += node->op->flags & DN_VARIABLE_LENGTH && t->ints[node->ints] == 1;
        if (deepest >= s->deepest) s->deepest = deepest + 1;
    }
    return 0;
}

/* In a group with others, a node beside the loss would have them done one by one in backward
 * (backward/groups.c). Where nobody reads a node that is like the last one, the last may be no
 * loss: somebody looks at the values of several, and has begun with that. */
int dn__note_beside(dn_agenda *s) {
    const dn_tape *t = s->t;
    const dn_node *last = &t->nodes[s->first + s->n - 1];
    if (!last->needs_grad || dn__elements(&last->dim) != 1) return 0;
    uint8_t *restrict beside = dn__plan_take(s->t, (size_t)s->n, sizeof *beside);
    if (!beside) return DN_ERROR_MEMORY;
    memset(beside, 1, (size_t)s->n);
    beside[s->n - 1] = 0;
    const int32_t *edges = s->edges;
    for (int i = s->n - 1; i >= 0; i--) {
        const dn_waits_for in = s->inputs[i];
        if (!beside[i]) {
            for (int k = in.at; k < in.at + in.n; k++) beside[edges[k]] = 0;
        } else if (!s->user_at[i + 1] && s->sign[i] != DN_LEAF_NODE) {
            const dn_node *node = &t->nodes[s->first + i];
            if (node->op == last->op && dn__equal_sizes(&node->dim, &last->dim)) return 0;
        }
    }
    s->beside = beside;
    return 0;
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

/* How many inputs count for the signature: not those of the steps. */
static int inputs_alike(const dn_tape *t, const dn_node *node, enum dn_joined_as as) {
    return as ? node->n_args - t->ints[node->ints] : node->n_args;
}

/* What nodes must have in common to be members of one group, as a hash; 0: node i can be in no
 * group. */
static uint64_t hash_signature(const dn_agenda *s, int i, int apart) {
    const dn_tape *t = s->t;
    const dn_node *node = &t->nodes[s->first + i];
    const int flags = node->op->flags, ints = dn__node_ints(node);
    if (!(flags & DN_BATCHES) || flags & (DN_VIEW | DN_LEAF) || node->not_batchable ||
        !dn__elements(&node->dim))
        return 0;
    if ((node->n_ints - ints) % node->dim.batch) return 0;
    const enum dn_joined_as as = dn__joined_as(s, i);
    const int n = inputs_alike(t, node, as), broadcast = broadcast_inputs(t, node->op);
    uint64_t h =
        dn__mix((uint64_t)(uintptr_t)node->op, (uint64_t)(uint32_t)apart << 32 | (uint32_t)n);
    h = dn__mix(h, (uint64_t)(node->needs_grad && !s->as_dynet) << 2 | (uint64_t)as);
    if (!as) h = mix_dims(h, &node->dim);
    int gathered = as != DN_AS_ELEMENTS;
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
    for (int k = as != DN_AS_ELEMENTS; k < ints; k++)
        h = dn__mix(h, (uint64_t)(uint32_t)t->ints[node->ints + k]);
    h = dn__mix(h, (uint64_t)ints_each(node));
    for (int k = 0; k < node->n_floats; k++) {
        uint64_t bits;
        memcpy(&bits, &t->floats[node->floats + k], sizeof bits);
        h = dn__mix(h, bits);
    }
    return gathered ? h | 1 : 0;
}

/* Whether both can be in one group. */
static int alike(const dn_agenda *s, int one, int other) {
    const dn_tape *t = s->t;
    const dn_node *a = &t->nodes[s->first + one], *b = &t->nodes[s->first + other];
    if (a->op != b->op || (a->needs_grad != b->needs_grad && !s->as_dynet) || b->not_batchable ||
        !dn__elements(&b->dim))
        return 0;
    const enum dn_joined_as as = dn__joined_as(s, one);
    const int ints = dn__node_ints(a), n = inputs_alike(t, a, as),
              broadcast = broadcast_inputs(t, a->op);
    if (as != dn__joined_as(s, other) || n != inputs_alike(t, b, as) || ints != dn__node_ints(b))
        return 0;
    if (b->n_ints - ints != ints_each(a) * b->dim.batch) return 0;
    if (!as && !dn__equal_sizes(&a->dim, &b->dim)) return 0;
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
    for (int i = as != DN_AS_ELEMENTS; i < ints; i++)
        if (t->ints[a->ints + i] != t->ints[b->ints + i]) return 0;
    return dn__equal_floats(t, a, b);
}

/* Signatures by their hashes: one more than their number. */
typedef struct {
    int32_t *of;
    size_t slots;
} dn_by_hash;

/* The signature of node i, a new one if there is none like it. */
static int signature_of(dn_agenda *s, int i, uint64_t h, int apart, const dn_by_hash *by) {
    size_t at = h >> 7 & (by->slots - 1);
    for (; by->of[at]; at = (at + 1) & (by->slots - 1)) {
        const dn_signature *g = &s->signatures[by->of[at] - 1];
        if (g->hash == h && g->apart == apart && alike(s, i, g->node - s->first))
            return by->of[at] - 1;
    }
    s->signatures[s->n_signatures] =
        (dn_signature){.hash = h, .node = s->first + i, .apart = apart, .ready = -1};
    by->of[at] = ++s->n_signatures;
    return s->n_signatures - 1;
}

/* What is known of the nodes of a kind (tape/make.c) that are also alike in this: their signature,
 * or that they are in no group; and how many numbers each has. */
typedef struct {
    int32_t kind, apart, sign;
    int64_t numbers;
} dn_known;
enum { LEAST_KNOWN = 64, MOST_KNOWN = 1024 };

/* Whether the kind of node i tells its signature: its parameters are equal, other inputs need not
 * be. */
static int is_told_by_kind(const dn_agenda *s, int i) {
    const dn_tape *t = s->t;
    const dn_node *node = &t->nodes[s->first + i];
    const int more = broadcast_inputs(t, node->op) & ~(int)(node->op->flags >> DN_BROADCAST_SHIFT);
    for (int k = 0; k < node->n_args && more >> k; k++)
        if (more >> k & 1 && t->nodes[t->args[node->args + k]].op != dn_ops[DN_OP_parameter])
            return 0;
    return t->likes.kinds[s->first + i] >= 0;
}

/* Looks at node i itself. */
static __attribute__((noinline)) dn_known look_at(dn_agenda *s, int i, int apart,
                                                  const dn_by_hash *by, dn_known known) {
    uint64_t h = hash_signature(s, i, apart);
    int own = apart;
    /* DyNet has a list for what is computed by itself here */
    if (s->as_dynet && !h) h = dn__mix(1, (uint64_t)i) | 1, own = -1 - i;
    known.sign = h ? signature_of(s, i, h, own, by) : DN_NOT_BATCHABLE;
    known.numbers = (int64_t)dn__elements(&s->t->nodes[s->first + i].dim);
    if (own != apart || !is_told_by_kind(s, i)) known.kind = -1;
    return known;
}

int dn__find_signatures(dn_agenda *s, int by_depth) {
    const dn_tape *t = s->t;
    dn_by_hash by = {.slots = 64};
    size_t n_known = LEAST_KNOWN;
    while (by.slots < 2 * (size_t)(s->n - s->leaves)) by.slots *= 2;
    while (n_known < (size_t)s->n && n_known < MOST_KNOWN) n_known *= 2;
    by.of = dn__plan_zeroed(s->t, by.slots, sizeof *by.of);
    /* two that fall on one place drive each other out */
    dn_known *all_known = dn__plan_take(s->t, n_known, sizeof *all_known);
    s->signatures = dn__plan_take(s->t, (size_t)(s->n - s->leaves), sizeof *s->signatures);
    if (!by.of || !all_known || !s->signatures) return DN_ERROR_MEMORY;
    for (size_t k = 0; k < n_known; k++) all_known[k].kind = -1;
    const int n = s->n, may_join = t->may_join;
    const int32_t *kinds = t->likes.kinds + s->first, *depth = s->depth;
    for (int i = 0; i < n; i++) {
        if (s->sign[i] != DN_NOT_BATCHABLE ||
            (s->as_dynet && !dn__dynet_batches(t, &t->nodes[s->first + i])))
            continue;
        const int apart = (by_depth ? 2 * depth[i] : 0) + (s->beside && s->beside[i]);
        const int32_t kind = kinds[i],
                      with = 4 * apart + (may_join ? (int32_t)dn__joined_as(s, i) : 0);
        const uint32_t key = 0x9E3779B1u * ((uint32_t)kind + 31 * (uint32_t)with);
        dn_known *known = &all_known[key >> 16 & (n_known - 1)];
        if (known->kind != kind || known->apart != with || kind < 0 ||
            (s->as_dynet && !is_told_by_kind(s, i)))
            *known = look_at(s, i, apart, &by, (dn_known){.kind = kind, .apart = with});
        if (known->sign < 0) continue;
        const int steps = dn__chain_length(s, i);
        dn_signature *g = &s->signatures[s->sign[i] = known->sign];
        g->count++;
        g->depths += depth[i];
        g->numbers += known->numbers * (steps ? steps : 1);
    }
    return 0;
}
