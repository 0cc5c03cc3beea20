/* Chains of steps. A program that calls a recurrent network step by step makes a node for each, and
 * each reads all weights: two products of a matrix and a vector. Where the inputs of the steps to
 * come are known (they mostly are, in training), the steps are one sequence: their input
 * projections are one product, only what multiplies the state is left to each. So the first of them
 * computes them all, as one call in the form DN_SEQUENCE_STEPS: a group (group.h), whose
 * representative's state goes in, and whose members' states lie side by side. When the backward
 * pass reaches the representative, the gradients of all members are complete, but for those that
 * they get from one another. On-the-fly batching computes chains of several sequences as one, in
 * the packed form. */
#include "agenda.h"

enum {
    MOST_LOOKED_AT = 1024, /* nodes behind a step */
    MOST_STEPS = 1024      /* of a chain of an agenda; the next ones begin another */
};

/* A single step of a network: its inputs are weights, [h, c], [masks], x. */
static int is_step(const dn_tape *t, const dn_node *node) {
    return node->op->flags & DN_VARIABLE_LENGTH && node->n_ints == 2 && !node->not_batchable &&
           t->ints[node->ints] == 1;
}

/* How many masks stand before x, and where the state stands before them. */
static int masks_of(const dn_tape *t, const dn_node *node) {
    const int options = t->ints[node->ints + 1];
    return !!(options & DN_SEQUENCE_H_MASK) + !!(options & DN_SEQUENCE_C_MASK);
}
static int state_of(const dn_tape *t, const dn_node *node) {
    const int has_state = t->ints[node->ints + 1] & DN_SEQUENCE_STATE ? node->parts : 0;
    return node->n_args - 1 - masks_of(t, node) - has_state;
}

/* The node whose output `part` node x names, or -1; outputs are of equal sizes. */
static int owner_of(const dn_tape *t, int x, int part) {
    const dn_node *view = &t->nodes[x];
    if (view->op != dn_ops[DN_OP_output_view]) return -1;
    const int owner = t->args[view->args];
    return t->ints[view->ints] == part * (int64_t)dn__elements(&view->dim) ? owner : -1;
}

/* The single step whose h, and c, node i goes on from, or -1: node i is no such step. */
static int single_step_before(const dn_tape *t, int i) {
    const dn_node *node = &t->nodes[i];
    if (!is_step(t, node) || !(t->ints[node->ints + 1] & DN_SEQUENCE_STATE)) return -1;
    const int32_t *state = t->args + node->args + state_of(t, node);
    const int before = owner_of(t, state[0], 0);
    if (before < 0 || t->nodes[before].op != node->op || !is_step(t, &t->nodes[before])) return -1;
    for (int part = 1; part < node->parts; part++)
        if (owner_of(t, state[part], part) != before) return -1;
    return before;
}

/* Input x of a step has all batch elements. */
static int has_all(const dn_tape *t, const dn_node *node) {
    return t->nodes[t->args[node->args + node->n_args - 1]].dim.batch == node->dim.batch;
}

int dn__same_network(const dn_tape *t, int first, int before, int i) {
    const dn_node *a = &t->nodes[first], *b = &t->nodes[i];
    const int masks = masks_of(t, a), weights = state_of(t, a);
    const int32_t *x = t->args + a->args, *y = t->args + b->args;
    return single_step_before(t, i) == before && weights == state_of(t, b) &&
           ((t->ints[a->ints + 1] ^ t->ints[b->ints + 1]) | DN_SEQUENCE_STATE) ==
               DN_SEQUENCE_STATE &&
           !memcmp(x, y, (size_t)weights * sizeof *x) &&
           !memcmp(x + a->n_args - 1 - masks, y + b->n_args - 1 - masks,
                   (size_t)masks * sizeof *x) &&
           dn__equal_floats(t, a, b) && a->dim.batch == b->dim.batch &&
           a->needs_grad == b->needs_grad && has_all(t, a) && has_all(t, b);
}

void dn__link_step(dn_tape *t, int i) {
    const int before = single_step_before(t, i);
    if (before < 0) return;
    int32_t *next = &t->schedule->seats[before].next_user;
    /* after a revert, another node may have its index */
    if (*next < 0 || *next >= i || single_step_before(t, *next) != before) *next = i;
}

/* What another step alone reads (of the layer above) is read if that one is. */
static int is_read(const dn_tape *t, int i, int last, int *to_look_at) {
    for (int j = i + 1; j <= last && *to_look_at > 0; j++, --*to_look_at) {
        const dn_node *node = &t->nodes[j];
        if (node->op == dn_ops[DN_OP_output_view]) continue;
        for (int k = 0; k < node->n_args; k++) {
            const dn_node *x = &t->nodes[t->args[node->args + k]];
            if (x->op != dn_ops[DN_OP_output_view] || t->args[x->args] != i) continue;
            if (!is_step(t, node) || is_read(t, j, last, to_look_at)) return 1;
            break;
        }
    }
    return 0;
}

int dn__seems_read(const dn_tape *t, int i, int last) {
    int to_look_at = MOST_LOOKED_AT;
    return is_read(t, i, last, &to_look_at);
}

/* ---- chains of an agenda ------------------------------------------------------------- */

/* The x of a step; negative: it was computed before. */
static int x_of(const dn_agenda *s, int i) {
    return dn__input(s->t, s->first + i, s->t->nodes[s->first + i].n_args - 1) - s->first;
}

/* Node i is computed where `before`, the step that it goes on from, is: nothing else but its own
 * x has to wait for it. */
static void append_step(dn_agenda *s, int before, int i) {
    dn_waits_for *in = &s->inputs[i];
    const int begin = s->chains.begin[before], x = x_of(s, i),
              waits = x >= 0 && s->sign[x] != DN_LEAF_NODE;
    s->chains.begin[i] = begin;
    s->chains.next[before] = i;
    s->chains.length[begin]++;
    s->sign[i] = DN_IN_CHAIN;
    for (; in->n > waits; in->at++, in->n--) s->user_at[s->edges[in->at] + 1]--, s->waits[i]--;
    s->waits[begin] += s->waits[i];
}

/* Whether node i can be computed where the chain begins that ends with node `before`. */
static int continues(const dn_agenda *s, const int32_t *latest, int before, int i) {
    const dn_tape *t = s->t;
    const int begin = s->chains.begin[before], x = x_of(s, i);
    return t->schedule->seats[s->first + before].next_user == s->first + i &&
           s->chains.next[before] < 0 && s->chains.length[begin] < MOST_STEPS &&
           (x < 0 || latest[x] < begin) && !(s->beside && s->beside[begin] != s->beside[i]) &&
           dn__same_network(t, s->first + begin, s->first + before, s->first + i);
}

/* What a chain depends on is in chains that begin before it; where that would not be so, it ends.
 * So no two can wait for one another. `latest`: the last to begin of the chains that a node depends
 * on. */
int dn__find_chains(dn_agenda *s) {
    const dn_tape *t = s->t;
    if (s->steps < 2) return 0;
    const size_t n = (size_t)s->n;
    int32_t *latest = dn__plan_take(s->t, n, sizeof *latest);
    s->chains = (dn_chains){dn__plan_take(s->t, n, sizeof(int32_t)),
                            dn__plan_take(s->t, n, sizeof(int32_t)),
                            dn__plan_zeroed(s->t, n, sizeof(int32_t))};
    if (!latest || !s->chains.begin || !s->chains.next || !s->chains.length) return DN_ERROR_MEMORY;
    for (int i = 0; i < s->n; i++) {
        const dn_node *node = &t->nodes[s->first + i];
        const dn_waits_for in = s->inputs[i];
        s->chains.begin[i] = i;
        s->chains.next[i] = latest[i] = -1;
        s->depth[i] = 0;
        for (int k = in.at; k < in.at + in.n; k++) {
            const int x = s->edges[k];
            if (latest[x] > latest[i]) latest[i] = latest[x];
            if (s->depth[x] >= s->depth[i]) s->depth[i] = s->depth[x] + 1;
        }
        if (!is_step(t, node)) continue;
        const int before = single_step_before(t, s->first + i) - s->first;
        s->chains.length[i] = 1;
        if (node->dim.batch == 1 && before >= 0 && continues(s, latest, before, i))
            append_step(s, before, i);
        latest[i] = s->chains.begin[i];
        s->depth[i] = s->depth[latest[i]];
    }
    return 0;
}
