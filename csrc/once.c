#include "once.h"

#include <string.h>

#include "cell.h"
#include "group.h"
#include "kernels/kernels.h"
#include "rows.h"

/* ---- finding them ---------------------------------------------------------------------------------------------------- */

/* Whether the values of members are functions of their inputs, one batch element each. */
static int is_function(const dn_tape *t, const dn_group *g) {
    const dn_node *leader = &t->nodes[t->members[g->first]];
    if (!(leader->op->flags & DN_ROWS_ONCE) || g->joined || g->ragged || g->batch != g->n || leader->dim.batch != 1) return 0;
    return leader->op != dn_ops[DN_OP_cell] || !dn__program_of(t, leader)->draws;
}

static int is_collected(const dn_tape *t, const dn_group *g, int k) { return t->group_inputs[g->inputs + k].gather != DN_SHARED_INPUT; }

static int takes_rows(const dn_tape *t, const dn_group *g, int n_inputs) {
    int collected = 0;
    for (int k = 0; k < n_inputs; k++) {
        if (!is_collected(t, g, k)) continue;
        collected = 1;
        for (int m = 0; m < g->n; m++)
            if (t->nodes[dn__input(t, t->members[g->first + m], k)].op != dn_ops[DN_OP_lookup]) return 0;
    }
    return collected;
}

static uint64_t hash(const dn_tape *t, const dn_group *g, int member, int n_inputs) {
    uint64_t h = 0;
    for (int k = 0; k < n_inputs; k++)
        if (is_collected(t, g, k)) h = dn__mix(h, (uint64_t)(uint32_t)t->ints[t->nodes[dn__input(t, member, k)].ints]);
    return h;
}

static int are_equal(const dn_tape *t, const dn_group *g, int a, int b, int n_inputs) {
    for (int k = 0; k < n_inputs; k++) {
        if (!is_collected(t, g, k)) continue;
        const dn_node *x = &t->nodes[dn__input(t, a, k)], *y = &t->nodes[dn__input(t, b, k)];
        if (x->param != y->param || x->constant != y->constant || t->ints[x->ints] != t->ints[y->ints]) return 0;
    }
    return 1;
}

/* Numbers the distinct members by a table of their hashes. */
static void number(const dn_tape *t, const dn_group *g, int n_inputs, struct dn_once *once, int32_t *members, int32_t *column, int32_t *table,
                   size_t slots) {
    memset(table, 0, slots * sizeof *table);
    for (int m = 0; m < g->n; m++) {
        const int member = t->members[g->first + m];
        size_t at = hash(t, g, member, n_inputs) >> 7 & (slots - 1);
        while (table[at] && !are_equal(t, g, members[table[at] - 1], member, n_inputs)) at = (at + 1) & (slots - 1);
        if (!table[at]) {
            members[once->n] = member;
            table[at] = ++once->n;
        }
        column[m] = table[at] - 1;
    }
}

enum { FEW_MEMBERS = 8 };

int dn__once_find(dn_tape *t, int group, int n_inputs) {
    dn_group *g = &t->groups[group];
    if (g->n < FEW_MEMBERS || !is_function(t, g) || !takes_rows(t, g, n_inputs)) return 0;
    size_t slots = 16, n = (size_t)g->n;
    while (slots < 2 * n) slots *= 2;
    const dn_arena_mark mark = dn__arena_mark(&t->values);
    int32_t *table = dn__arena_take(&t->scratch, slots * sizeof *table);
    struct dn_once *once = dn__arena_take(&t->values, sizeof *once);
    int32_t *lists = dn__arena_take(&t->values, 2 * n * sizeof *lists);
    if (!table || !once || !lists) return DN_ERROR_MEMORY;
    *once = (struct dn_once){.members = lists, .column = lists + n};
    number(t, g, n_inputs, once, lists, lists + n, table, slots);
    if (8 * (int64_t)once->n > 7 * (int64_t)g->n) dn__arena_reset(&t->values, mark); /* copying would cost as much as is saved */
    else g->once = once;
    return 0;
}

/* ---- from distinct members to all, and back ---------------------------------------------------------------------------- */

/* The blocks of a value: block k of a group of n members is (size x n) and begins at `at` n. */
typedef struct block { size_t at, size; } block;
static int blocks_of(const dn_tape *t, const dn_node *node) {
    return node->op == dn_ops[DN_OP_cell] ? dn__program_of(t, node)->n_outputs : node->parts;
}
static block block_of(const dn_tape *t, const dn_node *node, int k) {
    if (node->op == dn_ops[DN_OP_cell]) {
        const dn_cell_output *output = &dn__program_of(t, node)->outputs[k];
        return (block){output->at, (size_t)output->dim.size};
    }
    const size_t size = (size_t)(node->dim.size / node->parts);
    return (block){(size_t)k * size, size};
}

void dn__once_spread(const dn_tape *t, const dn_group *g) {
    const struct dn_once *once = g->once;
    const dn_node *node = &t->nodes[t->members[g->first]];
    for (int k = 0; k < blocks_of(t, node); k++) {
        const block b = block_of(t, node, k);
        const dn_real *from = once->value + b.at * (size_t)once->n;
        dn_real *to = g->value + b.at * (size_t)g->n;
        for (int m = 0; m < g->n; m++, to += b.size) memcpy(to, from + b.size * (size_t)once->column[m], b.size * sizeof *to);
    }
}

/* dy of the distinct members: the sum over equal ones. */
static void add_up(const dn_tape *t, const dn_group *g, dn_real *dy) {
    const struct dn_once *once = g->once;
    const dn_node *node = &t->nodes[t->members[g->first]];
    for (int k = 0; k < blocks_of(t, node); k++) {
        const block b = block_of(t, node, k);
        const dn_real *from = g->grads + b.at * (size_t)g->n;
        dn_real *sums = dy + b.at * (size_t)once->n;
        int seen = 0;
        for (int m = 0; m < g->n; m++, from += b.size) {
            dn_real *to = sums + b.size * (size_t)once->column[m];
            if (once->column[m] == seen) memcpy(to, from, b.size * sizeof *to);
            else dn__add(b.size, to, from, to);
            seen += once->column[m] == seen;
        }
    }
}

/* dy of one member alone. */
static void put(const dn_tape *t, const dn_group *g, int m, dn_real *dy) {
    const dn_node *node = &t->nodes[t->members[g->first]];
    for (int k = 0; k < blocks_of(t, node); k++) {
        const block b = block_of(t, node, k);
        memcpy(dy + b.at * (size_t)g->once->n + b.size * (size_t)g->once->column[m], g->grads + b.at * (size_t)g->n + b.size * (size_t)m,
               b.size * sizeof *dy);
    }
}

/* ---- backward ---------------------------------------------------------------------------------------------------------- */

static void call(dn_call *c, int only) {
    dn_tape *t = c->tape;
    const dn_arena_mark mark = dn__arena_mark(&t->scratch);
    t->only = only;
    c->node->op->backward(c);
    t->only = DN_ALL_INPUTS;
    dn__arena_reset(&t->scratch, mark);
}

/* The gradient of input k of member m that the last call has left; NULL: none is wanted. */
static const dn_real *arrived(const dn_tape *t, const dn_group *g, int m, int k) {
    const dn_group_input *in = &t->group_inputs[g->inputs + k];
    const dn_real *dx = in->gather < 0 ? NULL : t->gathers[in->gather].grad;
    const size_t n = dn__elements(&t->nodes[dn__input(t, t->members[g->first + m], k)].dim);
    return dx ? dx + (size_t)g->once->column[m] * n : NULL;
}

static void forget_arrived(dn_tape *t, const dn_group *g, int n_inputs) {
    for (int k = 0; k < n_inputs; k++)
        if (is_collected(t, g, k)) t->gathers[t->group_inputs[g->inputs + k].gather].grad = NULL;
}

/* The gradients of all members' own inputs: as many calls as the most frequent member occurs times, the r-th for the r-th of equal ones. */
static void for_each_member(dn_tape *t, const dn_group *g, dn_call *c, dn_real *dy) {
    int32_t *times = (int32_t *)dn__scratch(c, 2 * (size_t)g->n), *rank = times + g->n; /* dn_real is as large */
    if (!times) return;
    int rounds = 0;
    memset(times, 0, (size_t)g->n * sizeof *times);
    for (int m = 0; m < g->n; m++) {
        rank[m] = times[g->once->column[m]]++;
        if (rank[m] >= rounds) rounds = rank[m] + 1;
    }
    for (int r = 0; r < rounds && !t->out_of_memory; r++) {
        dn__fill(c->total, 0, dy);
        for (int m = 0; m < g->n; m++)
            if (rank[m] == r) put(t, g, m, dy);
        call(c, DN_ONLY_COLLECTED);
        for (int k = 0; k < c->n; k++) {
            for (int m = 0; m < g->n && !t->out_of_memory && is_collected(t, g, k); m++) {
                const int x = dn__input(t, t->members[g->first + m], k);
                const dn_real *dx = rank[m] == r && dn__node_wants(t, &t->nodes[x]) ? arrived(t, g, m, k) : NULL;
                const dn_grad to = dx ? dn__place(t, x) : (dn_grad){0};
                if (to.dx) dn__axpy(dn__elements(&t->nodes[x].dim), 1, dx, to.beta, to.dx);
            }
        }
        forget_arrived(t, g, c->n);
    }
}

void dn__once_backward(dn_tape *t, int group, dn_call *c) {
    const dn_group *g = &t->groups[group];
    dn_real *dy = dn__backward_memory(c, c->total);
    if (!dy) return;
    add_up(t, g, dy);
    c->dy = dy;
    if (!t->full) {
        call(c, DN_ALL_INPUTS);
        dn__late_group(c);
        return;
    }
    call(c, DN_ONLY_SHARED);
    c->dy = dy = dn__backward_memory(c, c->total); /* what was put off still needs the sums */
    if (dy) for_each_member(t, g, c, dy);
}

void dn__once_add(dn_tape *t, int group, int i, dn_real *out) {
    const dn_group *g = &t->groups[group];
    const size_t n = dn__elements(&t->nodes[i].dim);
    const dn_arena_mark mark = dn__arena_mark(&t->grads);
    dn_call c;
    dn_dim y_dim;
    if (dn__group_prepare(t, group, &c, &y_dim)) t->out_of_memory = 1;
    for (int m = 0; m < g->n; m++) {
        int uses = 0;
        for (int k = 0; k < c.n; k++) uses |= is_collected(t, g, k) && dn__input(t, t->members[g->first + m], k) == i;
        dn_real *dy = uses && !t->out_of_memory ? dn__backward_memory(&c, c.total) : NULL;
        if (!dy) continue;
        dn__fill(c.total, 0, dy);
        put(t, g, m, dy);
        c.dy = dy;
        call(&c, DN_ONLY_COLLECTED);
        for (int k = 0; k < c.n && !t->out_of_memory; k++) {
            const dn_real *dx = dn__input(t, t->members[g->first + m], k) == i && is_collected(t, g, k) ? arrived(t, g, m, k) : NULL;
            if (dx) dn__add(n, out, dx, out);
        }
        forget_arrived(t, g, c.n);
    }
    dn__arena_reset(&t->grads, mark);
    dn__arena_reset(&t->scratch, (dn_arena_mark){0});
}
