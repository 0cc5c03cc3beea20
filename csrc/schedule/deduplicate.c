#include "deduplicate.h"

#include <string.h>

/* ---- finding them --------------------------------------------------------------------- */

/* Whether the values of members are functions of their inputs, one batch element each. */
static int is_function(const dn_tape *t, const dn_group *g) {
    const dn_node *representative = &t->nodes[t->schedule->members[g->first]];
    if (!(representative->op->flags & DN_DEDUPLICATES_ROWS) || g->batched_gemm || g->as ||
        g->batch != g->n || representative->dim.batch != 1)
        return 0;
    return !representative->rng;
}

static int takes_rows(const dn_tape *t, const dn_group *g, int n_inputs) {
    int gathered = 0;
    for (int k = 0; k < n_inputs; k++) {
        if (!dn__is_gathered(t, g, k)) continue;
        gathered = 1;
        for (int m = 0; m < g->n; m++)
            if (t->nodes[dn__input(t, t->schedule->members[g->first + m], k)].op !=
                dn_ops[DN_OP_lookup])
                return 0;
    }
    return gathered;
}

static uint64_t hash_row(const dn_tape *t, const dn_group *g, int member, int n_inputs) {
    uint64_t h = 0;
    for (int k = 0; k < n_inputs; k++)
        if (dn__is_gathered(t, g, k))
            h = dn__mix(h, (uint64_t)(uint32_t)t->ints[t->nodes[dn__input(t, member, k)].ints]);
    return h;
}

static int are_equal(const dn_tape *t, const dn_group *g, int a, int b, int n_inputs) {
    for (int k = 0; k < n_inputs; k++) {
        if (!dn__is_gathered(t, g, k)) continue;
        const dn_node *x = &t->nodes[dn__input(t, a, k)], *y = &t->nodes[dn__input(t, b, k)];
        if (x->param != y->param || x->constant != y->constant ||
            t->ints[x->ints] != t->ints[y->ints])
            return 0;
    }
    return 1;
}

/* Numbers the distinct members by a table of their hashes. */
static void number(const dn_tape *t, const dn_group *g, int n_inputs,
                   struct dn_deduplicated *deduplicated, int32_t *members, int32_t *column,
                   int32_t *table, size_t slots) {
    memset(table, 0, slots * sizeof *table);
    for (int m = 0; m < g->n; m++) {
        const int member = t->schedule->members[g->first + m];
        size_t at = hash_row(t, g, member, n_inputs) >> 7 & (slots - 1);
        while (table[at] && !are_equal(t, g, members[table[at] - 1], member, n_inputs))
            at = (at + 1) & (slots - 1);
        if (!table[at]) {
            members[deduplicated->n] = member;
            table[at] = ++deduplicated->n;
        }
        column[m] = table[at] - 1;
    }
}

enum { FEW_MEMBERS = 8 };

int dn__deduplicated_find(dn_tape *t, int group, int n_inputs) {
    dn_group *g = &t->schedule->groups[group];
    if (g->n < FEW_MEMBERS || !is_function(t, g) || !takes_rows(t, g, n_inputs)) return 0;
    size_t slots = 16, n = (size_t)g->n;
    while (slots < 2 * n) slots *= 2;
    const dn_arena_mark mark = dn__memory_mark(t, DN_VALUES);
    int32_t *table = dn__memory(t, DN_SCRATCH, slots * sizeof *table);
    struct dn_deduplicated *deduplicated = dn__memory(t, DN_VALUES, sizeof *deduplicated);
    int32_t *lists = dn__memory(t, DN_VALUES, 2 * n * sizeof *lists);
    if (!table || !deduplicated || !lists) return DN_ERROR_MEMORY;
    *deduplicated = (struct dn_deduplicated){.members = lists, .column = lists + n};
    number(t, g, n_inputs, deduplicated, lists, lists + n, table, slots);
    /* copying would cost as much as is saved */
    if (8 * (int64_t)deduplicated->n > 7 * (int64_t)g->n) dn__memory_back_to(t, DN_VALUES, mark);
    else g->deduplicated = deduplicated;
    return 0;
}

void dn__deduplicated_spread(const dn_tape *t, const dn_group *g) {
    const struct dn_deduplicated *deduplicated = g->deduplicated;
    const dn_node *node = &t->nodes[t->schedule->members[g->first]];
    for (int k = 0; k < node->parts; k++) {
        const dn_block b = dn__block(t, node, k);
        const dn_real *from = deduplicated->value + b.at * (size_t)deduplicated->n;
        dn_real *to = g->value + b.at * (size_t)g->n;
        for (int m = 0; m < g->n; m++, to += b.size)
            memcpy(to, from + b.size * (size_t)deduplicated->column[m], b.size * sizeof *to);
    }
}
