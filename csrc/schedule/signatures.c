/* Which nodes of a graph are alike, and which of them wait for others: what an order is made
 * from. */
#include "agenda.h"

/* ---- edges ---------------------------------------------------------------------------- */

int dn__count_edges(dn_agenda *s) {
    const dn_tape *t = s->t;
    const size_t n = (size_t)s->n;
    if (!(s->sign = dn__plan_take(s->t, n, sizeof *s->sign)) ||
        !(s->depth = dn__plan_take(s->t, n, sizeof *s->depth)) ||
        !(s->waits = dn__plan_take(s->t, n, sizeof *s->waits)) ||
        !(s->inputs = dn__plan_take(s->t, n, sizeof *s->inputs)) ||
        !(s->user_at = dn__plan_zeroed(s->t, n + 1, sizeof *s->user_at)))
        return DN_ERROR_MEMORY;
    for (int i = 0; i < s->n; i++) {
        const dn_node *node = &t->nodes[s->first + i];
        int depth = 0, waits = 0;
        for (int k = 0; k < node->n_args; k++) {
            const int x = t->args[node->args + k] - s->first;
            if (x < 0) continue;
            if (s->sign[x] == DN_LEAF_NODE && !s->as_dynet) continue; /* there leaves count */
            s->user_at[x + 1]++;
            waits++;
            if (s->depth[x] >= depth) depth = s->depth[x] + 1;
        }
        s->sign[i] = node->op->flags & DN_LEAF ? DN_LEAF_NODE : DN_NOT_BATCHABLE;
        s->leaves += s->sign[i] == DN_LEAF_NODE;
        s->steps += node->op->flags & DN_VARIABLE_LENGTH && t->ints[node->ints] == 1;
        s->batches += s->sign[i] == DN_LEAF_NODE ? 0 : node->dim.batch;
        s->depth[i] = depth;
        s->waits[i] = waits;
        s->inputs[i] = (dn_inputs){node->args, node->n_args};
        if (depth > s->deepest) s->deepest = depth;
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
    uint8_t *beside = dn__plan_take(s->t, (size_t)s->n, sizeof *beside);
    if (!beside) return DN_ERROR_MEMORY;
    memset(beside, 1, (size_t)s->n);
    beside[s->n - 1] = 0;
    for (int i = s->n - 1; i >= 0; i--) {
        const dn_inputs *in = &s->inputs[i];
        if (!beside[i]) {
            for (int k = 0; k < in->n && s->waits[i]; k++)
                if (t->args[in->at + k] >= s->first) beside[t->args[in->at + k] - s->first] = 0;
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

/* Whether node `other`, of which nothing is known, is like one that can be in a group: then so can
 * it. */
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

/* The signature of node i, a new one if there is none like it. */
static int signature_of(dn_agenda *s, int i, uint64_t h, int apart, int32_t *table, size_t slots) {
    size_t at = h >> 7 & (slots - 1);
    for (; table[at]; at = (at + 1) & (slots - 1)) {
        const dn_signature *g = &s->signatures[table[at] - 1];
        if (g->hash == h && g->apart == apart && alike(s, i, g->node - s->first))
            return table[at] - 1;
    }
    s->signatures[s->n_signatures] =
        (dn_signature){.hash = h, .node = s->first + i, .apart = apart, .ready = -1, .last = -1};
    table[at] = ++s->n_signatures;
    return s->n_signatures - 1;
}

int dn__find_signatures(dn_agenda *s, int by_depth) {
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
        if (s->sign[i] != DN_NOT_BATCHABLE ||
            (s->as_dynet && !dn__dynet_batches(t, &t->nodes[s->first + i])))
            continue;
        const int apart = (by_depth ? 2 * s->depth[i] : 0) + (s->beside && s->beside[i]);
        dn_signature *g = at < n ? &s->signatures[seen[at]] : NULL;
        if (!g || g->apart != apart || !alike(s, g->node - s->first, i)) {
            uint64_t h = hash_signature(s, i, apart);
            int own = apart;
            /* DyNet has a list for what is computed by itself here */
            if (s->as_dynet && !h) h = dn__mix(1, (uint64_t)i) | 1, own = -1 - i;
            if (!h) continue;
            g = &s->signatures[signature_of(s, i, h, own, table, slots)];
            at = g->last;
        }
        at++;
        g->last = n;
        s->sign[i] = seen[n++] = (int32_t)(g - s->signatures);
        g->count++;
        g->depths += s->depth[i];
        g->numbers += dn__numbers_of(s, i);
    }
    return 0;
}
